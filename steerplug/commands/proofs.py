"""`steerplug eval --turns` and its like: measures of a preset beside its prompt, as tables."""

import shlex
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerplug.commands.building import Building
from steerplug.commands.open_model import compiled, opened
from steerplug.commands.show_report import show_report
from steerplug.commands.subject import Subject, subject_of
from steerplug.engine.loading import Loading
from steerplug.errors import PresetError, RequestError
from steerplug.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steerplug.engine.model import Model as LoadedModel
    from steerplug.fit.progress import Report
    from steerplug.session.receipt import AppliedPreset
    from steerplug.steering.value import Mix



@dataclass(frozen=True)
class Asked:
    """Which measure is asked for, with the options that are its own.

    Args:
        what: "turns", "overrides" or "orders".
        n_chats: how many chats "turns" has; None: all.
        joint: for "orders", the preset that was fitted on all prompts of the mix at once.
    """

    what: str
    n_chats: int | None = None
    joint: str | None = None

    @property
    def options(self) -> list[str]:
        """The words of a command line that ask for it."""
        chats = ["--chats", str(self.n_chats)] if self.n_chats else []
        return [f"--{self.what}", *chats, *(["--joint", self.joint] if self.joint else [])]


def prove(
    asked: Asked, words: str, strength: float | None, model: str, loading: Loading, as_json: bool
) -> None:
    """Measure a preset, or a mix, in one way, and print what came of it."""
    begin, subject = time.perf_counter(), subject_of(words, strength)
    _check(asked, words, subject)
    with opened(model, loading) as session:
        steered = compiled(session, subject.words, model)
        joint = compiled(session, asked.joint, model).mix if asked.joint else None
        what = f"Measuring {subject.words}; what is done is kept, and not done again."
        with Building(what) as report:
            figures = _measured(asked, subject, steered.mix, joint, session.model, report)
        about = {
            "preset": words, "name": session.model.path.stem,
            "fingerprint": session.model.fingerprint,
            "steering": told(steered.ingredients),
        }  # fmt: skip
    turned = ["--strength", f"{strength:g}"] if strength is not None else []
    show_report({
        **about, **made_by("eval", words, "-m", shown(model), *asked.options, *turned),
        asked.what: figures, "seconds": round(time.perf_counter() - begin, 3),
    }, as_json)  # fmt: skip


def _measured(
    asked: Asked, subject: Subject, mix: "Mix", joint: "Mix | None", model: "LoadedModel",
    report: "Report",
) -> dict[str, Any]:  # fmt: skip
    from steerplug.evaluate.orders import measure_orders
    from steerplug.evaluate.overrides import measure_overrides
    from steerplug.evaluate.turns import measure_turns

    if asked.what == "turns":
        return measure_turns(subject.preset, mix, model, asked.n_chats, report)
    if asked.what == "overrides":
        return measure_overrides(subject.preset, mix, model, report)
    return measure_orders(subject.presets, mix, model, joint, report)


def _check(asked: Asked, words: str, subject: Subject) -> None:
    if asked.what == "orders" and not 2 <= len(subject.presets) <= 3:
        raise RequestError(
            f"--orders compares two or three presets that a mix adds, and `{words}` adds "
            f'{len(subject.presets)}; name as many, as in "pirate + concise".'
        )
    for preset in subject.presets:
        if preset.teacher is None:
            raise PresetError(
                f"`{preset.name}` is a contrast of texts, and has no prompt to compare with; "
                f"measure presets with a teacher, or leave out --{asked.what}."
            )
        if asked.what != "turns" and not preset.checks:
            raise PresetError(
                f"`{preset.name}` has no checks, which are what --{asked.what} counts; add some "
                "to its YAML."
            )


def told(applied: "Sequence[AppliedPreset]") -> list[dict[str, Any]]:
    """Return as JSON values what was steered with."""
    return [
        {
            "name": part.name, "version": part.version, "strength": part.strength,
            "quick": part.quick,
        }
        for part in applied
    ]  # fmt: skip


def shown(path: str) -> str:
    """Return a model or file as a report names it: without the folder it happens to be in."""
    return Path(path).name if Path(path).exists() else path


def made_by(*words: str) -> dict[str, Any]:
    """Return by what a report is made: the command, the version, and the commit of a checkout."""
    folder = Path(__file__).parents[1]
    try:
        asked = ["git", "-C", str(folder), "rev-parse", "--short=12", "HEAD"]
        found = subprocess.run(asked, capture_output=True, text=True, check=False)
        commit = found.stdout.strip() if found.returncode == 0 else ""
    except OSError:
        commit = ""
    command = shlex.join(["steerplug", *words])
    return {"command": command, "version": __version__, "commit": commit or None}
