"""How a model is loaded: read from whatever a door has, obeyed by llama.cpp, and refused in words.

Oracles: llama.cpp itself, given the same settings by hand and no hook, must say the very same; and
weights into which NumPy has merged an adapter say what the adapter does.
"""

import ctypes
import json
import re
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steerplug.engine.context import Context
from steerplug.engine.devices import Device, check_devices
from steerplug.engine.engine import Engine
from steerplug.engine.free_memory import available
from steerplug.engine.hook import lay_out
from steerplug.engine.loading import CACHE_TYPES, DEFAULT, FULL_TYPES, SETTINGS, Loading
from steerplug.engine.model import Model
from steerplug.engine.proofs import Proofs
from steerplug.engine.rows import Row
from steerplug.engine.unknown_settings import HINTS
from steerplug.errors import ModelError
from steerplug.steering.value import Array, Delta, Mix, Steering
from tests.helpers.loras import write_lora

# isort: split
from llama_cpp import llama_cpp as llama

TOKENS = list(range(3, 27))
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"


@pytest.fixture(scope="module")
def tiny(tiny_llama: Callable[..., Path]) -> Path:
    """Heads of 32 values, which quantised caches can hold."""
    return tiny_llama(n_head=2)


@pytest.fixture
def loaded() -> Iterator[Callable[..., Model]]:
    """Load a model: `(path, **settings)`; freed in the end."""
    made: list[Model] = []

    def load(path: Path, **words: Any) -> Model:
        made.append(Model(path, Loading.of({"n_threads": 1, **words})))
        return made[-1]

    yield load
    for model in made:
        model.close()


def logits(model: Model, mix: Mix | None = None) -> Array:
    """Return all rows, (n_tokens, n_vocab), of batches as large as the model was loaded for."""
    context, row_steering = Context(model, n_ctx=64), lay_out(mix) if mix else None
    rows = [Row(token, i, True, row_steering) for i, token in enumerate(TOKENS)]
    said = []
    for begin in range(0, len(rows), context.n_batch):
        part = rows[begin : begin + context.n_batch]
        context.decode(part)
        said += [context.logits(i) for i in range(len(part))]
    context.close()
    return np.stack(said)


def by_hand(path: Path, **fields: Any) -> Array:
    """Return the same from llama.cpp alone; `fields` are those of its own structures."""
    model_params, params = (
        llama.llama_model_default_params(), llama.llama_context_default_params()
    )  # fmt: skip
    params.n_ctx, params.n_batch, params.n_ubatch = 64, 64, 64
    params.n_threads = params.n_threads_batch = 1
    params.kv_unified, params.no_perf = True, True
    for name, value in fields.items():
        owner = params if hasattr(params, name) else model_params
        assert hasattr(owner, name)
        setattr(owner, name, value)
    model = llama.llama_model_load_from_file(str(path).encode(), model_params)
    context = llama.llama_init_from_model(model, params)
    n_vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    batch = llama.llama_batch_init(64, 0, 1)
    batch.n_tokens = len(TOKENS)
    for i, token in enumerate(TOKENS):
        batch.token[i], batch.pos[i], batch.logits[i] = token, i, True
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
    assert llama.llama_decode(context, batch) == 0
    rows = [
        np.ctypeslib.as_array(llama.llama_get_logits_ith(context, i), (n_vocab,)).copy()
        for i in range(len(TOKENS))
    ]
    llama.llama_batch_free(batch)
    llama.llama_free(context)
    llama.llama_model_free(model)
    return np.stack(rows)


def override(key: bytes, value: float) -> Any:
    made = (llama.llama_model_kv_override * 2)()
    made[0].key, made[0].tag = key, llama.LLAMA_KV_OVERRIDE_TYPE_FLOAT
    made[0].value.val_f64 = value
    return made


# Reading


