"""What replicas must have in common, and how their counts become one text."""

from dataclasses import replace

import pytest

from steerplug.cluster.agreement import Agreement, Facts
from steerplug.cluster.counts import together

ONE = Facts(
    "10.0.0.1", {"llama-cpp-python": "0.3.36", "llama.cpp built for": "AVX2"},
    {"qwen": "qwen2-1"}, {"qwen@pirate": "abc"}, {"qwen@pirate": "123"},
)  # fmt: skip
SAME = replace(ONE, node="10.0.0.2")


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (
            replace(SAME, software={**ONE.software, "llama-cpp-python": "0.3.37"}),
            "node 10.0.0.2 has llama-cpp-python 0.3.37, and node 10.0.0.1 has 0.3.36; install the "
            "same version on both.",
        ),
        (
            replace(SAME, software={**ONE.software, "llama.cpp built for": "AVX512"}),
            "node 10.0.0.2 has llama.cpp built for AVX512, and node 10.0.0.1 has AVX2; build it by "
            "the same CMAKE_ARGS on both, or give both one image.",
        ),
        (
            replace(SAME, models={"qwen": "qwen2-2"}),
            "the model `qwen` on node 10.0.0.2 (qwen2-2) is another than on node 10.0.0.1 "
            "(qwen2-1); put the same file on both.",
        ),
        (
            replace(SAME, presets={"qwen@pirate": "def"}),
            "the preset `qwen@pirate` on node 10.0.0.2 (digest def) is another than on node "
            "10.0.0.1 (abc); give all nodes one place of presets by --presets-at.",
        ),
        (
            replace(SAME, presets={}, compiled={}),
            "node 10.0.0.1 has the preset `qwen@pirate`, and node 10.0.0.2 has none of that name; "
            "give all nodes one place of presets by --presets-at.",
        ),
        (
            replace(SAME, presets={**ONE.presets, "qwen@sailor": "def"}),
            "node 10.0.0.2 has the preset `qwen@sailor`, and node 10.0.0.1 has none of that name; "
            "give all nodes one place of presets by --presets-at.",
        ),
        (
            replace(SAME, compiled={"qwen@pirate": "456"}),
            "the steering of `qwen@pirate` on node 10.0.0.2 (digest 456) is another than on node "
            "10.0.0.1 (123); give all nodes one place of presets by --presets-at.",
        ),
        (replace(SAME, compiled={}), ""),
    ],
)
def test_a_replica_that_differs_is_told_in_a_sentence(other: Facts, sentence: str) -> None:
    agreement = Agreement()
    assert agreement.report("a", ONE) == ""
    assert agreement.report("b", other) == sentence
    assert agreement.report("a", ONE) == ""  # who was refused is nobody to differ from


def test_what_changes_while_all_run_is_the_new_agreement_and_the_dead_are_forgotten() -> None:
    now, new = [0.0], {"qwen@pirate": "new"}
    agreement = Agreement(lambda: now[0])
    agreement.report("a", ONE)
    agreement.report("b", SAME)
    assert "(digest new)" in agreement.report("a", replace(ONE, presets=new))
    assert agreement.report("b", replace(SAME, presets=new)) == ""
    now[0] = 31.0
    assert agreement.report("c", SAME) == ""


def test_counts_of_all_are_one_text_in_which_each_sample_says_whose_it_is() -> None:
    def text(n: int) -> bytes:
        return (
            b"# HELP asked_total Asked.\n# TYPE asked_total counter\n"
            b'asked_total{path="/"} %d\n# TYPE busy gauge\nbusy %d\n' % (n, n)
        )

    lines = together({"a": text(1), "b": text(2)}).decode().splitlines()
    assert lines.count("# TYPE asked_total counter") == 1
    assert 'asked_total{path="/",replica="a"} 1.0' in lines
    assert 'asked_total{path="/",replica="b"} 2.0' in lines
    assert 'busy{replica="b"} 2.0' in lines
