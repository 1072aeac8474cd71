"""Presets together, on a tiny model; and reports as a page."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steerplug.engine.model import Model
from steerplug.evaluate import dialogue, orders, results
from steerplug.evaluate.orders import measure_orders
from steerplug.evaluate.tables import shown, tables
from steerplug.fit.reply_cache import CachedReply, ask
from steerplug.preset import Preset
from steerplug.steering.value import Delta, Steering
from tests.helpers.tiny_models import tiny_model


def preset(name: str, system: str, count: int) -> Preset:
    return Preset.from_mapping({
        "schema": "steerplug/preset-v1", "name": name, "fit": {"method": "chain"},
        "teacher": {"system": system}, "checks": [{"kind": "max_words", "count": count}],
    })  # fmt: skip


PRESETS = [preset("few", "Use few words.", 1), preset("sea", "Let the sea be in every answer.", 2)]
FORTH, BACK = "order few, sea", "order sea, few"


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with closing(Model(tiny_model("llama"))) as model:
        yield model


@pytest.fixture(scope="module")
def told(model: Model, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A report on two questions, with a joint steering that is half of the sum."""
    some = []

    def answer(*words: Any) -> CachedReply:
        return ask(*words)._replace(text="one" if words[1].mix else "one two")

    for seed in range(2):
        z = 9 * np.random.default_rng(seed).standard_normal(model.n_embd).astype(np.float32)
        some.append(Steering(f"{seed}", model.n_embd, model.n_layer, {1: Delta.constant(z)}))
    mix = some[0] + some[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEERPLUG_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(dialogue, "ask", answer)
        for name, value in (("N_QUESTIONS", 2), ("N_COMPARED", 2), ("REPLY_TOKENS", 4)):
            patch.setattr(orders, name, value)
        return measure_orders(PRESETS, mix, model, 0.5 * mix)


def test_a_sum_is_held_against_its_prompts_in_both_orders(told: dict[str, Any]) -> None:
    arms = told["arms"]
    assert list(arms) == ["bare", FORTH, BACK, "sum", "sum x0.71", "sum x0.5", "joint"]
    assert told["presets"] == ["few", "sea"]
    assert list(arms["sum"]["gap_closed"]) == [FORTH, BACK]
    assert list(arms[FORTH]["gap_closed"]) == [BACK]
    assert arms["bare"]["gap_closed"] == {}
    assert arms["joint"] == arms["sum x0.5"] != arms["sum"]
    assert all(closed < 1 for closed in arms["sum"]["gap_closed"].values())
    assert len(set(arms["sum"]["gap_closed"].values())) == 2
    assert arms["bare"]["checks"] == arms[BACK]["checks"] == {"few": 0, "sea": 1, "all": 0}
    assert arms["sum"]["checks"] == {"few": 1, "sea": 1, "all": 1}


def test_orders_are_tables(told: dict[str, Any]) -> None:
    checks, closed = tables({"orders": told})
    assert checks.titles == ("", "few", "sea", "all")
    assert checks.rows[0] == ["bare", "0% (0 to 66)", "100% (34 to 100)", "0% (0 to 66)"]
    assert closed.titles == ("", FORTH, BACK)
    assert closed.rows[0] == ["bare", "-", "-"]
    assert len(closed.rows) == len(checks.rows) == len(told["arms"])


# --- pages


def test_figures_are_shown_with_their_intervals() -> None:
    assert shown(None, [0, 1]) == "-"
    assert shown(0.914) == "91%"
    assert shown(0.914, [0.89, 0.925], "2f") == "0.91 (0.89 to 0.93)"
    assert shown(-0.05, [-0.1, 0.02]) == "-5% (-10 to 2)"


def test_the_page_says_by_what_each_table_was_made(
    told: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    report = {
        "preset": "few + sea", "name": "tiny", "fingerprint": "f" * 20, "version": "1",
        "command": 'steerplug eval "few + sea"', "commit": "abc", "orders": told,
    }  # fmt: skip
    results.keep(report | {"seconds": 1})
    results.keep(report)
    results.keep(report | {"name": "other", "commit": None})
    assert results.kept() == [report | {"name": "other", "commit": None}, report]
    page = results.page(results.kept())
    assert page.count("## Presets together") == 1
    assert "### `few + sea` on tiny" in page
    assert f'`steerplug eval "few + sea"`, steerplug 1, commit abc, model {"f" * 20}.' in page
    assert "| bare | 0% (0 to 66) |" in page
    assert "Over ten turns" not in page


def test_a_report_may_lack_what_turned_out_to_be_wrong(told: dict[str, Any]) -> None:
    def bare(figures: dict[str, Any]) -> dict[str, Any]:
        return {name: bare(its) if isinstance(its, dict) else its
                for name, its in figures.items() if not name.endswith("_interval")}  # fmt: skip

    checks, closed = tables({"orders": bare(told)})
    assert checks.rows[0] == ["bare", "0%", "100%", "0%"]
    assert checks.about.endswith("and of all.")
    whole, _ = tables({"orders": told})
    assert whole.about.endswith("and of all (95 %).")
    assert len(closed.rows) == len(told["arms"])


def test_the_page_that_ships_is_written_from_the_reports_that_ship() -> None:
    assert results.PAGE.read_text() == results.page(results.kept())
