"""`steerplug bench` compares like with like: no time is asserted, only what is compared."""

import inspect
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from langchain_core.messages import AIMessage
from llama_cpp import Llama

from steerplug.benchmark import decode, langchain, prompts, replies
from steerplug.benchmark.peers import loaded_alike
from steerplug.benchmark.turns import Task, Timing, take_turns
from steerplug.commands.bench import _show
from steerplug.commands.main import main
from steerplug.engine.context import Context
from steerplug.engine.engine import Engine
from steerplug.engine.loading import Loading
from steerplug.engine.model import Model
from steerplug.engine.request import Request
from steerplug.errors import EngineError
from steerplug.fit.progress import silent
from steerplug.langchain import ChatSteerplug
from tests.helpers.tiny_models import tiny_model


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "PREFILL", 16)
    monkeypatch.setattr(decode, "PREFIX", 2)
    monkeypatch.setattr(decode, "DECODE", 3)
    monkeypatch.setattr(replies, "REPLY", 4)
    monkeypatch.setattr(replies, "CROWD", 4)
    monkeypatch.setattr(prompts, "LONG", 40)
    monkeypatch.setattr("steerplug.benchmark.langchain.REPLY", 4)
    monkeypatch.setattr("steerplug.benchmark.langchain.CROWD", 4)


def test_ways_take_turns_and_ratios_are_taken_within_a_turn() -> None:
    """Machine moments of 1, 10 and 100 would drown a ratio of medians; here it is 2 each time."""
    order, moments = [], iter([1.0, 1.0, 10.0, 100.0])
    now = [0.0]

    def prepare() -> None:
        now[0] = next(moments)

    def way(name: str, cost: float) -> float:
        order.append(name)
        return cost * now[0]

    task = Task("t", {"a": lambda: way("a", 1), "b": lambda: way("b", 2)}, prepare=prepare)

    class Opened:
        closed = False

        def __enter__(self) -> Task:
            return task

        def __exit__(self, *_: object) -> None:
            Opened.closed = True

    _, timings = take_turns(Opened(), 3, silent)
    assert "".join(order) == "baabbaab"
    assert timings["a"] == (10.0, 1.0, 1.0, 1.0)
    assert timings["b"] == (20.0, 2.0, 2.0, 2.0)
    assert Opened.closed


def test_json_and_picture_hold_every_way_of_every_task(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short, plot = tmp_path / "short.yaml", tmp_path / "bench.svg"
    short.write_text("schema: steerplug/preset-v1\nname: short\nversion: 1.0.0\n"
        "description: Answers briefly.\nteacher: {system: Answer briefly.}\n"
        "fit: {method: psr}\n", encoding="utf-8")
    monkeypatch.setattr(prompts, "INSTRUCTION", str(short))
    words = ["--model", str(tiny_model("llama")), "--rounds", "3", "--json", "--plot", str(plot)]
    assert main(["bench", *words]) == 0
    said = json.loads(capsys.readouterr().out)
    assert list(said) == [
        "model", "device", "rounds", "left_out", "prefill", "decode", "switch", "reply", "crowd",
        "first_token", "second_request", "langchain", "langchain_batch",
    ]  # fmt: skip
    drawn = plot.read_text(encoding="utf-8")
    assert said["device"] == "CPU (4 blocks); steered by node"
    for task in list(said)[4:]:
        ways = list(said[task].items())
        assert len(ways) >= (1 if task == "langchain_batch" else 3)
        assert ways[0][1]["ratio"] == 1
        for name, way in ways:
            assert way["milliseconds"] > 0
            assert way["spread"][0] <= way["ratio"] <= way["spread"][1]
            assert name in drawn
    for task, peer in (("reply", replies.REPENG), ("langchain_batch", langchain.PEER)):
        assert (peer in said[task]) != (peer in said["left_out"])
    cells = {way: int(said["first_token"][way]["note"].split()[0]) for way in said["first_token"]}
    assert cells[prompts.COLD] == cells[prompts.PEER_CACHED]
    assert min(cells.values()) > 0
    assert cells[prompts.STEERED] != cells[prompts.COLD]


def test_what_cannot_be_drawn_is_refused_before_anything_is_timed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["bench", "--plot", str(tmp_path / "bench.txt")]) == 2
    assert "'.txt'" in capsys.readouterr().err


