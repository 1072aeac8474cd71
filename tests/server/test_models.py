"""Several models behind one address: each answers as it does alone, and is told by its name."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest
import yaml

import steerplug
from steerplug.commands.main import main
from steerplug.engine.sampling import Sampling
from steerplug.errors import SteerplugError
from steerplug.server.config import Config, ModelConfig
from steerplug.server.models import Models, check_names
from steerplug.server.served import Served
from steerplug.server.state import ServerState
from steerplug.session import Session, Settings
from steerplug.session.activity import Activity
from steerplug.session.compiler import Compiler
from tests.helpers.serving import QUESTION, Client, events, running, told
from tests.helpers.tiny_models import tiny_model
from tests.server.test_operation import process

NAMES = ("ant", "bee")
KINDS = ("llama_untied", "olmo2")  # which say other things
ADMIN_KEY = "the-admin-key"
ADMIN = {"authorization": f"Bearer {ADMIN_KEY}"}
SAILOR = """\
schema: steerplug/preset-v1
name: sailor
teacher: {system: You are a sailor.}
"""


@pytest.fixture(scope="module", autouse=True)
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A user's folder with one preset, which nothing is compiled of."""
    folder = tmp_path_factory.mktemp("presets")
    (folder / "sailor.yaml").write_text(SAILOR)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEERPLUG_PRESETS", str(folder))
        patch.setenv("STEERPLUG_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def sessions(library: None) -> Iterator[list[Session]]:  # noqa: ARG001
    activity = Activity()
    made = [
        Session(tiny_model(kind), n_ctx=n_ctx, n_threads=1, activity=activity)
        for kind, n_ctx in zip(KINDS, (512, 256), strict=True)
    ]
    yield made
    for session in made:
        session.close()


@pytest.fixture(scope="module")
def client(sessions: list[Session]) -> Iterator[Client]:
    configs = ModelConfig("ant"), ModelConfig("bee", steer="sailor")
    served = [Served(*one) for one in zip(sessions, configs, strict=True)]
    setup = Config(port=0, grace=0.5, admin_key=ADMIN_KEY)
    with running(ServerState(Models(served), setup)) as client:
        yield client


def say(session: Session, steering: str | None = None) -> str:
    """What a model says to the question of `Client.chat` without a server."""
    return session.chat(QUESTION, steering, Settings(Sampling(temperature=0), max_tokens=12)).text


def text(answer: Any) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def test_each_model_is_listed_with_its_presets_by_every_door(client: Client) -> None:
    ids = [one["id"] for one in client.get("/v1/models").json()["data"]]
    assert [name for name in ids if "@" not in name] == list(NAMES)
    assert {"ant@sailor", "bee@sailor", "ant@pirate", "bee@pirate"} < set(ids)
    tags = client.get("/api/tags").json()["models"]
    assert [one["name"] for one in tags] == [f"{name}:latest" for name in ids]
    assert {one["details"]["family"] for one in tags} == {"llama", "olmo2"}
    loaded = client.get("/api/ps").json()["models"]
    assert [(one["name"], one["context_length"]) for one in loaded] == [
        ("ant:latest", 512), ("bee:latest", 256)
    ]  # fmt: skip
    assert client.get("/v1/models/bee@parate").status_code == 404
    assert client.get("/v1/models/bee@sailor").json()["id"] == "bee@sailor"
    assert client.get("/health").json() == {"status": "ok", "models": list(NAMES)}


def test_the_models_name_chooses_who_answers(client: Client, sessions: list[Session]) -> None:
    ant, bee = sessions
    assert say(ant) != say(bee)
    assert text(client.chat(model="ant")) == say(ant)
    assert text(client.chat(model="bee@none")) == say(bee)
    assert text(client.chat(model="bee@sailor")) == say(bee, "sailor")
    streamed = client.chat(model="ant@sailor", stream=True)
    parts = [part["choices"][0]["delta"].get("content", "") for part in events(streamed)]
    assert "".join(parts) == say(ant, "sailor")


def test_each_has_a_default_steering_of_its_own(client: Client, sessions: list[Session]) -> None:
    answer = client.chat(model="bee")
    assert answer.json()["steering"]["mix"] == "sailor"
    assert text(answer) == say(sessions[1], "sailor")
    changed = [{"name": "sailor", "strength": 1.0}]
    assert client.post("/steering?model=ant", json=changed, headers=ADMIN).status_code == 200
    try:
        assert client.chat(model="ant").json()["steering"]["presets"][0]["name"] == "sailor"
        now = {one["name"]: one["strength"] for one in client.get("/steering?model=ant").json()}
        assert now["sailor"] == 1.0
    finally:
        client.post("/steering?model=ant", json=[], headers=ADMIN)
    assert client.chat(model="ant").json()["steering"]["mix"] == "none"
    assert client.chat(model="bee").json()["steering"]["mix"] == "sailor"


def test_completions_responses_and_ollama_choose_so_too(
    client: Client, sessions: list[Session]
) -> None:
    bee = sessions[1]
    greedy = Settings(Sampling(temperature=0), max_tokens=8)
    said = client.complete(model="bee@none").json()["choices"][0]["text"]
    assert said == bee.complete("Rain is", "none", greedy).text
    body = {"input": "What is rain?", "temperature": 0, "max_output_tokens": 12}
    said = client.post("/v1/responses", json={"model": "bee@none", **body}).json()
    assert said["output"][-1]["content"][0]["text"] == say(bee)
    with ollama.Client(client.root) as ai:
        options = {"temperature": 0, "num_predict": 12}
        answer = ai.chat("bee@none:latest", QUESTION, options=options)
        assert (answer.message.content, answer.model) == (say(bee), "bee@none:latest")
        assert ai.show("bee").modelinfo["general.architecture"] == "olmo2"
        assert ai.generate("ant", "").done_reason == "load"
        with pytest.raises(ollama.ResponseError, match="no model `wasp`"):
            ai.generate("wasp", "")


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("beee", "there is no model `beee`; did you mean `bee`?"),
        ("bee@parate", "there is no preset `parate`; did you mean `pirate`?"),
        ("zebra", "there is no model `zebra`; GET /v1/models lists all."),
        ("", "there is no model ``; GET /v1/models lists all."),
    ],
)
def test_an_unknown_model_is_refused(client: Client, model: str, sentence: str) -> None:
    answer = client.chat(model=model)
    assert (answer.status_code, told(answer)) == (404, sentence)


