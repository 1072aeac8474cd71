"""Running the server: its settings, its presets while it runs, and how it stops."""

import asyncio
import inspect
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from steerplug.commands.main import main
from steerplug.commands.serve import serve as serve_command
from steerplug.engine.loading import SETTINGS as LOADING
from steerplug.errors import PresetError, SteerplugError
from steerplug.library.presets import shipped_folder
from steerplug.server import serve
from steerplug.server.catalog import Catalog
from steerplug.server.config import Config, ModelConfig
from steerplug.server.errors import Refused
from steerplug.server.log import JsonLines, PlainLines
from tests.helpers.serving import PIRATE, SHORT, session, state
from tests.helpers.tiny_models import tiny_model

ROOT = Path(__file__).parents[2]
NEW = """\
schema: steerplug/preset-v1
name: sailor
teacher: {system: You are a sailor.}
fit: {method: mean}
"""


@dataclass(frozen=True)
class Setup:
    """How a server would have been set up: for all, and for each model."""

    server: Config
    models: dict[str, ModelConfig]

    @property
    def model(self) -> ModelConfig:
        (model,) = self.models.values()
        return model


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Setup]:
    """The settings of servers that would have been started."""
    found: list[Setup] = []

    def run(config: Config, models: Sequence[tuple[str, ModelConfig]]) -> None:
        found.append(Setup(config, dict(models)))
        raise SteerplugError("no further.")

    monkeypatch.setattr("steerplug.commands.serve._run", run)
    for name in list(os.environ):
        if name.startswith("STEERPLUG_") and name not in ("STEERPLUG_CACHE", "STEERPLUG_PRESETS"):
            monkeypatch.delenv(name)
    return found


def test_a_flag_goes_before_a_variable_and_that_before_the_file(
    seen: list[Setup], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("host: 0.0.0.0\nport: 1\nsteer: formal\napi-key: [a, b]\ngrace: 3\n")
    monkeypatch.setenv("STEERPLUG_PORT", "2")
    monkeypatch.setenv("STEERPLUG_STEER", "concise")
    assert main(["serve", "--config", str(file), "--steer", "pirate"]) == 2
    (setup,) = seen
    config, model = setup.server, setup.model
    assert (config.host, config.port, model.steer) == ("0.0.0.0", 2, "pirate")
    assert (config.api_keys, config.grace, model.name) == (("a", "b"), 3.0, "smollm2")
    assert config.limits.timeout == 600


def test_keys_of_the_environment_are_words(
    seen: list[Setup], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEERPLUG_API_KEY", "one two")
    monkeypatch.setenv("STEERPLUG_ADMIN_KEY", "three")
    main(["serve", "--separate-keys"])
    config = seen[0].server
    assert (config.api_keys, config.admin_key) == (("one", "two"), "three")
    assert not config.share_cache


SETTINGS: tuple[tuple[str, Any, str, Any], ...] = (
    ("name", "pal", "model.name", "pal"),
    ("host", "::1", "host", "::1"),
    ("port", 1, "port", 1),
    ("api-key", "a-key", "api_keys", ("a-key",)),
    ("admin-key", "a-key", "admin_key", "a-key"),
    ("origin", "https://chat.example.org", "origins", ("https://chat.example.org",)),
    ("steer", "pirate", "model.steer", "pirate"),
    ("compile", "pirate", "model.compile", ("pirate",)),
    ("n-ctx", 64, "model.loading.n_ctx", 64),
    ("n-cells", 128, "model.sizes.n_cells", 128),
    ("n-seq", 2, "model.sizes.n_seq", 2),
    ("n-threads", 3, "model.loading.n_threads", 3),
    ("max-body", 5, "limits.body", 5),
    ("max-prompt", 6, "limits.prompt", 6),
    ("max-schema", 7, "limits.schema", 7),
    ("max-requests", 8, "limits.requests", 8),
    ("timeout", 9, "limits.timeout", 9.0),
    ("grace", 10.5, "grace", 10.5),
    ("heartbeat", 11, "heartbeat", 11.0),
    ("share-cache", False, "share_cache", False),
    ("log-text", True, "log_text", True),
    ("parse-special", True, "parse_special", True),
    ("replicas", 2, "replicas", 2),
    ("presets-at", "s3://team/presets", "presets_at", "s3://team/presets"),
)


def changed(config: Any, path: str, value: Any) -> Any:
    name, _, rest = path.partition(".")
    return replace(config, **{name: changed(getattr(config, name), rest, value) if rest else value})


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--replicas", "2"], "serving needs ray; run `pip install 'steerplug[ray]'`."),
        (["--presets-at", "x"], "--presets-at is for replicas; say how many by --replicas"),
    ],
)
def test_replicas_need_ray_and_their_place_needs_replicas(
    words: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "steerplug.cluster.local", raising=False)  # another test's
    assert main(["serve", *words]) == 2
    assert sentence in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(("option", "value", "path", "expected"), SETTINGS)
