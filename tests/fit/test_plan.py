"""A plan holds as many tokens as a build then reads, counted where llama.cpp is given them."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from steerplug.build import build_preset
from steerplug.engine.context import Context
from steerplug.evaluate import fidelity
from steerplug.fit import measure, plan
from steerplug.fit.estimated_progress import EstimatedProgress, Plan
from steerplug.library.presets import load_preset
from steerplug.preset.methods import METHODS
from steerplug.store.store import Store
from tests.helpers import small_builds

READ = (plan.LOOKING, "comparing token by token")
"""Stages whose time is that of tokens that are read, and nothing else."""


@pytest.fixture(autouse=True)
def a_token_is_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have any token take a second, replies be as long as they may, and all that is made kept."""
    monkeypatch.setattr(plan.Pace, "of", staticmethod(lambda _: plan.Pace(1.0)))
    monkeypatch.setattr(plan, "_SCORED_PER_READ", 1.0)
    monkeypatch.setattr(plan, "_SAID", 1000)
    monkeypatch.setitem(METHODS, "chain", replace(METHODS["chain"], n_questions=6, n_quick=6))
    small_builds.keep_anything(monkeypatch)
    for module in (measure, fidelity):
        monkeypatch.setattr(module, "check_gap", lambda *_: None)


def test_a_quick_build_reads_what_was_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned, read, now = Counter[str](), Counter[str](), [""]

    def agree(made: Plan) -> None:
        for stage in made.stages:
            planned[stage.what] += round(stage.seconds)

    def decode(context: Context, rows: Any, *rest: Any, **named: Any) -> Any:
        read[now[0]] += len(rows)
        return decode_rows(context, rows, *rest, **named)

    decode_rows = Context.decode
    monkeypatch.setattr(Context, "decode", decode)
    progress = EstimatedProgress(lambda at: now.__setitem__(0, at.what), agree=agree)
    with small_builds.tiny_engine("llama") as engine:
        build_preset(
            load_preset("pirate"), engine, store=Store(tmp_path), method="chain", quick=True,
            near=False, report=progress,
        )  # fmt: skip
    for what in READ:
        assert 0.85 < planned[what] / read[what] < 1.15, (what, planned, read)
