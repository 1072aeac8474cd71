"""Which tokens a mix steers: the scope rules as a pure function, without a model."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steerplug.engine.hook import RowSteering, lay_out
from steerplug.engine.scope import Plan, Prompt, plan
from steerplug.steering.value import NOTHING, Delta, Mix, Scope, Steering

N_EMBD, N_LAYER = 8, 4


def steering(scope: Scope, n_positions: int = 1, seed: int = 0, name: str = "one") -> Steering:
    z = np.random.default_rng(seed).standard_normal((n_positions, N_EMBD)).astype(np.float32)
    return Steering(name, N_EMBD, N_LAYER, {1: Delta.constant(z)}, scope)


def prompt(n: int, *responses: tuple[int, int], has_bos: bool = True) -> Prompt:
    return Prompt(tuple(range(100, 100 + n)), responses, has_bos)


def marks(laid: Plan) -> str:
    """One letter per prompt token, and one for generated tokens: `.` for unsteered."""
    return "".join("." if a is None else "s" for a in (*laid.prompt, laid.generated))


def keys(laid: Plan) -> list[str | None]:
    return [a.key if a else None for a in (*laid.prompt, laid.generated)]


def test_response_steers_the_boundary_token_and_the_reply_but_no_other_prompt_token() -> None:
    assert marks(plan(Mix.of(steering("response")), prompt(6))) == ".....s" + "s"


def test_response_steers_earlier_assistant_turns_from_their_boundary_token_to_their_end() -> None:
    laid = plan(Mix.of(steering("response")), prompt(12, (2, 5), (7, 9)))
    assert marks(laid) == "..sss..ss..s" + "s"


def test_response_ignores_whether_there_is_a_bos() -> None:
    for has_bos in (True, False):
        laid = plan(Mix.of(steering("response")), prompt(5, (1, 2), has_bos=has_bos))
        assert marks(laid) == ".s..s" + "s"


def test_all_steers_every_token_but_bos() -> None:
    assert marks(plan(Mix.of(steering("all")), prompt(5))) == ".ssss" + "s"
    assert marks(plan(Mix.of(steering("all")), prompt(5, has_bos=False))) == "sssss" + "s"


@pytest.mark.parametrize("has_bos", [True, False])
def test_front_adds_row_p_at_token_p_of_the_prompt_and_nothing_to_the_reply(has_bos: bool) -> None:
    front = steering("front", n_positions=3)
    laid = plan(Mix.of(front), prompt(6, has_bos=has_bos))
    assert marks(laid) == "sss..." + "."
    for position in range(3):
        want = lay_out(Mix.of(front), position)
        got = laid.prompt[position]
        assert got is not None
        assert want is not None
        assert (got.terms, got.key) == (want.terms, want.key)
    assert len({a.terms for a in laid.prompt[:3] if a}) == 3


def test_front_reaches_a_prompt_shorter_than_itself_and_still_not_the_reply() -> None:
    assert marks(plan(Mix.of(steering("front", n_positions=5)), prompt(2))) == "ss" + "."


def test_a_front_of_one_row_steers_the_first_token_alone() -> None:
    assert marks(plan(Mix.of(steering("front")), prompt(3))) == "s.." + "."


def test_nothing_steers_nothing() -> None:
    assert marks(plan(NOTHING, prompt(6, (2, 4)))) == "......" + "."
    assert marks(plan(0 * steering("all"), prompt(6, (2, 4)))) == "......" + "."


def n_terms(laid: Plan) -> list[int]:
    return [len(a.terms) if a else 0 for a in (*laid.prompt, laid.generated)]


def test_each_term_of_a_mix_follows_its_own_scope() -> None:
    mix = (
        steering("response", seed=1) + 0.5 * steering("all", seed=2)
        - 2 * steering("front", n_positions=2, seed=3)
    )  # fmt: skip
    laid = plan(mix, prompt(8, (3, 5)))
    #                     BOS f        r  r        boundary, reply
    assert n_terms(laid) == [1, 2, 1, 2, 2, 1, 1, 2, 2]


def test_fronts_of_different_lengths_each_end_where_they_end() -> None:
    mix = steering("front", n_positions=2, seed=1) + steering("front", n_positions=4, seed=2)
    assert n_terms(plan(mix, prompt(6))) == [2, 2, 1, 1, 0, 0, 0]


def test_tokens_of_equal_steering_have_equal_keys_and_others_do_not() -> None:
    mix = steering("all", seed=1) + steering("front", n_positions=3, seed=2)
    all_keys = keys(plan(mix, prompt(8)))
    assert len(set(all_keys[:3])) == 3
    assert set(all_keys[3:]) == {all_keys[3]}
    assert all_keys[3] == keys(plan(Mix.of(steering("all", seed=1)), prompt(8)))[3]


def test_keys_depend_on_content_alone_not_on_name_or_on_how_the_mix_was_written() -> None:
    a, again = steering("response", name="a"), steering("response", name="renamed")
    b = steering("response", seed=5)
    said = [1.5 * a + b, b + 1.5 * again, 2 * a + b - 0.5 * again]
    assert len({tuple(keys(plan(mix, prompt(4)))) for mix in said}) == 1


def test_any_change_of_strength_content_or_scope_changes_the_key() -> None:
    def changed(delta: Delta, scope: Scope = "response", il: int = 1) -> Mix:
        return Mix.of(Steering("one", N_EMBD, N_LAYER, {il: delta}, scope))

    z = steering("response").layers[1].z
    W = np.ones((1, N_EMBD), np.float32)
    b = np.zeros(1, np.float32)
    nudged = z.copy()
    nudged[0, 3] = np.nextafter(nudged[0, 3], np.float32(9))
    mixes = [
        1.0 * steering("response"), 1.0000001 * steering("response"), -1.0 * steering("response"),
        changed(Delta.constant(nudged)), changed(Delta.constant(z), il=2),
        changed(Delta.constant(z), scope="all"), changed(Delta.gated(W, b, W)),
        changed(Delta.affine(0 * z, W, b, W)), changed(Delta.gated(W, b + 1, W)),
    ]  # fmt: skip
    assert len({keys(plan(mix, prompt(4)))[-1] for mix in mixes}) == len(mixes)


def test_unsteered_prompt_tokens_are_the_same_for_every_preset() -> None:
    mixes = [Mix.of(steering("response", seed=seed)) for seed in range(3)] + [NOTHING]
    prompts = [plan(mix, prompt(9, (3, 6))).prompt for mix in mixes]
    for i in (0, 1, 2, 6, 7):
        assert {laid[i] for laid in prompts} == {None}


@given(
    turns=st.lists(
        st.tuples(st.integers(2, 6), st.integers(1, 6)), min_size=1, max_size=4
    ),
    has_bos=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_sending_a_conversation_again_steers_it_as_generating_it_did(
    turns: list[tuple[int, int]], has_bos: bool
) -> None:
    """The contract of scopes: keys of tokens never change when the conversation goes on."""
    mix = (
        steering("response", seed=1) + 0.5 * steering("all", seed=2)
        + 0.25 * steering("front", n_positions=2, seed=3)
    )  # fmt: skip
    tokens: list[int] = []
    responses: list[tuple[int, int]] = []
    grown: list[str | None] = []
    for n_user, n_reply in turns:
        tokens += range(len(tokens), len(tokens) + n_user)
        laid = plan(mix, Prompt(tuple(tokens), tuple(responses), has_bos))
        now = [a.key if a else None for a in laid.prompt]
        assert now[: len(grown)] == grown
        generated = laid.generated
        assert isinstance(generated, RowSteering)
        grown = now + [generated.key] * n_reply
        responses.append((len(tokens) - 1, len(tokens) + n_reply))
        tokens += [7] * n_reply