def test_a_flag_a_variable_and_a_key_of_the_file_set_the_same_one_thing(
    seen: list[Setup], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, value: Any,
    path: str, expected: Any,
) -> None:  # fmt: skip
    flags = {True: [f"--{option}"], False: ["--separate-keys"]}
    main(["serve", *(flags[value] if isinstance(value, bool) else [f"--{option}", str(value)])])
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump({option: value}))
    main(["serve", "--config", str(file)])
    monkeypatch.setenv(f"STEERPLUG_{option.replace('-', '_').upper()}", str(value))
    main(["serve"])
    of, _, rest = path.partition("model.")
    server = Config() if rest else changed(Config(), of, expected)
    model = changed(ModelConfig("smollm2"), rest, expected) if rest else ModelConfig("smollm2")
    assert seen == [Setup(server, {"smollm2": model})] * 3


def test_there_are_no_options_but_these_and_unless_they_say_it_the_settings_own_defaults_hold(
    seen: list[Setup],
) -> None:
    main(["serve"])
    assert seen == [Setup(Config(), {"smollm2": ModelConfig("smollm2")})]
    options = {name.replace("_", "-") for name in inspect.signature(serve_command).parameters}
    loading = {name.replace("_", "-") for name in LOADING}
    assert options == {"context", "config", "model", *loading, *(option for option, *_ in SETTINGS)}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("prot: 1", "there is no setting `prot`; did you mean `port`?"),
        ("port: many", "port"),
        ("- port", "must hold `key: value` lines"),
        ("host: 0.0.0.0", "give --api-key"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(
    seen: list[Setup], tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str,
    sentence: str,
) -> None:  # fmt: skip
    file = tmp_path / "serve.yaml"
    file.write_text(content)
    assert main(["serve", "--config", str(file)]) == 2
    said = capsys.readouterr().err
    assert sentence in said.replace("\n", " ")
    assert said.startswith("steerplug: ")
    assert not seen
    assert main(["serve", "--config", str(tmp_path / "none.yaml")]) == 2


def test_a_port_in_use_is_a_sentence() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(SteerplugError, match=r"on \([^()]*\); choose another --port"),
    ):
        serve.listen(Config(port=taken.getsockname()[1]))


def test_presets_are_noticed_while_serving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEERPLUG_PRESETS", str(tmp_path))
    catalog = Catalog(session())
    first = catalog.offers
    catalog.refresh()
    assert catalog.offers is first
    pirate = (shipped_folder() / "pirate.yaml").read_text(encoding="utf-8")
    (tmp_path / "pirate.yaml").write_text(pirate.replace("Answers like a pirate", "Says arr"))
    (tmp_path / "sailor.yaml").write_text(NEW)
    catalog.refresh()
    assert catalog.offers["pirate"].describe()["description"].startswith("Says arr")
    catalog.check("sailor")
    assert catalog.offers["sailor"].carrying.carrier == "prompt"
    (tmp_path / "pirate.yaml").write_text("nonsense: 1")
    catalog.refresh()
    with pytest.raises(Refused, match="steerplug lint pirate"):
        catalog.check("pirate")
    (tmp_path / "pirate.yaml").unlink()
    catalog.refresh()
    catalog.check("pirate")


async def test_a_library_that_cannot_be_read_for_a_moment_is_looked_at_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    serving, again = state(session()), asyncio.Event()
    (served,) = serving.models
    loop, problems = asyncio.get_running_loop(), [OSError(24, "too many files"), PresetError("no")]

    def refresh() -> None:
        if problems:
            raise problems.pop()
        loop.call_soon_threadsafe(again.set)

    monkeypatch.setattr(served.catalog, "refresh", refresh)
    monkeypatch.setattr("steerplug.server.state._LOOK_AGAIN", 0.01)
    looking = asyncio.create_task(serving.keep_looking())
    assert await asyncio.wait_for(again.wait(), 5)
    looking.cancel()


def test_log_lines_are_json() -> None:
    try:
        raise ValueError("x")
    except ValueError:
        about = sys.exc_info()
    record = logging.LogRecord("steerplug", logging.INFO, "f", 1, "said %s", ("it",), about)
    record.status = 200
    said = json.loads(JsonLines().format(record))
    assert (said["event"], said["status"], said["level"]) == ("said it", 200, "info")
    assert "ValueError: x" in said["exception"]


