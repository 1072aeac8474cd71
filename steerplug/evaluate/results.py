"""The page of results, from reports: `python -m steerplug.evaluate.results [FILE ...]`.

A file is what a command printed with `--json`. Named ones are put into `results/` first, in the
place of older ones of the same command; then RESULTS.md is written from all that are there.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from steerplug.evaluate.tables import TABLES, Table, tables
from steerplug.files.whole_file import write_whole

FOLDER = Path(__file__).with_name("results")
PAGE = Path(__file__).with_name("RESULTS.md")

HEAD = """\
# Results

What a preset does beside its prompt. Written by `python -m steerplug.evaluate.results` from the
reports in `results/`, each of which is what its command prints with `--json`; nothing here is
written by hand. Replies are greedy, so there is no seed but that of the bootstrap, which is 0.
Intervals are of 95 %, over questions, or over the scripts of chats, of which one alone has none.
What the arms and figures are is said in [`arms.py`](arms.py), [`turns.py`](turns.py),
[`overrides.py`](overrides.py) and their like.
"""


def page(reports: Sequence[Mapping[str, Any]]) -> str:
    """Return the page of some reports, those of one measure together."""
    parts = [HEAD]
    for kind, (title, _) in TABLES.items():
        some = [report for report in reports if kind in report]
        if some:
            parts.append(f"## {title}\n")
        for report in sorted(some, key=lambda report: (report["name"], report["command"])):
            parts.append("\n".join(_section(report)))
    return "\n".join(parts)


def _section(report: Mapping[str, Any]) -> Iterator[str]:
    yield f"### `{report.get('preset', 'all')}` on {report['name']}\n"
    commit = f", commit {report['commit']}" if report["commit"] else ""
    by = f"`{report['command']}`, steerplug {report['version']}{commit}"
    yield f"{by}, model {report['fingerprint']}.\n"
    for table in tables(report):
        yield from (f"{table.about}\n", *_markdown(table), "")


def _markdown(table: Table) -> Iterator[str]:
    yield _line(table.titles)
    yield _line(["---", *["--:"] * (len(table.titles) - 1)])
    yield from map(_line, table.rows)


def _line(cells: Sequence[str]) -> str:
    return "".join(f"| {cell} " for cell in cells) + "|"


def kept() -> list[dict[str, Any]]:
    """Return the reports that the page is written from."""
    return [json.loads(path.read_bytes()) for path in sorted(FOLDER.glob("*.json"))]


def keep(report: Mapping[str, Any]) -> None:
    """Put a report among those that the page is written from."""
    kind = next(kind for kind in TABLES if kind in report)
    words = f"{kind} {report['name']} {report.get('preset', '')}".lower()
    name = re.sub(r"[^a-z0-9.]+", "-", words).strip("-")
    write_whole(FOLDER / f"{name}.json", (json.dumps(report, indent=1) + "\n").encode())


if __name__ == "__main__":
    for named in sys.argv[1:]:
        keep(json.loads(Path(named).read_bytes()))
    write_whole(PAGE, page(kept()).encode())
