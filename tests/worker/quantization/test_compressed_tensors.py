"""Checkpoints written by the compressed-tensors package itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors.torch import save_file

from quantized_models import load, logits, tiny

IDS = torch.tensor([3, 14, 15, 92, 65])


@pytest.mark.parametrize(
    ("layout", "weights"),
    [
        ("pack-quantized", {"num_bits": 4, "strategy": "group", "group_size": 32}),
        (
            "pack-quantized",
            {"num_bits": 4, "strategy": "group", "group_size": 32, "symmetric": False},
        ),
        ("pack-quantized", {"num_bits": 4, "strategy": "channel"}),
        ("pack-quantized", {"num_bits": 8, "strategy": "channel"}),
        ("pack-quantized", {"num_bits": 8, "strategy": "channel", "symmetric": False}),
        ("int-quantized", {"num_bits": 8, "strategy": "channel"}),
        ("int-quantized", {"num_bits": 8, "strategy": "channel", "symmetric": False}),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_means_what_the_package_meant(tmp_path: Path, layout: str, weights: dict):
    model = tiny()
    arguments = QuantizationArgs(**weights)
    scheme = QuantizationScheme(targets=["Linear"], weights=arguments)
    compressor = BaseCompressor.get_value_from_registry(layout)
    tensors = dict(model.state_dict())
    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.Linear) or name == "lm_head":
            continue
        groups = module.weight.detach().unflatten(
            1, (-1, arguments.group_size or module.in_features)
        )
        scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), arguments)
        plain = {"weight": tensors.pop(f"{name}.weight"), "weight_scale": scale}
        plain["weight_zero_point"] = zero
        packed = compressor.compress(plain, scheme)
        tensors |= {f"{name}.{suffix}": tensor for suffix, tensor in packed.items()}
        module.weight.data = compressor.decompress(packed, scheme)["weight"]
    save_file({n: t.contiguous() for n, t in tensors.items()}, tmp_path / "model.safetensors")
    config = model.config.to_dict() | {"architectures": ["LlamaForCausalLM"]}
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": layout,
        "ignore": ["lm_head"],
        "config_groups": {"group_0": json.loads(scheme.model_dump_json())},
    }
    (tmp_path / "config.json").write_text(json.dumps(config, default=str))
    found = logits(load(tmp_path), IDS)
    with torch.inference_mode():
        expected = model(IDS[None]).logits[0]
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
