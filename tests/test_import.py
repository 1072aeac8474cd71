"""What importing steerplug costs, and which module may speak to what."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import steerplug

PACKAGE = Path(steerplug.__file__).parent
HEAVY = {
    "llama_cpp", "torch", "transformers", "numpy", "gguf", "pydantic", "jinja2", "llguidance",
    "langchain_core", "typer", "rich",
}  # fmt: skip


def loaded_by(code: str) -> set[str]:
    """The top-level modules that a new interpreter has loaded after running `code`."""
    shown = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}; print(*sys.modules)"],
        capture_output=True, text=True, check=True, cwd=PACKAGE.parent,
    )  # fmt: skip
    return {name.partition(".")[0] for name in shown.stdout.split()}


def test_importing_steerplug_loads_nothing_heavy() -> None:
    modules = loaded_by("import steerplug; dir(steerplug); steerplug.__version__")
    assert "steerplug" in modules
    assert not modules & HEAVY


def test_a_preset_is_read_without_the_engine() -> None:
    modules = loaded_by("import steerplug; steerplug.load_preset('love-hate')")
    assert "pydantic" in modules
    assert not modules & {"llama_cpp", "torch", "numpy", "langchain_core", "typer"}


def test_a_session_needs_no_torch_and_no_langchain() -> None:
    modules = loaded_by("import steerplug; steerplug.Session")
    assert "llama_cpp" in modules
    assert not modules & {"torch", "transformers", "langchain_core", "typer"}


@pytest.mark.parametrize("name", steerplug.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(steerplug, name) is not None
    assert name in dir(steerplug)


def test_the_public_names_are_those_that_have_a_home() -> None:
    assert set(steerplug.__all__) == set(steerplug._HOMES)
    assert len(set(steerplug.__all__)) == len(steerplug.__all__)


def test_editors_see_the_same_names() -> None:
    """What type checkers read is what users get."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    told = {
        alias.name: node.module
        for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }  # fmt: skip
    assert told == steerplug._HOMES


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'steerplug' has no attribute 'Sesion'"):
        _ = steerplug.Sesion


def imported(path: Path) -> set[str]:
    """The top-level modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES)
def test_only_the_engine_speaks_llama_cpp(file: str) -> None:
    modules = imported(PACKAGE / file)
    if file.startswith(("benchmark/peers.py", "benchmark/rivals/")):  # whose business others are
        return
    if not file.startswith("engine/"):
        assert not modules & {"llama_cpp", "llguidance"}
    if not file.startswith("fit/distill/"):
        assert not modules & {"torch", "transformers"}


def test_c_functions_have_their_types_in_two_files() -> None:
    """Of ggml's in one, of the native library's in the other; who calls them repeats no types."""
    told = {
        file
        for file in FILES for node in ast.walk(ast.parse((PACKAGE / file).read_text("utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("argtypes", "restype")
    }  # fmt: skip
    assert told == {"engine/ggml.py", "engine/native.py"}


def test_imports_run_one_way_between_the_rooms() -> None:
    """The contracts stand in pyproject.toml; `lint-imports` shows what breaks one."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")], cwd=PACKAGE.parent,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "6 kept, 0 broken" in done.stdout


def test_the_llm_plugin_costs_no_command_langchain_or_the_engine() -> None:
    modules = loaded_by("import steerplug.llm_plugin")
    assert "llm" in modules
    assert not modules & {"langchain_core", "llama_cpp", "llguidance", "torch"}


def test_the_engine_is_where_llama_cpp_is() -> None:
    assert any("llama_cpp" in imported(PACKAGE / f) for f in FILES if f.startswith("engine/"))
