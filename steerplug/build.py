"""A preset and a model become steering, once: the table of contents of steerplug.

    find in the store or with the preset  ->  else: teach or read, fit, choose, measure, publish

A quick fit learns from a few replies, which are kept, and has a short report; the full one
goes on from these replies, and takes its place.

Open this file first; every other one is a step of it.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from steerplug.engine.engine import Engine
from steerplug.engine.model import Model
from steerplug.engine.reader import Reader, reading
from steerplug.errors import FitError, SteeringError, TorchCopyError
from steerplug.evaluate.dial import check_dial, check_gap_closed, is_weak, weakness, works
from steerplug.evaluate.plan import plan_report
from steerplug.evaluate.questions import reported_on
from steerplug.evaluate.quick_report import plan_quick_report, quick_report
from steerplug.evaluate.report import measure_steering
from steerplug.fit.checkpoint import Checkpoint
from steerplug.fit.distill.readable import unreadable
from steerplug.fit.fit import fit_contrast, fit_teacher
from steerplug.fit.method import by_method, check_method, methods_of, methods_to_try
from steerplug.fit.progress import Report, silent
from steerplug.library.compiled import came_with, check_pinned
from steerplug.preset import Preset
from steerplug.preset.methods import AUTO, METHODS, MethodName
from steerplug.steering.identity import Identity, chat_template_hash
from steerplug.steering.value import Steering
from steerplug.store.figures import is_quick, number
from steerplug.store.measurements import recall
from steerplug.store.other_quantisation import find_near, warning
from steerplug.store.store import Key, Store
from steerplug.version import __version__

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Built:
    """A preset's steering for one model, the file it is kept in, and whether it was found there."""

    steering: Steering
    identity: Identity
    path: Path
    from_store: bool

    @property
    def is_quick(self) -> bool:
        """Whether it came of a quick fit."""
        return is_quick(self.identity.fidelity)

    def default_strength(self, preset: Preset) -> float:
        """Return the strength when none is said: the preset's own, else what was measured best."""
        stated = preset.strength.stated
        return self.identity.strength_default if stated is None else stated


def build_preset(
    preset: Preset,
    engine: Engine,
    *,
    store: Store | None = None,
    force: bool = False,
    near: bool = True,
    method: MethodName | None = None,
    quick: bool = False,
    report: Report = silent,
) -> Built:
    """Return the steering of `preset` for the engine's model, from the store if it is there.

    Args:
        preset: what to build.
        engine: the model, ready to generate.
        store: where built steering is kept; default: the user's.
        force: build again even if it is there.
        near: take what was built for another quantisation of it, with a warning, if that is all.
        method: how to fit it, whatever the preset says.
        quick: take what a quick fit made, or makes, where there is none of a full one; a contrast
            is always fitted in full.
        report: told how far the work is.

    Raises:
        FitError: the preset cannot be fitted on this model or by this method, or does nothing.
        StoreError: the store cannot be read or written.
    """
    store = store or Store()
    check_method(preset, method)
    quick = quick and preset.teacher is not None
    asked = () if method in (None, AUTO) else (method,)
    keys = [store_key(preset, engine, one) for one in asked or methods_of(preset)]
    try:
        built = None if force else _find(preset, keys, engine, store, near=near, quick=quick)
    except SteeringError:
        looked_at = [*keys, *(_quick(keys) if quick else ())]
        if not any(os.path.lexists(store.path(key)) for key in looked_at):
            raise  # it came with the preset; one of the store is made again, with a warning
        built = None
    if built:
        return built
    *others, last = methods = asked or methods_to_try(preset, engine.model, method)
    _tell_what_waits(preset, engine, store, methods)
    for one in others:
        try:
            return _make(preset, one, engine, store, force, quick, report)
        except TorchCopyError as error:
            log.warning("%s Another method is tried.", error)
    return _make(preset, last, engine, store, force, quick, report)


