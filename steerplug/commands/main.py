"""Where every command begins and ends: one exit code, and one sentence where something is wrong."""

import _thread
import atexit
import errno
import gc
import io
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from steerplug.commands.exit_codes import FAILED, INTERRUPTED, UNREAD
from steerplug.commands.streams import (
    forget_no_size,
    give_up_stdout,
    is_of_stdout,
    open_closed_ones,
    stopped,
)
from steerplug.errors import SteerplugError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: the words after `steerplug`; default: those of this process.
    """
    atexit.register(gc.freeze)  # with torch, looking for garbage at the end takes most of a second
    open_closed_ones()
    forget_no_size()
    try:
        with _every_interrupt_heard():
            code = _run(arguments)
    except BrokenPipeError:
        give_up_stdout()
        return UNREAD
    except KeyboardInterrupt:
        code = INTERRUPTED
    except SteerplugError as error:
        return _failed(str(error))
    except OSError as error:
        if error.errno == errno.ENOENT and error.filename is None:  # as `os.getcwd` says it
            return _failed("the working folder is gone; change to one that exists.")
        if not is_of_stdout(error):
            raise
        give_up_stdout()
        return _failed(f"the output cannot be written ({error.strerror}); send it elsewhere.")
    except Exception as error:
        if not _is_interrupt(error):
            from steerplug.commands.usage import usage

            return _failed(usage(error))
        code = INTERRUPTED
    if code == INTERRUPTED:
        sys.stderr.write(stopped())
    return code


def _run(arguments: Sequence[str] | None) -> int:
    from steerplug.commands.app import command_line
    from steerplug.engine.unknown_settings import SHORT_FLAGS, sentence

    for word in sys.argv[1:] if arguments is None else arguments:
        if word in SHORT_FLAGS:
            raise SteerplugError(sentence(word))
    if isinstance(sys.stdout, io.TextIOWrapper):  # a letter the terminal lacks is no reason to stop
        sys.stdout.reconfigure(errors="replace")
    # Typer itself turns Ctrl-C into exit code 130, and most broken pipes into exit code 1.
    code = command_line()(arguments, prog_name="steerplug", standalone_mode=False)
    sys.stdout.flush()
    return code or 0


def _failed(sentence: str) -> int:
    from steerplug.commands.output import complain

    complain(sentence)
    return FAILED


def _is_interrupt(error: Exception) -> bool:
    """Say whether this is what typer makes of a Ctrl-C, or of no answer, at a question."""
    import typer

    return isinstance(error, typer.Abort)


@contextmanager
def _every_interrupt_heard() -> Iterator[None]:
    """Let no Ctrl-C get lost.

    llama.cpp's log arrives in a ctypes callback, and ctypes drops what is raised in there. So the
    interrupt is sent once more, until it meets the program outside of the callback.
    """
    usual = sys.unraisablehook

    def again(dropped: "sys.UnraisableHookArgs") -> None:
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            threading.Timer(0.05, _thread.interrupt_main).start()
        else:
            usual(dropped)

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = usual