READ: tuple[tuple[str, Any, Any], ...] = (
    ("n_ctx", "8192", 8192),
    ("n_ctx", 0, 0),
    ("n_threads", -1, None),
    ("n_gpu_layers", "all", -1),
    ("n_gpu_layers", "auto", -1),
    ("n_gpu_layers", -2, -1),
    ("n_gpu_layers", "0", 0),
    ("type_k", "Q8_0", "q8_0"),
    ("type_k", 8, "q8_0"),
    ("type_v", "bf16", "bf16"),
    ("flash_attn", True, "on"),
    ("flash_attn", False, "off"),
    ("flash_attn", "on", "on"),
    ("flash_attn", 1, "on"),
    ("split_mode", 2, "row"),
    ("rope_scaling_type", -1, None),
    ("rope_scaling_type", "yarn", "yarn"),
    ("numa", True, "distribute"),
    ("numa", False, None),
    ("use_mmap", "off", False),
    ("tensor_split", "3,1", (3.0, 1.0)),
    ("tensor_split", [3, 1], (3.0, 1.0)),
    ("devices", "CUDA0,CUDA1", ("CUDA0", "CUDA1")),
    ("override_tensor", {r"exps\.": "CPU"}, (r"exps\.=CPU",)),
    ("override_tensor", r"a{1}=CPU,b=CPU", ("a{1}=CPU", "b=CPU")),
    ("override_tensor", ["a{1,2}=CPU"], ("a{1,2}=CPU",)),
    ("lora", "/a.gguf,/b.gguf:0.5", (("/a.gguf", 1.0), ("/b.gguf", 0.5))),
    ("lora", {"/a.gguf": -2}, (("/a.gguf", -2.0),)),
    ("lora", ("/a.gguf", 0.5), (("/a.gguf", 0.5),)),
    ("lora", Path("/a,b.gguf"), (("/a,b.gguf", 1.0),)),
    ("lora", [["/a.gguf", 0.5], "/b.gguf"], (("/a.gguf", 0.5), ("/b.gguf", 1.0))),
    ("override_kv", {"a": True, "b": 2, "c": 0.5, "d": "e,f"},
     ("a=bool:true", "b=int:2", "c=float:0.5", "d=str:e,f")),
    ("override_kv", "a=int:2,b=str:x", ("a=int:2", "b=str:x")),
    ("chat_template", TEMPLATE, TEMPLATE),
)  # fmt: skip


@pytest.mark.parametrize(("name", "said", "value"), READ)
def test_words_of_any_door_come_to_one_value(name: str, said: Any, value: Any) -> None:
    loading = Loading(**{name: said})
    assert getattr(loading, name) == value
    assert type(getattr(loading, name)) is type(value)
    assert Loading(**vars(loading)) == loading
    assert Loading.of(json.loads(json.dumps(vars(loading)))) == loading
    assert hash(loading) == hash(Loading(**{name: value}))


def test_a_template_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_text(TEMPLATE)
    assert Loading(chat_template=str(tmp_path / "chat.jinja")).chat_template == TEMPLATE


def test_unless_somebody_says_otherwise_all_is_as_llama_cpp_has_it() -> None:
    model, context = llama.llama_model_default_params(), llama.llama_context_default_params()
    for name in SETTINGS:
        owner = next((params for params in (model, context) if hasattr(params, name)), None)
        ours = getattr(DEFAULT, name)
        own_choice = name in ("n_ctx", "n_batch", "swa_full")
        if isinstance(ours, int | float) and owner is not None and not own_choice:
            assert ours == pytest.approx(getattr(owner, name)), name
    assert DEFAULT.n_batch == context.n_ubatch
    assert not DEFAULT.swa_full  # as in llama.cpp's server; its library keeps all
    assert CACHE_TYPES[DEFAULT.type_k] == context.type_k
    numbers = {name: getattr(llama, f"GGML_TYPE_{name.upper()}", 30) for name in CACHE_TYPES}
    assert numbers == CACHE_TYPES  # it does not name BF16, which is 30


