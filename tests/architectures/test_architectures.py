"""Steering on every architecture that a tiny model is made of, each check an outcome of its own.

In every run the models that people have; all of them where STEERPLUG_TEST_ALL_ARCHITECTURES is 1.
"""

import os
import sys

import pytest

from tests.architectures.page import HEAD, PAGE, outcome
from tests.helpers.conformance import CHECKS
from tests.helpers.tiny_specs import SPECS

IMPORTANT = (
    "deepseek2", "gemma3_scaled", "gemma3n", "gemma4", "glm4moe", "gpt_oss", "granitehybrid",
    "lfm2", "llama32_rope", "mistral3", "nemotron_h", "phi3_longrope", "qwen2", "qwen35",
    "qwen3_128",
)  # fmt: skip
ALL = os.environ.get("STEERPLUG_TEST_ALL_ARCHITECTURES") == "1"

models = pytest.mark.parametrize("name", SPECS if ALL else IMPORTANT)


@models
@pytest.mark.parametrize("check", CHECKS)
def test_steering_is_what_it_must_be(name: str, check: str) -> None:
    assert check not in outcome(name).failures, outcome(name).failures[check]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the callback steers all of them")
@models
def test_the_page_says_what_is_true(name: str) -> None:
    assert outcome(name).row in PAGE.read_text(encoding="utf-8").splitlines()


def test_the_page_has_a_row_for_every_model() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page.startswith(HEAD)
    assert len(page.removeprefix(HEAD).splitlines()) == len(SPECS)
    assert "fails" not in page