def test_what_clients_of_llamacpp_ask_is_asked_of_one(
    client: Client, sessions: list[Session]
) -> None:
    props = client.get("/props?model=bee").json()
    assert (props["model_alias"], props["default_generation_settings"]["n_ctx"]) == ("bee", 256)
    body = {"content": "Rain is wet.", "model": "ant"}
    tokens = client.post("/tokenize", json=body).json()["tokens"]
    assert tokens == sessions[0].model.vocab.tokenize("Rain is wet.", special=True)
    back = client.post("/detokenize", json={"tokens": tokens, "model": "ant@pirate"}).json()
    assert back == {"content": "Rain is wet."}
    unsaid = [
        client.get("/props"), client.get("/steering"), client.get("/steering/presets"),
        client.post("/tokenize", json={"content": "Rain"}),
        client.post("/detokenize", json={"tokens": [1]}),
        client.post("/steering", json=[], headers=ADMIN),
        client.post("/steering/compile", json={"name": "sailor"}, headers=ADMIN),
    ]  # fmt: skip
    for answer in unsaid:
        assert answer.status_code == 400
        assert told(answer) == (
            "this server has several models (ant, bee); say which, as `model`."
        )
    described = client.get("/steering/presets?model=bee").json()["data"]
    assert "sailor" in [one["name"] for one in described]


