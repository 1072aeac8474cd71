"""Which methods a build may try: the one that was said, or those that `auto` stands for."""

import logging

from steerplug.engine.model import Model
from steerplug.errors import FitError
from steerplug.fit.distill.readable import unreadable
from steerplug.preset import Preset
from steerplug.preset.methods import AUTO, CHOICES, METHODS, MethodName, listed

log = logging.getLogger(__name__)


def methods_of(preset: Preset) -> tuple[MethodName, ...]:
    """Return the methods whose files may carry a preset: its own, and those of `auto`."""
    own = preset.fit.method
    if preset.teacher is None:
        return (own,)
    return tuple(dict.fromkeys([*([] if own == AUTO else [own]), *CHOICES]))


def check_method(preset: Preset, method: MethodName | None) -> None:
    """Refuse a method, said for one build, that makes nothing of a preset's source.

    Raises:
        FitError: there is no such method, or it wants another source.
    """
    if method is None:
        return
    if method not in METHODS:
        raise FitError(f"there is no method `{method}`; methods are {listed(tuple(METHODS))}.")
    known, source = METHODS[method], "teacher" if preset.teacher else "contrast"
    if not (known.takes_teacher if preset.teacher else known.takes_contrast):
        raise FitError(
            f"method `{method}` makes nothing of a {source}, which is what `{preset.name}` has; "
            "leave the method out, or name another."
        )


def methods_to_try(
    preset: Preset, model: Model, method: MethodName | None = None
) -> tuple[MethodName, ...]:
    """Return the methods by which a preset may be fitted on a model, the best first.

    Whether the torch copy of a model agrees with it is seen only when it is read, so a method that
    needs one may fail yet, and the next is tried.
    """
    method = method or preset.fit.method
    if method != AUTO:
        return (method,)
    reason = unreadable(model)
    if reason is None:
        return CHOICES
    log.info("`%s` is fitted without torch: %s.", preset.name, reason)
    return tuple(name for name in CHOICES if not METHODS[name].needs_torch)


def by_method(preset: Preset, method: MethodName) -> Preset:
    """Return a preset that says this method."""
    fit = preset.fit.model_copy(update={"method": method})
    return preset.model_copy(update={"fit": fit})
