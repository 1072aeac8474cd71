"""The general prompts: as many as promised, all different, and none shared by fit and held_out."""

import re
from itertools import combinations, product
from pathlib import Path

import pytest
import yaml

from steerplug.fit import questions

PATH = Path(questions.__file__).with_name("general.yaml")
PROMPTS: dict[str, list[str]] = yaml.safe_load(PATH.read_text(encoding="utf-8"))
COUNTS = {"fit": 240, "held_out": 80, "neutral": 40}
SHORTEST, LONGEST = 3, 40  # words
ALIKE = 0.5  # Jaccard over content words: above it, two prompts ask for the same thing

COMMON = """
a about after all always am an and any are as at be because been before being best better but
by can could d did do does each every for from get give go going good had has have he her him
his how i if in into is it its just keep know like list ll m make many me more most much my
name need new no not of on one or our out over people please s say she should show so some
suggest t tell than that the their them then there these they thing things this those to too
up us use very want was way we were what when where which who why will with without would
write you your explain describe define compare difference between example short
"""
STOP_WORDS = frozenset(COMMON.split())


def words(prompt: str) -> list[str]:
    return re.findall(r"\w+", prompt.casefold())


def content(prompt: str) -> frozenset[str]:
    return frozenset(words(prompt)) - STOP_WORDS


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / len(a | b) if a | b else 0.0


def everything() -> list[str]:
    return [prompt for part in PROMPTS.values() for prompt in part]


def test_three_parts_of_the_promised_size() -> None:
    assert {name: len(part) for name, part in PROMPTS.items()} == COUNTS


def test_prompts_are_plain_single_lines() -> None:
    for prompt in everything():
        assert isinstance(prompt, str)
        assert prompt == " ".join(prompt.split())


def test_no_duplicates_within_or_across_parts() -> None:
    seen: dict[str, str] = {}
    for prompt in everything():
        key = " ".join(words(prompt))
        assert key not in seen, f"{prompt!r} repeats {seen.get(key)!r}"
        seen[key] = prompt


def test_lengths_are_within_bounds() -> None:
    outside = [p for p in everything() if not SHORTEST <= len(p.split()) <= LONGEST]
    assert not outside


@pytest.mark.parametrize("part", ["fit", "held_out"])
def test_lengths_vary(part: str) -> None:
    lengths = [len(p.split()) for p in PROMPTS[part]]
    assert min(lengths) <= 4
    assert max(lengths) >= 25


def test_fit_and_held_out_share_no_prompt_in_other_words() -> None:
    alike = [
        (a, b)
        for a, b in product(PROMPTS["fit"], PROMPTS["held_out"])
        if jaccard(content(a), content(b)) > ALIKE
    ]
    assert not alike


@pytest.mark.parametrize("part", ["fit", "held_out"])
def test_no_near_duplicates_within_a_part(part: str) -> None:
    alike = [
        (a, b) for a, b in combinations(PROMPTS[part], 2) if jaccard(content(a), content(b)) > ALIKE
    ]
    assert not alike
