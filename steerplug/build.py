"""A preset and a model become steering, once: the table of contents of steerplug.

    find in the store or with the preset  ->  else: teach or read, fit, choose, measure, publish

Open this file first; every other one is a step of it.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from steerplug.chat.template import ChatTemplate
from steerplug.engine.constraint import ANY_JSON
from steerplug.engine.engine import Engine
from steerplug.engine.model import Model
from steerplug.engine.reader import Reader, reading
from steerplug.engine.requantised import quick
from steerplug.errors import FitError
from steerplug.evaluate.dial import check_dial, is_weak, weakness, works
from steerplug.evaluate.questions import SWEPT, for_choosing, reported_on, spread
from steerplug.evaluate.report import measure_steering
from steerplug.fit import activations, difference, measure
from steerplug.fit.chain import Chain, fit_chain
from steerplug.fit.checkpoint import Checkpoint
from steerplug.fit.choose import MAX_DAMAGE, Candidates, Choice, Score, choose
from steerplug.fit.difference import Directions
from steerplug.fit.distill import check_installed, distill
from steerplug.fit.general import general_prompts
from steerplug.fit.progress import Report, silent
from steerplug.fit.teacher import teach
from steerplug.library.presets import shipped_folder
from steerplug.packs.installed import pack_of
from steerplug.preset import Preset
from steerplug.preset.methods import METHODS
from steerplug.steering.identity import Identity
from steerplug.steering.terms import COMPILED
from steerplug.steering.value import Steering
from steerplug.store.measurements import recall
from steerplug.store.other_quantisation import find_near, warning
from steerplug.store.store import Key, Store
from steerplug.version import __version__

log = logging.getLogger(__name__)

_LOOKED_AT = 4
_CHAIN_STEP = 4


@dataclass(frozen=True)
class Built:
    """A preset's steering for one model, the file it is kept in, and whether it was found there."""

    steering: Steering
    identity: Identity
    path: Path
    from_store: bool

    def default_strength(self, preset: Preset) -> float:
        """Return the strength when none is said: the preset's own, else what was measured best."""
        own = "default" in preset.strength.model_fields_set
        return preset.strength.default if own else self.identity.strength_default


def build_preset(
    preset: Preset,
    engine: Engine,
    *,
    store: Store | None = None,
    force: bool = False,
    near: bool = True,
    report: Report = silent,
) -> Built:
    """Return the steering of `preset` for the engine's model, from the store if it is there.

    Args:
        preset: what to build.
        engine: the model, ready to generate.
        store: where built steering is kept; default: the user's.
        force: build again even if it is there.
        near: take what was built for another quantisation of the model, with a warning, if there
            is nothing for this one.
        report: told how far the work is.

    Raises:
        FitError: the preset cannot be fitted on this model, or does nothing on it.
        StoreError: the store cannot be read or written.
    """
    built = _found_or_made(preset, engine, store or Store(), force, near, report)
    _check_works(built, preset, engine.model)
    return built


def _found_or_made(
    preset: Preset, engine: Engine, store: Store, force: bool, near: bool, report: Report
) -> Built:
    key = store_key(preset, engine)
    model = engine.model
    path = store.path(key)
    if not force and not path.exists():  # what was built here goes before what shipped
        found_with_it = _shipped(preset, key, model)
        if found_with_it:
            return found_with_it
        found_near = near and _near(preset, key, model, store)
        if found_near:
            return found_near
    made: list[tuple[Steering, Identity]] = []
    kept = Checkpoint(path)

    def make() -> tuple[Steering, Identity]:
        kept.load()
        try:
            made.append(_fit(preset, engine, key, kept, report))
        except FitError:
            kept.drop()
            raise
        return made[0]

    steering, identity = store.find_or_make(
        key, make, n_embd=model.n_embd, n_layer=model.n_layer, force=force
    )
    if made:
        kept.drop()
    return Built(steering, identity, path, from_store=not made)


def find_built(
    preset: Preset, engine: Engine, *, store: Store, near: bool = False
) -> Built | None:
    """Return what was built before, in the store or with the preset, or None.

    It is for the very model, or if `near` for another quantisation of it, with a warning.

    Raises:
        SteeringError: it is damaged, or not what its name says.
        FitError: it does nothing on this model.
    """
    key, model = store_key(preset, engine), engine.model
    found = store.find(key, n_embd=model.n_embd, n_layer=model.n_layer)
    if found:
        built: Built | None = Built(*found, store.path(key), from_store=True)
    else:
        built = _shipped(preset, key, model)
        built = built or (_near(preset, key, model, store) if near else None)
    if built:
        _check_works(built, preset, model)
    return built