def test_the_steered_way_really_steers_every_block_and_the_others_none(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    steered: dict[int, set[int]] = {}
    watched = Context.decode

    def watch(self: Context, rows, *args, **kwargs):  # type: ignore[no-untyped-def]
        result = watched(self, rows, *args, **kwargs)
        if not kwargs:  # a probe
            steered.setdefault(id(self), set()).add(self.hook.applied // len(rows))
        return result

    monkeypatch.setattr(Context, "decode", watch)
    with decode.decode(model) as task:
        task.prepare()
        contexts = [id(task.ways[way].context) for way in task.ways]  # type: ignore[attr-defined]
        for way in task.ways.values():
            way()
    assert [steered[context] for context in contexts] == [{0}, {0}, {29, 30}]


def test_a_switched_control_vector_changes_what_the_context_says(model: Model) -> None:
    with decode.switch(model) as task:
        walks = {way: task.ways[way] for way in (decode.STOCK_KEPT, decode.SWITCHED)}
        task.prepare()
        task.ways[decode.STOCK_SWITCHED]()
        said = {}
        for name, walk in walks.items():
            walk()
            said[name] = walk.context.logits(0)  # type: ignore[attr-defined]
        applied = walks[decode.SWITCHED].context.hook.applied  # type: ignore[attr-defined]
    assert applied == model.n_layer
    assert (said[decode.STOCK_KEPT] != said[decode.SWITCHED]).any()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """What engines are asked, in order."""
    requests: list[Request] = []
    reply = Engine._reply

    def watch(self: Engine, request: Request, *args):  # type: ignore[no-untyped-def]
        requests.append(request)
        return reply(self, request, *args)

    monkeypatch.setattr(Engine, "_reply", watch)
    return requests


def test_the_crowd_runs_at_once_each_with_its_own_mix(model: Model, asked: list[Request]) -> None:
    with replies.crowd(model) as task:
        task.ways[replies.AT_ONCE]()
        assert len(asked) == replies.CROWD
        assert not any(request.mix for request in asked)
        asked.clear()
        task.ways[replies.MIXES]()
    assert len({request.mix.digest for request in asked}) == len(asked) == replies.CROWD


def test_langchain_and_the_session_by_itself_make_the_same_replies(
    model: Model, asked: list[Request]
) -> None:
    with langchain.layer(model) as task:
        asked.clear()
        for way in task.ways.values():
            assert way() > 0
    assert len(asked) == len(task.ways) == 5
    assert len({(request.prompt, request.sampling.temperature) for request in asked}) == 1
    assert {request.max_tokens for request in asked} == {replies.REPLY}


@pytest.mark.parametrize("name", ["qwen35", "gemma3", "llama"])
def test_a_second_request_reads_its_question_and_not_the_system_prompt_again(name: str) -> None:
    """Whatever the model's memory is like."""
    model = Model(tiny_model(name))
    with prompts.second_request(model) as task:
        for _ in range(2):
            assert all(way() > 0 for way in task.ways.values())
        assert task.notes is not None
        read, of = (int(word) for word in task.notes[prompts.CACHED].split()[::2])
        assert read < 40 < of
        assert task.notes[prompts.COLD] == f"{of} of {of} tokens"
    model.close()


class Community:
    """Stands in for langchain-community's chat model, as that is made and asked."""

    made: ClassVar[dict[str, Any]] = {}

    def __init__(self, **settings: Any) -> None:
        Community.made = settings
        self.client = self
        self.asked: list[str] = []

    def invoke(self, text: str) -> AIMessage:
        self.asked.append(text)
        return AIMessage("It was a dark and stormy night.")

    def reset(self) -> None:
        self.asked.clear()

    def close(self) -> None:
        Community.made["closed"] = self.asked


def test_a_batch_is_compared_with_langchain_community_where_that_is_installed(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = SimpleNamespace(ChatLlamaCpp=Community)
    monkeypatch.setitem(sys.modules, "langchain_community", SimpleNamespace(chat_models=package))
    monkeypatch.setitem(sys.modules, "langchain_community.chat_models", package)
    asked: list[Any] = []
    batch = ChatSteerplug.batch

    def watch(self: ChatSteerplug, texts: list[Any]) -> list[Any]:
        asked.extend(texts)
        return batch(self, texts)

    monkeypatch.setattr(ChatSteerplug, "batch", watch)
    with langchain.batch(model) as task:
        assert task.left_out == ()
        assert list(task.ways) == [langchain.BATCH, langchain.PEER]
        for way in task.ways.values():
            way()
            assert way() > 0
    said = Community.made
    assert len(asked) == 2 * replies.CROWD
    assert said["closed"] == asked[: replies.CROWD // 4] != []
    assert said["model_path"] == str(model.path)
    assert said["n_threads"] == len(os.sched_getaffinity(0))
    assert said["model_kwargs"] == {"n_threads_batch": said["n_threads"]}
    assert (said["temperature"], said["max_tokens"]) == (0, replies.REPLY)


def test_without_langchain_community_its_row_is_left_out(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "langchain_community", None)
    with langchain.batch(model) as task:
        assert list(task.ways) == [langchain.BATCH]
        assert task.left_out == (langchain.PEER,)


def test_peers_are_told_how_the_model_is_loaded_or_bench_says_that_they_cannot_be() -> None:
    loading = Loading.of({
        "type_k": "q8_0", "flash_attn": "on", "split_mode": "row", "tensor_split": "3,1",
        "override_kv": {"a": 1}, "lora": {"/a.gguf": 0.5}, "use_mmap": False, "rope_freq_base": 9,
        "n_gpu_layers": 0, "rope_scaling_type": "yarn", "numa": "isolate", "n_batch": 64,
    })  # fmt: skip
    assert loaded_alike(Loading()) == {}
    assert loaded_alike(loading) == {
        "type_k": 8, "flash_attn": True, "split_mode": 2, "tensor_split": [3.0, 1.0],
        "kv_overrides": {"a": 1}, "lora_path": "/a.gguf", "lora_scale": 0.5, "use_mmap": False,
        "rope_freq_base": 9.0, "n_gpu_layers": 0, "rope_scaling_type": 2, "numa": 2,
    }  # fmt: skip
    known = inspect.signature(Llama.__init__).parameters
    assert set(loaded_alike(loading)) <= set(known)
    for words in ({"devices": "none"}, {"override_tensor": "a=CPU"}, {"lora": "/a.gguf,/b.gguf"}):
        with pytest.raises(EngineError, match=f"{next(iter(words))} is set, and llama-cpp-python"):
            loaded_alike(Loading.of(words))


def test_no_figure_is_cut_off_on_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    ways = {"system prompt, cached (17 of 587 tokens)": Timing(42.277, 45.123, 38.198, 49.345)}
    _show([(SimpleNamespace(name="second request", notes={}, left_out=()), ways)])  # type: ignore[list-item]
    out = capsys.readouterr().out
    assert "…" not in out
    assert all(figure in out for figure in ("42277.00", "45.123", "38.198-49.345"))
