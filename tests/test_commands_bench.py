"""`steerplug bench` compares like with like: no time is asserted, only what is compared."""

import json

import pytest

from steerplug.commands import bench, main


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "PREFILL", 16)
    monkeypatch.setattr(bench, "DECODE", 3)


def test_json_holds_the_ratios_of_all_three_ways(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--rounds", "3", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert set(said) == {"model", "rounds", "prefill", "decode"}
    for task in (said["prefill"], said["decode"]):
        assert set(task) == {"no_hook", "idle", "steered"}
        assert task["no_hook"]["ratio"] == 1
        assert all(way["tokens_per_second"] > 0 for way in task.values())
        assert all(way["spread"][0] <= way["ratio"] <= way["spread"][1] for way in task.values())


def test_the_steered_way_really_steers_every_block_and_the_others_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    applied = []
    work = bench._decode

    def watched(context, what):  # type: ignore[no-untyped-def]
        took = work(context, what)
        applied.append(context.hook.applied)
        return took

    monkeypatch.setattr(bench, "_decode", watched)
    assert main(["bench", "--rounds", "3"]) == 0
    assert applied == [0, 0, 30] * 4
    assert "every block steered" in capsys.readouterr().out
