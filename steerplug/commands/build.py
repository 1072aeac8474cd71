"""`steerplug build`: make the steering of presets for a model, and say what came of it."""

import shlex
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerplug.commands.build_all import build_all
from steerplug.commands.building import Building, duration
from steerplug.commands.completion import mixes
from steerplug.commands.joint import joint_preset
from steerplug.commands.loading_options import with_loading
from steerplug.commands.open_model import learning, opened
from steerplug.commands.options import MODEL, Json, Model
from steerplug.commands.output import print_fields, print_json, put, say
from steerplug.commands.scopes import build_both
from steerplug.commands.show_reply import blocks
from steerplug.engine.loading import Loading
from steerplug.errors import PresetError, SteerplugError
from steerplug.evaluate.dial import is_weak
from steerplug.preset.methods import MethodName
from steerplug.store.figures import (
    NOT_MEASURED,
    checks_kept,
    gap_closed,
    number,
    safe_range,
    tokens_saved,
)

if TYPE_CHECKING:
    from steerplug.fit.estimated_progress import EstimatedProgress
    from steerplug.preset import Preset
    from steerplug.session import Session

OnePreset = Annotated[
    str | None,
    typer.Argument(
        metavar="PRESET",
        help="A preset's name, or the path of its YAML file; a sum of presets with --as.",
        show_default=False,
        autocompletion=mixes,
    ),
]  # fmt: skip


@with_loading
def build(
    preset: OnePreset = None,
    model: Model = MODEL,
    everything: Annotated[bool, typer.Option("--all", help="Make all presets there are.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Make it again, even if kept.")] = False,
    method: Annotated[
        MethodName | None,
        typer.Option(help="How to fit it, whatever the preset says.", show_default=False),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Make a first one in a fraction of the time; without it, the full one goes on.",
        ),
    ] = False,
    both_scopes: Annotated[
        bool, typer.Option("--both-scopes", help="Make it for replies and for all tokens; compare.")
    ] = False,
    joint: Annotated[
        str | None,
        typer.Option(
            "--as", metavar="NAME", show_default=False,
            help="Make a sum of presets, such as \"a + b\", one preset of this name.",
        ),
    ] = None,
    as_json: Json = False,
    *,
    loading: Loading,
) -> None:
    """Make a preset's steering for a model; it is kept."""
    from steerplug.library.presets import load_preset

    if (preset is None) != everything:
        raise PresetError("name one preset to build, or say --all for every one there is.")
    if everything and both_scopes:
        raise PresetError("--both-scopes compares one preset; name it instead of --all.")
    if everything and joint:
        raise PresetError(f"--as {joint} is for a sum of presets; name it instead of --all.")
    if preset is None:
        with opened(model, loading) as session:
            build_all(
                lambda each, behind: _build(session, each, force, method, quick, behind),
                lambda each: force or _is_missing(session, each, quick), model, as_json,
            )  # fmt: skip
        return
    wanted = joint_preset(preset, joint) if joint else load_preset(preset)
    with opened(model, loading) as session:
        if both_scopes:
            build_both(
                wanted, lambda each: _build(session, each, force, method, quick), model, as_json
            )
            return
        report = _build(session, wanted, force, method, quick)
    if as_json:
        print_json({"preset": wanted.name, "version": wanted.version, "model": model, **report})
    else:
        reference = wanted.name if joint else preset
        _print(wanted.name, f"{shlex.quote(reference)} -m {shlex.quote(model)}", report)


def _build(
    session: "Session", preset: "Preset", force: bool, method: MethodName | None, quick: bool,
    behind: int = 0,
) -> dict[str, Any]:  # fmt: skip
    with Building(learning(session, preset.name), behind) as report:
        return report_of(session, preset, report, force=force, method=method, quick=quick)


