"""Writes the checkpoints beside this file with other packages' packers, and what they mean by them.

Each folder gets a checkpoint and `expected.safetensors`: the logits of transformers' float32 model
with the weights as those packages themselves dequantize them. Run by hand, in a virtual environment
of its own; made with auto-round 0.16.1, GPTQModel 7.7.0, AutoAWQ 0.2.9 (source archives of both on
sys.path, since neither installs without CUDA), transformers 5.23.0, torch 2.13.0:

    python make.py GPTQMODEL_SOURCE AUTOAWQ_SOURCE
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).parent
GROUP = 32
PROMPT = [3, 14, 15, 92, 65, 35, 89, 79, 32]
CONFIG = LlamaConfig(
    vocab_size=96,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    initializer_range=0.3,
)
Dequantize = Callable[[dict[str, Tensor]], Tensor]


def tiny(folder: Path) -> LlamaForCausalLM:
    """A random model with a tokenizer that satisfies auto-round."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(CONFIG).to(torch.bfloat16).eval()
    for layer in model.model.layers:
        # Some groups without negative weights: their zero point is 0, version 1's special case.
        layer.mlp.up_proj.weight.data[::3].abs_()
    model.save_pretrained(folder)
    vocabulary = {chr(33 + i): i for i in range(CONFIG.vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="!"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="!", pad_token="!"
    ).save_pretrained(folder)
    return model


def write(name: str, tensors: dict[str, Tensor], quantization: dict[str, Any], expect: Dequantize):
    """The folder `name`; `expect` dequantizes the tensors of one projection to [N, K]."""
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    save_file({n: t.contiguous() for n, t in tensors.items()}, folder / "model.safetensors")
    config = {**CONFIG.to_dict(), "architectures": ["LlamaForCausalLM"], "dtype": "float32"}
    config["quantization_config"] = quantization
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    model = LlamaForCausalLM(CONFIG).float().eval()
    state: dict[str, Tensor] = {}
    for tensor_name, tensor in tensors.items():
        module, _, suffix = tensor_name.rpartition(".")
        if suffix == "qweight":
            own = {
                n.rpartition(".")[2]: t for n, t in tensors.items() if n.startswith(f"{module}.")
            }
            state[f"{module}.weight"] = expect(own).float()
        elif suffix == "weight":
            state[tensor_name] = tensor.float()
    model.load_state_dict(state)
    with torch.inference_mode():
        logits = model(torch.tensor([PROMPT])).logits[0]
    save_file({"prompt": torch.tensor(PROMPT), "logits": logits}, folder / "expected.safetensors")


def auto_round(model: Path, layout: str, *, symmetric: bool) -> tuple[dict[str, Tensor], dict]:
    """Tensors and quantization_config as auto-round exports them, rounded to nearest."""
    from auto_round import AutoRound

    with tempfile.TemporaryDirectory() as folder:
        AutoRound(
            str(model),
            bits=4,
            group_size=GROUP,
            sym=symmetric,
            iters=0,
            nsamples=2,
            seqlen=16,
            device_map="cpu",
            disable_opt_rtn=True,
        ).quantize_and_save(folder, format=layout)
        path = next(Path(folder).rglob("model.safetensors"))
        config = json.loads((path.parent / "config.json").read_text())
        return load_file(path), config["quantization_config"]


def gptqmodel(
    model: LlamaForCausalLM, *, bits: int, version: int, symmetric: bool, ordered: bool
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors packed by GPTQModel's own kernel class, in either version of the layout."""
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module

    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if "_proj" not in name:
            tensors[name] = tensor
            continue
        outputs, inputs = tensor.shape
        groups = inputs // GROUP
        g_idx = torch.arange(inputs, dtype=torch.int32) // GROUP
        if ordered:
            # Projections of one input share its order, as GPTQ makes them.
            g_idx = g_idx[torch.randperm(inputs, generator=torch.Generator().manual_seed(inputs))]
        scales, zeros = torch.empty(outputs, groups), torch.empty(outputs, groups)
        for group in range(groups):
            part = tensor[:, g_idx == group].float()
            if symmetric:
                scales[:, group] = part.abs().amax(1) * 2 / (2**bits - 1)
                zeros[:, group] = 2 ** (bits - 1)
            else:
                low, high = part.amin(1).clamp(max=0), part.amax(1).clamp(min=0)
                scales[:, group] = (high - low) / (2**bits - 1)
                zeros[:, group] = torch.round(-low / scales[:, group])
        linear = nn.Linear(inputs, outputs, bias=False)
        linear.weight.data = tensor.float()
        packed = TorchLinear(
            bits=bits,
            group_size=GROUP,
            sym=symmetric,
            desc_act=ordered,
            in_features=inputs,
            out_features=outputs,
            register_buffers=False,
        )
        packed.pack_original(linear, scales, zeros.to(torch.int32), g_idx)
        if version == 1:
            settings = types.SimpleNamespace(bits=bits, pack_dtype=torch.int32)
            packed.qzero_format(format=2)
            convert_gptq_v2_to_v1_format_module(module=packed, quantize_config=settings)
        for suffix in ("qweight", "qzeros", "scales", "g_idx"):
            tensors[name.replace("weight", suffix)] = getattr(packed, suffix).clone()
    config = {
        "quant_method": "gptq",
        "checkpoint_format": "gptq" if version == 1 else "gptq_v2",
        "bits": bits,
        "group_size": GROUP,
        "sym": symmetric,
        "desc_act": ordered,
        "pack_dtype": "int32",
    }
    return tensors, config


def dequantized_by_gptqmodel(bits: int, version: int) -> Dequantize:
    """GPTQModel's reading of a projection."""
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module

    def expect(own: dict[str, Tensor]) -> Tensor:
        outputs, inputs = own["scales"].shape[1], own["qweight"].shape[0] * 32 // bits
        layer = TorchLinear(
            bits=bits,
            group_size=GROUP,
            sym=False,
            desc_act=True,
            in_features=inputs,
            out_features=outputs,
        )
        for suffix in ("qweight", "qzeros", "scales", "g_idx"):
            if suffix in own:
                layer.register_buffer(suffix, own[suffix].clone())
        layer.scales = layer.scales.float()
        if version == 1:
            layer.qzero_format(format=1)
            convert_gptq_v1_to_v2_format_module(layer, bits, torch.int32)
        return layer.eval().dequantize_weight().t()

    return expect


def dequantized_by_autoawq(source: Path) -> Dequantize:
    """AutoAWQ's reading; the package itself does not import beside a transformers of this year."""
    path = source / "awq/utils/packing_utils.py"
    spec = importlib.util.spec_from_file_location("packing_utils", path)
    packing = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(packing)

    def expect(own: dict[str, Tensor]) -> Tensor:
        return packing.dequantize_gemm(
            own["qweight"], own["qzeros"], own["scales"].float(), 4, GROUP
        ).t()

    return expect


def without_pcre() -> None:
    """GPTQModel imports a package for its logs that downloads sources when it is built."""
    flags = {"CASELESS": re.IGNORECASE, "MULTILINE": re.MULTILINE, "DOTALL": re.DOTALL}
    missing = type("Missing", (type,), {"__getattr__": lambda *_: 0})
    stand_in = types.ModuleType("pcre")
    stand_in.__dict__.update({n: getattr(re, n) for n in dir(re) if not n.startswith("__")})
    stand_in.Flag = missing("Flag", (), flags)
    sys.modules["pcre"] = stand_in


def main() -> None:
    gptqmodel_source, autoawq_source = map(Path, sys.argv[1:])
    without_pcre()
    sys.path.insert(0, str(gptqmodel_source))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = tiny(folder)
        awq = auto_round(folder, "auto_awq", symmetric=False)
        write("awq-auto-round", *awq, dequantized_by_autoawq(autoawq_source))
        for symmetric in (True, False):
            gptq = auto_round(folder, "auto_gptq", symmetric=symmetric)
            kind = "sym" if symmetric else "asym"
            write(f"gptq-auto-round-{kind}", *gptq, dequantized_by_gptqmodel(4, 1))
        for bits, version, symmetric, ordered in [
            (4, 1, False, False),
            (4, 2, False, False),
            (4, 1, True, True),
            (4, 2, False, True),
            (8, 2, False, False),
        ]:
            kind = f"{bits}bit-v{version}-{'sym' if symmetric else 'asym'}"
            gptq = gptqmodel(
                model, bits=bits, version=version, symmetric=symmetric, ordered=ordered
            )
            write(
                f"gptq-gptqmodel-{kind}{'-desc-act' if ordered else ''}",
                *gptq,
                dequantized_by_gptqmodel(bits, version),
            )


if __name__ == "__main__":
    main()