def find_built(
    preset: Preset, engine: Engine, *, store: Store, near: bool = False, quick: bool = True
) -> Built | None:
    """Return what was built before, in the store or with the preset, or None.

    Of several methods the one that closes more of the gap to the prompt is taken. What was built
    here goes before what shipped, and what is for the very model before what is for another
    quantisation of it, which is taken, with a warning, only if `near`. What a quick fit made is
    taken, if `quick`, where there is none of a full one for the very model.

    Raises:
        SteeringError: it is damaged, or not what its name says.
        FitError: it does nothing on this model.
    """
    keys = [store_key(preset, engine, method) for method in methods_of(preset)]
    return _find(preset, keys, engine, store, near=near, quick=quick)


def _find(
    preset: Preset, keys: Sequence[Key], engine: Engine, store: Store, *, near: bool, quick: bool
) -> Built | None:
    looks = [
        (_for_this_model, keys),
        *([(_for_this_model, _quick(keys))] if quick else []),
        *([(_for_nearly_this_model, keys)] if near else []),
    ]
    for look, wanted in looks:
        found = [look(preset, key, engine.model, store) for key in wanted]
        if built := max(filter(None, found), key=_gap_closed, default=None):
            return _working(built, preset, engine.model)
    return None


def _quick(keys: Sequence[Key]) -> list[Key]:
    return [replace(key, quick=True) for key in keys]


def _gap_closed(built: Built) -> float:
    return number(built.identity.fidelity.get("gap_closed")) or 0.0


def _for_this_model(preset: Preset, key: Key, model: Model, store: Store) -> Built | None:
    for kept in (store, *(Store(folder) for folder, _ in came_with(preset))):
        path = kept.path(key)
        if kept is not store:
            check_pinned(path)
        if made := kept.find(key, n_embd=model.n_embd, n_layer=model.n_layer):
            return Built(*made, path, from_store=True)
    return None


def _for_nearly_this_model(preset: Preset, key: Key, model: Model, store: Store) -> Built | None:
    folders = (store.folder, *(folder for folder, _ in came_with(preset)))
    match = find_near(
        key, model.outer_norms, folders, check_pinned, n_embd=model.n_embd, n_layer=model.n_layer
    )
    if match is None or not works(match[0][1].fidelity):
        return None
    (steering, identity), path = match
    log.warning("%s", warning(preset.name, model.name, recall(path).get(key.model)))
    return Built(steering, identity, path, from_store=True)


def _working(built: Built, preset: Preset, model: Model) -> Built:
    """Refuse what does nothing on the model, also if it was kept before that was refused."""
    check_dial(preset.name, model.name, built.identity.fidelity)
    if is_weak(built.identity.fidelity):
        log.warning("%s", weakness(preset.name, model.name))
    return built


def store_key(preset: Preset, engine: Engine, method: MethodName | None = None) -> Key:
    """Return the address under which the steering of a preset is kept for a model.

    Args:
        preset: the preset.
        engine: the model.
        method: how it was fitted; default: the first that the preset allows.
    """
    method = method or methods_of(preset)[0]
    return Key(
        preset=preset.name,
        preset_digest=preset.digest,
        model=engine.model.fingerprint,
        chat_template=chat_template_hash(engine.model.chat_template),
        method=method,
        fit_version=METHODS[method].version,
    )


def _make(
    preset: Preset, method: MethodName, engine: Engine, store: Store, force: bool, quick: bool,
    report: Report,
) -> Built:  # fmt: skip
    """Fit, measure and publish; what another process makes meanwhile is taken, unless `force`."""
    key = replace(store_key(preset, engine, method), quick=quick)
    model, path = engine.model, store.path(key)
    made: list[tuple[Steering, Identity]] = []
    kept = _checkpoint(key, store)

    def make() -> tuple[Steering, Identity]:
        kept.load()
        try:
            made.append(_fit(by_method(preset, method), engine, key, kept, report))
            if quick:
                kept.drop()  # while the lock is held: a full fit may wait for it
        except TorchCopyError:
            raise  # another time, or by another method, what was asked before serves
        except FitError:
            kept.drop()
            raise
        finally:
            kept.end()
        return made[0]

    steering, identity = store.find_or_make(
        key, make, n_embd=model.n_embd, n_layer=model.n_layer, force=force
    )
    if made and not quick:
        kept.drop()
    return _working(Built(steering, identity, path, from_store=not made), preset, model)


