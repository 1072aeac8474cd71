"""`steerplug import`: a control vector of another tool becomes steering."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from steerplug.commands.loading_options import with_loading
from steerplug.commands.open_model import opened
from steerplug.commands.options import MODEL, Json, Model
from steerplug.commands.output import print_fields, print_json, put, say
from steerplug.commands.show_reply import blocks
from steerplug.engine.loading import Loading
from steerplug.errors import PresetError

if TYPE_CHECKING:
    from steerplug.interchange.reading import Vectors
    from steerplug.session import Session
    from steerplug.steering.value import Scope, Steering

MOST = 100.0  # of an imported vector's strength; nobody has measured its range

Source = Annotated[Path, typer.Argument(metavar="FILE", help="A control vector in GGUF.")]
Imported = Annotated[
    Path | None,
    typer.Option(
        "--to", metavar="FILE", show_default=False, help="Where to put it: a name in .gguf."
    ),
]
As = Annotated[
    str | None,
    typer.Option(
        "--as", metavar="PRESET", show_default=False,
        help="Let it be this preset's steering for the model.",
    ),
]  # fmt: skip
MadeBy = Annotated[
    str | None,
    typer.Option(
        "--made-by", metavar="TOOL", show_default=False,
        help="repeng, llama.cpp or easysteer; default: what the file looks like.",
    ),
]  # fmt: skip
Scale = Annotated[float, typer.Option(help="Strength 1 is this much of the file's vectors.")]
ScopeOption = Annotated[
    Literal["response", "all"], typer.Option("--scope", help="Which tokens it steers.")
]
Force = Annotated[bool, typer.Option("--force", help="With --as: even over what is kept.")]


@with_loading
def import_vectors(
    file: Source,
    to: Imported = None,
    as_preset: As = None,
    model: Model = MODEL,
    made_by: MadeBy = None,
    scale: Scale = 1.0,
    scope: ScopeOption = "response",
    force: Force = False,
    as_json: Json = False,
    *,
    loading: Loading,
) -> None:
    """Bring in a control vector made by another tool."""
    from steerplug.interchange.reading import read_vectors

    if (to is None) == (as_preset is None):
        raise PresetError(
            "say where the vectors belong: `--to FILE.gguf` for a file that a mix names by its "
            "path, or `--as PRESET` for a preset that you have."
        )
    if to is not None and to.suffix.lower() != ".gguf":
        raise PresetError(f"{to} must end in .gguf, so that a mix knows it by its path; rename it.")
    vectors = read_vectors(file, made_by)
    with opened(model, loading) as session:
        put = (
            _into_file(session, vectors, to, scope, scale)
            if to is not None
            else _into_preset(session, vectors, str(as_preset), scale, force)
        )
        steering, path = put
    shortest, longest = vectors.lengths
    report = {
        "from": vectors.format, "is_sure": vectors.is_sure, "model_hint": vectors.model_hint,
        "layer_shift": vectors.shift, "layers": list(steering.layers), "scope": steering.scope,
        "lengths": [shortest, longest], "scale": scale, "sha256": vectors.sha256,
        "digest": steering.digest, "model": model, "preset": as_preset, "path": str(path),
    }  # fmt: skip
    if as_json:
        print_json(report)
    else:
        _print_imported(report)


def _into_file(
    session: "Session", vectors: "Vectors", to: Path, scope: "Scope", scale: float
) -> "tuple[Steering, Path]":
    from steerplug.interchange.writing import new_file
    from steerplug.steering.file import write_steering
    from steerplug.steering.identity import Identity
    from steerplug.version import __version__

    model, name = session.model, to.stem.lower()
    steering = vectors.steering(name, model.n_embd, model.n_layer, scope, scale)
    identity = Identity(
        preset=name, preset_version="1.0.0", preset_digest=vectors.sha256,
        model=model.fingerprint, architecture=model.architecture, chat_template="",
        method="imported", seed=0, steerplug_version=__version__,
        strength_min=-MOST, strength_max=MOST, fidelity=_origin(vectors, scale),
    )  # fmt: skip
    with new_file(to) as temporary:
        write_steering(temporary, steering, identity)
    return steering, to


def _into_preset(
    session: "Session", vectors: "Vectors", reference: str, scale: float, force: bool
) -> "tuple[Steering, Path]":
    from steerplug.build import store_key
    from steerplug.library.presets import load_preset
    from steerplug.preset.methods import CONSTANT, listed
    from steerplug.steering.identity import Identity
    from steerplug.version import __version__

    preset, model = load_preset(reference), session.model
    if preset.fit.method not in CONSTANT:
        raise PresetError(
            f"`{preset.name}` is fitted by {preset.fit.method}, and a control vector is constant; "
            f"name a preset of method {listed(CONSTANT)}, or use `--to FILE.gguf`."
        )
    key = store_key(preset, session.engine)
    path = session.store.path(key)
    if path.exists() and not force:
        raise PresetError(
            f"`{preset.name}` has steering for this model already, in {path}; add --force to put "
            "these vectors in its place."
        )
    steering = vectors.steering(preset.name, model.n_embd, model.n_layer, preset.scope, scale)
    identity = Identity(
        preset=preset.name, preset_version=preset.version, preset_digest=preset.digest,
        model=key.model, architecture=model.architecture, chat_template=key.chat_template,
        method=key.method, seed=preset.fit.seed, steerplug_version=__version__,
        strength_default=preset.strength.default, strength_min=preset.strength.min,
        strength_max=preset.strength.max, license=preset.license,
        fidelity=_origin(vectors, scale), outer_norms=model.outer_norms,
    )  # fmt: skip
    return steering, session.store.publish(key, steering, identity)


def _origin(vectors: "Vectors", scale: float) -> dict[str, Any]:
    return {
        "imported": {"from": vectors.format, "sha256": vectors.sha256,
                     "layer_shift": vectors.shift, "scale": scale},
    }  # fmt: skip


def _print_imported(report: dict[str, Any]) -> None:
    if report["layer_shift"]:
        guess = "" if report["is_sure"] else (
            " (told by its i32 layer_count; if another tool wrote the file, say --made-by repeng)"
        )
        say(
            "llama.cpp's generator calls the output of block 0 `direction.1`, one too many, so each"
            f" vector is moved down by one block{guess}.",
            style="yellow",
        )
    elif not report["is_sure"]:
        say("Nothing in the file tells its maker; `direction.N` is taken for block N.", "yellow")
    shortest, longest = report["lengths"]
    length = f"{shortest:.3g}" if longest < 1.001 * shortest else f"{shortest:.3g} to {longest:.3g}"
    where = report["preset"] or report["path"]
    put(f"{where} steers as the vectors of {report['from']} do.\n")
    print_fields(
        steers=f"{blocks(report['layers'])}, scope {report['scope']}"
        + (" (its maker's tool steers the prompt too: --scope all)"
           if report["scope"] == "response" and not report["preset"] else ""),
        strength_1=f"{report['scale']:g} times the file's vectors, of length {length}",
        file=report["path"],
    )  # fmt: skip
