"""Keys that are typed while replies come in: none is echoed, and none is lost."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prompt_toolkit.input import Input


@contextmanager
def unechoed() -> Iterator[None]:
    """Keep what is typed at a terminal off the screen; the next line begins with it."""
    if sys.platform == "win32" or not sys.stdin.isatty():
        yield
        return
    import termios

    before = termios.tcgetattr(sys.stdin)
    quiet = [*before]
    quiet[3] &= ~termios.ECHO
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


class Keyboard:
    """The keyboard of a terminal, which a prompt reads at other times."""

    def __init__(self) -> None:
        from prompt_toolkit.input import create_input

        self.input: Input = create_input()

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Keep what is typed off the screen; Ctrl-C still interrupts."""
        with self.input.raw_mode():
            self._keep_interrupts()
            yield

    def _keep_interrupts(self) -> None:
        try:
            import termios
        except ImportError:  # on Windows
            return
        attributes = termios.tcgetattr(self.input.fileno())
        attributes[3] |= termios.ISIG
        termios.tcsetattr(self.input.fileno(), termios.TCSANOW, attributes)

    def pressed(self, wanted: dict[str, int]) -> int:
        """Return the sum of what the keys pressed since then mean; the next prompt has the others.

        Raises:
            KeyboardInterrupt: Ctrl-C was among them, where the system sends no signal for it.
        """
        from prompt_toolkit.input.typeahead import store_typeahead
        from prompt_toolkit.keys import Keys

        found, others = 0, []
        for press in self.input.read_keys():
            if press.key == Keys.ControlC:
                raise KeyboardInterrupt
            name = press.key.value if isinstance(press.key, Keys) else press.key
            if name in wanted:
                found += wanted[name]
            else:
                others.append(press)
        store_typeahead(self.input, others)
        return found