def test_embeddings_are_asked_of_another_server(client: Client) -> None:
    asked = {"model": "bee", "input": ["Rain is wet."]}
    refused = client.post("/v1/embeddings", json=asked)
    assert refused.status_code == 400
    assert told(refused).startswith("`bee` writes text and makes no embeddings")
    assert "`llama-server --embeddings -m FILE`" in told(refused)
    unknown = client.post("/v1/embeddings", json={**asked, "model": "text-embedding-3-small"})
    assert told(unknown).startswith("there is no model `text-embedding-3-small`")
    with ollama.Client(client.root) as ai:
        for ask in (ai.embed, ai.embeddings):
            with pytest.raises(ollama.ResponseError, match="`bee` writes text"):
                ask("bee:latest", "Rain is wet.")


def test_counts_say_of_which_model(client: Client) -> None:
    def count(line: str) -> float:
        lines = client.get("/metrics").text.splitlines()
        return next((float(x.split()[-1]) for x in lines if x.startswith(line)), 0.0)

    replies = 'steerplug_replies_total{carrier="prompt",model="%s"}'
    tokens = 'steerplug_generated_tokens_total{model="%s"}'
    lines = [form % name for name in NAMES for form in (replies, tokens)]
    before = [count(line) for line in lines]
    client.chat(model="bee@sailor")
    after = [count(line) for line in lines]
    assert [b - a for a, b in zip(before, after, strict=True)] == [0, 0, 1, 12]
    assert count('steerplug_kv_cells{model="ant"}') == 512


def test_idle_time_is_that_of_all_models(sessions: list[Session]) -> None:
    ant, bee = sessions
    asked = bee.stream_chat(QUESTION, "none", Settings(max_tokens=4))
    next(asked)
    assert ant._activity.idle_for() == 0
    list(asked)
    assert ant._activity.idle_for() > 0


def test_they_compile_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    began, ended = list[str](), list[str]()

    def compile(self: Compiler, preset: str) -> None:
        began.append(preset)
        time.sleep(0.05)
        with self._lock:
            self._queue.popleft()
        ended.append(preset)
        assert began == ended

    monkeypatch.setattr("steerplug.session.compiler.QUIET", 0)
    monkeypatch.setattr(Compiler, "_compile", compile)
    activity = Activity()
    both = [Compiler({}, activity) for _ in NAMES]
    for compiler, presets in zip(both, ("ab", "cd"), strict=True):
        for preset in presets:
            compiler.ask(preset)
    deadline = time.monotonic() + 60
    while len(ended) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert began == ended
    for compiler in both:
        compiler.close()


# The file


def refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, said: Any, *flags: str
) -> str:
    file = tmp_path / "serve.yaml"
    file.write_text(said if isinstance(said, str) else yaml.safe_dump(said))
    assert main(["serve", "--port", "0", "--config", str(file), *flags]) == 2
    sentence = " ".join(capsys.readouterr().err.split())
    assert sentence.startswith("steerplug: ")
    return sentence.replace(str(tmp_path), "HERE")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, ModelConfig]]:
    found = []

    def run(_: Config, models: Any) -> None:
        check_names([one.name for _, one in models])
        found.append({f"{one.name}={reference}": one for reference, one in models})
        raise SteerplugError("no further.")

    monkeypatch.setattr("steerplug.commands.serve._run", run)
    return found