def _checkpoint(key: Key, store: Store) -> Checkpoint:
    path = store.path(key.full)
    return Checkpoint(path, quick=key.quick, model=key.model, method=key.method)


def _tell_what_waits(
    preset: Preset, engine: Engine, store: Store, methods: Sequence[MethodName]
) -> None:
    """Warn where a fit by a method that cannot be used now was begun: its file stays."""
    for method in set(methods_of(preset)) - set(methods):
        if _checkpoint(store_key(preset, engine, method), store).is_there:
            log.warning(
                "`%s` has an unfinished fit by `%s`, which waits while it is fitted by `%s` (%s).",
                preset.name, method, methods[0], unreadable(engine.model) or "as was asked",
            )


def _fit(
    preset: Preset, engine: Engine, key: Key, kept: Checkpoint, report: Report
) -> tuple[Steering, Identity]:
    model = engine.model
    with reading(model, engine.context.n_ctx) as reader:
        if preset.teacher is not None:
            taught = _taught_quickly if key.quick else _taught
            steering, strength, figures = taught(preset, engine, reader, kept, report)
        else:
            steering, choice = fit_contrast(preset, engine, reader, report)
            strength = preset.strength.default
            figures = {"dial": choice.score, "coefficient": choice.coefficient}
            check_dial(preset.name, model.name, figures)
    identity = Identity(
        preset=preset.name,
        preset_version=preset.version,
        preset_digest=key.preset_digest,
        model=model.fingerprint,
        architecture=model.architecture,
        chat_template=key.chat_template,
        method=key.method,
        seed=preset.fit.seed,
        steerplug_version=__version__,
        strength_default=strength,
        strength_min=preset.strength.min,
        strength_max=preset.strength.max,
        license=preset.license,
        fidelity=figures,
        outer_norms=model.outer_norms,
    )
    return steering, identity


def _taught(
    preset: Preset, engine: Engine, reader: Reader, kept: Checkpoint, report: Report
) -> tuple[Steering, float, dict[str, Any]]:
    """Return what came of a teacher, the strength that serves best, and the report on it."""
    asked = reported_on(preset)
    after = partial(plan_report, preset, engine.model, asked)
    steering = fit_teacher(preset, engine, reader, kept, report, after)
    stated = preset.strength.stated
    measured = measure_steering(
        preset, steering, engine, reader, asked, cache=kept.replies, report=report,
        mix=None if stated is None else stated * steering,
    )  # fmt: skip
    check_gap_closed(preset.name, measured.fidelity.gap_closed.value)
    used = measured.chosen.default if stated is None else stated
    return steering, measured.chosen.default, {**measured.as_dict(), "strength": used}


def _taught_quickly(
    preset: Preset, engine: Engine, reader: Reader, kept: Checkpoint, report: Report
) -> tuple[Steering, float, dict[str, Any]]:
    """Return the same of a quick fit, at the preset's own strength."""
    strength = preset.strength.default
    after = partial(plan_quick_report, preset, engine.model)
    steering = fit_teacher(preset, engine, reader, kept, report, after, quick=True)
    mix = strength * steering
    seen = quick_report(preset, mix, engine, reader, cache=kept.replies, report=report)
    check_gap_closed(preset.name, seen.gap_closed.value)
    return steering, strength, {**seen.as_dict(), "strength": strength, "quick": True}
