"""Kernels of llama.cpp that crash are found by a child process, and left out.

A stand-in for ggml, made by the C compiler that steerplug itself needs, has kernels that abort,
compute wrong products, or work; so all of it is tried on every machine.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from steerplug.engine import amx
from steerplug.engine.amx import Verdict, try_kernels
from steerplug.engine.context import Context
from steerplug.engine.model import Model

STAND_IN = r"""
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>

/* One product at a time: 64 outputs of 512 inputs. Tensors are numbers, kernels are KERNEL. */
static int on_amx, rows;
static float product[64 * 64];
static void *types[2] = {(void *)2, NULL};

int ggml_cpu_has_amx_int8(void) { return 1; }
size_t ggml_tensor_overhead(void) { return 368; }
size_t ggml_graph_overhead(void) { return 1024; }
void *ggml_init(void) { return (void *)1; }
void ggml_free(void *m) { (void)m; }
void *ggml_new_tensor_2d(void *m, int type, int64_t n_in, int64_t n) {
    (void)m, (void)n_in;
    if (type == 0) rows = (int)n;
    return (void *)3;
}
void *ggml_mul_mat(void *m, void *w, void *x) { (void)m, (void)w, (void)x; return (void *)4; }
void *ggml_new_graph(void *m) { (void)m; return (void *)5; }
void ggml_build_forward_expand(void *g, void *y) { (void)g, (void)y; }
size_t ggml_quantize_chunk(void) { return 64; }
void *ggml_backend_dev_by_type(int kind) { (void)kind; return (void *)6; }
void *ggml_backend_dev_backend_reg(void *d) { return d; }
void *ggml_backend_dev_init(void *d, const char *p) { (void)p; return d; }
_Bool ggml_backend_dev_supports_op(void *d, void *y) { (void)d, (void)y; return 1; }
void *ggml_backend_dev_buffer_type(void *d) { (void)d; return (void *)1; }
static void **extra(void *d) { (void)d; return types; }
void *ggml_backend_reg_get_proc_address(void *r, const char *name) {
    (void)r;
    return strcmp(name, "ggml_backend_dev_get_extra_bufts") ? NULL : (void *)extra;
}
const char *ggml_backend_buft_name(void *t) { return t == types[0] ? "AMX" : "CPU"; }
void *ggml_backend_alloc_ctx_tensors_from_buft(void *m, void *t) {
    (void)m;
    if (t == types[0]) on_amx = 1;
    return (void *)7;
}
void ggml_backend_buffer_free(void *b) { (void)b; on_amx = 0; }
void ggml_backend_tensor_set(void *t, void *p) { (void)t, (void)p; }
int ggml_backend_graph_compute(void *b, void *g) {
    (void)b, (void)g;
    for (int i = 0; i < 64 * 64; i++) product[i] = 1.0f;
    if (on_amx) { KERNEL; }
    return 0;
}
void ggml_backend_tensor_get(void *t, float *to, size_t o, size_t n) {
    (void)t, (void)o;
    memcpy(to, product, n);
}
"""
ENDS = {
    "abort()": Verdict(False, "end the process (SIGABRT)"),
    "raise(SIGILL)": Verdict(False, "end the process (SIGILL)"),
    "raise(SIGSEGV)": Verdict(False, "end the process (SIGSEGV)"),
    "product[0] = 40.0f": Verdict(
        False, "compute wrong products (Q4_0, 1 rows: relative error 4.9e+00)"
    ),
    "": Verdict(True, "were tried in a process of their own, and work"),
}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the stand-in is built for Linux")


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a stand-in in llama.cpp's place, for child processes, with these kernels."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler")

    def put(kernel: str) -> None:
        (tmp_path / "ggml.c").write_text(STAND_IN.replace("KERNEL", kernel))
        library = tmp_path / "libllama.so"
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-o", library, tmp_path / "ggml.c"], check=True
        )
        monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(tmp_path))

    return put


@pytest.mark.parametrize("kernel", ENDS)
def test_a_child_process_tries_the_kernels_and_this_one_lives_on(
    kernel: str, stand_in: Callable[[str], None]
) -> None:
    stand_in(kernel)
    assert try_kernels() == (ENDS[kernel], True)


def test_a_trial_that_cannot_be_made_is_told_and_made_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "no-python"))
    verdict, is_final = try_kernels()
    assert not verdict.works
    assert not is_final
    assert "could not be tried (No such file or directory)" in verdict.why


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[None]:
    """Count trials, in a cache folder and a process that know no verdict."""
    trials: list[None] = []

    def try_once() -> tuple[Verdict, bool]:
        trials.append(None)
        return Verdict(False, "crash"), True

    monkeypatch.setattr(amx, "user_cache_path", lambda *_, **__: tmp_path / "cache")
    monkeypatch.setattr(amx, "_are_built", lambda: True)
    monkeypatch.setattr(amx, "try_kernels", try_once)
    monkeypatch.setattr(amx, "find_verdict", amx.find_verdict.__wrapped__)
    return trials


def test_a_verdict_is_kept_for_a_build_and_a_processor(
    fresh: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [amx.find_verdict() for _ in range(3)] == [Verdict(False, "crash")] * 3
    assert len(fresh) == 1
    monkeypatch.setattr(amx, "_processor", lambda: "another processor")
    amx.find_verdict()
    assert len(fresh) == 2


@pytest.mark.usefixtures("fresh")
def test_a_verdict_that_was_damaged_is_found_again(tmp_path: Path) -> None:
    assert amx.find_verdict() == Verdict(False, "crash")
    (kept,) = (tmp_path / "cache" / "amx").iterdir()
    for damaged in ('{"works": tr', "[" * 3000):
        kept.write_text(damaged)
        assert amx.find_verdict() == Verdict(False, "crash")
        assert kept.read_text() == '{"works": false, "why": "crash"}'


@pytest.mark.usefixtures("fresh")
def test_kernels_that_crash_are_no_longer_listed_or_no_extra_buffers_are_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(amx, "extra_buffer_types", lambda: [(b"AMX", 1), (b"CPU_REPACK", 2)])
    assert not amx.allow_extra_buffers()
    monkeypatch.setattr(amx, "extra_buffer_types", lambda: [(b"CPU_REPACK", 2)])
    assert amx.allow_extra_buffers()


def test_weights_are_laid_out_for_this_processor_but_for_kernels_that_do_not_work(
    model: Model,
) -> None:
    context = Context(model, n_ctx=64, n_threads=1)  # its probe decodes; a crash would end here
    context.close()
    names = [name for name, _ in amx.extra_buffer_types()]
    verdict = amx.find_verdict()
    assert (b"AMX" in names) == (verdict is not None and verdict.works)
    assert b"CPU_REPACK" in names


def test_where_llama_cpp_was_used_before_steerplug_a_model_still_runs(model_path: Path) -> None:
    program = (
        "import sys, llama_cpp\n"
        "llama_cpp.Llama(sys.argv[1], n_ctx=32, n_threads=1, verbose=False)\n"
        "from steerplug.engine.context import Context\n"
        "from steerplug.engine.model import Model\n"
        "Context(Model(__import__('pathlib').Path(sys.argv[1])), n_ctx=32, n_threads=1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, model_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
