"""A mix becomes files of other tools, where what it adds is a constant: else it is refused.

A constant file holds sum_i strength_i * z_i for each block, so its scale 1.0 is the mix as asked
for. What it cannot hold: gates and maps, which read h (methods psr and chain), rows for the front
of the prompt (actadd), the scope, the range of strengths, the preset's checks.

    .gguf   control vector for llama.cpp, which adds it at every token; N >= 1, so never block 0
    .json   SteeringSpec for EasySteer, its vectors in a GGUF beside it; it looks for that file in
            the folder it runs in; scope as its selectors, see `tokens`
    .pt     tensor for hotwire-vllm, a row for each block, and in a JSON beside it what a request
            says: each block that is steered; scope as its `decode_only`, see `tokens`
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from gguf import GGUFWriter

from steerplug.errors import SteeringError
from steerplug.files.whole_file import whole_file
from steerplug.interchange.tokens import Bos, decode_only, selection
from steerplug.interchange.torch_file import write_tensor
from steerplug.preset.methods import METHODS, MethodName
from steerplug.steering.file import finish
from steerplug.steering.value import Array, Mix, Scope

SUFFIXES = (".gguf", ".json", ".pt")


def constant_of(mix: Mix) -> tuple[dict[int, Array], Scope]:
    """Return what a mix adds at each block, (n_embd,), and its scope.

    Raises:
        SteeringError: it adds nothing, or what no constant can be.
    """
    if not mix:
        raise SteeringError("the mix steers nothing; name a preset to write.")
    scopes = {term.steering.scope for term in mix.terms}
    for term in mix.terms:
        steering = term.steering
        is_gated = any(delta.n_units for delta in steering.layers.values())
        _refuse(steering.name, is_front=steering.scope == "front", is_gated=is_gated)
    if len(scopes) > 1:
        raise SteeringError(
            f"the mix steers in the scopes {' and '.join(sorted(scopes))}, and one file has one; "
            "export each preset by itself."
        )
    total: dict[int, Array] = {}
    for term in mix.terms:
        for il, delta in term.steering.layers.items():
            total[il] = total.get(il, np.float32(0)) + np.float32(term.strength) * delta.z[0]
    return dict(sorted(total.items())), scopes.pop()


def check_method(name: str, method: MethodName) -> None:
    """Refuse a preset by its method, before anything is fitted; errors as `constant_of`."""
    known = METHODS[method]
    is_gated = not (known.is_constant or known.steers_front)
    _refuse(name, is_front=known.steers_front, is_gated=is_gated)


def _refuse(name: str, *, is_front: bool, is_gated: bool) -> None:
    if is_front:
        raise SteeringError(
            f"`{name}` steers the front of the prompt, row by row (method actadd), and a control "
            "vector is one row for every token; fit the preset by `mean`."
        )
    if is_gated:
        raise SteeringError(
            f"`{name}` reads each activation before it steers (methods psr and chain), and a "
            "control vector is the same at every token; write `fit: {method: const}` in a copy of "
            "the preset and export that, or export its prompt, `--as modelfile`."
        )


def write_control_vector(path: Path, mix: Mix, name: str, architecture: str) -> None:
    """Write what a mix adds as the control vector that llama.cpp loads; its scale 1.0 is the mix.

    Raises:
        SteeringError: it is no constant, or steers block 0; a file is there already, or the folder
            cannot be written.
    """
    vectors, _ = constant_of(mix)
    if 0 in vectors:
        raise SteeringError(
            "the mix steers block 0, which llama.cpp's control vectors leave out; fit the preset "
            "with `layers` from 1 on, or write a .json for EasySteer."
        )
    with new_file(path) as temporary:
        _write_directions(temporary, vectors, name, architecture)


def write_easysteer(path: Path, mix: Mix, name: str, architecture: str, bos: Bos) -> Path:
    """Write what a mix adds as a SteeringSpec of EasySteer, and its vectors beside it.

    Returns:
        The path of the vectors, which the JSON names without a folder.

    Raises:
        SteeringError: it is no constant; a file is there already, or the folder cannot be written.
    """
    vectors, scope = constant_of(mix)
    source = path.with_suffix(".gguf")
    spec = {
        "vectors": [{
            "name": name, "source": source.name, "algorithm": "direct", "scale": 1.0,
            "layers": list(vectors), "normalize": False, "apply": selection(scope, bos),
        }],
    }  # fmt: skip
    with new_file(path) as temporary, new_file(source) as beside:
        temporary.write_text(json.dumps(spec, indent=2) + "\n", encoding="utf-8", newline="\n")
        _write_directions(beside, vectors, name, architecture)
    return source


def write_hotwire(path: Path, mix: Mix, n_layer: int) -> Path:
    """Write what a mix adds as vectors of hotwire-vllm, and beside them what requests say.

    Args:
        path: of the vectors; hotwire calls them as the file is called, without its ending.
        mix: what is added.
        n_layer: how many blocks the model has.

    Returns:
        The path of the JSON: what belongs into the body of a request to vLLM.

    Raises:
        SteeringError: it is no constant; a file is there already, or the folder cannot be written.
    """
    vectors, scope = constant_of(mix)
    width = next(iter(vectors.values())).size
    rows = np.zeros((n_layer, width), np.float32)
    for il, vector in vectors.items():
        rows[il] = vector
    entries = [
        {"id": path.stem, "layer": il, "scale": 1.0, "decode_only": decode_only(scope)}
        for il in vectors
    ]
    body = {"vllm_xargs": {"hotwire": json.dumps(entries)}}
    request = path.with_suffix(".json")
    with new_file(path) as temporary, new_file(request) as beside:
        write_tensor(temporary, rows)
        beside.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8", newline="\n")
    return request


def _write_directions(
    path: Path, vectors: Mapping[int, Array], name: str, architecture: str
) -> None:
    writer = GGUFWriter(path, "controlvector")
    writer.add_name(name)
    writer.add_string("controlvector.model_hint", architecture)
    writer.add_uint32("controlvector.layer_count", len(vectors))
    for il, vector in vectors.items():
        writer.add_tensor(f"direction.{il}", vector.astype(np.float32))
    finish(writer)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; put it in place if all went well, over nothing.

    Raises:
        SteeringError: there is a file already, or it cannot be written.
    """
    if os.path.lexists(path):
        raise SteeringError(f"there is {path} already; choose another name, or remove it first.")
    try:
        with whole_file(path, over=False) as temporary:
            yield temporary
    except OSError as error:
        raise SteeringError(
            f"{path} cannot be written ({error.strerror or error}); choose a folder with space "
            "that you may write to."
        ) from None