NONSENSE: tuple[tuple[dict[str, Any], str], ...] = (
    ({"n_batch": 0}, "n_batch is 0; choose 1 to 65536."),
    ({"n_ctx": -1}, "n_ctx is -1; choose 0 to"),
    ({"n_ctx": 1.5}, "n_ctx is 1.5; give a whole number"),
    ({"n_threads": 0}, "n_threads is 0; choose 1 to"),
    ({"n_gpu_layers": "many"}, "n_gpu_layers is 'many'; give a number such as 20, or all"),
    ({"rope_freq_scale": float("nan")}, "rope_freq_scale is nan; give a number"),
    ({"yarn_ext_factor": -2}, "yarn_ext_factor is -2; choose 0 to 1e+12, or -1 for the model's"),
    ({"type_k": "q8"}, "type_k is 'q8'; did you mean `q8_0`? choose f32, f16"),
    ({"flash_attn": "maybe"}, "flash_attn is 'maybe'; choose auto, off, on."),
    ({"use_mmap": "perhaps"}, "use_mmap is 'perhaps'; say true or false."),
    ({"tensor_split": "a,b"}, "give a share for each GPU, such as 3,1."),
    ({"tensor_split": "0,0"}, "give a share for each GPU"),
    ({"devices": "none,CUDA0"}, "none stands alone"),
    ({"devices": "CUDA0,CUDA0"}, "names a device twice"),
    ({"override_tensor": "exps"}, "override_tensor is 'exps'; write PATTERN=BUFFER"),
    ({"override_tensor": "(=CPU"}, "override_tensor has the pattern '(' (missing )"),
    ({"override_kv": "a=1"}, "override_kv is 'a=1'; write KEY=TYPE:VALUE"),
    ({"override_kv": "a=complex:1"}, "gives a the type 'complex'; types are bool, int, float, str"),
    ({"override_kv": "a=int:1.5"}, "override_kv gives a the int '1.5', which is none."),
    ({"override_kv": "a=bool:yes"}, "override_kv gives a the bool 'yes', which is none."),
    ({"override_kv": {"a": [1]}}, "gives 'a' the value [1]; give a bool, int, float or str."),
    ({"override_kv": {"a": "b" * 128}}, "is too long; llama.cpp takes 127 bytes of each."),
    ({"lora": "/a.gguf,/a.gguf:2"}, "lora names /a.gguf twice"),
    ({"lora": {"/a.gguf": float("inf")}}, "lora /a.gguf has the scale inf"),
    ({"lora": 3}, "lora is 3; give the path of an adapter"),
    ({"chat_template": "chatml"}, "which is neither a text in Jinja nor a file that can be read"),
    ({"chat_template": "/dev/zero"}, "chat_template /dev/zero is larger than 400 kB"),
    ({"chat_template": 3}, "chat_template is 3; give a text in Jinja"),
    ({"chat_template": "{" * 100_001}, "chat_template has 100001 characters"),
    ({"type_v": "q8_0", "flash_attn": "off"}, "type_v is q8_0, and a quantised cache of values ne"),
    ({"split_mode": "tensor", "flash_attn": "off"}, "split_mode is tensor, which needs flash"),
    ({"devices": "none", "n_gpu_layers": 4}, "devices is none, so no GPU is used, and n_gpu_layer"),
    ({"devices": "A,B", "tensor_split": "1,1,1"}, "tensor_split has 3 shares, and devices names A"),
    ({"rope_scaling_type": "none", "rope_freq_scale": 0.5}, "so rope_freq_scale would do nothing"),
    ({"rope_scaling_type": "linear", "yarn_orig_ctx": 9}, "and yarn_orig_ctx belongs to yarn"),
    ({"n_ctxt": 1}, "there is no setting `n_ctxt`; did you mean `n_ctx`?"),
    ({"n_ubatch": 64}, "`n_ubatch` is no setting here: one decode is one batch"),
    ({"kv_unified": True}, "`kv_unified` is no setting here: all sequences share one cache"),
    ({"cb_eval": None}, "steering itself uses llama.cpp's callback."),
    ({"pooling_type": 1}, "gives no embeddings"),
    ({"draft_model": "x"}, "`draft_model` is no setting here: speculation with a draft is out of"),
    ({"mmproj": "x"}, "`mmproj` is no setting here: images and sounds are not read; texts are"),
    ({"clip_model_path": "x"}, "images and sounds are not read; texts are"),
    ({"temperature": 0}, "`temperature` is no setting here: it belongs to each request; say it th"),
    ({"kv_overrides": {}}, "`kv_overrides` is no setting here: write override_kv."),
)  # fmt: skip


