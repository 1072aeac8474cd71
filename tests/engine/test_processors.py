"""Threads follow the processors that are really at hand: affinity, and quotas of control groups."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from steerplug.engine import processors
from steerplug.engine.context import Context
from steerplug.engine.model import Model
from steerplug.engine.pace import Pace, measure
from steerplug.engine.processors import n_processors, quota

V2, V1, BOTH = "sys/fs/cgroup", "sys/fs/cgroup/cpu", "sys/fs/cgroup/cpu,cpuacct"
GROUPS: dict[str, tuple[str, Mapping[str, str], float]] = {
    "a container of its own": ("0::/\n", {f"{V2}/cpu.max": "150000 100000\n"}, 1.5),
    "a service below a slice": (
        "0::/a.slice/b.service\n",
        {f"{V2}/a.slice/cpu.max": "200000 100000\n", f"{V2}/a.slice/b.service/cpu.max": "max 1000"},
        2.0,
    ),
    "no limit": ("0::/\n", {f"{V2}/cpu.max": "max 100000\n"}, 2.0**31),
    "version 1": (
        "7:memory:/m\n4:cpu,cpuacct:/docker/x\n",
        {f"{V1}/cpu.cfs_quota_us": "50000\n", f"{V1}/cpu.cfs_period_us": "100000\n"},
        0.5,
    ),
    "version 1, deeper, no limit": (
        "4:cpu,cpuacct:/x\n",
        {f"{BOTH}/x/cpu.cfs_quota_us": "-1\n", f"{BOTH}/x/cpu.cfs_period_us": "100000\n"},
        2.0**31,
    ),
    "memory alone": ("7:memory:/m\n", {f"{V2}/cpu.max": "50000 100000"}, 2.0**31),
    "nonsense": ("0::/\n", {f"{V2}/cpu.max": "a lot\n"}, 2.0**31),
    "another system": ("", {}, 2.0**31),
}


@pytest.mark.parametrize("name", GROUPS)
def test_a_quota_is_the_least_on_the_path_of_groups(name: str, tmp_path: Path) -> None:
    groups, files, processors_worth = GROUPS[name]
    for place, content in {"proc/self/cgroup": groups, **files}.items():
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert quota(tmp_path) == processors_worth


def test_threads_are_as_many_as_affinity_and_quota_allow(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)), raising=False)
    monkeypatch.setattr(processors, "quota", lambda: 3.9)
    assert n_processors() == 3
    monkeypatch.setattr(processors, "quota", lambda: 0.4)
    assert n_processors() == 1
    context = Context(model, n_ctx=64)
    assert context.n_threads == 1
    context.close()


def test_a_pace_says_which_number_of_threads_is_best() -> None:
    assert str(Pace(2, {1: 14.0, 2: 8.0}, {1: 14.0, 2: 8.5})) == (
        "n_threads = 2, the default, is best here: 8.0 ms a token (1: 14.0)"
    )
    assert str(Pace(8, {1: 45.0, 4: 300.0, 8: 588.0}, {})) == (
        "n_threads = 1 is best here: 45.0 ms a token (4: 300.0, 8: 588.0)"
    )
    assert str(Pace(2, {1: 14.0, 2: 11.0}, {1: 14.0, 2: 31.0})).endswith(
        "; beside another llama.cpp in the process 31.0 ms, with n_threads = 1 14.0"
    )
    assert "n_threads = 2, the default," in str(Pace(2, {1: 10.0, 2: 11.0}, {}))  # within noise


def test_a_pace_is_measured(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steerplug.engine.pace.n_processors", lambda: 1)
    pace = measure(model)
    assert (pace.default, list(pace.alone), pace.beside) == (1, [1], {})
    assert pace.alone[1] > 0
