"""Steering on devices that are no host memory, held against the host; see build.py for how.

Left out where this build of llama.cpp has no such device. On llvmpipe of Mesa 22.3 llama.cpp itself
crashes, without steerplug, unless GGML_VK_DISABLE_FUSION=1.
"""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from steerplug.engine import ggml
from steerplug.engine.capture import Capture
from steerplug.engine.context import Context
from steerplug.engine.devices import devices
from steerplug.engine.hook import lay_out
from steerplug.engine.loading import Loading
from steerplug.engine.model import Model
from steerplug.engine.proofs import Proofs
from steerplug.engine.request import Request
from steerplug.engine.sampling import Sampling
from steerplug.library.presets import list_presets
from steerplug.session import Session
from tests.engine.test_device_route import decode, mixes
from tests.engine.test_hook_in_llama import relative, same_bits
from tests.engine.test_soak import check_tiny_crowd
from tests.helpers.alone import chat, unlike_alone
from tests.helpers.tiny_models import tiny_model

BY_RPC = "STEERPLUG_TEST_RPC" in os.environ
HAS_DEVICE = BY_RPC or any(device.is_gpu for device in devices())
pytestmark = pytest.mark.skipif(not HAS_DEVICE, reason="this llama.cpp has no device but the CPU")

ON_HOST = Loading(devices=("none",), n_gpu_layers=0)


@pytest.fixture(scope="module")
def on_device(model_path: Path) -> Iterator[Session]:
    session = Session(str(model_path), n_ctx=512)
    yield session
    session.close()


@pytest.fixture(scope="module")
def on_host(model_path: Path) -> Iterator[Context]:
    model = Model(model_path, ON_HOST)
    yield Context(model, n_ctx=512)
    model.close()


def test_every_proof_of_doctor_holds(on_device: Session) -> None:
    proofs = Proofs(on_device.model)
    assert proofs.context.route == "device"
    said = {name: prove() for name, prove in proofs.all().items()}
    proofs.close()
    n = on_device.model.n_layer
    assert f"of {n} blocks lie {n} on " in said["tensors"]
    assert "the callback with a relative error of" in said["other routes"]


@pytest.mark.parametrize("outputs", [None, (2, 5)])
@pytest.mark.parametrize("n_gpu_layers", [-1, 3])
def test_a_batch_of_mixes_is_steered_as_on_the_host(
    n_gpu_layers: int, outputs: tuple[int, ...] | None
) -> None:
    logits, captures, plain = [], [], []
    for loading in (ON_HOST, Loading(n_gpu_layers=n_gpu_layers)):
        model = Model(tiny_model("llama"), loading)
        context = Context(model, n_ctx=256, n_batch=64)
        asked = [lay_out(mix) for mix in mixes(model)]
        plain.append(decode(context, [None] * len(asked), outputs)[0])
        given, captured = decode(context, asked, outputs, Capture(range(model.n_layer), [2, 5]))
        logits.append(given)
        assert captured is not None
        captures.append(captured)
        model.close()
    noise = relative(plain[1], plain[0])
    assert noise < 0.02
    assert relative(logits[0], plain[0]) > 5 * noise
    assert relative(logits[1], logits[0]) < 2 * noise + 1e-5
    assert relative(captures[1], captures[0]) < 2 * noise + 1e-5


def test_what_nobody_steers_keeps_every_bit(on_device: Session) -> None:
    bare = Context(on_device.model, n_ctx=256, hooked=False)
    context = Context(on_device.model, n_ctx=256)
    steered = [lay_out(mix) for mix in mixes(on_device.model)]
    plain, _ = decode(bare, [None] * 6)
    decode(context, steered)
    assert same_bits(decode(context, [None] * 6)[0], plain)
    assert same_bits(decode(context, [lay_out(0.0 * mixes(on_device.model)[0])] * 6)[0], plain)
    bare.close()
    context.close()