@pytest.mark.parametrize(("words", "sentence"), NONSENSE)
def test_what_makes_no_sense_is_refused_in_one_sentence(
    words: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ModelError, match=re.escape(sentence)) as refusal:
        Loading.of(words)
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).endswith((".", "?"))


def test_no_setting_is_said_to_be_none() -> None:
    assert not set(HINTS) & set(SETTINGS)


# Obeying


OBEYED: tuple[tuple[dict[str, Any], dict[str, Any], bool], ...] = (
    ({"flash_attn": "off"}, {"flash_attn_type": 0}, True),
    ({"flash_attn": "on"}, {"flash_attn_type": 1}, False),
    ({"type_k": "q4_0"}, {"type_k": llama.GGML_TYPE_Q4_0}, True),
    ({"type_v": "q4_0"}, {"type_v": llama.GGML_TYPE_Q4_0}, True),
    ({"type_k": "iq4_nl"}, {"type_k": llama.GGML_TYPE_IQ4_NL}, True),
    ({"type_k": "bf16", "type_v": "bf16"}, {"type_k": 30, "type_v": 30}, True),
    ({"rope_freq_base": 500.0}, {"rope_freq_base": 500.0}, True),
    ({"rope_scaling_type": "linear", "rope_freq_scale": 0.25},
     {"rope_scaling_type": 1, "rope_freq_scale": 0.25}, True),
    ({"rope_scaling_type": "yarn", "rope_freq_scale": 0.25, "yarn_orig_ctx": 64,
      "yarn_ext_factor": 0.5, "yarn_attn_factor": 1.5, "yarn_beta_fast": 16, "yarn_beta_slow": 2},
     {"rope_scaling_type": 2, "rope_freq_scale": 0.25, "yarn_orig_ctx": 64,
      "yarn_ext_factor": 0.5, "yarn_attn_factor": 1.5, "yarn_beta_fast": 16, "yarn_beta_slow": 2},
     True),
    ({"override_kv": {"llama.rope.freq_base": 300.0}},
     {"kv_overrides": override(b"llama.rope.freq_base", 300.0)}, True),
    ({"use_mmap": False}, {"load_mode": llama.LLAMA_LOAD_MODE_NONE}, False),
    ({"use_extra_bufts": False}, {"use_extra_bufts": False}, False),
    ({"offload_kqv": False, "op_offload": False}, {"offload_kqv": False}, False),
    ({"split_mode": "row", "n_gpu_layers": 0}, {"split_mode": 2, "n_gpu_layers": 0}, False),
    ({"devices": "none"}, {"n_gpu_layers": 0}, False),
    ({"override_tensor": r"blk\.1\..*=CPU"}, {}, False),
    ({"check_tensors": True}, {"check_tensors": True}, False),
    ({"numa": "distribute"}, {}, False),
)  # fmt: skip


@pytest.mark.parametrize(("words", "fields", "differs"), OBEYED)
def test_llama_cpp_is_told_and_steering_stays_exact(
    tiny: Path, loaded: Callable[..., Model], words: dict[str, Any], fields: dict[str, Any],
    differs: bool,
) -> None:  # fmt: skip
    model = loaded(tiny, **words)
    said = logits(model)
    np.testing.assert_array_equal(said, by_hand(tiny, **fields))
    assert (not np.array_equal(said, by_hand(tiny))) == differs
    prove(model)


def prove(model: Model) -> None:
    """Prove what `steerplug doctor` does."""
    proofs = Proofs(model)
    for name, proof in proofs.all().items():
        if name != "other routes":  # how a model is loaded has no part in them
            proof()
    proofs.close()


@pytest.mark.parametrize("type_k", CACHE_TYPES)
def test_every_pair_of_cache_types_is_steered_exactly(
    tiny: Path, loaded: Callable[..., Model], type_k: str
) -> None:
    for type_v in CACHE_TYPES:
        prove(loaded(tiny, type_k=type_k, type_v=type_v))
    prove(loaded(tiny, type_k=type_k, flash_attn="off"))


