"""Our files in the hands of EasySteer and repeng, and theirs in ours, on the same logits.

Neither runs here: EasySteer needs its own vLLM. What their loaders accept and what they then do is
written down below from reading their code (see `steerplug.interchange`): both add to the output of
a decoder layer, in a forward hook of that layer. So transformers with such hooks stands in for
them, on a random float32 model that leaves a wrong layer, token or scale nowhere to hide.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from steerplug.engine.context import Context
from steerplug.engine.model import Model
from steerplug.engine.rows import Row
from steerplug.engine.scope import Prompt, plan
from steerplug.interchange.reading import read_vectors
from steerplug.interchange.tokens import Bos
from steerplug.interchange.writing import write_control_vector, write_easysteer, write_hotwire
from steerplug.steering.value import Array, Delta, Mix, Scope, Steering, Term
from tests.interchange.test_interchange import foreign

torch = pytest.importorskip("torch", reason="the extra `fit` is not installed")

from tests.helpers.oracle import Oracle, relative  # noqa: E402  imports torch

TOKENS = (3, 41, 59, 26, 53, 58, 9, 79)
N_PROMPT = 5
CHATS = Bos("<s>", begins_chats=True, begins_texts=False)
NO_BOS = Bos("", begins_chats=False, begins_texts=False)


class Pair:
    """One model in llama.cpp, steered by steerplug, and in transformers, steered by hooks."""

    def __init__(self, path: Path) -> None:
        self.model = Model(path)
        self.context = Context(self.model, n_ctx=64, n_batch=32, n_threads=1)
        self.oracle = Oracle(path)

    def ours(self, mix: Mix, has_bos: bool) -> Array:
        """Logits of all tokens; those behind the prompt count as generated."""
        laid = plan(mix, Prompt(TOKENS[:N_PROMPT], has_bos=has_bos))
        steering = [*laid.prompt, *[laid.generated] * (len(TOKENS) - N_PROMPT)]
        self.context.clear()
        self.context.decode([Row(t, i, True, steering[i]) for i, t in enumerate(TOKENS)])
        return np.stack([self.context.logits(i) for i in range(len(TOKENS))])

    def theirs(self, vectors: Mapping[int, Array], tokens: list[bool]) -> Array:
        """The same by a hook on each decoder layer that has a vector, at the chosen tokens."""
        layers = {n: Delta.constant(vector) for n, vector in vectors.items()}
        steering = Steering("theirs", self.model.n_embd, self.model.n_layer, layers, "all")
        rows = [[(Term(1.0, steering), 0)] if chosen else [] for chosen in tokens]
        logits: Array = self.oracle.logits(TOKENS, rows)
        return logits


@pytest.fixture(scope="module")
def pair(tiny_llama: Callable[..., Path]) -> Iterator[Pair]:
    pair = Pair(tiny_llama())
    yield pair
    pair.context.close()


def a_mix(pair: Pair, scope: Scope, *layers: int) -> Mix:
    rng = np.random.default_rng(5)
    deltas = {
        il: Delta.constant(rng.normal(0, 2, pair.model.n_embd).astype(np.float32)) for il in layers
    }
    return 0.5 * Steering("planted", pair.model.n_embd, pair.model.n_layer, deltas, scope)


# --- EasySteer -----------------------------------------------------------------------------------

PHASES = {
    phase: (phase, *(f"{phase}_{what}" for what in ("tokens", "positions", "window")))
    for phase in ("prompt", "generation")
}
CLAUSES = {key for keys in PHASES.values() for key in keys} | {
    f"exclude_{key}" for phase, keys in PHASES.items() for key in keys if key != phase
}


def their_spec(path: Path, ran_in: Path) -> tuple[dict[int, Array], dict[str, Any]]:
    """What EasySteer takes from a spec: vectors by layer, and the clause; else it fails here."""
    spec = json.loads(path.read_text())
    assert set(spec) <= {"vectors", "conflict"}
    (one,) = spec["vectors"]
    assert set(one) <= {
        "source", "data", "algorithm", "scale", "layers", "normalize", "apply", "params", "name"
    }  # fmt: skip
    assert (one["algorithm"], one["normalize"], one.get("data")) == ("direct", False, None)
    assert one["source"].endswith(".gguf")
    assert "|" not in one["source"]
    layers, clause = one["layers"], one["apply"]
    assert layers is None or (layers and all(type(n) is int for n in layers))
    assert set(clause) <= CLAUSES
    assert any(clause.get(key) for key in (*PHASES["prompt"], *PHASES["generation"]))
    found = their_directions(ran_in / one["source"])
    kept = {n: one["scale"] * v for n, v in found.items() if layers is None or n in layers}
    return kept, clause


def their_directions(path: Path) -> dict[int, Array]:
    """The tensors of a GGUF by layer; other tensors and all keys are passed over."""
    found: dict[int, Array] = {}
    for tensor in gguf.GGUFReader(path).tensors:
        if tensor.name.startswith("direction."):
            n = int(tensor.name.removeprefix("direction."))
            assert n >= 0
            assert n not in found
            found[n] = np.array(tensor.data, dtype=np.float32)
    assert {vector.ndim for vector in found.values()} == {1}
    assert len({vector.shape for vector in found.values()}) == 1
    assert all(np.isfinite(vector).all() for vector in found.values())
    return found


def their_tokens(clause: Mapping[str, Any]) -> list[bool]:
    """Which of TOKENS a clause selects: includes join, and what is excluded wins."""

    def at(positions: list[int], i: int) -> bool:
        ends = (N_PROMPT + p if p < 0 else min(p, N_PROMPT - 1) for p in positions)
        return i in ends

    chosen = []
    for i in range(len(TOKENS)):
        if i < N_PROMPT:
            included = clause.get("prompt") == "all" or at(clause.get("prompt_positions", []), i)
            chosen.append(included and not at(clause.get("exclude_prompt_positions", []), i))
        else:
            chosen.append(clause.get("generation") == "all")
    return chosen


@pytest.mark.parametrize("bos", [CHATS, NO_BOS])
@pytest.mark.parametrize("scope", ["response", "all"])
def test_a_spec_makes_easysteer_do_what_steerplug_does(
    scope: Scope, bos: Bos, pair: Pair, tmp_path: Path
) -> None:
    mix = a_mix(pair, scope, 0, 2, 4)
    write_easysteer(tmp_path / "spec.json", mix, "planted", "llama", bos)
    vectors, clause = their_spec(tmp_path / "spec.json", ran_in=tmp_path)
    assert list(vectors) == [0, 2, 4]
    ours = pair.ours(mix, has_bos=bos.begins_chats)
    assert relative(pair.theirs(vectors, their_tokens(clause)), ours) < 1e-3
    assert relative(pair.ours(Mix(), has_bos=False), ours) > 0.1
    shifted = {n - 1: vector for n, vector in vectors.items() if n}
    assert relative(pair.theirs(shifted, their_tokens(clause)), ours) > 0.1


def test_only_the_folder_of_the_spec_lets_easysteer_find_its_vectors(
    pair: Pair, tmp_path: Path
) -> None:
    path = tmp_path / "spec.json"
    write_easysteer(path, a_mix(pair, "all", 2), "planted", "llama", NO_BOS)
    with pytest.raises(FileNotFoundError):
        their_spec(path, ran_in=tmp_path.parent)


# --- hotwire-vllm ------------------------------------------------------------------------------


def their_rows(path: Path, spec: str) -> tuple[dict[int, Array], bool]:
    """What hotwire takes from a request: a row of its file for each entry, and `decode_only`."""
    tensor = torch.load(path, map_location="cpu")
    vectors, only = dict[int, Array](), set()
    for entry in json.loads(spec):
        assert set(entry) <= {"id", "layer", "scale", "decode_only"}
        assert entry["id"] == path.stem  # or it is unsteered, and nobody is told
        assert entry["layer"] not in vectors  # or the last one wins
        vectors[entry["layer"]] = entry["scale"] * tensor[entry["layer"]].numpy()
        only.add(entry["decode_only"])
    (is_only,) = only
    return vectors, is_only


@pytest.mark.parametrize("scope", ["response", "all"])
def test_hotwire_does_what_steerplug_does_but_for_the_first_token_of_a_reply(
    scope: Scope, pair: Pair, tmp_path: Path
) -> None:
    mix, path = a_mix(pair, scope, 0, 2, 4), tmp_path / "planted.pt"
    request = write_hotwire(path, mix, pair.model.n_layer)
    spec = json.loads(request.read_text())["vllm_xargs"]["hotwire"]
    vectors, decode_only = their_rows(path, spec)
    assert torch.load(path).shape == (pair.model.n_layer, pair.model.n_embd)
    assert decode_only == (scope == "response")
    tokens = [not decode_only] * N_PROMPT + [True] * (len(TOKENS) - N_PROMPT)
    theirs = pair.theirs(vectors, tokens)
    if scope == "all":
        assert relative(theirs, pair.ours(mix, has_bos=False)) < 1e-3
        return
    ours = pair.ours(mix, has_bos=False)
    assert relative(theirs[: N_PROMPT - 1], ours[: N_PROMPT - 1]) < 1e-3
    assert relative(theirs[N_PROMPT - 1], pair.ours(Mix(), has_bos=False)[N_PROMPT - 1]) < 1e-3
    with_last = [i >= N_PROMPT - 1 for i in range(len(TOKENS))]
    assert relative(pair.theirs(vectors, with_last), ours) < 1e-3


# --- repeng --------------------------------------------------------------------------------------


def test_repeng_adds_an_exported_vector_where_steerplug_does(pair: Pair, tmp_path: Path) -> None:
    mix, path = a_mix(pair, "all", 1, 3, 4), tmp_path / "v.gguf"
    write_control_vector(path, mix, "planted", "llama")
    assert gguf.GGUFReader(path).get_field("controlvector.model_hint") is not None  # it insists
    theirs = pair.theirs(their_directions(path), [True] * len(TOKENS))
    assert relative(theirs, pair.ours(mix, has_bos=False)) < 1e-3


@pytest.mark.parametrize("made_by", ["repeng", "easysteer"])
def test_a_vector_by_others_does_here_what_it_does_at_home(
    made_by: str, pair: Pair, tmp_path: Path
) -> None:
    rng = np.random.default_rng(6)
    n_layer, n_embd = pair.model.n_layer, pair.model.n_embd
    units = {n: rng.standard_normal(n_embd).astype(np.float32) for n in range(n_layer - 1, 0, -1)}
    units = {n: vector / np.linalg.norm(vector) for n, vector in units.items()}
    file = foreign(tmp_path / "v.gguf", made_by, units)
    at_home = pair.theirs({n: -8 * v for n, v in units.items()}, [True] * len(TOKENS))
    steering = read_vectors(file).steering("v", n_embd, n_layer, "all", 4.0)
    assert relative(pair.ours(-2 * steering, has_bos=False), at_home) < 1e-3
