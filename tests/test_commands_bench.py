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
    turn = bench._turn

    def watched(ways, begin, n, i):  # type: ignore[no-untyped-def]
        took = turn(ways, begin, n, i)
        applied.append([context.hook.applied // n for context, _ in ways.values()])
        return took

    monkeypatch.setattr(bench, "_turn", watched)
    assert main(["bench", "--rounds", "3"]) == 0
    prompt = [0, 0, 29]  # per row; the last block holds only the row whose logits are asked for
    assert applied == [prompt, prompt, *([[0, 0, 30]] * 3)] * 4
    assert "every block steered" in capsys.readouterr().out