def test_each_model_of_a_file_is_loaded_in_its_own_way(
    seen: list[dict[str, ModelConfig]], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    ant, bee = (str(tiny_model(kind)) for kind in KINDS)
    said = {
        "n-ctx": 128, "steer": "pirate", "n-seq": 3,
        "models": {
            "ant": ant,
            "bee": {"model": bee, "ctx-size": 64, "steer": "none", "compile": ["sailor", "pirate"],
                    "cache-type-k": "q8_0"},
        },
    }  # fmt: skip
    refused(capsys, tmp_path, said)
    refused(capsys, tmp_path, said, "--n-ctx", "96")
    monkeypatch.setenv("STEERPLUG_STEER", "formal")
    refused(capsys, tmp_path, said)
    first, by_flag, by_variable = seen
    assert list(first) == [f"ant={ant}", f"bee={bee}"]
    one, other = first.values()
    assert (one.loading.n_ctx, one.steer, one.sizes.n_seq, one.compile) == (128, "pirate", 3, ())
    assert (other.loading.n_ctx, other.steer, other.sizes.n_seq) == (64, "none", 3)
    assert (other.loading.type_k, other.compile) == ("q8_0", ("sailor", "pirate"))
    assert [x.loading.n_ctx for x in by_flag.values()] == [96, 96]
    assert [x.steer for x in by_variable.values()] == ["formal", "formal"]


def test_the_file_of_the_page_is_one(
    seen: list[dict[str, ModelConfig]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(steerplug.__file__).parent / "server" / "README.md").read_text(encoding="utf-8")
    (said,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    refused(capsys, tmp_path, said.replace("qwen2.5-1.5b.gguf", str(tiny_model("qwen2"))))
    small, qwen = seen[0].values()
    assert (small.loading.n_threads, qwen.loading.n_threads, small.name) == (2, 2, "small")
    assert (qwen.loading.n_ctx, qwen.steer, qwen.compiles_all) == (8192, "concise", True)


@pytest.mark.parametrize(
    ("models", "sentence"),
    [
        ({}, "models lists each model by its name"),
        (["a.gguf"], "models lists each model by its name"),
        ({"ant": 3}, "model `ant`: say its path, or settings such as `model: ant.gguf`"),
        ({"ant": {}}, "model `ant`: it has no key `model`; give a path to a GGUF there."),
        ({"ant": "no.gguf", "bee": "no.gguf"}, "no model `no.gguf`. Give a path to a GGUF file"),
        ({"ant": {"model": "x", "port": 1}}, "model `ant`: there is no setting `port`"),
        ({"ant": {"model": "x", "name": "y"}}, "model `ant`: there is no setting `name`"),
        ({"ant": {"model": "x", "n-ctxx": 1}}, "no setting `n-ctxx`; did you mean `n-ctx`?"),
        ({"ant": {"model": "x", "n-ctx": "many"}}, "model `ant`: n-ctx is 'many'; "),
        ({"ant": {"model": "x", "n-seq": 0}}, "model `ant`: n-seq is 0; "),
        ({"ant": {"model": "x", "type-k": "q9"}}, "model `ant`: type_k is 'q9'"),
    ],
)
def test_a_model_that_cannot_be_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], models: Any, sentence: str
) -> None:
    assert sentence in refused(capsys, tmp_path, {"models": models})


def test_names_that_cannot_be_told_apart_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tiny_model("llama"))
    twice = f"models:\n  ant: {path}\n  ant: {path}\n"
    assert "line 3: the key `ant` stands here and on line 2" in refused(capsys, tmp_path, twice)
    said = refused(capsys, tmp_path, {"models": {"ant": path, "ant@pirate": path}})
    assert "a model is called `ant@pirate`; give it a name without @" in said
    with pytest.raises(SteerplugError, match="two models are called `ant`"):
        check_names(["ant", "ant"])


@pytest.mark.parametrize("flags", [["-m", "smollm2"], ["--name", "pal"]])
def test_a_flag_that_is_of_one_model_contradicts_several(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    said = refused(capsys, tmp_path, {"models": {"ant": str(tiny_model("llama"))}}, *flags)
    assert "HERE/serve.yaml lists its models under `models`, and `" in said


def test_a_server_of_a_file_answers_for_each(tmp_path: Path) -> None:
    models = {name: str(tiny_model(kind)) for name, kind in zip(NAMES, KINDS, strict=True)}
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump({"n-ctx": 128, "models": models}))
    with process("--config", str(file)) as (server, root):
        assert server.stderr is not None
        ready = json.loads(next(line for line in server.stderr if '"serving"' in line))
        assert set(NAMES) < set(ready["models"])
        for name in NAMES:
            body = {"model": name, "messages": QUESTION, "max_tokens": 2}
            answer = httpx.post(f"{root}/v1/chat/completions", json=body, timeout=60)
            assert answer.json()["usage"]["completion_tokens"] == 2
