"""What a team may expect of replicas on Ray, each on a real cluster of two nodes."""

import itertools
import json
import os
import re
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psutil
import pytest

from steerplug.commands.main import main
from steerplug.commands.open_model import opened
from steerplug.errors import SteerplugError
from steerplug.library.presets import load_preset
from steerplug.server.config import Config, ModelConfig
from steerplug.store.measurements import recall
from tests.cluster.conftest import KEYS, PRESET, Running, asked, wait_until
from tests.helpers.presets import SAD_PRESET
from tests.helpers.tiny_models import tiny_model
from tests.server.test_operation import process

SAD = SAD_PRESET.replace("layers: [14]", "layers: [1]")

N_SOAK = int(os.environ.get("STEERPLUG_SOAK", "0"))
soak = pytest.mark.skipif(not N_SOAK, reason="STEERPLUG_SOAK says how many requests")

MODELS = ("llama_untied", "olmo2")
N_STREAMS = 16  # more than any replica gets while another has none

# Tests follow one another on one cluster, so they leave two replicas behind.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince20")  # of Ray's


def cached(answer: httpx.Response) -> int:
    return int(answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"])


def steering(answer: httpx.Response) -> dict[str, object]:
    receipt: dict[str, object] = answer.json()["steering"]
    return receipt


def test_both_nodes_answer_behind_one_address_and_count_under_one(app: Running) -> None:
    assert app.client.get("/readyz").json() == {"status": "ready"}
    mixes = ("none", "sailor", "baker", "miner", "concise", "cheerful", "formal", "french")
    answers = [app.chat("What is rain?", model=f"tiny@{mix}") for mix in mixes]
    assert {answer.status_code for answer in answers} == {200}
    counts = app.counts("requests_finished_total")
    assert len(counts) == 2
    assert sum(counts.values()) == 8
    assert min(counts.values()) > 0


def test_replicas_do_not_wait_for_all_else_that_runs(app: Running) -> None:
    assert {one.nice() for one in app.processes()} == {psutil.Process().nice()}


@pytest.mark.parametrize("alone", [True, False])
def test_nobody_is_asked_where_a_request_goes_if_there_is_one_place(alone: bool) -> None:
    from steerplug.cluster.application import application

    models = [("a-model", ModelConfig("tiny"))]
    built = application(Config(replicas=1), models, alone=alone)
    assert (built._ingress_request_router is None) == alone


def test_a_chat_returns_to_where_its_beginning_is_and_a_mix_gathers(app: Running) -> None:
    for mix in ("none", "sailor", "baker", "miner"):
        chat = [{"role": "user", "content": f"A long story about {mix} and the sea."}]
        before, n_warm = app.counts("requests_finished_total"), 0
        for _ in range(6):
            answer = app.chat(model=f"tiny@{mix}", messages=chat)
            prompt = answer.json()["usage"]["prompt_tokens"]
            n_warm += cached(answer) > prompt // 2
            reply = answer.json()["choices"][0]["message"]["content"]
            chat += [{"role": "assistant", "content": reply}, {"role": "user", "content": "On."}]
        for i in range(3):
            assert app.chat(f"Another chat {i}", model=f"tiny@{mix}").status_code == 200
        after = app.counts("requests_finished_total")
        assert n_warm >= 4  # of 5; where processors are short, a replica may not say what it has
        assert max(after[name] - before[name] for name in after) >= 8


def test_keys_keep_their_caches_apart(app: Running) -> None:
    body = asked("Something that nobody else may find in a cache.")
    with app.as_client(KEYS[1]) as other:
        assert cached(app.client.post("/v1/chat/completions", json=body)) < 45
        assert cached(app.client.post("/v1/chat/completions", json=body)) >= 45
        assert cached(other.post("/v1/chat/completions", json=body)) < 45
        assert other.post("/v1/chat/completions", json=body).status_code == 200


def test_who_hangs_up_stops_the_work(app: Running) -> None:
    body = asked("Go on", max_tokens=400, regex="(on and ){190}", stream=True)
    before = sum(app.counts("generated_tokens_total").values())
    with app.client.stream("POST", "/v1/chat/completions", json=body) as stream:
        next(stream.iter_lines())
    wait_until(lambda: not sum(app.counts("requests_running").values()))
    assert sum(app.counts("generated_tokens_total").values()) - before < 300


def test_a_preset_that_is_replaced_is_soon_everywhere_and_nothing_fails(app: Running) -> None:
    def digests() -> set[object]:
        told = [app.client.get("/steering/presets").json() for _ in range(4)]
        return {one["digest"] for each in told for one in each["data"] if one["name"] == "sailor"}

    (old,) = digests()
    with app.under_load() as load:
        new = PRESET.format(name="sailor", prompt="You are an old sailor.")
        (app.place / "sailor.yaml").write_text(new)
        wait_until(lambda: old not in digests())
    assert len(digests()) == 1
    assert not load.wrong
    assert load.n_replies
    ways = [app.chat(f"{i}", model="tiny@sailor") for i in range(4)]
    assert len({json.dumps(steering(answer)["presets"]) for answer in ways}) == 1


def test_a_killed_replica_ends_its_streams_with_an_error_and_is_replaced(app: Running) -> None:
    ends: dict[int, str] = {}
    begun, replicas = threading.Barrier(N_STREAMS + 1), app.processes()
    idle = [sum(one.cpu_times()[:2]) for one in replicas]

    def read(i: int) -> None:
        body = asked(f"I am {i}", max_tokens=450, regex=f"(n{i} ){{220}}", stream=True)
        text, has_begun = "", False
        with app.as_client(KEYS[0]) as client:
            try:
                with client.stream("POST", "/v1/chat/completions", json=body) as stream:
                    for line in stream.iter_lines():
                        if "content" in line and not has_begun:
                            has_begun = begun.wait(120) >= 0
                        if line.startswith("data: {"):
                            delta = json.loads(line[6:])["choices"][0]["delta"]
                            text += delta.get("content") or ""
                        if line == "data: [DONE]":
                            ends[i] = "done"
            except httpx.RemoteProtocolError:
                ends[i] = "cut"
        assert set(text.split()) <= {f"n{i}", *(f"n{i}"[:k] for k in range(1, len(f"n{i}")))}

    readers = [threading.Thread(target=read, args=(i,)) for i in range(N_STREAMS)]
    for reader in readers:
        reader.start()
    begun.wait(120)
    worked = [sum(one.cpu_times()[:2]) - was for one, was in zip(replicas, idle, strict=True)]
    victim = replicas[worked.index(max(worked))]
    victim.send_signal(signal.SIGKILL)
    for reader in readers:
        reader.join()
    assert set(ends) == set(range(N_STREAMS))
    assert "cut" in set(ends.values()) <= {"done", "cut"}
    with app.under_load() as load:
        wait_until(lambda: len(app.counts("requests_running")) == 2)
    assert not load.wrong


@soak
def test_a_model_is_replaced_and_replicas_come_and_go_while_nothing_fails(app: Running) -> None:
    old = set(app.counts("requests_running"))

    def now() -> set[str]:
        return set(app.counts("requests_running"))

    with app.under_load() as load:
        app.deploy_model(str(tiny_model("llama_untied", seed=1)), replicas=1)
        wait_until(lambda: len(now()) == 1 and not now() & old)
        app.deploy()
        wait_until(lambda: len(now()) == 2)
    assert not load.wrong
    assert load.n_replies


@pytest.mark.usefixtures("app")
def test_a_cluster_without_room_is_a_sentence() -> None:
    from steerplug.cluster.application import check_room

    with pytest.raises(SteerplugError, match=r"2 replicas of 8 processors .* has 2.*--n-threads"):
        check_room(2, 8)


def test_presets_are_built_and_measured_by_whoever_has_room_and_come_back(
    app: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    presets = tmp_path / "presets"
    presets.mkdir()
    (presets / "sad.yaml").write_text(SAD)
    deep = SAD.replace("name: sad", "name: deep").replace("[1]", "[99]")
    (presets / "deep.yaml").write_text(deep)
    monkeypatch.setenv("STEERPLUG_PRESETS", str(presets))
    monkeypatch.setenv("STEERPLUG_CACHE", str(tmp_path / "cache"))  # which nodes know nothing of
    models = [str(tiny_model(kind)) for kind in MODELS]
    words = [word for model in models for word in ("-m", model)]
    assert main(["farm", "build", "sad", "deep", *words, "--json"]) == 2
    said = capsys.readouterr()
    told = {(one["preset"], one["model"]): one for one in json.loads(said.out)["presets"]}
    assert set(told) == {(name, model) for name in ("sad", "deep") for model in models}
    for model in models:
        assert told["sad", model]["state"] == "built"
        assert "node " in told["deep", model]["error"]
        assert "asks for block 99" in told["deep", model]["error"]
        with opened(model) as session:
            built = session.compiled(load_preset("sad"))
            assert built
            assert built.steering.digest == told["sad", model]["digest"]
            assert built.path.is_relative_to(tmp_path)
    assert "[4/4] " in said.err
    assert app.chat().status_code == 200


class Fake:
    """A replica as a router sees it."""

    def __init__(self, name: str, n_requests: int, asked: Callable[[], int]) -> None:
        self.replica_id, self.routing_stats, self._asked = name, {"n_requests": n_requests}, asked

    async def get_queue_len(self, *, deadline_s: float) -> int:
        assert deadline_s
        return self._asked()


async def test_a_router_asks_before_it_leaves_a_warm_replica_and_bears_that_others_go() -> None:
    from steerplug.cluster.routing import WarmRouter
    from steerplug.cluster.warmth import SLACK, Keys

    router: Any = object.__new__(WarmRouter)
    router.initialize_state()
    request = SimpleNamespace(args=[Keys("chat", "mix")], routing_context=SimpleNamespace())
    idle = [Fake(name, 0, lambda: 0) for name in "ab"]
    warm = (await router.choose_replicas(idle, request))[0][0].replica_id

    async def chosen(n_asked: int) -> str:
        def asked() -> int:
            router._told.clear()  # as an update does
            return n_asked

        now = [Fake(name, SLACK + 1 if name == warm else 0, asked) for name in "ab"]
        first, others = await router.choose_replicas(now, request)
        assert {each.replica_id for each in [*first, *others]} == {"a", "b"}
        return str(first[0].replica_id)

    assert await chosen(0) == warm


@soak
@pytest.mark.usefixtures("app")
def test_presets_are_measured_by_whoever_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sad.yaml").write_text(SAD)
    monkeypatch.setenv("STEERPLUG_PRESETS", str(tmp_path))
    monkeypatch.setenv("STEERPLUG_CACHE", str(tmp_path / "cache"))
    words = [word for model in MODELS for word in ("-m", str(tiny_model(model)))]
    assert main(["farm", "eval", "sad", *words]) == 2
    assert "`sad` is not compiled for " in capsys.readouterr().err.replace("\n", " ")
    assert main(["farm", "build", "sad", *words, "--json"]) == 0
    capsys.readouterr()
    assert main(["farm", "eval", "sad", *words, "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)["presets"]
    assert [one["state"] for one in measured] == ["measured", "measured"]
    assert all(recall(path) for path in (tmp_path / "cache").glob("*/sad-*.gguf"))


@soak
def test_one_replica_compiles_and_the_others_find_it(app: Running) -> None:
    (app.place / "sad.yaml").write_text(SAD)
    app.compile = ("sad",)
    app.deploy()
    wait_until(lambda: list((app.place / "compiled").glob("*/sad-*.gguf")))
    said: list[dict[str, Any]] = [
        *({"model": f"tiny@{mix}"} for mix in ("sad", "1*sad", "1.0*sad", "1.00*sad")),
        {"steering": "sad"}, {"steering": "1*sad"}, {"steering": {"sad": 1}},
    ]  # fmt: skip

    def answers() -> list[httpx.Response]:
        return [app.chat(**how) for how in said]

    wait_until(lambda: {answer.status_code for answer in answers()} == {200})
    before = app.counts("requests_finished_total")
    digests = {steering(answer)["digest"] for answer in answers()}
    after = app.counts("requests_finished_total")
    assert len(digests) == 1
    assert all(after[name] > before[name] for name in after)  # both steer, and one compiled
    assert len(list((app.place / "compiled").glob("*/sad-*.gguf"))) == 1
    app.compile = ()
    app.deploy()


@soak
def test_no_request_is_lost_while_replicas_are_replaced_one_after_another(app: Running) -> None:
    sizes = itertools.cycle((384, 512))
    with app.under_load(n_clients=6, n_tokens=10) as load:
        while load.n_replies < N_SOAK:
            app.loading = replace(app.loading, n_ctx=next(sizes))
            app.deploy()
            print(f"{load.n_replies} replies, {len(load.wrong)} wrong", flush=True)
    assert load.n_replies >= N_SOAK
    assert not load.wrong


@soak
def test_a_model_that_is_not_on_a_node_is_a_sentence_and_what_runs_goes_on(app: Running) -> None:
    with app.under_load() as load:
        with pytest.raises(SteerplugError, match=r"node \S+ \(\w{8}\): no model `/no/such.gguf`"):
            app.deploy_model("/no/such.gguf")
        app.deploy()
    assert not load.wrong


@soak
def test_one_command_starts_replicas_on_this_machine_and_ends_them() -> None:
    with process("--replicas", "2", "-m", str(tiny_model("llama_untied"))) as (running, root):
        assert running.stderr is not None
        ready = json.loads(next(line for line in running.stderr if '"serving"' in line))
        assert ready["address"] == root
        started = psutil.Process(running.pid).children(recursive=True)
        body = {**asked("Hi"), "model": "llama_untied-0"}
        answer = httpx.post(f"{root}/v1/chat/completions", json=body, timeout=60)
        assert answer.status_code == 200
        assert len(re.findall(r"^steerplug_requests_running", httpx.get(f"{root}/metrics").text,
                              flags=re.MULTILINE)) == 2  # fmt: skip
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 0
        wait_until(lambda: not any(map(psutil.pid_exists, [one.pid for one in started])))