def test_a_prompt_longer_than_a_batch_is_read_in_pieces(
    tiny: Path, loaded: Callable[..., Model]
) -> None:
    model = loaded(tiny, n_batch=5)
    assert Context(model, n_ctx=64).n_batch == 5
    z = np.random.default_rng(1).normal(0, 1, model.n_embd).astype(np.float32)
    steering = Steering("push", model.n_embd, model.n_layer, {2: Delta.constant(z)})
    for mix in (None, 1.0 * steering):
        np.testing.assert_allclose(logits(model, mix), logits(loaded(tiny), mix), atol=1e-3)
    prove(model)


def test_weights_are_locked_or_it_is_said_that_they_are_not(
    model_path: Path, loaded: Callable[..., Model]
) -> None:
    refused = ""
    try:
        loaded(model_path, use_mlock=True)
    except ModelError as error:
        refused = str(error)
    locked = re.search(r"VmLck:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert locked
    is_locked = 1024 * int(locked[1]) > 0.9 * model_path.stat().st_size
    assert is_locked != ("this system does not let so much memory be locked" in refused)


def test_a_conversation_is_as_long_as_trained_for_unless_positions_are_scaled(
    tiny: Path, loaded: Callable[..., Model]
) -> None:
    def n_ctx(**words: Any) -> int:
        engine = Engine(loaded(tiny, **words))
        engine.close()
        return engine.n_ctx

    assert n_ctx(n_ctx=0) == 256
    assert n_ctx(n_ctx=1024) == 256
    assert n_ctx(n_ctx=1024, rope_freq_scale=0.25) == 1024
    assert n_ctx(n_ctx=64, n_batch=16) == 256  # llama.cpp's own least


def test_threads_for_batches_are_their_own(tiny: Path, loaded: Callable[..., Model]) -> None:
    context = Context(loaded(tiny, n_threads=2, n_threads_batch=3), n_ctx=32)
    assert llama.llama_n_threads(context.handle) == 2
    assert llama.llama_n_threads_batch(context.handle) == 3


# Adapters


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Array]]:
    path = tmp_path_factory.mktemp("lora") / "adapter.gguf"
    return path, write_lora(path)


@pytest.mark.parametrize("scale", [1.0, -0.5])
def test_an_adapter_is_as_if_merged_and_steering_meets_it(
    tiny: Path, tiny_llama: Callable[..., Path], loaded: Callable[..., Model],
    adapter: tuple[Path, dict[str, Array]], scale: float,
) -> None:  # fmt: skip
    path, added = adapter
    merged = tiny_llama(n_head=2, added={name: scale * each for name, each in added.items()})
    model = loaded(tiny, lora={path: scale})
    said, alone = logits(model), logits(loaded(tiny))
    np.testing.assert_allclose(said, logits(loaded(merged)), atol=2e-3)
    assert np.abs(said - alone).max() > 0.05
    prove(model)


def test_with_an_adapter_it_is_another_model_of_the_same_kind(
    tiny: Path, loaded: Callable[..., Model], adapter: tuple[Path, dict[str, Array]],
    tmp_path: Path,
) -> None:  # fmt: skip
    path, _ = adapter
    write_lora(tmp_path / "other.gguf", seed=6)
    fingerprints = [
        loaded(tiny, **words).fingerprint
        for words in (
            {}, {"lora": path}, {"lora": {path: 0.5}}, {"lora": tmp_path / "other.gguf"},
            {"override_kv": {"llama.rope.freq_base": 300.0}},
        )
    ]  # fmt: skip
    assert len(set(fingerprints)) == len(fingerprints)
    assert len({each.rpartition("-")[0] for each in fingerprints}) == 1
    assert loaded(tiny, lora=path, type_k="q8_0").fingerprint == fingerprints[1]


ILL: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("an architecture", {"architecture": "qwen2"}, "is for the architecture `qwen2`, and .* is `l"),
    ("a width", {"n_embd": 32}, "changes blk.1.attn_q.weight, which .* has 64 by 64; use the mod"),
    ("a tensor", {"tensors": ("blk.9.attn_q.weight",)}, "changes blk.9.attn_q.weight, which .* la"),
    ("whole numbers", {"dtype": np.int32}, "holds numbers of a kind that llama.cpp does not comp"),
    ("a whole alpha", {"alpha": 8}, "holds numbers of a kind that llama.cpp does not compute with"),
    ("a model", {"kind": "model"}, r"is no LoRA adapter \(model lora\); give one made by"),
)


