"""Control vectors of other tools: which block a tensor means, told by the logits of real models.

The oracle of what is written is stock llama.cpp, which loads it through its own call. The oracle
of what is read is the model itself: h_il of one text, put in place of another's at the last token,
must give that text's logits, and does so at the right block alone.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from steerplug.chat.template import ChatTemplate
from steerplug.commands.main import main
from steerplug.engine.context import Context
from steerplug.engine.model import Model
from steerplug.engine.reader import Reader
from steerplug.engine.rows import Row
from steerplug.engine.scope import Prompt, plan
from steerplug.errors import SteeringError
from steerplug.fit.activations import capture
from steerplug.interchange.reading import read_vectors
from steerplug.interchange.tokens import Bos
from steerplug.interchange.writing import write_control_vector, write_easysteer
from steerplug.steering.file import read_steering, write_steering
from steerplug.steering.identity import Identity
from steerplug.steering.value import Array, Delta, Mix, Scope, Steering
from tests.helpers.presets import SAD_PRESET

LONDON, ROME = (1, 504, 5345, 282, 4649, 314, 7042), (1, 504, 5345, 282, 4649, 314, 11104)
BLOCK = 12
COUNT = {"repeng": "add_uint32", "llama.cpp": "add_int32", "easysteer": "add_uint32"}
NUMBER = {"repeng": BLOCK, "llama.cpp": BLOCK + 1, "easysteer": BLOCK}


def foreign(
    path: Path, made_by: str, directions: Mapping[int, NDArray[Any]],
    component: str = "hidden_states",
) -> Path:  # fmt: skip
    """A control vector as repeng, llama.cpp's generator or EasySteer writes it."""
    writer = gguf.GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    if made_by == "easysteer":
        native = {"version": 1, "component": component, "metadata": {"mapping": []}}
        writer.add_string("controlvector.method", "diffmean")
        writer.add_string("controlvector.easysteer", json.dumps(native))
    getattr(writer, COUNT[made_by])("controlvector.layer_count", len(directions))
    for n, direction in directions.items():
        writer.add_tensor(f"direction.{n}", direction.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def steered_logits(context: Context, tokens: tuple[int, ...], mix: Mix) -> Array:
    """Logits of every token, (n_tokens, n_vocab), in a prompt without BOS or earlier replies."""
    return prompt_logits(context, Prompt(tokens), mix)


def prompt_logits(context: Context, prompt: Prompt, mix: Mix) -> Array:
    """Logits of every token of a prompt, (n_tokens, n_vocab)."""
    context.clear()
    laid = plan(mix, prompt).prompt
    context.decode([Row(token, i, True, laid[i]) for i, token in enumerate(prompt.tokens)])
    return np.stack([context.logits(i) for i in range(len(prompt.tokens))])


def relative(a: Array, b: Array) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def a_constant(model: Model, *layers: int, scope: Scope = "all", seed: int = 3) -> Steering:
    rng = np.random.default_rng(seed)
    deltas = {
        il: Delta.constant(rng.normal(0, 1.0, model.n_embd).astype(np.float32)) for il in layers
    }
    return Steering("planted", model.n_embd, model.n_layer, deltas, scope)


def stock_buffer(path: Path, model: Model) -> Array:
    """(n_layer, n_embd): what llama.cpp's loader makes of a file; it adds row il at block il."""
    rows = np.zeros((model.n_layer, model.n_embd), np.float32)
    for tensor in gguf.GGUFReader(path).tensors:
        rows[int(tensor.name.removeprefix("direction."))] += tensor.data
    assert not rows[0].any()
    return rows


# --- what others write is read -------------------------------------------------------------------


@pytest.mark.parametrize("made_by", COUNT)
def test_a_vector_acts_at_the_block_it_was_taken_from(
    made_by: str, model: Model, context: Context, plain_logits: Any, tmp_path: Path
) -> None:
    reader = Reader(context)
    there, here = (
        capture(reader, tokens, [BLOCK], len(tokens) - 1)[0, 0] for tokens in (ROME, LONDON)
    )
    filler = np.zeros(model.n_embd)
    directions = {n: filler for n in range(1, model.n_layer)} if made_by == "llama.cpp" else {}
    directions[NUMBER[made_by]] = there - here
    file = foreign(tmp_path / "v.gguf", made_by, directions)
    vectors = read_vectors(file)
    assert vectors.format == made_by
    wanted = plain_logits(ROME)[-1]

    def off(vectors_read: Any) -> float:
        steering = vectors_read.steering("v", model.n_embd, model.n_layer, "response", 1.0)
        return relative(steered_logits(context, LONDON, Mix.of(steering))[-1], wanted)

    assert off(vectors) < 0.02  # Q4_1: activations are quantised again above the block
    other = "repeng" if made_by == "llama.cpp" else "llama.cpp"
    assert off(read_vectors(file, other)) > 0.05


def test_the_map_holds_at_the_first_block_too(model: Model, tmp_path: Path) -> None:
    one = np.ones(model.n_embd)
    assert list(read_vectors(foreign(tmp_path / "a", "llama.cpp", {1: one})).vectors) == [0]
    assert list(read_vectors(foreign(tmp_path / "b", "easysteer", {0: one})).vectors) == [0]
    assert list(read_vectors(foreign(tmp_path / "c", "repeng", {1: one})).vectors) == [1]


def test_scale_and_sign_are_the_file_s_own(model: Model, tmp_path: Path) -> None:
    z = np.linspace(-1, 1, model.n_embd).astype(np.float32)
    vectors = read_vectors(foreign(tmp_path / "v.gguf", "repeng", {4: z, 5: 2 * z}))
    length = float(np.linalg.norm(z))
    assert vectors.lengths == pytest.approx((length, 2 * length))
    steering = vectors.steering("v", model.n_embd, model.n_layer, "all", 3.0)
    np.testing.assert_allclose(steering.layers[5].z[0], 6 * z, rtol=1e-6)


@pytest.mark.parametrize("scale", [0.0, float("nan"), float("inf"), 1e38, 1e300])
def test_a_scale_that_leaves_nothing_finite_is_refused(scale: float, tmp_path: Path) -> None:
    vectors = read_vectors(foreign(tmp_path / "v.gguf", "repeng", {4: np.full(8, 1e3)}))
    with pytest.raises(SteeringError, match=r"^at the scale .* are zero or not finite; choose"):
        vectors.steering("v", 8, 30, "all", scale)


@pytest.mark.filterwarnings("error")
def test_the_length_of_the_longest_vectors_is_told(tmp_path: Path) -> None:
    vectors = read_vectors(foreign(tmp_path / "v.gguf", "repeng", {4: np.full(4, 3e38)}))
    assert vectors.lengths == pytest.approx((6e38, 6e38))


@pytest.mark.parametrize(
    ("made_by", "directions", "told"),
    [("repeng", {1: 1.0}, True), ("easysteer", {2: 1.0}, True), ("llama.cpp", {1: 1.0}, False)],
)
def test_a_guess_is_told_from_knowledge(
    made_by: str, directions: dict[int, float], told: bool, tmp_path: Path
) -> None:
    rows = {n: np.full(8, x) for n, x in directions.items()}
    file = foreign(tmp_path / "v.gguf", made_by, rows)
    assert read_vectors(file).is_sure is told
    assert read_vectors(file, "repeng").is_sure


def test_i32_with_blocks_left_out_is_not_the_generator_s(tmp_path: Path) -> None:
    file = foreign(tmp_path / "v.gguf", "llama.cpp", {14: np.ones(8)})
    vectors = read_vectors(file)
    assert (vectors.format, vectors.is_sure, list(vectors.vectors)) == ("repeng", False, [14])


@pytest.mark.parametrize(
    ("made_by", "directions", "said_by", "says"),
    [
        ("repeng", {1: np.ones(8)}, "vgel", "`vgel` is no known tool; .* repeng, llama.cpp or ea"),
        ("easysteer", {0: np.ones(8)}, "llama.cpp", "holds `direction.0`, .* read it as repeng"),
        ("repeng", {1: np.ones((2, 8))}, None, r"'direction.1' of shape \(2, 8\) has no place"),
        ("repeng", {1: np.array([np.nan, 1])}, None, "NaN or infinity"),
        ("repeng", {}, None, "it holds no `direction.N`"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(
    made_by: str, directions: dict[int, Any], said_by: str | None, says: str, tmp_path: Path
) -> None:
    file = foreign(tmp_path / "v.gguf", made_by, directions)
    with pytest.raises(SteeringError, match=f"v.gguf: .*{says}"):
        read_vectors(file, said_by)


# --- what is written, others read ----------------------------------------------------------------


def test_an_exported_mix_gives_stock_llama_cpp_our_logits(
    model: Model, context: Context, plain_logits: Any, tmp_path: Path
) -> None:
    mix = 0.8 * a_constant(model, 5, 12, 29) - 0.5 * a_constant(model, 12, 20, seed=4)
    file = tmp_path / "mix.gguf"
    write_control_vector(file, mix, "a mix", model.architecture)
    ours, bare = steered_logits(context, LONDON, mix), plain_logits(LONDON)
    stock = plain_logits(LONDON, stock_buffer(file, model))
    assert relative(ours, bare) > 0.1
    assert relative(stock, ours) < 1e-3
    again, identity = read_steering(file, n_embd=model.n_embd, n_layer=model.n_layer)
    assert identity is None
    assert list(again.layers) == [5, 12, 20, 29]


def test_where_bos_begins_a_prompt_stock_llama_cpp_steers_that_one_token_more(
    model: Model, context: Context, plain_logits: Any, tmp_path: Path
) -> None:
    mix, file = Mix.of(a_constant(model, 5, 12, 29)), tmp_path / "v.gguf"
    write_control_vector(file, mix, "v", model.architecture)
    template = ChatTemplate.of(model)
    chat = template.prompt([{"role": "user", "content": "What is rain?"}])
    assert (model.vocab.adds_bos, chat.has_bos) == (False, True)  # SmolLM2: chats, never plain text
    assert chat.tokens.count(model.vocab.bos) > 1  # and only the first of these is left alone
    stock = plain_logits(chat.tokens, stock_buffer(file, model))
    assert relative(prompt_logits(context, chat, mix), stock) > 0.01
    assert relative(prompt_logits(context, replace(chat, has_bos=False), mix), stock) < 1e-3


@pytest.mark.parametrize("component", ["attention_heads", "router_logits"])
def test_what_easysteer_took_elsewhere_is_refused_by_name(component: str, tmp_path: Path) -> None:
    file = foreign(tmp_path / "v.gguf", "easysteer", {3: np.ones(8)}, component)
    with pytest.raises(SteeringError, match=f"its vectors are of '{component}', and steerplug"):
        read_vectors(file)


BOS = Bos("<s>", begins_chats=True, begins_texts=False)


@pytest.mark.parametrize(
    ("scope", "bos", "selected"),
    [
        ("response", BOS, {"prompt_positions": [-1], "generation": "all"}),
        ("all", BOS, {"prompt": "all", "generation": "all", "exclude_prompt_positions": [0]}),
        ("all", Bos("", False, False), {"prompt": "all", "generation": "all"}),
    ],
)
def test_a_spec_for_easysteer_names_its_vectors_blocks_and_tokens(
    scope: Scope, bos: Bos, selected: dict[str, object], model: Model, tmp_path: Path
) -> None:
    mix = 2 * a_constant(model, 0, 7, scope=scope)
    source = write_easysteer(tmp_path / "spec.json", mix, "planted", model.architecture, bos)
    assert source == tmp_path / "spec.gguf"
    (vector,) = json.loads((tmp_path / "spec.json").read_text())["vectors"]
    assert vector == {
        "name": "planted", "source": "spec.gguf", "algorithm": "direct", "scale": 1.0,
        "layers": [0, 7], "normalize": False, "apply": selected,
    }  # fmt: skip
    tensors = {t.name: t.data for t in gguf.GGUFReader(source).tensors}
    assert list(tensors) == ["direction.0", "direction.7"]
    np.testing.assert_array_equal(tensors["direction.7"], 2 * mix.terms[0].steering.layers[7].z[0])


def gated(model: Model) -> Steering:
    W = np.ones((2, model.n_embd), np.float32)
    return Steering("gated", model.n_embd, model.n_layer, {3: Delta.gated(W, W[:, 0], W)})


REFUSED: list[tuple[Callable[[Model], Mix], str]] = [
    (lambda model: Mix.of(gated(model)), r"`gated` reads each activation .* \{method: const\}"),
    (lambda model: Mix.of(a_constant(model, 0, 4)), "block 0, .* `layers` from 1 on, or .*json"),
    (lambda _: Mix(), "the mix steers nothing"),
    (
        lambda model: a_constant(model, 4) + a_constant(model, 4, scope="response", seed=5),
        "scopes all and response, .* by itself",
    ),
    (
        lambda model: Mix.of(Steering(
            "love", model.n_embd, model.n_layer,
            {6: Delta.constant(np.ones((3, model.n_embd), np.float32))}, "front",
        )),
        "`love` steers the front of the prompt, .* fit the preset by `mean`",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("mix", "says"), REFUSED)
def test_what_no_constant_file_can_hold_is_refused_and_nothing_is_written(
    mix: Callable[[Model], Mix], says: str, model: Model, tmp_path: Path
) -> None:
    with pytest.raises(SteeringError, match=says):
        write_control_vector(tmp_path / "v.gguf", mix(model), "v", model.architecture)
    assert list(tmp_path.iterdir()) == []


def test_no_file_is_ever_written_over(model: Model, tmp_path: Path) -> None:
    (tmp_path / "spec.gguf").write_text("mine")
    with pytest.raises(SteeringError, match=r"there is .*spec.gguf already"):
        write_easysteer(tmp_path / "spec.json", Mix.of(a_constant(model, 4)), "v", "llama", BOS)
    assert [p.name for p in tmp_path.iterdir()] == ["spec.gguf"]
    with pytest.raises(SteeringError, match=r"no/v.gguf cannot be written \(No such file"):
        write_control_vector(tmp_path / "no" / "v.gguf", Mix.of(a_constant(model, 4)), "v", "llama")


# --- the commands --------------------------------------------------------------------------------


Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(
    folder: Path,  # noqa: ARG001  # holds the preset `sad`
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> Call:  # fmt: skip
    monkeypatch.setenv("STEERPLUG_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_import_tells_the_shift_and_what_comes_out_is_used_by_its_path(
    call: Call, model: Model, tmp_path: Path
) -> None:
    rows = {n: np.full(model.n_embd, 0.1) for n in range(1, model.n_layer)}
    foreign(tmp_path / "theirs.gguf", "llama.cpp", rows)
    code, out, err = call("import", "theirs.gguf", "--to", "ours.gguf", "--scale", 4)
    assert code == 0
    assert "each vector is moved down by one block (told by its i32 layer_count" in err
    assert "blocks 0-28, scope response" in out
    assert "4 times the file's vectors, of length 2.4" in out
    code, out, err = call("run", "Hi", "-s", "0.5*./ours.gguf", "--max-tokens", 2)
    assert code == 0
    assert "steered by 0.5*ours: " in err
    code, _, err = call("import", "ours.gguf", "--to", "again.gguf")
    assert code == 2
    assert "steerplug wrote it, and uses it as it is" in err


def test_import_as_a_preset_then_export_gives_the_vectors_back(
    call: Call, model: Model, tmp_path: Path
) -> None:
    z = np.linspace(-1, 1, model.n_embd).astype(np.float32)
    foreign(tmp_path / "theirs.gguf", "repeng", {8: z})
    words = ("import", "theirs.gguf", "--as", "sad")
    code, out, _ = call(*words, "--json")
    assert (code, json.loads(out)["layer_shift"], json.loads(out)["layers"]) == (0, 0, [8])
    code, _, err = call(*words)
    assert code == 2
    assert "`sad` has steering for this model already" in err
    assert call(*words, "--force")[0] == 0
    code, out, _ = call("export", "2*sad", "--to", "sad.gguf", "--json")
    assert code == 0
    assert json.loads(out)["lost"].startswith("the prompt is steered too")
    np.testing.assert_allclose(stock_buffer(tmp_path / "sad.gguf", model)[8], 2 * z, rtol=1e-6)


@pytest.mark.parametrize(
    ("scope", "to", "lost"),
    [
        ("all", "v.gguf", "BOS (`<|im_start|>`), the first token of every chat, is steered too; "
         "logits are the same on text without it"),
        ("all", "v.json", "the first token of plain text is left out, as BOS is in a chat"),
        ("response", "v.gguf", "the prompt is steered too, because llama.cpp knows no scope"),
        ("response", "v.json", "earlier replies of a chat count as prompt, and are not steered "
         "again"),
        ("all", "v.pt", "BOS (`<|im_start|>`), the first token of every chat, is steered too; "
         "logits are the same on text without it"),
        ("response", "v.pt", "the first token of a reply is the unsteered model's own, and earlier "
         "replies of a chat are not steered again, because hotwire-vllm steers no prompt or all of "
         "it"),
    ],
)
def test_export_says_which_tokens_the_other_tool_steers_otherwise(
    scope: str, to: str, lost: str, call: Call, model: Model, tmp_path: Path
) -> None:
    text = SAD_PRESET.replace("fit:", f"scope: {scope}\ndecoding: {{unsteered: [thinking]}}\nfit:")
    (tmp_path / "sad.yaml").write_text(text)
    foreign(tmp_path / "theirs.gguf", "repeng", {8: np.ones(model.n_embd)})
    assert call("import", "theirs.gguf", "--as", "./sad.yaml")[0] == 0
    (tmp_path / "out").mkdir()
    code, out, err = call("export", "./sad.yaml", "--to", Path("out", to))
    assert code == 0, err
    stays = "the range of strengths, the checks and what is left unsteered stay in the preset"
    assert f"lost    {lost}; {stays}\n" in out
    if to == "v.json":
        assert "cd out && vllm serve MODEL --steering-config v.json\n" in out
    if to == "v.pt":
        use = "HOTWIRE_VECTORS=out/v.pt HOTWIRE_SLOTS=16 vllm serve MODEL; what out/v.json says "
        assert f"use     {use}belongs into the body of a request\n" in out
        (entry,) = json.loads(json.loads(Path("out/v.json").read_text())["vllm_xargs"]["hotwire"])
        assert entry["decode_only"] == (scope == "response")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("import", "x.gguf"), "say where the vectors belong"),
        (("import", "x.gguf", "--to", "y.bin"), "y.bin must end in .gguf"),
        (("import", "x.gguf", "--to", "y.gguf"), "x.gguf: there is no such file"),
        (("export", "pirate", "--to", "y.gguf"), "`pirate` reads each activation"),
        (("export", "pirate", "--to", "y.pt"), "or export its prompt, `--as modelfile`."),
        (("export", "pirate", "--to", "y.txt"), "y.txt ends in `.txt`; write .gguf for llama.cpp"),
    ],
)
def test_bad_words_are_one_sentence(
    call: Call, words: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    assert says in err
    assert [p.name for p in tmp_path.iterdir() if p.name != "cache"] == []


def test_what_is_no_constant_is_refused_before_a_model_is_opened(call: Call) -> None:
    for name, says in (("pirate", "reads each activation"), ("love-hate", "steers the front")):
        code, _, err = call("export", name, "--to", "y.gguf", "-m", "not-there.gguf")
        assert (code, f"`{name}` {says}" in err) == (2, True)


def test_a_file_for_another_width_is_refused_by_name(
    call: Call, tmp_path: Path
) -> None:
    foreign(tmp_path / "wide.gguf", "repeng", {8: np.ones(4096)})
    code, _, err = call("import", "wide.gguf", "--to", "y.gguf")
    assert code == 2
    assert "has 4096 values at block 8, but the model expects 576" in err


def test_what_steerplug_keeps_for_a_constant_is_a_control_vector_already(
    model: Model, tmp_path: Path
) -> None:
    identity = Identity("p", "1.0.0", "0", "m", "llama", "", "const", 0, "0")
    write_steering(tmp_path / "p.gguf", a_constant(model, 3), identity)
    with pytest.raises(SteeringError, match="steerplug wrote it"):
        read_vectors(tmp_path / "p.gguf")