def _check_works(built: Built, preset: Preset, model: Model) -> None:
    """Refuse what does nothing on the model, also if it was kept before that was refused."""
    check_dial(preset.name, model.name, built.identity.fidelity)
    if is_weak(built.identity.fidelity):
        log.warning("%s", weakness(preset.name, model.name))


def _shipped(preset: Preset, key: Key, model: Model) -> Built | None:
    """Return the steering that came with a preset, in its pack or with steerplug."""
    for folder in _came_with(preset):
        kept = Store(folder / COMPILED)
        path = kept.path(key)
        _check_pinned(path)
        found = kept.find(key, n_embd=model.n_embd, n_layer=model.n_layer)
        if found:
            return Built(*found, path, from_store=True)
    return None


def _near(preset: Preset, key: Key, model: Model, store: Store) -> Built | None:
    """Return steering that was built for nearly this model, with a warning."""
    folders = (store.folder, *(folder / COMPILED for folder in _came_with(preset)))
    found = find_near(key, folders, _check_pinned, n_embd=model.n_embd, n_layer=model.n_layer)
    if found is None or not works(found[0][1].fidelity):
        return None
    made, path = found
    log.warning("%s", warning(preset.name, model.name, recall(path).get(key.model)))
    return Built(*made, path, from_store=True)


def _came_with(preset: Preset) -> tuple[Path, ...]:
    """Return the folders that may hold compiled steering of a preset: its pack's, steerplug's."""
    origin = preset.origin
    return (origin.folder, shipped_folder()) if origin else (shipped_folder(),)


def _check_pinned(path: Path) -> None:
    """Refuse a file of a pack that is not what was pinned."""
    if (pack := pack_of(path)) and path.exists():
        pack.content(path.relative_to(pack.folder).as_posix())


def store_key(preset: Preset, engine: Engine) -> Key:
    """Return the address under which the steering of a preset is kept for a model."""
    return Key(
        preset=preset.name,
        preset_digest=preset.digest,
        model=engine.model.fingerprint,
        chat_template=chat_template_hash(engine.model.chat_template),
        method=preset.fit.method,
        fit_version=METHODS[preset.fit.method].version,
    )


def _fit(
    preset: Preset, engine: Engine, key: Key, kept: Checkpoint, report: Report
) -> tuple[Steering, Identity]:
    with reading(engine.model, engine.context.n_ctx) as cells:
        if preset.teacher is not None:
            steering, strength, figures = _fit_teacher(preset, engine, cells, kept, report)
        else:
            steering, strength, figures = _fit_contrast(preset, engine, cells, report)
    identity = Identity(
        preset=preset.name,
        preset_version=preset.version,
        preset_digest=preset.digest,
        model=engine.model.fingerprint,
        architecture=engine.model.architecture,
        chat_template=key.chat_template,
        method=preset.fit.method,
        seed=preset.fit.seed,
        steerplug_version=__version__,
        strength_default=strength,
        strength_min=preset.strength.min,
        strength_max=preset.strength.max,
        license=preset.license,
        fidelity=figures,
    )
    return steering, identity


Figures = dict[str, Any]


def _fit_teacher(
    preset: Preset, engine: Engine, cells: Reader, kept: Checkpoint, report: Report
) -> tuple[Steering, float, Figures]:
    """Fit the difference that the teacher's prompt makes to its own replies, and measure it."""
    if METHODS[preset.fit.method].needs_torch:
        check_installed(preset.name, preset.fit.method)
    with quick(engine, cells) as (asked, read):
        steering = _imitation(preset, engine.model, asked, read, kept, report)
    return steering, *_measured(preset, engine, cells, steering, report)


