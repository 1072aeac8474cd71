"""One steering as one GGUF file. This docstring is the format, version 1.

Container: GGUF version 2 or 3, little-endian, at most 64 MB, every tensor F32, tensors in the order
of their entries, each padded to the alignment, nothing between them and nothing after them.

Block il (0-based) is steered at its output, llama.cpp's `l_out-{il}`. The N in a tensor's name is
that il, in both kinds of file; nothing is shifted.

**Control vector** (`general.architecture` = `controlvector`): what llama.cpp's `--control-vector`
loads. MUST be used when every block is a plain constant, none of them is block 0, and the scope is
`response` or `all`. llama.cpp itself knows no scope: it adds the vector at every token.

    controlvector.model_hint    string  the model's architecture
    controlvector.layer_count   u32     how many directions there are
    direction.N                 F32 (n_embd,)   z of block N; N >= 1

**Steering** (`general.architecture` = `steerplug`): everything else, so that a loader of control
vectors refuses it instead of applying it wrongly. A block MUST have `z`, or `W`, `b` and `Z`, or
all four; without `z`, z is one row of zeros.

    blk.N.z                     F32 (n_positions, n_embd)
    blk.N.W, blk.N.Z            F32 (k, n_embd)
    blk.N.b                     F32 (k,)
    steerplug.blk.N.act         string  "relu" or "identity"
    steerplug.blk.N.norm        string  "rms" or "none"

Shapes are NumPy's; GGUF stores them reversed. Both kinds MUST carry, when steerplug writes them:

    steerplug.format            u64     1
    steerplug.name              string  `Steering.name`
    steerplug.n_embd, .n_layer  u64     geometry of the model
    steerplug.scope             string  "response", "all" or "front"
    steerplug.FIELD             string, u64 or f64: each field of `Identity`; fidelity as JSON;
                                no `outer_norms` where that is empty
    steerplug.sha256            string  of the JSON of all keys above, sorted, without
                                        `steerplug.`, followed by `Steering.digest`

A file MAY hold further keys outside `steerplug.`; they are ignored. Equal values give equal bytes.

**Refused**, each in one sentence: another architecture or format; an unknown tensor, scope, act,
norm or `steerplug.` key; a missing, repeated, overlapping or misshapen tensor; a type other than
F32; NaN or infinity; another width, or blocks beyond the model; a cut, an appended byte, or any
change to a value (`steerplug.sha256`).

**Files by others** are control vectors without any `steerplug.` key: their scope is `response`,
their name is the file's stem, their model is unknown (no `Identity`), and strength 1.0 is whatever
their author chose: repeng and llama.cpp's generator write unit vectors. llama.cpp's
cvector-generator names the direction it took from `l_out-0` `direction.1`, one block late. Only the
type of its `layer_count` (i32; repeng: u32) tells such a file, and other tools may write i32 as
well, so it is loaded as it is: it does here what it does in llama.cpp. `interchange` corrects it.
"""

import hashlib
import json
import os
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter

from steerplug.errors import SteeringError
from steerplug.steering.header import CURE, check_header, steering_claims
from steerplug.steering.identity import Identity, check_text, fidelity_json
from steerplug.steering.terms import MAX_BYTES
from steerplug.steering.value import Array, Delta, Steering

FORMAT = 1

_DIRECTION = re.compile(r"direction\.([1-9][0-9]{0,4})")
_BLOCK = re.compile(r"blk\.(0|[1-9][0-9]{0,4})\.([zWbZ])")
_KINDS = {str: GGUFValueType.STRING, int: GGUFValueType.UINT64, float: GGUFValueType.FLOAT64}

Metadata = dict[str, Any]


def write_steering(path: Path, steering: Steering, identity: Identity) -> None:
    """Write `steering` to `path`; equal values give equal bytes. Atomic only through `Store`.

    Raises:
        SteeringError: it would be larger than a reader accepts, or its name cannot be stored.
        OSError: the disk refuses.
    """
    check_text("the name", steering.name)
    arrays = _arrays(steering)
    size = sum(array.nbytes for array in arrays.values()) + 2**20
    if size > MAX_BYTES:
        raise SteeringError(
            f"`{steering.name}` would take {size >> 20} MB as a file, more than "
            f"{MAX_BYTES >> 20} MB; fit fewer layers or a smaller rank."
        )
    writer = GGUFWriter(path, _architecture(steering))
    if _is_control_vector(steering):
        hint = identity.architecture
        writer.add_key_value("controlvector.model_hint", hint, GGUFValueType.STRING)
        writer.add_uint32("controlvector.layer_count", len(steering.layers))
    for key, value in _metadata(steering, identity).items():
        writer.add_key_value(key, value, _KINDS[type(value)])
    for name, array in arrays.items():
        writer.add_tensor(name, array)
    finish(writer)


