"""Models of transformers with the weights of a quantized one."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from modelfleet_worker.quantization.scheme import Quantization
from modelfleet_worker.quantization.weights import quantize


def rounded(model: PreTrainedModel, quantization: Quantization) -> PreTrainedModel:
    """The same weights rounded and put back: what a quantized model shall say."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and not name.endswith("shared_expert_gate"):
            scheme = quantization.scheme_of(name, module.in_features)
            if scheme is not None:
                module.weight.data = quantize(module.weight.data, scheme).dequantized()
        if isinstance(getattr(module, "down_proj", None), torch.nn.Parameter):
            for stacked in (module.gate_up_proj.data, module.down_proj.data):
                scheme = quantization.scheme_of(name, stacked.shape[2])
                for expert in stacked if scheme is not None else ():
                    expert.copy_(quantize(expert.contiguous(), scheme).dequantized())
    return model