def _imitation(
    preset: Preset, model: Model, engine: Engine, cells: Reader, kept: Checkpoint, report: Report
) -> Steering:
    """Return what brings the bare chat to the prompted one; engine and cells may be of a copy."""
    assert preset.teacher is not None
    fit, blocks = preset.fit, _blocks(preset, engine)
    template = ChatTemplate.of(model)
    ask = partial(
        teach, engine, template, preset.teacher,
        schema=ANY_JSON if preset.format else None, report=report,
    )  # fmt: skip
    own = general_prompts("fit") if fit.prompts == "general" else fit.prompts
    lessons = ask(spread(own, METHODS[fit.method].n_questions), seed=fit.seed, known=kept.replies)
    some = lessons[:: -(-len(lessons) // _LOOKED_AT)]
    measure.gaps_closed(cells, some, [])  # refuses where there is nothing to learn
    if fit.method == "psr" or fit.method == "const":
        return distill(
            preset.name, model, lessons, blocks,
            method=fit.method, scope=preset.scope, seed=fit.seed, report=report,
        )  # fmt: skip
    if fit.method == "chain":
        blocks = blocks[::-_CHAIN_STEP][::-1] if fit.layers == "auto" else blocks
        return fit_chain(
            _named(preset, engine), cells, lessons, blocks, known=kept.deltas, report=report
        )
    unused = ask(for_choosing(preset, SWEPT), seed=fit.seed + 1)

    def gaps(steerings: Sequence[Steering]) -> list[float]:
        mixes = [1.0 * steering for steering in steerings]
        return [float(gap) for gap in measure.gaps_closed(cells, unused, mixes, report)]

    rows = activations.of_lessons(cells, lessons, blocks, report)
    directions = difference.mean(rows) if fit.method == "mean" else difference.pca(rows)
    return _chosen(preset, engine, directions, gaps)[0]


def _measured(
    preset: Preset, engine: Engine, cells: Reader, steering: Steering, report: Report
) -> tuple[float, Figures]:
    """Return the strength to use unless another is said, and the fidelity report there.

    Raises:
        FitError: in llama.cpp, the steering does not bring the bare model nearer to the prompted.
    """
    measured = measure_steering(
        preset, steering, engine, cells, reported_on(preset), report=report
    )
    closed = measured.fidelity.gap_closed.value
    if closed is None or closed <= 0:
        raise FitError(
            f"`{preset.name}` was fitted, but closes {closed or 0:.0%} of the gap to its prompt on "
            "this model; give the teacher example turns that the model follows."
        )
    return measured.chosen.default, measured.as_dict()


def _fit_contrast(
    preset: Preset, engine: Engine, cells: Reader, report: Report
) -> tuple[Steering, float, Figures]:
    """Fit the difference between the contrast's texts.

    Raises:
        FitError: it garbles this model wherever it is added, or does nothing on it.
    """
    assert preset.contrast is not None
    fit, pairs, blocks = preset.fit, preset.contrast.pairs, _blocks(preset, engine)
    if fit.method == "actadd":
        directions = difference.actadd(cells, pairs[0], blocks)
    else:
        rows = activations.of_texts(cells, pairs, blocks, report)
        directions = difference.mean(rows) if fit.method == "mean" else difference.pca(rows)
    probed = measure.probes(engine, cells, pairs, report)

    def score(steerings: Sequence[Steering]) -> Sequence[float]:
        scores = []
        for i, steering in enumerate(steerings):
            report("measuring blocks", i, len(steerings))
            dial, damage = measure.dial_and_damage(cells, probed, steering)
            scores.append(dial if damage <= MAX_DAMAGE else float("-inf"))
        return scores

    steering, choice = _chosen(preset, engine, directions, score)
    figures = {"dial": choice.score, "coefficient": choice.coefficient}
    check_dial(preset.name, engine.model.name, figures)
    return steering, preset.strength.default, figures


def _chosen(
    preset: Preset, engine: Engine, directions: Directions, score: Score
) -> tuple[Steering, Choice]:
    """Return the best of the directions, and how it was chosen."""
    named = _named(preset, engine)
    candidates = Candidates(named.name, named.n_embd, named.n_layer, named.scope, directions)
    choice = choose(candidates, score, preset.fit.layers, preset.fit.coefficient)
    return candidates.steering(choice.layers, choice.coefficient), choice


def _blocks(preset: Preset, engine: Engine) -> list[int]:
    """Return the blocks worth capturing: the preset's, or all but the first and the last."""
    n_layer = engine.model.n_layer
    if preset.fit.layers == "auto":
        return list(range(1, max(n_layer - 1, 2)))
    beyond = [il for il in preset.fit.layers if il >= n_layer]
    if beyond:
        raise FitError(
            f"`{preset.name}` asks for block {beyond[0]}, but {engine.model.name} has blocks 0 to "
            f"{n_layer - 1}; write `layers: auto` or blocks within that range."
        )
    return list(preset.fit.layers)


def _named(preset: Preset, engine: Engine) -> Chain:
    model = engine.model
    return Chain(preset.name, model.n_embd, model.n_layer, preset.scope)


def chat_template_hash(template: str | None) -> str:
    """Return how a steering file names the chat template it was fitted with."""
    return hashlib.sha256((template or "").encode()).hexdigest()