def test_greedy_replies_of_all_presets_and_of_mixes_are_the_host_s(
    on_device: Session, on_host: Context
) -> None:
    """Up to tokens that are as likely; what a device rounds otherwise is seen unsteered."""
    prompt = chat(on_device.model, "What is rain?")
    words = [preset.name for preset in list_presets() if preset.shipped]
    words += ["0.8*formal + 0.5*concise", "pirate - 0.5*cheerful", "none"]
    unlike = {}
    for mix_in_words in words:
        mix, _ = on_device.steering(mix_in_words)
        request = Request(prompt, mix, Sampling(0.0), max_tokens=12)
        pieces = list(on_device.engine.generate(request))
        tokens = [piece.token for piece in pieces if piece.token is not None]
        unlike[mix_in_words] = unlike_alone(on_host, prompt, mix, tokens)
    print(unlike)
    assert max(unlike.values()) < 0.3


def test_every_reply_of_a_crowd_is_what_it_is_alone() -> None:
    """Of a tiny model, which a software driver plays in seconds; `STEERPLUG_SOAK` says how many."""
    check_tiny_crowd("llama", n_ctx=512, can_be_cut=True)


def test_a_steered_decode_like_the_last_asks_a_device_for_as_much_as_a_bare_one(
    model_path: Path,
) -> None:
    """Once in 16 decodes it is waited for, read, and made ready for the next 16."""
    program = f"""
        import ctypes, json
        from contextlib import nullcontext
        from pathlib import Path
        from steerplug.benchmark.gates import gates
        from steerplug.engine.context import Context
        from steerplug.engine.rows import Row
        from steerplug.engine.hook import lay_out
        from steerplug.engine.model import Model
        from steerplug.steering.value import Mix
        from tests.devices.rpc import joined

        counting = ctypes.CDLL(None)
        counts = (ctypes.c_long * 4).in_dll(counting, "counts")

        def count(model, what, **settings):
            context = Context(model, n_ctx=256, n_batch=64, **settings)
            context.hook.tells_later = True
            for copy in ("tensor_get", "tensor_set"):  # the hook was given ggml's own
                function = ctypes.cast(counting["ggml_backend_" + copy], ctypes.c_void_p)
                setattr(context.hook._state, copy, function.value)
            said = []
            for i in range(33):
                if i in (2, 17):
                    ctypes.memset(counts, 0, ctypes.sizeof(counts))
                context.decode([Row(5 + i, i, True, what)])
                context.logits(0)
                if i in (15, 32):
                    said.append(list(counts))
            context.close()
            return said

        with joined() if {BY_RPC} else nullcontext():
            model = Model(Path({str(model_path)!r}))
            steered = lay_out(Mix.of(gates(model)))
            print(json.dumps({{
                "bare": count(model, None, hooked=False), "idle": count(model, None),
                "steered": count(model, steered),
                "callback": count(model, steered, on_device=False),
            }}))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], text=True, check=True,
        env=os.environ | {"LD_PRELOAD": str(ggml.library_folder() / "count.so")},
        cwd=Path(__file__).parents[2], capture_output=True,
    )  # fmt: skip
    said = {name: np.array(n) for name, n in json.loads(done.stdout.splitlines()[-1]).items()}
    print("graphs, waits, gets, sets of 14 and of 16 decodes", said)
    assert (said["idle"] == said["bare"]).all()
    between, in_all = said["steered"] - said["bare"]
    assert (between == 0).all()
    graphs, waits, gets, sets = in_all
    assert (graphs, gets, sets) == (0, 1, 1)
    assert waits <= 2  # for the device and the host
    assert (said["callback"][0] > 14 * 20).any()


@pytest.mark.skipif(not BY_RPC, reason="no other device can be taken away")
def test_a_device_that_is_lost_ends_the_process_with_one_sentence(model_path: Path) -> None:
    program = f"""
        from pathlib import Path
        from steerplug.engine.context import Context
        from steerplug.engine.rows import Row
        from steerplug.engine.model import Model
        from tests.devices.rpc import joined

        with joined() as server:
            context = Context(Model(Path({str(model_path)!r})), n_ctx=64)
            assert context.route == "device"
            server.kill()
            server.wait()
            context.decode([Row(5, 0, True)])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], text=True, capture_output=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode < 0
    last = done.stderr.splitlines()[-1]
    assert last.startswith("steerplug: llama.cpp ends this process (Remote RPC server crashed")
    assert last.endswith("start again when that is back, or without it (devices: none).")
