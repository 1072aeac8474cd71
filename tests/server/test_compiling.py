"""Presets compiled while nobody asks: in a process of their own, on a model of random weights."""

import io
import json
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from steerplug.errors import FitError
from steerplug.fit.estimated_progress import EstimatedProgress, Plan, Stage
from steerplug.server.catalog import Catalog
from steerplug.session import Session, Settings, compile_process
from steerplug.session.compiler import Compiler
from steerplug.store.store import Store
from tests.helpers.presets import SAD_PRESET
from tests.helpers.serving import QUESTION, Client, served
from tests.helpers.tiny_models import tiny_model

ADMIN = {"Authorization": "Bearer admin"}


@pytest.fixture(autouse=True)
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with a contrast that is not compiled."""
    monkeypatch.setenv("STEERPLUG_PRESETS", str(tmp_path))
    (tmp_path / "sad.yaml").write_text(SAD_PRESET.replace("[14]", "[2]"))
    return tmp_path


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """A model whose store is empty when a test begins, and which `sad` moves its way."""
    own = opened(Store(tmp_path_factory.mktemp("store")))
    yield own
    own.close()


@pytest.fixture
def client(own: Session) -> Iterator[Client]:
    with served(own, admin_key="admin") as client:
        yield client
    for path in own.store.folder.rglob("*.gguf"):
        path.unlink()


def opened(store: Store) -> Session:
    return Session(tiny_model("llama_untied"), n_ctx=512, n_cells=1024, n_threads=1, store=store)


def described(client: Client) -> Any:
    listed = client.get("/steering/presets").json()["data"]
    return next(one for one in listed if one["name"] == "sad")


def compile_sad(client: Client) -> Any:
    return client.post("/steering/compile", json={"name": "sad"}, headers=ADMIN).json()


def until(holds: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_steering(client: Client) -> bool:
    now = described(client)
    assert (now["compiling"] or {}).get("state") != "failed", now
    return bool(now["carrier"] == "steering")


def test_a_preset_is_compiled_in_idle_time_and_then_offered(client: Client) -> None:
    assert client.post("/steering/compile", json={"name": "sad"}).status_code == 401
    unknown = client.post("/steering/compile", json={"name": "sadd"}, headers=ADMIN)
    assert "did you mean" in unknown.json()["error"]["message"]
    assert client.chat(steering="sad").status_code == 404
    assert compile_sad(client)["compiling"]["state"] in ("waiting", "running")
    until(lambda: is_steering(client))
    reply = client.chat(steering="sad").json()
    assert reply["steering"]["carrier"] == "steering"
    assert reply["steering"]["tokens_steered"] > 0


def test_compiling_stands_still_while_a_reply_is_made(client: Client, own: Session) -> None:
    compiler = own.compiler
    compile_sad(client)
    until(lambda: compiler.jobs["sad"].state == "running")
    states = set[str]()
    for event in own.stream_chat(QUESTION, None, Settings(max_tokens=8)):
        del event
        states.add(compiler.jobs["sad"].state)
        process = compiler._process
        assert process is not None
        until(partial(_is_stopped, process.pid), 5)  # a moment after the signal
    assert states == {"paused"}
    until(lambda: is_steering(client))


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_a_killed_compiler_is_a_sentence_and_may_be_asked_again(
    client: Client, own: Session
) -> None:
    compiler = own.compiler
    compile_sad(client)
    until(lambda: compiler._process is not None)
    assert compiler._process is not None
    os.kill(compiler._process.pid, signal.SIGKILL)
    until(lambda: described(client)["compiling"]["state"] == "failed")
    assert "`steerplug build sad -m MODEL` says why" in described(client)["compiling"]["problem"]
    compile_sad(client)
    until(lambda: is_steering(client))


def test_two_servers_that_compile_the_same_make_it_once(client: Client, own: Session) -> None:
    other = opened(own.store)
    compile_sad(client)
    other.compile("sad")
    compilers = own.compiler, other.compiler
    until(lambda: {compiler.jobs["sad"].state for compiler in compilers} == {"done"})
    assert len(list(own.store.folder.rglob("*.gguf"))) == 1
    other.close()


@pytest.mark.parametrize("fails", [False, True])
def test_a_quick_fit_comes_first_and_then_the_full_one(
    fails: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def build(_preset: object, _engine: object, *, quick: bool = False, report: EstimatedProgress,
              **_: Any) -> None:  # fmt: skip
        report.expect(Plan("chain", (Stage("asking", "ask", 1.0),), 0))
        report("asking", 0, 4)
        report("asking", 3 if quick else 4, 4)
        if fails:
            raise FitError("quick" if quick else "full")

    said = {"preset": "sad", "store": "store", "model": "model", "loading": {}}
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(said)))
    monkeypatch.setattr(compile_process, "_end_with_parent", lambda: None)
    monkeypatch.setattr(compile_process, "Session", lambda *_, **__: SimpleNamespace(engine=None))
    monkeypatch.setattr(compile_process, "build_preset", build)
    compile_process.main()
    *told, end = map(json.loads, capsys.readouterr().out.splitlines())
    assert end == ({"state": "failed", "problem": "full"} if fails else {"state": "done"})
    shares = [one["share"] for one in told]
    assert shares == sorted(shares)
    assert 0 == shares[0] < shares[1] < shares[2] == 0.1 < shares[3] == 1
    assert [one["seconds_left"] is None for one in told] == [True, True, True, False]


class _Process:
    """Stands in for the compiling process: it says what came of it, and does not end by itself."""

    def __init__(self, folder: Path, said: dict[str, Any]) -> None:
        (folder / "said").write_text(json.dumps(said) + "\n")
        self.stdin, self.stdout = (folder / "order").open("w"), (folder / "said").open()
        self.pid, self.killed = 0, 0

    def poll(self) -> int | None:
        return -9 if self.killed else None

    def kill(self) -> None:
        self.killed += 1

    def wait(self) -> int:
        assert self.killed, "it would be waited for, for ever where it is stopped"
        return -9


@pytest.mark.parametrize(
    ("said", "level", "told"),
    [
        ({"state": "done"}, logging.INFO, "compiled sad"),
        ({"state": "failed", "problem": "No."}, logging.WARNING, "sad was not compiled: No."),
    ],
)
def test_what_came_of_it_is_logged_before_the_process_ends(
    own: Session, said: dict[str, Any], level: int, told: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.INFO, "steerplug.compile")
    process = _Process(tmp_path, said)
    monkeypatch.setattr("steerplug.session.compiler.subprocess.Popen", lambda *_, **__: process)
    compiler = Compiler({}, own._activity)
    compiler.ask("sad")
    until(lambda: compiler._process is None and process.killed, 10)
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.INFO, "compiling sad"), (level, told)
    ]  # fmt: skip
    compiler.close()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"new.yaml": SAD_PRESET.replace("name: sad", "name: new")}, None),  # no prompt carries it
        ({"calm.yaml": "name: calm\nteacher: {system: Be calm.}\n"}, {"added": ["calm"]}),
        ({"glad.yaml": "name: glad\nteacher: {system: Be very glad.}\n"}, {"changed": ["glad"]}),
        ({"glad.yaml": None}, {"removed": ["glad"]}),
    ],
)
def test_a_library_is_said_to_be_reloaded_where_something_came_of_it(
    own: Session, library: Path, change: dict[str, str | None], told: dict[str, Any] | None,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.INFO, "steerplug.server")
    head = "schema: steerplug/preset-v1\n"
    (library / "glad.yaml").write_text(f"{head}name: glad\nteacher: {{system: Be glad.}}\n")
    catalog = Catalog(own)
    for name, text in change.items():
        if text is None:
            (library / name).unlink()
        else:
            (library / name).write_text(text if text.startswith("schema") else head + text)
    catalog.refresh()
    reloaded = [vars(record) for record in caplog.records if record.msg == "presets reloaded"]
    keys = ("added", "removed", "changed")
    assert [{key: one[key] for key in keys if key in one} for one in reloaded] == (
        [told] if told else []
    )
