"""From a folder of any decoder that transformers knows to a model that only lacks its cache.

Importing this imports transformers' models, which takes seconds: only where they are needed.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
import xxhash
from torch import nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils.logging import disable_progress_bar

from ..devices.host import usable_cores
from ..devices.torch.generic_runner import GenericRunner
from ..devices.torch.varied_attention import AttentionLayer
from ..engine.device import Computation
from ..errors import ModelError
from ..models.config import architectures, read_json
from ..models.float_type import FloatType
from ..models.generic import GenericModel
from ..models.interface import NAME
from ..models.llama_tensors import HEAD_WEIGHT
from ..models.packed_modules import pack_modules
from ..models.rope_by_length import follow_reaches, variants_of
from ..models.rope_config import stretched_positions
from ..progress import Report
from ..quantization.scheme import Quantization
from .attention_check import check_attention
from .checkpoint import Checkpoint, WeightsDigest
from .model_builder import as_torch
from .sizing import LoadedWeights, describe_path, refuse_weights_beyond_memory
from .working_memory import Widths

# Layers that are nothing but attention to all tokens or to the last ones.
_LAYER_TYPES = {"full_attention", "sliding_attention"}
_INNER = ("intermediate_size", "moe_intermediate_size", "ffn_hidden_size")
_EXPERTS = ("num_experts_per_tok", "moe_top_k", "top_k_experts")
# Model types with code of their own (`auto_map`) that is transformers' for another one.
_ALIASES = {"kimi_k2": "deepseek_v3"}


def read_config(folder: Path) -> Any:
    """The config as transformers reads it. Raises ModelError if the model cannot be served."""
    raw = read_json(folder / "config.json")
    if raw.get("quantization_config", raw.get("compression_config")) is not None:
        raise ModelError(
            "the checkpoint is quantized: of this architecture only unquantized ones are read;"
            " take one of those, and spec.quantization if it shall be smaller"
        )
    kind = str(raw.get("model_type"))
    if kind not in CONFIG_MAPPING and kind not in _ALIASES and raw.get("auto_map"):
        raise ModelError(
            f"transformers {transformers.__version__} does not understand config.json: it has no"
            f" model of type {kind!r}, and code in the model's folder (auto_map) is never run"
        )
    try:
        if kind in _ALIASES:
            known = {key: value for key, value in raw.items() if key != "auto_map"}
            alias = _ALIASES[kind]
            config = CONFIG_MAPPING[alias].from_dict({**known, "model_type": alias})
        else:
            config = transformers.AutoConfig.from_pretrained(
                folder, trust_remote_code=False, local_files_only=True
            )
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ModelError(
            f"transformers {transformers.__version__} does not understand config.json: {error}"
        ) from error
    _model_class(raw, config)
    return config


def max_context(config: Any) -> int:
    """Tokens. Raises ModelError."""
    context = getattr(config, "max_position_embeddings", None)
    if type(context) is not int or context < 2:
        raise ModelError(
            f"config.json: max_position_embeddings is {context!r}: a number of tokens is expected"
        )
    rope = getattr(config, "rope_parameters", None) or {}
    factor, original = rope.get("factor"), rope.get("original_max_position_embeddings")
    if not isinstance(factor, int | float):
        factor = 1.0
    if type(original) is not int:
        original = context
    return stretched_positions(rope.get("rope_type"), context, factor, original)


def load(
    folder: Path,
    config: Any,
    kind: FloatType,
    context: int,
    quantization: Quantization,
    progress: Report,
) -> LoadedWeights:
    """Reads the weights, packs them and checks the attention. Raises ModelError."""
    torch.set_num_threads(usable_cores())
    dtype: torch.dtype = getattr(torch, kind)
    raw = read_json(folder / "config.json")
    module, weights = _read_weights(folder, _model_class(raw, config), config, dtype, progress)
    share = pack_modules(module, quantization)
    for tensor in (*module.parameters(), *module.buffers()):
        # What is not packed is still on the mapped files, which may change under us.
        tensor.data = tensor.data.clone()
    follow_reaches(module)
    variants = variants_of(config, context)
    layers, vocab_size = check_attention(module, dtype, context, config.num_hidden_layers, variants)
    model = GenericModel(module, layers, dtype, variants)
    described = f"{weights} {dtype} {json.dumps(raw, sort_keys=True)} {quantization}"
    digest = xxhash.xxh3_128_hexdigest(described.encode())
    return LoadedWeights(
        runner=lambda blocks: GenericRunner(
            model, num_blocks=blocks, kv_cache=quantization.kv_cache
        ),
        weight_bytes=sum(t.nbytes for t in (*module.parameters(), *module.buffers())),
        token_bytes=sum(x.shape.token_bytes(dtype, quantization.kv_cache) for x in layers),
        widths=_widths(config, layers, vocab_size, dtype),
        digest=digest,
        weights_digest=digest,
        computation=Computation(path="transformers", dtype=kind, threads=usable_cores()),
        computed_by=describe_path(
            f"transformers' {type(module).__name__} with our attention", kind, quantization, share
        ),
    )


def _widths(
    config: Any, layers: Sequence[AttentionLayer], vocab_size: int, dtype: torch.dtype
) -> Widths:
    hidden = config.hidden_size
    parts = [config, *(getattr(config, name) for name in config.sub_configs)]
    inner = [size for part in parts for name in _INNER for size in _sizes(part, name)]
    experts = max(size for part in parts for name in _EXPERTS for size in [1, *_sizes(part, name)])
    head = max(max(x.shape.key_dim, x.shape.value_dim) for x in layers)
    return Widths(
        hidden=hidden,
        inner=max([4 * hidden, *inner]) * experts,
        query=config.num_attention_heads * head,
        key=max(x.shape.kv_heads for x in layers) * head,
        head_dim=head,
        vocab=vocab_size,
        itemsize=dtype.itemsize,
        native=False,
    )


def _sizes(config: Any, name: str) -> list[int]:
    """A number of the config, or those of its layers."""
    found = getattr(config, name, None) or []
    return [n for n in (found if isinstance(found, list | tuple) else [found]) if n]


def _model_class(raw: dict[str, Any], config: Any) -> Any:
    """The class of a causal language model. Raises ModelError with what it lacks."""
    name = next(iter(architectures(raw)), None)
    if config.is_encoder_decoder:
        raise ModelError(f"{name} has an encoder: only decoders are served")
    mapped = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    if name is not None and name.lower() == f"{config.model_type}forcausallm":
        name = mapped  # InternLM3 is computed by Llama's class
    if name is None or mapped != name:
        raise ModelError(
            f"unsupported architecture in config.json: {name or 'none'}; transformers"
            f" {transformers.__version__} knows no decoder of this name"
            f" (model_type {config.model_type!r})"
        )
    found = getattr(transformers, name)
    for reason in _obstacles(found, config):
        raise ModelError(f"{name} cannot be served: {reason}")
    return found


def _obstacles(model_class: Any, config: Any) -> Iterator[str]:
    """What shows before any weight is read; the rest is for `check_attention`."""
    takes = inspect.signature(model_class.forward).parameters
    # Those without a type are groups of settings.
    parts = [k for k, part in config.sub_configs.items() if getattr(part, "model_type", None) != ""]
    if parts:
        yield f"it is made of several models ({', '.join(parts)})"
    kinds = set(getattr(config, "layer_types", None) or ())
    # The flag is the class's; the layers of this one may be nothing but attention.
    if model_class._is_stateful and not (kinds and kinds <= _LAYER_TYPES):  # noqa: SLF001
        yield "it keeps a state beside keys and values, which our cache does not hold"
    if others := kinds - _LAYER_TYPES:
        yield f"it has layers of {', '.join(sorted(others))}"
    if not model_class._supports_attention_backend:  # noqa: SLF001
        yield "its attention does not go through transformers' attention interface"
    if getattr(config, "prefix_lm", False):
        yield "it reads prompts in both directions (prefix_lm), ours are read forwards only"
    base = getattr(getattr(config, "attn_config", None), "rope_theta", None)
    if base is not None and base != (getattr(config, "rope_parameters", None) or {}).get(
        "rope_theta"
    ):
        yield (
            f"config.json says rope_theta {base:g} in attn_config, where transformers"
            f" {transformers.__version__} does not read it"
        )
    if "position_ids" not in takes:
        yield "it takes no positions, so that sequences cannot share a batch"
    if "logits_to_keep" not in takes:
        yield "it computes the logits of all tokens of a prompt, which would be gigabytes"


def _read_weights(
    folder: Path, model_class: Any, config: Any, dtype: torch.dtype, progress: Report
) -> tuple[nn.Module, str]:
    """The module, still on the mapped files, and the weights' digest. Raises ModelError."""
    checkpoint = Checkpoint(folder)
    elements = checkpoint.elements()
    stored = any(name.endswith(HEAD_WEIGHT) for name in checkpoint.names())
    if config.tie_word_embeddings and not stored:
        # Packed, the head is a copy; transformers unties one that is stored and differs.
        elements += config.vocab_size * config.hidden_size
    refuse_weights_beyond_memory(elements * dtype.itemsize)
    mapped, digest = {}, WeightsDigest()
    read, total = 0, max(1, checkpoint.total_bytes)
    progress("Weights", 0.0)
    for name, tensor in checkpoint.tensors():
        mapped[name] = as_torch(tensor)
        digest.add(name, tensor)
        read += tensor.nbytes
        progress("Weights", min(1.0, read / total))
    disable_progress_bar()
    try:
        # From tensors, not from the folder: whatever else lies there is of no concern.
        module, info = model_class.from_pretrained(
            None,
            config=config,
            state_dict=mapped,
            dtype=dtype,
            attn_implementation=NAME,
            output_loading_info=True,
        )
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{folder}: the weights do not fit the architecture: {error}") from error
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        if found := sorted(map(str, info[kind])):
            raise ModelError(
                f"{folder}: the weights do not fit the architecture: {len(found)}"
                f" {kind.replace('_', ' ')}, the first is {found[0]}"
            )
    return module.requires_grad_(False).eval(), str(digest)
