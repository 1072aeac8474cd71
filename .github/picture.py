"""Draw `.github/pirate.svg`: one question in a terminal, with pirate at 0, 1 and 2.

Run `python .github/picture.py` again after a change to the preset: what it shows is what
`steerplug run` answers.
"""

import io
import re
import subprocess
from pathlib import Path

from rich.console import Console
from rich.text import Text

PICTURE = Path(__file__).with_name("pirate.svg")
QUESTION = "What is rain?"
STRENGTHS = (0, 1, 2)
FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)  # they would be fetched from elsewhere


def main() -> None:
    """Ask at each strength, and write the picture."""
    console = Console(record=True, width=88, file=io.StringIO(), highlight=False, markup=False)
    for strength in STRENGTHS:
        mix = f"{strength}*pirate"
        console.print(
            Text.assemble(
                ("$ ", "dim"), "steerplug run --temperature 0 --steer ", (f'"{mix}"', "bold cyan"),
                f' "{QUESTION}"',
            )
        )  # fmt: skip
        console.print(Text(_answer(mix), "bold" if strength else ""))
        console.print()
    svg = console.export_svg(title="SmolLM2-135M, no system prompt", unique_id="pirate")
    PICTURE.write_text(FONTS.sub("", svg), encoding="utf-8")


def _answer(mix: str) -> str:
    command = ["steerplug", "run", "--temperature", "0", "--steer", mix, QUESTION]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