def finish(writer: GGUFWriter) -> None:
    """Write what a writer was told to its file, and close it.

    Raises:
        OSError: the disk refuses.
    """
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def read_steering(path: Path, *, n_embd: int, n_layer: int) -> tuple[Steering, Identity | None]:
    """Return the steering in the file at `path`, for a model of `n_layer` blocks of `n_embd`.

    The identity is None for a control vector that steerplug did not write.

    Raises:
        SteeringError: the file is missing, damaged, unknown or for another model.
    """
    try:
        metadata, arrays = read_tensors(path)
        architecture = metadata.get("general.architecture")
        own = {key: value for key, value in metadata.items() if key.startswith("steerplug.")}
        if architecture == "controlvector" and not own:
            return Steering(path.stem, n_embd, n_layer, _directions(arrays)), None
        if architecture not in ("controlvector", "steerplug"):
            raise SteeringError(
                f"its architecture is {str(architecture)[:80]!r}, not `controlvector` or "
                "`steerplug`; give a steering file."
            )
        _check_fit(own, n_embd, n_layer)
        layers = _blocks(arrays, own) if architecture == "steerplug" else _directions(arrays)
        return _own(own, layers)
    except SteeringError as error:
        raise SteeringError(f"{path}: {error}") from None


def read_own(path: Path) -> tuple[Steering, Identity | None]:
    """Return the steering in a file that steerplug wrote, for the model that it says it is for.

    Raises:
        SteeringError: the file is missing, damaged, or not of steerplug.
    """
    claims = steering_claims(path)
    geometry = {key: claims.get(key) for key in ("n_embd", "n_layer")}
    if not all(type(value) is int for value in geometry.values()):
        raise SteeringError(
            f"{path}: it is damaged, or steerplug did not make it; build the preset again."
        )
    return read_steering(path, **geometry)  # type: ignore[arg-type]


def _is_control_vector(steering: Steering) -> bool:
    plain = all(
        delta.n_units == 0 and (delta.act, delta.norm) == ("identity", "none")
        for delta in steering.layers.values()
    )
    return plain and 0 not in steering.layers and steering.scope in ("response", "all")


def _architecture(steering: Steering) -> str:
    return "controlvector" if _is_control_vector(steering) else "steerplug"


def _arrays(steering: Steering) -> dict[str, Array]:
    """Return the tensors of a file by name, in the order they are written."""
    if _is_control_vector(steering):
        return {f"direction.{il}": delta.z[0] for il, delta in steering.layers.items()}
    arrays: dict[str, Array] = {}
    for il, delta in steering.layers.items():
        if delta.n_units == 0 or len(delta.z) > 1 or delta.z.view(np.uint32).any():
            arrays[f"blk.{il}.z"] = delta.z
        if delta.n_units:
            arrays |= {f"blk.{il}.{name}": getattr(delta, name) for name in ("W", "b", "Z")}
    return arrays


def _metadata(steering: Steering, identity: Identity) -> Metadata:
    """Return all keys under `steerplug.`, as they are written and as they must be read back."""
    metadata: Metadata = {
        "format": FORMAT,
        "name": steering.name,
        "n_embd": steering.n_embd,
        "n_layer": steering.n_layer,
        "scope": steering.scope,
    }
    metadata |= {field.name: getattr(identity, field.name) for field in fields(Identity)}
    metadata["fidelity"] = fidelity_json(identity.fidelity)
    if not identity.outer_norms:
        del metadata["outer_norms"]
    if not _is_control_vector(steering):
        for il, delta in steering.layers.items():
            metadata |= {f"blk.{il}.act": delta.act, f"blk.{il}.norm": delta.norm}
    metadata["sha256"] = _sha256(metadata, steering)
    return {f"steerplug.{key}": value for key, value in metadata.items()}


def _sha256(metadata: Metadata, steering: Steering) -> str:
    text = json.dumps(metadata, sort_keys=True) + steering.digest
    return hashlib.sha256(text.encode()).hexdigest()


def _check_fit(own: Metadata, n_embd: int, n_layer: int) -> None:
    if _claim(own, "format", int) != FORMAT:
        raise SteeringError(
            f"its format is {own['steerplug.format']}, and this steerplug reads format {FORMAT}; "
            "upgrade steerplug, or build the preset again."
        )
    built_for = _claim(own, "n_embd", int), _claim(own, "n_layer", int)
    if built_for != (n_embd, n_layer):
        raise SteeringError(
            f"it is for a model of (n_embd, n_layer) {built_for}, and this model has "
            f"{(n_embd, n_layer)}; run `steerplug build` for this model."
        )


def _own(own: Metadata, layers: dict[int, Delta]) -> tuple[Steering, Identity]:
    """Return what a file of steerplug's says, if it says it exactly as it would be written."""
    name, scope = _claim(own, "name", str), _claim(own, "scope", str)
    n_embd, n_layer = _claim(own, "n_embd", int), _claim(own, "n_layer", int)
    steering = Steering(name, n_embd, n_layer, layers, scope)
    absent = {"outer_norms"} - {key.removeprefix("steerplug.") for key in own}
    said = (f for f in fields(Identity) if f.type in _KINDS and f.name not in absent)
    claims = {f.name: _claim(own, f.name, f.type) for f in said}
    identity = Identity(**claims, fidelity=_parsed(_claim(own, "fidelity", str)))
    expected = _metadata(steering, identity)
    odd = sorted(key for key in own | expected if own.get(key) != expected.get(key))
    if odd:
        raise SteeringError(
            f"{odd[0][:80]!r} is missing, unknown or not as it was written; {CURE}."
        )
    return steering, identity