@pytest.mark.parametrize(("settings", "sentence"), [ill[1:] for ill in ILL])
def test_an_adapter_for_another_model_is_refused_before_weights_are_read(
    tiny: Path, tmp_path: Path, settings: dict[str, Any], sentence: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    write_lora(tmp_path / "lora.gguf", **settings)
    refuse_before_weights(monkeypatch, tiny, sentence, lora=tmp_path / "lora.gguf")


def refuse_before_weights(
    monkeypatch: pytest.MonkeyPatch, path: Path, sentence: str, **words: Any
) -> None:
    def load(*_: object) -> None:
        raise AssertionError("the weights were read")

    monkeypatch.setattr(llama, "llama_model_load_from_file", load)
    with pytest.raises(ModelError, match=sentence) as refusal:
        Model(path, Loading.of(words))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot be read .No such file or directory."),
        (b"PK", "is not in GGUF; convert it"),
        (b"GGUF\3\0\0\0" + b"\xff" * 40, "is a damaged GGUF"),
        (-40, "bytes; fetch it again"),
    ],
)
def test_a_file_that_is_no_adapter_is_refused_before_weights_are_read(
    tiny: Path, tmp_path: Path, content: bytes | int | None, sentence: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    path = tmp_path / "lora.gguf"
    if isinstance(content, int):
        write_lora(path)
        content = path.read_bytes()[:content]
    if content is not None:
        path.write_bytes(content)
    refuse_before_weights(monkeypatch, tiny, sentence, lora=path)


# What this build, machine or model cannot do


HERE: tuple[tuple[dict[str, Any], str], ...] = (
    ({"n_gpu_layers": 20}, "n_gpu_layers is 20, and this build of llama.cpp finds no GPU here; l"),
    ({"devices": "CUDA0"}, "devices names CUDA0, and this build of llama.cpp finds no GPU here"),
    ({"tensor_split": "1,1"}, "tensor_split has 2 shares, and this build of llama.cpp finds no G"),
    ({"main_gpu": 1}, "main_gpu is 1, and this build of llama.cpp finds no GPU here"),
    ({"split_mode": "tensor"}, "split_mode is tensor, and this build of llama.cpp finds no GPU"),
    ({"override_tensor": "a=CUDA0"}, "override_tensor names the buffer CUDA0; there is CPU."),
)


@pytest.mark.skipif(llama.llama_supports_gpu_offload(), reason="there is a GPU")
@pytest.mark.parametrize(("words", "sentence"), HERE)
def test_what_needs_a_gpu_is_refused_where_there_is_none_before_weights_are_read(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, words: dict[str, Any], sentence: str
) -> None:
    refuse_before_weights(monkeypatch, tiny, re.escape(sentence), **words)


CUDA: tuple[tuple[dict[str, Any], str], ...] = (
    ({"n_gpu_layers": 20, "main_gpu": 1, "tensor_split": "3,1", "split_mode": "tensor"}, ""),
    ({"devices": "CUDA1", "tensor_split": "1", "override_tensor": "a=CUDA1,b=CPU"}, ""),
    ({"devices": "CUDA1,CUDA0", "tensor_split": "1,2"}, ""),
    ({"devices": "none"}, ""),
    ({"devices": "CUDA2"}, "devices names CUDA2, and this build of llama.cpp finds 2 GPUs (CUDA0"),
    ({"tensor_split": "3"}, "tensor_split has 1 shares, and this build of llama.cpp finds 2 GPUs"),
    ({"main_gpu": 2}, "main_gpu is 2, and this build of llama.cpp finds 2 GPUs (CUDA0, CUDA1) her"),
    ({"override_tensor": "a=CUDA2"}, "the buffer CUDA2; there is CPU, CUDA0, CUDA1."),
)  # fmt: skip


@pytest.mark.parametrize(("words", "sentence"), CUDA)
def test_with_gpus_what_they_can_do_is_taken_and_the_rest_is_refused(
    monkeypatch: pytest.MonkeyPatch, words: dict[str, Any], sentence: str
) -> None:
    names = ("CPU", "CUDA0", "CUDA1")
    every = [Device(name, 1, name, 2, name != "CPU") for name in names]
    monkeypatch.setattr("steerplug.engine.devices.devices", lambda: every)
    monkeypatch.setattr(llama, "llama_supports_gpu_offload", lambda: True)
    if not sentence:
        check_devices(Loading.of(words))
        return
    with pytest.raises(ModelError, match=re.escape(sentence)):
        check_devices(Loading.of(words))


def test_types_whose_blocks_do_not_fit_the_heads_are_refused_before_weights_are_read(
    tiny_llama: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, quantised = tiny_llama(), (set(CACHE_TYPES) - set(FULL_TYPES))
    for name, kind in product(("type_k", "type_v"), sorted(quantised)):
        sentence = f"{name} is {kind}, which packs 32 numbers together, and the heads of .* have 16"
        refuse_before_weights(monkeypatch, path, sentence, **{name: kind})


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"llama.rope.freq_base": 3}, "llama.rope.freq_base is of type float; declare it so."),
        ({"llama.rope.freq_bas": 3.0}, "does not read of this model; did you mean `llama.rope.fre"),
    ],
)
def test_metadata_that_llama_cpp_would_pass_over_is_refused(
    tiny: Path, given: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ModelError, match=re.escape(sentence)):
        Model(tiny, Loading(override_kv=given))  # type: ignore[arg-type]  # read, as at a door


