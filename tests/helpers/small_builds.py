"""What tests of builds share: an engine on a tiny model, and reports on few and short replies."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from steerplug import build
from steerplug.engine.engine import Engine
from steerplug.engine.model import Model
from steerplug.evaluate import fidelity, questions, report, sweep
from steerplug.fit import fit
from tests.helpers.tiny_models import tiny_model


@contextmanager
def tiny_engine(name: str) -> Iterator[Engine]:
    """Open an engine on a tiny model with room for a prompt with examples."""
    model = Model(tiny_model(name))
    engine = Engine(model, n_ctx=1024, n_threads=1)
    yield engine
    engine.close()
    model.close()


def shorten_reports(
    monkeypatch: pytest.MonkeyPatch, *, n_questions: int, n_swept: int, n_tokens: int
) -> None:
    """Have a report ask few questions, take short replies and try three strengths."""
    monkeypatch.setattr(sweep, "N_STRENGTHS", 3)
    for module in (sweep, fidelity):
        monkeypatch.setattr(module, "REPLY_TOKENS", n_tokens)
    for module in (fit, report):
        monkeypatch.setattr(module, "SWEPT", n_swept)
    for count in ("QUESTIONS", "FURTHER", "NEUTRAL"):
        monkeypatch.setattr(questions, count, n_questions)


def keep_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what a fit made of random weights, which need not move them any way."""
    monkeypatch.setattr(fit, "MAX_DAMAGE", float("inf"))
    for check in ("check_dial", "check_gap_closed"):
        monkeypatch.setattr(build, check, lambda *_: None)