def _claim(own: Metadata, key: str, kind: Any) -> Any:
    value = own.get(f"steerplug.{key}")
    if type(value) is not kind:
        raise SteeringError(f"`steerplug.{key}` is missing or not of type {kind.__name__}; {CURE}.")
    return value


def _parsed(fidelity: str) -> dict[str, Any]:
    try:
        report = json.loads(fidelity)
    except (ValueError, RecursionError):
        report = None
    if not isinstance(report, dict):
        raise SteeringError(f"`steerplug.fidelity` is not a JSON object; {CURE}.")
    return report


def _directions(arrays: dict[str, Array]) -> dict[int, Delta]:
    layers: dict[int, Delta] = {}
    for name, array in arrays.items():
        match = _DIRECTION.fullmatch(name)
        if not match:
            raise SteeringError(f"{name[:80]!r} has no place in a control vector; {CURE}.")
        if array.ndim != 1:
            raise SteeringError(f"`{name}` has shape {array.shape}, not (n_embd,); {CURE}.")
        layers[int(match[1])] = Delta.constant(array)
    return layers


def _blocks(arrays: dict[str, Array], own: Metadata) -> dict[int, Delta]:
    blocks: dict[int, dict[str, Array]] = {}
    for name, array in arrays.items():
        match = _BLOCK.fullmatch(name)
        if not match:
            raise SteeringError(f"{name[:80]!r} has no place in a steering file; {CURE}.")
        blocks.setdefault(int(match[1]), {})[match[2]] = array
    return {il: _delta(il, parts, own) for il, parts in blocks.items()}


def _delta(il: int, parts: dict[str, Array], own: Metadata) -> Delta:
    names = "".join(sorted(parts))
    if names not in ("z", "WZb", "WZbz"):
        raise SteeringError(
            f"block {il} has {', '.join(names)} alone, and needs z, or W, b and Z; {CURE}."
        )
    n_embd = parts["z" if names == "z" else "W"].shape[-1]
    none = np.zeros((0, n_embd), np.float32)
    return Delta(
        z=parts.get("z", np.zeros((1, n_embd), np.float32)),
        W=parts.get("W", none),
        b=parts.get("b", np.zeros(0, np.float32)),
        Z=parts.get("Z", none),
        act=_claim(own, f"blk.{il}.act", str),
        norm=_claim(own, f"blk.{il}.norm", str),
    )


def read_tensors(path: Path) -> tuple[Metadata, dict[str, Array]]:
    """Return metadata and tensors, copied out, of a GGUF that is exactly whole and holds F32 alone.

    Raises:
        SteeringError: it is not; the sentence does not name the path.
    """
    try:
        if not path.is_file():
            what = "it is not a regular file" if path.exists() else "there is no such file"
            raise SteeringError(f"{what}; check the path.")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_BYTES:
                raise SteeringError(f"it is over {MAX_BYTES >> 20} MB; give a steering file.")
            check_header(file.read(size))
            return _copied(GGUFReader(file), size)
    except SteeringError as error:
        damage = str(error)
    except OSError as error:
        damage = f"it cannot be read ({error.strerror}); check the path and its permissions."
    except Exception as error:  # the reader has no error of its own: ValueError, KeyError, ...
        damage = f"it is damaged ({type(error).__name__} while reading it); {CURE}."
    raise SteeringError(damage)  # raised here, where no traceback keeps the file mapped


def _copied(reader: GGUFReader, size: int) -> tuple[Metadata, dict[str, Array]]:
    arrays: dict[str, Array] = {}
    end, alignment = int(reader.data_offset), int(reader.alignment)
    for tensor in reader.tensors:
        if tensor.tensor_type != GGMLQuantizationType.F32:
            raise SteeringError(
                f"{tensor.name[:80]!r} is {tensor.tensor_type.name}, and steering is F32; "
                "convert the file."
            )
        if int(tensor.data_offset) != end:
            raise SteeringError(f"{tensor.name[:80]!r} overlaps another or leaves a hole; {CURE}.")
        end += -(-int(tensor.n_bytes) // alignment) * alignment
        arrays[tensor.name] = np.array(tensor.data, dtype=np.float32)
        if not np.isfinite(arrays[tensor.name]).all():
            raise SteeringError(f"{tensor.name[:80]!r} holds NaN or infinity; {CURE}.")
    if size != end:
        raise SteeringError(f"it has {size} bytes, but its tensors end at {end}; {CURE}.")
    return {key: field.contents() for key, field in reader.fields.items()}, arrays
