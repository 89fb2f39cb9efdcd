"""Writes quantized checkpoints in the layout of compressed-tensors, `pack-quantized`.

vLLM and transformers (with the package compressed-tensors) read it.
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..errors import UsageError
from ..models.config import read_json
from ..quantization.packing import pack
from ..quantization.scheme import HEAD, Scheme
from ..quantization.weights import QuantizedWeight

_SHARD_BYTES = 4 << 30
_INDEX = "model.safetensors.index.json"


def packed_tensors(module: str, weight: QuantizedWeight) -> Iterator[tuple[str, Tensor]]:
    """The tensors of one projection. Raises ValueError for an order of inputs: we make none."""
    if weight.order is not None:
        raise ValueError(f"{module} has its inputs out of order")
    yield f"{module}.weight_packed", _words(weight.codes, weight.bits, axis=1)
    yield f"{module}.weight_scale", weight.scales.to(torch.bfloat16)
    yield f"{module}.weight_shape", torch.tensor([weight.outputs, weight.inputs])
    if weight.zeros is not None:
        yield f"{module}.weight_zero_point", _words(weight.zeros, weight.bits, axis=0)


def _words(codes: Tensor, bits: int, axis: int) -> Tensor:
    """Signed codes, packed."""
    unsigned = codes.numpy().astype("int16") + 2 ** (bits - 1)
    return torch.from_numpy(pack(unsigned, bits, axis))


def quantization_config(schemes: dict[str, Scheme]) -> dict[str, Any]:
    """For config.json: which module is on which grid."""
    modules: defaultdict[Scheme, list[str]] = defaultdict(list)
    for module, scheme in schemes.items():
        modules[scheme].append(module)
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            f"group_{i}": {
                "targets": _targets(names, [m for m in schemes if m not in set(names)]),
                "weights": {
                    "num_bits": scheme.bits,
                    "type": "int",
                    "symmetric": scheme.symmetric,
                    "strategy": "channel" if scheme.group is None else "group",
                    "group_size": scheme.group,
                    "dynamic": False,
                },
                "input_activations": None,
                "output_activations": None,
                "format": "pack-quantized",
            }
            for i, (scheme, names) in enumerate(modules.items())
        },
        "ignore": [HEAD],
        "kv_cache_scheme": None,
    }


def _targets(names: list[str], others: list[str]) -> list[str]:
    """One pattern for each kind of projection, unless another group has some of the kind."""
    shared = {name.rpartition(".")[2] for name in others}
    targets = {
        name if (kind := name.rpartition(".")[2]) in shared else rf"re:.*\.{kind}$": None
        for name in names
    }
    return list(targets)


def refuse_existing(target: Path) -> None:
    """Raises UsageError if there is something already."""
    if target.exists():
        raise UsageError(f"{target} exists already: name a folder that does not")


def write_checkpoint(
    source: Path,
    target: Path,
    tensors: Iterable[tuple[str, Tensor]],
    config: dict[str, Any],
) -> None:
    """A folder like `source` with other tensors. Raises UsageError if there is something already.

    It gets its name when it is complete.
    """
    refuse_existing(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    _write_shards(partial, tensors)
    for path in source.iterdir():
        if path.is_file() and path.suffix not in {".safetensors", ".bin"} and path.name != _INDEX:
            shutil.copyfile(path, partial / path.name)
    whole = read_json(source / "config.json") | {"quantization_config": config}
    (partial / "config.json").write_text(json.dumps(whole, indent=2) + "\n")
    # safetensors writes for its own user alone: as all other files, by the umask.
    for path in partial.glob("*.safetensors"):
        path.chmod((partial / "config.json").stat().st_mode)
    partial.rename(target)


def _write_shards(folder: Path, tensors: Iterable[tuple[str, Tensor]]) -> None:
    shards: list[dict[str, Tensor]] = [{}]
    places: dict[str, int] = {}
    size = total = 0
    for name, tensor in tensors:
        if size + tensor.nbytes > _SHARD_BYTES and shards[-1]:
            _save(folder, len(shards), shards[-1])
            shards.append({})
            size = 0
        shards[-1][name] = tensor.contiguous()
        places[name] = len(shards)
        size, total = size + tensor.nbytes, total + tensor.nbytes
    _save(folder, len(shards), shards[-1])
    if len(shards) == 1:
        (folder / _shard(1)).rename(folder / "model.safetensors")
        return
    index = {
        "metadata": {"total_size": total},
        "weight_map": {n: _shard(i) for n, i in places.items()},
    }
    (folder / _INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _save(folder: Path, number: int, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, folder / _shard(number), metadata={"format": "pt"})
    tensors.clear()


def _shard(number: int) -> str:
    return f"model-{number:05}.safetensors"