def test_metadata_that_the_file_contradicts_is_named_where_loading_fails(tiny: Path) -> None:
    with pytest.raises(ModelError, match=r"change override_kv \(llama.block_count=int:3\) or choo"):
        Model(tiny, Loading.of({"override_kv": {"llama.block_count": 3}}))


def test_a_cache_larger_than_memory_is_refused_before_it_is_made(model: Model) -> None:
    free = available()
    if free is None:
        pytest.skip("the system does not tell")
    n_ctx = int(1.3 * free / (30 * 3 * 64 * 4))
    with pytest.raises(ModelError, match=rf"a cache of {n_ctx} tokens takes .* are free; lower n_"):
        Context(model, n_ctx=n_ctx)


def test_free_memory_is_what_the_machine_has_within_the_limit_of_the_group(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable:  4 kB\n")
    assert available(tmp_path) == 4096
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("1000\n")
    assert available(tmp_path) == 4096
    (group / "memory.max").write_text("3000\n")
    assert available(tmp_path) == 2000
    (group / "memory.stat").write_text("anon 100\nfile 900\ninactive_file 300\nactive_file 500\n")
    assert available(tmp_path) == 2800  # a mapped model is given up when memory is asked for
    (group / "memory.current").write_text("9000\n")
    assert available(tmp_path) == 0
    assert available(tmp_path / "nowhere") is None


def test_a_process_is_spread_over_nodes_in_one_way(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr("steerplug.engine.params._numa", ["isolate"])
    monkeypatch.setattr(llama, "llama_numa_init", asked.append)
    Model(tiny, Loading(numa="isolate")).close()
    with pytest.raises(ModelError, match="numa is numactl, and this process was spread by isolate"):
        Model(tiny, Loading(numa="numactl"))
    assert not asked


def test_the_template_that_is_given_is_the_models(tiny: Path, loaded: Callable[..., Model]) -> None:
    assert loaded(tiny).chat_template is None
    assert loaded(tiny, chat_template=TEMPLATE).chat_template == TEMPLATE


def test_structures_outlive_what_filled_them() -> None:
    from steerplug.engine.params import model_params

    params = model_params(Loading.of({"override_kv": {"a": "b"}, "override_tensor": "x=CPU"}))
    rule = ctypes.cast(params.tensor_buft_overrides, ctypes.POINTER(ctypes.c_char_p))
    assert (rule[0], params.kv_overrides[0].key, params.kv_overrides[1].key) == (b"x", b"a", b"")
