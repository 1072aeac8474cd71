"""The tensors of a GGUF as parameters of a transformers model, for the table of families.

They are found by gguf's own table of names, and what llama.cpp's converter did to the weights is
undone: rows of queries and keys that it reordered, and what it added to norms.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from steerplug.engine.model import Model
from steerplug.fit.distill.families import Family, family_of


def places(module: Any, model: Model) -> dict[str, str]:
    """Return for each tensor of the GGUF the parameter of a transformers model that it fills."""
    import gguf

    architecture = next(
        key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == model.architecture
    )
    names = gguf.get_tensor_name_map(architecture, model.n_layer)
    family = _family(model)
    found: dict[str, str] = {}
    for parameter in module.state_dict():
        block = re.fullmatch(r"model\.layers\.(\d+)\.(.+?)(?:\.weight)?", parameter)
        if block and (held := family.held(block[2])):
            own = [name if "." in name else f"{name}.weight" for name in held]
            found |= {f"blk.{block[1]}.{name}": parameter for name in own}
            continue
        known = parameter.replace(".dt_bias", ".dt_proj.bias")
        if name := names.get_name(known, (".weight", ".bias")):
            found[name] = parameter
    return found


def state(model: Model, tensors: Iterable[Any], placed: Mapping[str, str]) -> dict[str, Any]:
    """Return the parameters of a transformers model, from the tensors of a GGUF reader."""
    import gguf

    parameters: dict[str, torch.Tensor] = {}
    for tensor in sorted(tensors, key=lambda each: str(each.name)):
        if tensor.name not in placed:
            continue
        values = torch.tensor(gguf.dequantize(tensor.data, tensor.tensor_type))
        values, name = restored(model, tensor.name, values), placed[tensor.name]
        before = parameters.get(name)
        parameters[name] = values if before is None else torch.cat([before, values], dim=-2)
    return parameters


def restored(model: Model, name: str, values: torch.Tensor) -> torch.Tensor:
    """Return the values of a tensor as before llama.cpp's converter."""
    family = _family(model)
    if family.reordered and (".attn_q." in name or ".attn_k." in name):
        values = _in_halves(values, _heads(model, name))
    if "norm" in name and family.norms_above:
        values = values - family.norms_above
    kind = re.sub(r"^blk\.\d+\.", "", name)
    if model.architecture in ("qwen35", "qwen35moe"):
        return _qwen35(model, kind, values)
    if kind == "shortconv.conv.weight":
        return values[:, None]
    if kind == "exp_probs_b.bias" and model.architecture == "ernie4_5-moe":
        return values[None]
    return _mamba(kind, values) if kind.startswith("ssm_") else values


def _family(model: Model) -> Family:
    family = family_of(model)
    assert family is not None
    return family


def _heads(model: Model, name: str) -> int:
    keys = ".attn_k." in name and "attention.head_count_kv" in model.hyper_parameters
    n = model.hyper_parameters[f"attention.head_count{'_kv' if keys else ''}"]
    return max(n) if isinstance(n, list) else int(n)


def _in_halves(rows: torch.Tensor, n_heads: int) -> torch.Tensor:
    """Return the rows of each head with the first of all pairs before the second ones."""
    pairs = rows.reshape(n_heads, -1, 2, *rows.shape[1:])
    return pairs.transpose(1, 2).reshape(rows.shape)


def _mamba(kind: str, values: torch.Tensor) -> torch.Tensor:
    """Return a tensor of a Mamba block as before llama.cpp's converter."""
    if kind == "ssm_conv1d.weight":
        return values[:, None]
    if kind in ("ssm_a", "ssm_d", "ssm_norm.weight"):
        values = values.flatten()
    return torch.log(-values) if kind == "ssm_a" else values


def _qwen35(model: Model, kind: str, values: torch.Tensor) -> torch.Tensor:
    """Return a tensor of Qwen3.5 as before llama.cpp's converter: linear attention differs most."""
    n_keys = int(model.hyper_parameters["ssm.group_count"])
    n_each = int(model.hyper_parameters["ssm.time_step_rank"]) // n_keys
    if "norm" in kind and kind != "ssm_norm.weight":
        return values - 1
    if kind in ("attn_qkv.weight", "ssm_conv1d.weight"):  # after those of queries and keys
        first = 2 * n_keys * int(model.hyper_parameters["ssm.state_size"])
        values = torch.cat([values[:first], _by_key(values[first:], n_keys, n_each)])
        return values[:, None] if "conv1d" in kind else values
    if kind == "ssm_out.weight":
        return _by_key(values.T, n_keys, n_each).T
    if kind == "ssm_a":
        return _by_key(torch.log(-values), n_keys, n_each)
    if kind == "ffn_gate_inp_shexp.weight":
        return values[None]
    if kind in ("attn_gate.weight", "ssm_alpha.weight", "ssm_beta.weight", "ssm_dt.bias"):
        return _by_key(values, n_keys, n_each)
    return values


def _by_key(rows: torch.Tensor, n_keys: int, n_each: int) -> torch.Tensor:
    """Return the rows of values' heads sorted by the head of keys that they belong to."""
    tiled = rows.reshape(n_each, n_keys, -1, *rows.shape[1:])
    return tiled.transpose(0, 1).reshape(rows.shape)
