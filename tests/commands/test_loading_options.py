"""Each command that opens a model takes llama.cpp's own flags, and variables of the environment."""

import inspect
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steerplug.commands.app import COMMANDS
from steerplug.commands.checkup import Checkup
from steerplug.commands.main import main
from steerplug.engine.loading import SETTINGS, Loading
from steerplug.errors import SteerplugError
from tests.helpers.loras import write_lora

OPENING = (
    "run", "chat", "build", "eval", "diff", "demo", "try", "import", "export", "page", "doctor",
    "bench", "serve", "presets", "farm",
)  # fmt: skip


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Loading]:
    """How models would have been loaded; none is."""
    found: list[Loading] = []

    def open_model(_reference: str, loading: Loading) -> None:
        found.append(loading)
        raise SteerplugError("no further.")

    monkeypatch.setattr("steerplug.session.session.open_model", open_model)
    monkeypatch.setattr("steerplug.session.opening.open_model", open_model)
    for name in list(os.environ):
        if name.startswith("STEERPLUG_") and name not in ("STEERPLUG_CACHE", "STEERPLUG_PRESETS"):
            monkeypatch.delenv(name)
    return found


def test_every_command_that_opens_a_model_has_every_option() -> None:
    for name, command in COMMANDS.items():
        options = inspect.signature(command).parameters
        assert (set(SETTINGS) <= set(options)) == (name in OPENING), name
        assert ("model" in options) == (name in OPENING), name


SPELLED: tuple[tuple[list[str], dict[str, Any]], ...] = (
    ([], {}),
    (["-c", "0", "-b", "64", "-t", "3", "-tb", "5"],
     {"n_ctx": 0, "n_batch": 64, "n_threads": 3, "n_threads_batch": 5}),
    (["--ctx-size", "99", "--batch-size", "9", "--threads", "-1"],
     {"n_ctx": 99, "n_batch": 9, "n_threads": None}),
    (["-ngl", "all", "-sm", "row", "-mg", "1", "-ts", "3,1", "-dev", "CUDA0,CUDA1"],
     {"n_gpu_layers": -1, "split_mode": "row", "main_gpu": 1, "tensor_split": (3.0, 1.0),
      "devices": ("CUDA0", "CUDA1")}),
    (["--gpu-layers", "7"], {"n_gpu_layers": 7}),
    (["--n-gpu-layers", "7"], {"n_gpu_layers": 7}),
    (["-ot", r"exps\.=CPU,b=CPU", "--override-tensor", "c=CPU"],
     {"override_tensor": (r"exps\.=CPU", "b=CPU", "c=CPU")}),
    (["-ctk", "Q8_0", "--cache-type-v", "q4_1", "-fa", "on"],
     {"type_k": "q8_0", "type_v": "q4_1", "flash_attn": "on"}),
    (["--flash-attn", "off", "--swa-full", "-nkvo", "--no-op-offload"],
     {"flash_attn": "off", "swa_full": True, "offload_kqv": False, "op_offload": False}),
    (["--no-mmap", "--mlock", "--numa", "isolate", "--no-repack", "--check-tensors"],
     {"use_mmap": False, "use_mlock": True, "numa": "isolate", "use_extra_bufts": False,
      "check_tensors": True}),
    (["--rope-scaling", "yarn", "--rope-freq-base", "1e6", "--rope-freq-scale", "0.25",
      "--yarn-orig-ctx", "32768", "--yarn-ext-factor", "1", "--yarn-attn-factor", "2",
      "--yarn-beta-fast", "3", "--yarn-beta-slow", "4"],
     {"rope_scaling_type": "yarn", "rope_freq_base": 1e6, "rope_freq_scale": 0.25,
      "yarn_orig_ctx": 32768, "yarn_ext_factor": 1.0, "yarn_attn_factor": 2.0,
      "yarn_beta_fast": 3.0, "yarn_beta_slow": 4.0}),
    (["--lora", "/a.gguf", "--lora-scaled", "/b.gguf:0.5"],
     {"lora": (("/a.gguf", 1.0), ("/b.gguf", 0.5))}),
    (["--override-kv", "a=int:1", "--override-kv", "b=bool:true,c=str:x"],
     {"override_kv": ("a=int:1", "b=bool:true", "c=str:x")}),
    (["--chat-template", "{{ messages }}"], {"chat_template": "{{ messages }}"}),
)  # fmt: skip


@pytest.mark.parametrize(("flags", "words"), SPELLED)
def test_flags_are_spelled_as_llama_cpp_spells_them(
    asked: list[Loading], flags: list[str], words: dict[str, Any]
) -> None:
    assert main(["run", *flags, "Hi"]) == 2
    assert asked == [Loading(**words)]


def test_a_template_may_be_a_file(asked: list[Loading], tmp_path: Path) -> None:
    (tmp_path / "a.jinja").write_text("{{ messages }}")
    main(["run", "--chat-template-file", str(tmp_path / "a.jinja"), "Hi"])
    assert asked == [Loading(chat_template="{{ messages }}")]


