"""Build llama.cpp for devices without a GPU: Vulkan on a software driver, and RPC.

    python -m tests.devices.build FOLDER

takes the source of the llama-cpp-python that is installed and puts its libraries into FOLDER/bin,
in half an hour on one core. On Debian: apt install cmake ninja-build glslc libvulkan-dev
spirv-headers mesa-vulkan-drivers. Then, see test_devices.py,

    LLAMA_CPP_LIB_PATH=FOLDER/bin GGML_VK_VISIBLE_DEVICES=0 pytest -n 0 tests/devices
    LLAMA_CPP_LIB_PATH=FOLDER/bin STEERPLUG_TEST_RPC=1 pytest -n 0 tests/devices

On a software driver the first takes a quarter of an hour and more; the second, a minute.
"""

import re
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

_SWITCHES = (
    "CMAKE_BUILD_TYPE=Release", "GGML_VULKAN=ON", "GGML_RPC=ON", "LLAMA_BUILD_COMMON=OFF",
    "LLAMA_BUILD_TESTS=OFF", "LLAMA_BUILD_TOOLS=OFF", "LLAMA_BUILD_EXAMPLES=OFF",
    "LLAMA_BUILD_SERVER=OFF", "LLAMA_CURL=OFF", "BUILD_SHARED_LIBS=ON",
)  # fmt: skip


def build(folder: Path) -> Path:
    """Build into a folder; return where the libraries are."""
    folder.mkdir(parents=True, exist_ok=True)
    source = _source(folder)
    _let_old_headers_do(source / "ggml/src/ggml-vulkan/ggml-vulkan.cpp")
    made = folder / "build"
    _run("cmake", "-G", "Ninja", "-S", source, "-B", made, *(f"-D{each}" for each in _SWITCHES))
    _run("cmake", "--build", made, "--target", "llama")
    (folder / "bin").unlink(missing_ok=True)
    (folder / "bin").symlink_to(made / "bin")
    counting = Path(__file__).with_name("count.c")
    _run("cc", "-shared", "-fPIC", "-O1", counting, "-o", folder / "bin" / "count.so", "-ldl")
    return folder / "bin"


def _source(folder: Path) -> Path:
    """Return llama.cpp's source, as the installed llama-cpp-python has it."""
    name = f"llama_cpp_python-{version('llama-cpp-python')}"
    if not (folder / name).exists():
        _run(
            sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "-d",
            folder, name.replace("_", "-", 2).replace("python-", "python=="),
        )  # fmt: skip
        with tarfile.open(folder / f"{name}.tar.gz") as archive:
            archive.extractall(folder, filter="data")
    return folder / name / "vendor" / "llama.cpp"


def _let_old_headers_do(file: Path) -> None:
    """Leave out settings for Vulkan's validation, which headers before 1.3.272 cannot name."""
    found = file.read_text(encoding="utf-8")
    settings = r"    VkBool32 enable_best_practice = .*?layer_setting_info\(settings\);\n"
    text = re.sub(settings, "", found, flags=re.DOTALL).replace(", &layer_setting_info)", ")")
    if text != found:  # it takes minutes to compile
        file.write_text(text, encoding="utf-8")


def _run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True)


if __name__ == "__main__":
    print(build(Path(sys.argv[1]).resolve()))
