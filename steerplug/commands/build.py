"""`steerplug build`: make the steering of a preset for a model, and say what came of it."""

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerplug.commands.opened import learning, opened
from steerplug.commands.options import MODEL, Json, Model, PresetFile
from steerplug.commands.output import Building, print_fields, print_json, screen
from steerplug.commands.reply import blocks

if TYPE_CHECKING:
    from steerplug.preset import Preset
    from steerplug.session import Session


def build(
    preset: PresetFile,
    model: Model = MODEL,
    force: Annotated[bool, typer.Option("--force", help="Make it again, even if kept.")] = False,
    as_json: Json = False,
) -> None:
    """Make a preset's steering for a model; it is kept."""
    from steerplug.library import load_preset

    wanted = load_preset(preset)
    with opened(model) as session:
        report = _build(session, wanted, force)
    if as_json:
        print_json({"preset": wanted.name, "version": wanted.version, "model": model, **report})
    else:
        _print(wanted.name, report)


def _build(session: "Session", preset: "Preset", force: bool) -> dict[str, Any]:
    from steerplug.build import build_preset

    begin = time.perf_counter()
    with Building(learning(session, preset.name)) as report:
        built = build_preset(
            preset, session.engine, store=session.store, force=force, report=report
        )
    return {
        "fingerprint": session.model.fingerprint,
        "method": built.identity.method,
        "scope": built.steering.scope,
        "layers": list(built.steering.layers),
        "fidelity": dict(built.identity.fidelity),
        "strength": preset.strength.model_dump(),
        "digest": built.steering.digest,
        "path": str(built.path),
        "size_bytes": built.path.stat().st_size,
        "from_cache": built.from_store,
        "seconds": round(time.perf_counter() - begin, 3),
    }


_FIGURES = {
    "gap_closed": "{:.0%} of the way from the bare model to the prompted one, on unseen questions",
    "dial": "{:.0%} of what the contrast's own texts do as prompts, at each turn of the dial",
    "coefficient": "{:g} times the fitted difference is strength 1",
}


def _print(name: str, report: dict[str, Any]) -> None:
    figures = {
        figure: _FIGURES.get(figure, "{}").format(value)
        for figure, value in report["fidelity"].items()
    }
    strength = report["strength"]
    was = "was kept from before" if report["from_cache"] else f"took {report['seconds']:.1f} s"
    screen().print(f"{name} is ready; it {was}.\n", soft_wrap=True)
    print_fields(
        steers=f"{blocks(report['layers'])}, scope {report['scope']}, by {report['method']}",
        **figures,
        strength="{default:g} unless said, {min:g} to {max:g}".format(**strength),
        file=f"{report['path']} ({report['size_bytes'] / 1000:.1f} kB)",
    )
