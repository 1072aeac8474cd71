"""A mix becomes files of other tools, where what it adds is a constant: else it is refused.

A constant file holds sum_i strength_i * z_i for each block, so its scale 1.0 is the mix as asked
for. What it cannot hold: gates and maps, which read h (methods psr and chain), rows for the front
of the prompt (actadd), the scope, the range of strengths, the preset's checks.

    .gguf   control vector for llama.cpp, which adds it at every token; N >= 1, so never block 0
    .json   SteeringSpec for EasySteer, its vectors in a GGUF beside it; it looks for that file in
            the folder it runs in; scope as its selectors, see `tokens`
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
from steerplug.interchange.tokens import Bos, selection
from steerplug.steering.file import finish
from steerplug.steering.value import Array, Mix, Scope

SUFFIXES = (".gguf", ".json")


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
        if steering.scope == "front":
            raise SteeringError(
                f"`{steering.name}` steers the front of the prompt, row by row (method actadd), "
                "and a control vector is one row for every token; fit the preset by `mean`."
            )
        if any(delta.n_units for delta in steering.layers.values()):
            raise SteeringError(
                f"`{steering.name}` reads each activation before it steers (methods psr and "
                "chain), and a control vector is the same at every token; write "
                "`fit: {method: const}` in a copy of the preset, and export that."
            )
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
