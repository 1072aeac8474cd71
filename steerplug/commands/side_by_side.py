"""Replies that grow side by side on a terminal, each in a column of its own."""

from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING, TypeAlias

from rich import box
from rich.live import Live
from rich.table import Table
from rich.text import Text

from steerplug.commands.output import screen, visible

if TYPE_CHECKING:
    from steerplug.chat.messages import ChatInput
    from steerplug.session import Session, Settings
    from steerplug.session.receipt import Reply

Told: TypeAlias = "Generator[str | Reply]"
"""What a reply says, piece by piece, and the reply itself."""

_A_SECOND = 20


class Columns:
    """Texts side by side, which may grow while they are shown.

    Args:
        titles: of each column, by its name.
    """

    def __init__(self, titles: Mapping[str, str]) -> None:
        self.titles = dict(titles)
        self.texts = dict.fromkeys(titles, "")
        self.notes: dict[str, str] = {}
        """What is said below the texts, once it is known."""

    def live(self) -> Live:
        """Return what shows them as they grow, and leaves them on the screen."""
        return Live(console=screen(), get_renderable=self._table, refresh_per_second=_A_SECOND)

    def _table(self) -> Table:
        table = Table(box=box.ROUNDED, expand=True, header_style="bold cyan", border_style="dim")
        for title in self.titles.values():
            table.add_column(title, ratio=1)
        table.add_row(*map(visible, self.texts.values()))
        if self.notes:
            table.add_section()
            table.add_row(*(Text(self.notes.get(name, ""), "dim") for name in self.titles))
        return table


def telling(
    session: "Session", messages: "ChatInput", steering: str | None, settings: "Settings"
) -> Told:
    """Yield the answer to a chat as it comes, without its thoughts, and then the reply."""
    from steerplug.chat.tool import CallPiece
    from steerplug.session.receipt import Reply

    for event in session.stream_chat(messages, steering, settings):
        if isinstance(event, Reply):
            yield event
        elif not isinstance(event, CallPiece) and not event.in_thought:
            yield event.text


def in_turn(ways: "dict[str, Told]") -> "Iterator[tuple[str, str | Reply]]":
    """Yield one event of each way after the other; the engine decodes them in one batch.

    Args:
        ways: what is told in each way. One that has ended is taken out, and one that is put in
            meanwhile is told as well.
    """
    while ways:
        for way, events in list(ways.items()):
            if ways.get(way) is not events:
                continue
            event = next(events, None)
            if event is None:
                del ways[way]
            else:
                yield way, event