def plain(event: str, level: int = logging.INFO, **extra: Any) -> str:
    """What a person reads of a record, less the time."""
    record = logging.LogRecord("steerplug", level, "f", 1, event, (), None)
    vars(record).update(extra)
    time, said = PlainLines().format(record).split("  ", 1)
    assert re.fullmatch(r"\d\d:\d\d:\d\d", time)
    return said


def test_a_terminal_gets_lines_that_a_person_reads() -> None:
    models = ["smollm2", "smollm2@pirate", "smollm2@terse"]
    address = "http://127.0.0.1:8080"
    assert plain("serving", address=address, models=models) == (
        f"serving smollm2, and 2 with presets at {address}/v1; the playground is at {address}"
    )
    asked: dict[str, Any] = {"method": "POST", "path": "/v1/chat/completions", "status": 200}
    reply: dict[str, Any] = {
        "model": "smollm2", "steering": "pirate", "carrier": "steering", "prompt_tokens": 37,
        "cached_tokens": 20, "completion_tokens": 12, "seconds": 0.314, "digest": "",
    }  # fmt: skip
    assert plain("request", **asked, **reply) == (
        "POST /v1/chat/completions 200 in 0.31 s; smollm2, pirate by steering; 37 prompt tokens, "
        "20 of them cached; 12 reply tokens"
    )
    bare = {**reply, "carrier": "", "steering": "none", "replies": ["Wet."], "error": "it broke."}
    assert plain("request", **asked, **bare).endswith(
        '; smollm2, not steered; 37 prompt tokens, 20 of them cached; 12 reply tokens; it broke.; '
        'replies ["Wet."]'
    )
    strange = {**asked, "path": "/\x1b[31mred\n", "status": 404, "seconds": 0.0}
    assert plain("request", **strange) == "POST /\ufffd[31mred\ufffd 404 in 0.00 s"
    assert plain("no", logging.WARNING, added=["ant"]) == 'warning: no; added ["ant"]'


def test_a_server_on_a_terminal_logs_plainly(tmp_path: Path) -> None:
    from tests.commands.test_process import Terminal

    model = str(tiny_model("llama"))
    words = ["serve", "-m", model, "--name", "ant", "--port", "0", "--n-threads", "1"]
    terminal = Terminal(words, {**os.environ, "STEERPLUG_CACHE": str(tmp_path)})
    said = terminal.read(until="the playground is at http://127.0.0.1:")
    assert re.search(r"^\d\d:\d\d:\d\d  serving ant, and \d+ with presets at http://", said, re.M)
    assert "{" not in said
    terminal.type("\x03")
    terminal.read()
    assert terminal.end() == 130


@contextmanager
def process(*words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `steerplug serve` as a process of its own, and give it with its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code = "import sys; from steerplug.commands.main import main; sys.exit(main())"
    running = subprocess.Popen(
        [sys.executable, "-c", code, "serve", "--port", str(port), "--n-threads", "1", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield running, f"http://127.0.0.1:{port}"
    finally:
        running.kill()
        running.communicate()


@pytest.mark.parametrize(("grace", "ends_well"), [("20", True), ("0.1", False)])
def test_streams_end_properly_when_the_server_is_told_to_stop(grace: str, ends_well: bool) -> None:
    body: dict[str, Any] = {**SHORT, "model": PIRATE, "stream": True}
    body |= {"max_tokens": 100 if ends_well else 4000, "logit_bias": {"0": -100, "2": -100}}
    with process("--grace", grace) as (running, root):
        assert running.stderr is not None
        ready = json.loads(next(line for line in running.stderr if '"serving"' in line))
        assert re.fullmatch(r"http://127.0.0.1:\d+", ready["address"])
        ask = partial(httpx.post, f"{root}/v1/chat/completions", timeout=60)
        with (
            ThreadPoolExecutor() as pool,
            httpx.stream("POST", f"{root}/v1/chat/completions", json=body, timeout=60) as stream,
        ):
            whole = pool.submit(ask, json={**body, "stream": False})
            lines = (line for line in stream.iter_lines() if line.startswith("data: "))
            next(lines)
            while "requests_running 2.0" not in httpx.get(f"{root}/metrics").text:
                time.sleep(0.05)
            running.send_signal(signal.SIGTERM)
            *_, last, done = lines
        assert done == "data: [DONE]"
        assert whole.result().status_code == (200 if ends_well else 503)
        said = json.loads(last.removeprefix("data: "))
        if ends_well:
            assert said["choices"][0]["finish_reason"] == "length"
        else:
            assert "stopping" in said["error"]["message"]
        assert running.wait(60) == -signal.SIGTERM