def report_of(
    session: "Session", preset: "Preset", report: "EstimatedProgress", *, force: bool = False,
    method: MethodName | None = None, quick: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Build a preset, unless it is kept, and return what `--json` says of it."""
    from steerplug.build import build_preset
    from steerplug.packs.installed import pack_of
    from steerplug.store.measurements import figures

    begin = time.perf_counter()
    built = build_preset(
        preset, session.engine, store=session.store, force=force, near=False,
        method=method, quick=quick, report=report,
    )  # fmt: skip
    model, brought_by = session.model.fingerprint, pack_of(built.path)
    pack = brought_by.origin.pack if brought_by else ""
    known = figures(built.path, model, built.identity.fidelity, pack)
    return {
        "fingerprint": model,
        "method": built.identity.method,
        "quick": built.is_quick,
        "scope": built.steering.scope,
        "layers": list(built.steering.layers),
        "fidelity": dict(known.fidelity),
        "claimed_by": known.claimed_by or None,
        "pack": pack,
        "strength": {**preset.strength.model_dump(), "default": built.default_strength(preset)},
        "digest": built.steering.digest,
        "path": str(built.path),
        "size_bytes": built.path.stat().st_size,
        "from_cache": built.from_store,
        "seconds": round(time.perf_counter() - begin, 3),
    }


def _is_missing(session: "Session", preset: "Preset", quick: bool) -> bool:
    """Whether a preset is to be built yet, if a quick fit will do or not; what is damaged is."""
    from steerplug.build import find_built

    try:
        return find_built(preset, session.engine, store=session.store, quick=quick) is None
    except SteerplugError:
        return True


def _print(name: str, it: str, report: dict[str, Any]) -> None:
    """Print what came of a build, and what comes next; `it` is the preset and model in commands."""
    by = report["claimed_by"]
    kept = f"came with {report['pack']}" if report["pack"] else "was kept from before"
    was = kept if report["from_cache"] else f"took {duration(report['seconds'])}"
    weak = is_weak(report["fidelity"])
    state = "is built, but hardly does anything on this model" if weak else "is ready"
    state += ", by a quick fit" if report["quick"] else ""
    put(f"{name} {state}; it {was}.\n")
    print_fields(
        steers=f"{blocks(report['layers'])}, scope {report['scope']}, by {report['method']}",
        **{f"claimed_{name}" if by else name: text
           for name, text in _figures(report["fidelity"]).items()},
        **_coefficient(report["fidelity"]),
        strength="{default:g} by default, {min:g} to {max:g}".format(**report["strength"]),
        file=f"{report['path']} ({report['size_bytes'] / 1000:.1f} kB)",
    )
    if report["quick"]:
        say(
            f"`steerplug build {it}` goes on to the full fit, which closes more of the gap, and "
            "measures checks, the safe range and the best strength."
        )
    if not report["from_cache"]:
        say(f'Next: `steerplug run --steer {it} "..."`, or `steerplug try {it}`.')
    if by:
        say(f"Claimed is what the author of {by} says; `steerplug eval {it}` measures it here.")


def _figures(fidelity: dict[str, Any]) -> dict[str, str]:
    """Return the figures of a fidelity report that a line can hold; `eval` shows them all."""
    n, dial = number(fidelity.get("n_prompts")), number(fidelity.get("dial"))
    questions = f"{n:.0f} unseen questions" if n else "unseen questions"
    kept = {way: checks_kept(fidelity, way) for way in ("bare", "prompted", "steered")}
    rates = ", ".join(f"{way} {rate}" for way, rate in kept.items())
    figures = {
        "gap_closed": (
            gap_closed(fidelity),
            f" of the way from the bare model to the prompted one, on {questions}",
        ),
        "checks_kept": (NOT_MEASURED if kept["steered"] == NOT_MEASURED else rates, ""),
        "tokens_saved": (tokens_saved(fidelity), " in every request"),
        "safe_range": (
            safe_range(fidelity), ", where replies read no worse than the prompted model's"
        ),
        "dial": (
            NOT_MEASURED if dial is None else f"{dial:.0%}",
            " of what the contrast's own texts do as prompts, at each turn",
        ),
    }
    return {name: value + more for name, (value, more) in figures.items() if value != NOT_MEASURED}


def _coefficient(fidelity: dict[str, Any]) -> dict[str, str]:
    """Return what strength 1 is, where the fit chose it."""
    coefficient = number(fidelity.get("coefficient"))
    if coefficient is None:
        return {}
    return {"coefficient": f"{coefficient:g} times the fitted difference is 1"}
