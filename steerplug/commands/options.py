"""Options that several commands share, so that one word means one thing."""

from typing import Annotated

import typer

from steerplug.commands.completion import mixes, models, preset_names
from steerplug.preset import carrier as carriers

MODEL = "smollm2"

Model = Annotated[
    str,
    typer.Option(
        "-m", "--model", metavar="MODEL",
        help="A path to a GGUF, hf:org/repo/file.gguf, or an alias.", autocompletion=models,
    ),
]  # fmt: skip
PresetFile = Annotated[
    str,
    typer.Argument(
        metavar="PRESET", help="A preset's name, or the path of its YAML file.",
        autocompletion=preset_names,
    ),
]  # fmt: skip
Steer = Annotated[
    str,
    typer.Option(
        "-s", "--steer", metavar="MIX",
        help='How to steer, such as "weddings" or "0.8*pirate + concise"; none for not at all.',
        autocompletion=mixes,
    ),
]  # fmt: skip
Carrier = Annotated[
    carriers.Carrier,
    typer.Option(
        help="What brings presets in: their steering, their prompt, or both; auto takes steering "
        "where a preset is compiled for the model, and its prompt elsewhere.",
    ),
]
System = Annotated[
    str | None, typer.Option(metavar="TEXT", help="A system prompt.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Think = Annotated[
    bool | None,
    typer.Option(
        "--think/--no-think", help="Whether a model that can think does so before it answers.",
        show_default=False,
    ),
]  # fmt: skip
Effort = Annotated[
    str | None,
    typer.Option(
        "--reasoning-effort", metavar="LEVEL", show_default=False,
        help="How hard it thinks, where its template reads that: none, low, medium, high, ...",
    ),
]  # fmt: skip
ThinkingBudget = Annotated[
    int | None,
    typer.Option(
        "--thinking-budget", min=0, metavar="N", show_default=False,
        help="Most tokens of thought, behind which it answers; 0: none.",
    ),
]  # fmt: skip
