"""The command line as its own process: terminals, pipes, Ctrl-C, and what an import costs."""

import ctypes
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from llama_cpp import llama_cpp as llama

from steerplug.commands.app import GROUPS
from steerplug.commands.main import main
from steerplug.engine.context import Context
from steerplug.engine.hook import lay_out
from steerplug.engine.rows import Row
from steerplug.steering.value import NOTHING, Array, Delta, Mix, Steering
from tests.helpers.tiny_models import tiny_model

_CODE = "import sys; from steerplug.commands.main import main; sys.exit(main())"
ENTRY = [sys.executable, "-c", _CODE]
SAILOR = """\
schema: steerplug/preset-v1
name: sailor
teacher: {system: You are a sailor.}
fit: {method: mean}
"""
ROOT = Path(__file__).parents[2]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    presets = tmp_path / "presets"
    presets.mkdir()
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    return {
        **kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TERM": "xterm-256color",
        "STEERPLUG_CACHE": str(tmp_path / "cache"), "STEERPLUG_PRESETS": str(presets),
    }  # fmt: skip


class Terminal:
    """A command on a terminal of its own, 120 columns wide."""

    def __init__(self, words: Sequence[str], environment: dict[str, str]) -> None:
        pty = pytest.importorskip("pty")
        import fcntl
        import struct
        import termios

        self._unread = b""
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 120, 0, 0))
        self._process = subprocess.Popen(
            [*ENTRY, *words], env=environment, stdin=theirs, stdout=theirs, stderr=theirs,
            start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(theirs)

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def read(self, until: str | None = None) -> str:
        """Return what is written up to and with a text, or to the end."""
        while until is None or until.encode() not in self._unread:
            ready, _, _ = select.select([self._ours], [], [], 60)
            assert ready, f"nothing more after {self._unread!r}"
            try:
                piece = os.read(self._ours, 65536)
            except OSError:  # Linux says so when the other side has closed
                piece = b""
            if not piece:
                assert until is None, f"ended without {until!r}: {self._unread!r}"
                break
            self._unread += piece
        found = until.encode() if until is not None else self._unread
        before, _, self._unread = self._unread.partition(found or b"\0")
        return (before + found).decode("utf-8", "replace").replace("\r\n", "\n")

    def end(self) -> int:
        os.close(self._ours)
        return self._process.wait(timeout=60)


def on_a_terminal(words: Sequence[str], environment: dict[str, str]) -> str:
    """Return what a command writes to a terminal."""
    terminal = Terminal(words, environment)
    written = terminal.read()
    assert terminal.end() == 0
    return written


def test_help_and_presets_load_no_llama_torch_or_langchain(environment: dict[str, str]) -> None:
    program = """
import sys
from steerplug.commands.main import main
for words in (["--help"], ["presets"], ["show", "weddings"], ["run", "--help"]):
    assert main(words) == 0
print(sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    loaded = set(re.findall(r"'(\w+)'", ended.stderr))
    assert "steerplug" in loaded
    assert not loaded & {"llama_cpp", "torch", "transformers", "langchain_core", "numpy"}


def test_a_terminal_gets_a_table_within_its_width_and_a_pipe_does_not(
    environment: dict[str, str],
) -> None:
    shown = on_a_terminal(["presets", "--long"], environment)
    assert "\x1b[" in shown
    assert "──" in shown
    bare = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert all(len(line) <= 120 for line in bare.splitlines())
    assert "weddings" in bare
    ended = subprocess.run([*ENTRY, "presets"], env=environment, capture_output=True, check=True)
    assert b"\x1b" not in ended.stdout
    assert "──" not in ended.stdout.decode()


def test_no_color_leaves_a_terminal_without_colours(environment: dict[str, str]) -> None:
    coloured = re.compile(r"\x1b\[[0-9;]*3[0-9]m")
    assert coloured.search(on_a_terminal(["presets"], environment))
    assert not coloured.search(on_a_terminal(["presets"], {**environment, "NO_COLOR": "1"}))


def test_a_reader_that_leaves_early_gets_no_traceback(environment: dict[str, str]) -> None:
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run(
        [*ENTRY, "presets"], env=environment, stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert ended.returncode == 1
    assert ended.stderr == b""


@pytest.mark.skipif(os.name == "nt", reason="no shell that closes streams")
@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("presets >&-", 0, ""),
        ("presets --nonsense <&- >&- 2>&-", 2, ""),
        ("try pirate <&-", 2, "steerplug: `steerplug try` needs a terminal"),
    ],
)
def test_a_stream_that_is_closed_is_an_empty_one(
    line: str, code: int, said: str, environment: dict[str, str]
) -> None:
    shell = ["sh", "-c", f'"$0" -c "$1" {line}', ENTRY[0], ENTRY[2]]
    ended = subprocess.run(shell, env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr.count("\n")) == (code, bool(said)), ended.stderr
    assert ended.stderr.startswith(said)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
@pytest.mark.parametrize("buffering", ["", "1"])
def test_output_that_no_disk_takes_is_one_sentence(
    buffering: str, environment: dict[str, str]
) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [*ENTRY, "presets", "--json"], env={**environment, "PYTHONUNBUFFERED": buffering},
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (
        2, "steerplug: the output cannot be written (No space left on device); send it elsewhere.\n"
    )  # fmt: skip


def test_ctrl_c_in_the_middle_of_a_build_leaves_nothing_half_written(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "presets" / "sailor.yaml").write_text(SAILOR)
    process = subprocess.Popen(
        [*ENTRY, "build", "sailor", "-m", str(tiny_model("llama"))], env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    line = ""
    while "asking the prompted model" not in line:
        line = process.stderr.readline()
        assert line, "the build ended before it began"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[-1] == "steerplug: stopped."
    assert "Traceback" not in err
    left = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert {path.suffix for path in left} <= {".lock", ".npz"}
    for kept in (path for path in left if path.suffix == ".npz"):  # the next build goes on there
        with np.load(kept) as arrays:
            assert all(arrays[name].size for name in arrays.files)


def test_ctrl_c_stops_a_reply_and_not_the_chat(environment: dict[str, str]) -> None:
    terminal = Terminal(["chat"], environment)
    terminal.read("> ")
    terminal.type("Write a long story about the king of the dragons.\n")
    terminal.read("dragons.\r\n")
    assert terminal.read(" ").strip()  # the reply has begun
    terminal.type("\x03")
    terminal.read("stopped.")
    terminal.read("> ")
    terminal.type("/sing\n")
    assert "there is no `/sing`" in terminal.read("lists all.")
    terminal.read("> ")
    terminal.type("\x04")
    assert "Traceback" not in terminal.read()
    assert terminal.end() == 0


def test_what_is_typed_during_a_reply_is_the_next_line_and_not_in_the_reply(
    environment: dict[str, str],
) -> None:
    terminal = Terminal(["chat", "--max-tokens", "60"], environment)
    terminal.read("> ")
    terminal.type("Write a long story about the king of the dragons.\n")
    terminal.read("dragons.\r\n")
    assert terminal.read(" ").strip()  # the reply has begun
    terminal.type("/steer none\n")
    assert "/steer" not in terminal.read("reply tokens")
    assert "/steer none" in terminal.read("steered by none.")
    terminal.read("> ")
    terminal.type("\x04")
    terminal.read()
    assert terminal.end() == 0


def test_several_lines_that_are_pasted_are_one_message(environment: dict[str, str]) -> None:
    readline = pytest.importorskip("readline")
    if "libedit" in (readline.__doc__ or ""):
        pytest.skip("libedit takes each line that is pasted")
    terminal = Terminal(["chat", "--max-tokens", "3"], environment)
    terminal.read("> ")
    terminal.type("\x1b[200~Say\nhello\nto me\x1b[201~\n")
    terminal.read("to me")
    assert "reply tokens" in terminal.read("> ")
    terminal.type("\x04")
    assert "reply tokens" not in terminal.read()
    assert terminal.end() == 0


def test_ctrl_c_in_a_steered_decode_leaves_the_next_one_unsteered(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = context.model
    z = np.ones(model.n_embd, np.float32)
    steering = Steering("ones", model.n_embd, model.n_layer, {10: Delta.constant(z)})

    def logits(mix: Mix) -> Array:
        context.clear()
        context.decode([Row(100 + i, i, i == 3, lay_out(mix)) for i in range(4)])
        return context.logits(3)

    decode, plain = llama.llama_decode, logits(NOTHING)

    def interrupted(*words: object) -> None:
        decode(*words)
        raise KeyboardInterrupt

    monkeypatch.setattr(llama, "llama_decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        logits(1.0 * steering)
    monkeypatch.setattr(llama, "llama_decode", decode)
    assert np.array_equal(logits(NOTHING), plain)
    assert not np.array_equal(logits(1.0 * steering), plain)


def test_ctrl_c_that_meets_the_log_callback_is_heard_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    log = ctypes.CFUNCTYPE(None)(interrupted)

    def work(_words: object) -> int:
        log()  # ctypes drops the exception
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            time.sleep(0.01)
        return 0

    monkeypatch.setattr("steerplug.commands.main._run", work)
    assert main([]) == 130
    assert capsys.readouterr().err == "steerplug: stopped.\n"


@pytest.mark.parametrize("none", ["0", "00", "\u00b2", "9" * 5000])
def test_a_terminal_without_a_size_is_written_to(environment: dict[str, str], none: str) -> None:
    sized = {**environment, "COLUMNS": none, "LINES": none}
    for words in (["show", "pirate"], ["show", "--help"]):
        assert on_a_terminal(words, sized) == on_a_terminal(words, environment)
    piped = subprocess.run([*ENTRY, "show", "pirate"], env=sized, capture_output=True, check=True)
    assert b"Answers like a pirate" in piped.stdout


def test_presets_fit_a_terminal_and_long_has_figures(environment: dict[str, str]) -> None:
    short = on_a_terminal(["presets"], {**environment, "COLUMNS": "80"})
    assert len(short.splitlines()) <= 40
    assert max(len(line) for line in re.sub(r"\x1b\[[0-9;]*m", "", short).splitlines()) <= 80
    assert "Answers like a pirate" in short
    assert "gap closed" not in short
    assert "gap closed" in on_a_terminal(["presets", "--long"], environment)
    narrow = on_a_terminal(["presets", "--long"], {**environment, "COLUMNS": "80"})
    assert "gap closed" in narrow
    assert "…" not in narrow  # no cell is cut off
    assert len(narrow.splitlines()) <= 40


def test_help_shows_groups_and_an_example_each(environment: dict[str, str]) -> None:
    shown = on_a_terminal(["--help"], environment)
    titles = [shown.index(f" {title} ") for title in GROUPS]
    assert titles == sorted(titles)
    assert "Example: steerplug show pirate" in on_a_terminal(["show", "--help"], environment)
    helped = on_a_terminal(["serve", "--help"], {**environment, "NO_COLOR": "1"})
    helped = re.sub(r"\x1b\[[0-9;]*m", "", helped)
    assert 0 < helped.index("Example: steerplug serve") < helped.index("Options:")
    assert helped.count("STEERPLUG_") == 1  # the rule, rather than each


def test_what_is_said_breaks_between_words_on_a_terminal(environment: dict[str, str]) -> None:
    terminal = Terminal(["run", "-m", "nothing", "hi"], {**environment, "COLUMNS": "40"})
    said = re.sub(r"\x1b\[[0-9;]*m", "", terminal.read())
    assert terminal.end() == 2
    assert max(map(len, said.splitlines())) <= 40
    ended = subprocess.run([*ENTRY, "run", "-m", "nothing", "hi"], env=environment, text=True,
                           capture_output=True, check=False)  # fmt: skip
    assert ended.stderr.count("\n") == 1
    assert said.split() == ended.stderr.split()
