"""The picture of a fidelity report: its parts, its formats, and how it refuses."""

import importlib.util
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steerplug.errors import RequestError
from steerplug.evaluate.estimate import NO_ESTIMATE, Estimate
from steerplug.evaluate.fidelity import Fidelity
from steerplug.evaluate.picture import draw, plain
from steerplug.evaluate.replies import Quality
from steerplug.evaluate.sweep import Chosen, Point, Sweep
from steerplug.evaluate.trace import Trace
from steerplug.files import picture
from steerplug.files.picture import check_picture


def estimate(value: float) -> Estimate:
    return Estimate(value, (value - 0.1, value + 0.1))


WAYS = {way: estimate(value) for way, value in (("bare", 0.1), ("prompted", 0.9), ("steered", 0.7))}
FIDELITY = Fidelity(
    n_prompts=12, n_replies=40, coherence=WAYS, repetition=WAYS, checks=WAYS, n_tokens=300,
    gap_closed=estimate(0.83), bare_kl=estimate(1.2), top1_agreement=estimate(0.78),
    flip_recovery=estimate(0.64), neutral_kl=estimate(0.031), prompt_tokens_saved=113.0,
)  # fmt: skip
QUALITY = Quality(estimate(-1.5), estimate(0.2))
SWEEP = Sweep(
    tuple(Point(strength, estimate(strength / 2), QUALITY) for strength in (0.0, 1.0, 2.0)),
    QUALITY, 1.0, np.ones(3), np.ones((3, 3)),
)  # fmt: skip
CHOSEN = Chosen(1.0, 0.0, 1.0)
TRACE = Trace(
    "What costs $5 & $6?", ("Arr", ",\n", " $x", " me", " <hearty", "\x1b", "雨"),
    (0.3, 0.1, 0.2, 0.1, 0.5, 0.1, 0.0),
)  # fmt: skip
CONTRAST = (
    Fidelity(
        12, 40, {way: WAYS[way] for way in ("bare", "steered")}, {}, dial=0.5, damage=0.25
    ),
    replace(SWEEP, points=tuple(replace(point, gap_closed=NO_ESTIMATE) for point in SWEEP.points)),
    Chosen(1.0, None, None),
    Trace("What?", (), ()),
)


def words_of(path: Path) -> list[str]:
    texts = ET.parse(path).iter("{http://www.w3.org/2000/svg}text")
    return ["".join(text.itertext()) for text in texts]


def test_a_picture_shows_headline_sweep_and_tokens(tmp_path: Path) -> None:
    path = tmp_path / "pirate.svg"
    draw(FIDELITY, SWEEP, CHOSEN, TRACE, path, title="pirate at 1 on SmolLM2")
    words = words_of(path)
    for shown in (
        "pirate at 1 on SmolLM2", "83%", "73% to 93%", "78%", "64%", "0.031", "113", "70%",
        "bare 10%, prompted 90%", "gap closed", "coherence, nats per token",
        "repetition, share of 4-grams", "prompted model",
        "strength (shaded: safe, dotted: default)",
        "where the preset acts, asked: What costs $5 & $6?", "Arr", ",\u21b5", "$x", "<hearty",
        "\ufffd", "雨",
    ):  # fmt: skip
        assert shown in words, shown
    assert [path.name for path in tmp_path.iterdir()] == ["pirate.svg"]


def test_a_contrast_has_no_gap_to_draw(tmp_path: Path) -> None:
    path = tmp_path / "love.svg"
    draw(*CONTRAST, path, title="love-hate")
    words = words_of(path)
    assert "no prompt to compare with" in words
    assert "50%" in words
    assert "0.25" in words
    assert "of the gap closed" not in words
    assert "bare model" in words
    assert "prompted model" not in words


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".PDF", b"%PDF")])
def test_the_suffix_decides_the_format(suffix: str, magic: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"pirate{suffix}"
    path.write_text("old")
    draw(FIDELITY, SWEEP, CHOSEN, TRACE, path, title="$pirate")
    assert path.read_bytes().startswith(magic)
    assert path.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("a.jpg", r"ends in '.jpg'; end it in .svg, .png or .pdf"),
        ("a", "ends in 'no suffix'"),
        ("no/a.svg", "cannot be written, for .*no is no folder that you may write to"),
        ("folder.svg", "is a folder; name a file in it"),
    ],
)
def test_bad_paths_are_refused_before_anything_is_measured(
    name: str, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "folder.svg").mkdir()
    with pytest.raises(RequestError, match=sentence):
        check_picture(tmp_path / name)


def test_without_matplotlib_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_spec(name: str, *_: Any) -> Any:
        return None if name == "matplotlib" else importlib.util.find_spec(name)

    monkeypatch.setattr(picture, "find_spec", find_spec)
    with pytest.raises(RequestError, match=r"pip install 'steerplug\[plot\]'"):
        check_picture(tmp_path / "a.svg")


def test_a_picture_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "pirate.svg"
    path.write_text("old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(RequestError, match=r"cannot be written \(No space left on device\)"):
        draw(FIDELITY, SWEEP, CHOSEN, TRACE, path, title="pirate")
    assert path.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["pirate.svg"]


def test_texts_of_a_picture_are_one_short_line() -> None:
    assert plain(" a\nb\x07 ") == "a\u21b5b\ufffd"
    assert len(plain("x" * 200)) == 90
