"""`steerplug build`: make the steering of presets for a model, and say what came of it."""

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerplug.commands.build_all import build_all
from steerplug.commands.opened import learning, opened
from steerplug.commands.options import MODEL, Json, Model
from steerplug.commands.output import Building, print_fields, print_json, screen
from steerplug.commands.reply import blocks
from steerplug.errors import PresetError

if TYPE_CHECKING:
    from steerplug.preset import Preset
    from steerplug.session import Session

OnePreset = Annotated[
    str | None,
    typer.Argument(
        metavar="[PRESET]", help="A preset's name, or the path of its YAML file.",
        show_default=False,
    ),
]  # fmt: skip


def build(
    preset: OnePreset = None,
    model: Model = MODEL,
    everything: Annotated[bool, typer.Option("--all", help="Make all presets there are.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Make it again, even if kept.")] = False,
    as_json: Json = False,
) -> None:
    """Make a preset's steering for a model; it is kept."""
    from steerplug.library import load_preset

    if (preset is None) != everything:
        raise PresetError("name one preset to build, or say --all for every one there is.")
    if preset is None:
        with opened(model) as session:
            build_all(lambda one: _build(session, one, force), model, as_json)
        return
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
            preset, session.engine, store=session.store, force=force, near=False, report=report
        )
    return {
        "fingerprint": session.model.fingerprint,
        "method": built.identity.method,
        "scope": built.steering.scope,
        "layers": list(built.steering.layers),
        "fidelity": dict(built.identity.fidelity),
        "strength": {**preset.strength.model_dump(), "default": built.default_strength(preset)},
        "digest": built.steering.digest,
        "path": str(built.path),
        "size_bytes": built.path.stat().st_size,
        "from_cache": built.from_store,
        "seconds": round(time.perf_counter() - begin, 3),
    }


def _print(name: str, report: dict[str, Any]) -> None:
    was = "was kept from before" if report["from_cache"] else f"took {report['seconds']:.1f} s"
    screen().print(f"{name} is ready; it {was}.\n", soft_wrap=True)
    print_fields(
        steers=f"{blocks(report['layers'])}, scope {report['scope']}, by {report['method']}",
        **_figures(report["fidelity"]),
        strength="{default:g} unless said, {min:g} to {max:g}".format(**report["strength"]),
        file=f"{report['path']} ({report['size_bytes'] / 1000:.1f} kB)",
    )


def _figures(fidelity: dict[str, Any]) -> dict[str, str]:
    """Return the figures of a fidelity report that a line can hold; `eval` shows them all."""
    said = {}
    if fidelity.get("gap_closed") is not None:
        low, high = fidelity["gap_closed_interval"]
        said["gap_closed"] = (
            f"{fidelity['gap_closed']:.0%} of the way from the bare model to the prompted one, on "
            f"{fidelity['n_prompts']} unseen questions ({low:.0%} to {high:.0%})"
        )
    if fidelity.get("checks"):
        rates = (f"{way} {fidelity['checks'][way]:.0%}" for way in ("bare", "prompted", "steered"))
        said["checks_kept"] = ", ".join(rates)
    if fidelity.get("prompt_tokens_saved"):
        said["tokens_saved"] = f"{fidelity['prompt_tokens_saved']:.0f} in every request"
    if (swept := fidelity.get("sweep")) and swept["safe_max"] is not None:
        said["safe_range"] = (
            f"{swept['safe_min']:g} to {swept['safe_max']:g}, where replies read no worse than the "
            "prompted model's"
        )
    if "dial" in fidelity and fidelity["dial"] is not None:
        said["dial"] = (
            f"{fidelity['dial']:.0%} of what the contrast's own texts do as prompts, at each turn"
        )
    if "coefficient" in fidelity:
        said["coefficient"] = f"{fidelity['coefficient']:g} times the fitted difference is 1"
    return said