def test_the_environment_says_what_no_flag_does(
    asked: list[Loading], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEERPLUG_TYPE_K", "q8_0")
    monkeypatch.setenv("STEERPLUG_N_CTX", "1024")
    monkeypatch.setenv("STEERPLUG_USE_MMAP", "false")
    monkeypatch.setenv("STEERPLUG_OVERRIDE_KV", "a=int:1,b=int:2")
    main(["run", "-c", "512", "Hi"])
    expected: dict[str, Any] = {"type_k": "q8_0", "n_ctx": 512, "use_mmap": False}
    assert asked == [Loading(**expected, override_kv=("a=int:1", "b=int:2"))]


FILE = """\
ctx-size: 1024
n_batch: 64
type-k: q8_0
flash-attn: on
tensor-split: [3, 1]
override-kv: {tokenizer.ggml.add_bos_token: false, a.b: 2}
override-tensor: ['a{1,2}=CPU']
lora: [/a.gguf, '/b.gguf:0.5']
mmap: no
devices: CUDA0,CUDA1
chat-template: "{{ messages }}"
"""


def test_a_servers_file_says_the_same_in_yaml(asked: list[Loading], tmp_path: Path) -> None:
    (tmp_path / "serve.yaml").write_text(FILE)
    main(["serve", "--port", "0", "--config", str(tmp_path / "serve.yaml")])
    assert asked == [Loading(
        n_ctx=1024, n_batch=64, type_k="q8_0", flash_attn="on", tensor_split=(3.0, 1.0),
        override_kv=("tokenizer.ggml.add_bos_token=bool:false", "a.b=int:2"),
        override_tensor=("a{1,2}=CPU",), lora=(("/a.gguf", 1.0), ("/b.gguf", 0.5)),
        use_mmap=False, devices=("CUDA0", "CUDA1"), chat_template="{{ messages }}",
    )]  # fmt: skip


REFUSED: tuple[tuple[list[str], str], ...] = (
    (["--model-draft", "a.gguf"], "`--model-draft` is no setting here: speculation with a draft"),
    (["-md", "a.gguf"], "`-md` is no setting here: speculation with a draft is out of scope"),
    (["--mmproj", "a.gguf"], "`--mmproj` is no setting here: images and sounds are not read"),
    (["--ubatch-size", "64"], "`--ubatch-size` is no setting here: one decode is one batch"),
    (["-ub", "64"], "`-ub` is no setting here: one decode is one batch"),
    (["--kv-unified"], "`--kv-unified` is no setting here: all sequences share one cache"),
    (["--embeddings"], "`--embeddings` is no setting here: steerplug generates texts"),
    (["--pooling", "mean"], "`--pooling` is no setting here: steerplug generates texts"),
    (["--n-cpu-moe", "4"], r"write override_tensor, such as \.ffn_(up|down|gate)_exps\.=CPU."),
    (["-ctk", "q8"], "type_k is 'q8'; did you mean `q8_0`? choose f32"),
    (["-b", "0"], "n_batch is 0; choose 1 to 65536."),
    (["-ctv", "q8_0", "-fa", "off"], "type_v is q8_0, and a quantised cache of values needs"),
    (["--chat-template", "chatml"], "which is neither a text in Jinja nor a file"),
)  # fmt: skip


@pytest.mark.parametrize(("flags", "sentence"), REFUSED)
def test_what_cannot_be_is_one_sentence(
    asked: list[Loading], flags: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *flags, "Hi"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("steerplug: ")
    assert sentence in said
    assert said.count("\n") == 1
    assert not asked


def test_a_servers_file_gets_the_same_sentence(
    asked: list[Loading], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "serve.yaml").write_text("mmproj: a.gguf\n")
    assert main(["serve", "--config", str(tmp_path / "serve.yaml")]) == 2
    assert "serve.yaml: `mmproj` is no setting here: images" in capsys.readouterr().err
    assert not asked


def test_doctor_examines_the_model_as_it_is_loaded(
    tiny_llama: Callable[..., Path], tmp_path: Path
) -> None:
    path, lora = tiny_llama(n_head=2), tmp_path / "lora.gguf"
    write_lora(lora)
    loading = Loading.of({"lora": lora, "type_k": "q8_0", "type_v": "q4_0", "n_threads": 1})
    checkup = Checkup(str(path), loading)
    found = {check.name: check for check in checkup.checks()}
    assert all(check.ok for check in found.values()), found
    assert "on each of 5 blocks" in found["hook"].detail
    bare = Checkup(str(path), Loading(n_gpu_layers=3))
    failed = [check for check in bare.checks() if not check.ok]
    assert [check.name for check in failed] == ["model"]
    assert "n_gpu_layers is 3, and this build of llama.cpp finds no GPU here" in failed[0].detail
    assert checkup.facts is not None
    assert json.dumps(checkup.facts)
