"""Which tensors a Llama-family model has, by its config. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass

from ..quantization.scheme import HEAD, Quantization, Scheme
from .config import LlamaConfig
from .design import Norms
from .experts import Experts

HEAD_WEIGHT = f"{HEAD}.weight"
EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """One of our projections; in checkpoints it is one or several."""

    module: str  # layers.0.self_attn.qkv_proj
    inputs: int
    bias: bool
    parts: dict[str, int]  # names in checkpoints, and the outputs of each in our order
    is_router: bool = False  # it keeps 16 bits: all that comes after it depends on its choice
    stack: str | None = None  # the experts that it belongs to, as transformers names all of a layer

    @property
    def outputs(self) -> int:
        """Of all parts."""
        return sum(self.parts.values())

    def scheme_of(self, part: str, quantization: Quantization) -> Scheme | None:
        """What one of the parts is rounded to; None: it stays as it is."""
        if self.is_router:
            return None
        return quantization.scheme_of(part, self.inputs, self.stack)


def projections(config: LlamaConfig) -> Iterator[Projection]:
    """All of them, the head last."""
    hidden, inner = config.hidden_size, config.intermediate_size
    query, key = config.heads * config.head_dim, config.kv_heads * config.head_dim
    qkv = {"q_proj": query, "k_proj": key, "v_proj": key}
    gate_up = {"gate_proj": inner, "up_proj": inner}
    if config.design.fused:
        qkv, gate_up = {"qkv_proj": query + 2 * key}, {"gate_up_proj": 2 * inner}
    kinds = (
        ("self_attn.qkv_proj", hidden, config.qkv_bias, qkv),
        ("self_attn.o_proj", query, config.output_bias, {"o_proj": hidden}),
    )
    network = (
        ("mlp.gate_up_proj", hidden, config.mlp_bias, gate_up),
        ("mlp.down_proj", inner, config.mlp_bias, {"down_proj": hidden}),
    )
    for layer in range(config.layers):
        has_experts = config.experts is not None and config.experts.layers[layer]
        for kind, inputs, bias, parts in kinds if has_experts else (*kinds, *network):
            module = f"layers.{layer}.{kind}"
            parent = f"model.{module.rpartition('.')[0]}"
            named = {f"{parent}.{part}": outputs for part, outputs in parts.items()}
            yield Projection(module=module, inputs=inputs, bias=bias, parts=named)
        if config.experts is not None and has_experts:
            yield from _experts(config.experts, hidden, f"layers.{layer}.mlp")
    yield Projection(module=HEAD, inputs=hidden, bias=False, parts={HEAD: config.vocab_size})


def _experts(experts: Experts, hidden: int, name: str) -> Iterator[Projection]:
    """The router first; a shared expert, and its gate, last."""
    stack = f"model.{name}.experts"
    routed = {f"model.{name}.gate": experts.count}
    networks = {f"{name}.experts.{i}": experts.inner for i in range(experts.count)}
    if experts.shared_inner is not None:
        routed[f"model.{name}.shared_expert_gate"] = 1
        networks[f"{name}.shared_expert"] = experts.shared_inner
    yield Projection(
        module=f"{name}.router", inputs=hidden, bias=False, parts=routed, is_router=True
    )
    for network, inner in networks.items():
        for module, inputs, parts in (
            ("gate_up_proj", hidden, {"gate_proj": inner, "up_proj": inner}),
            ("down_proj", inner, {"down_proj": hidden}),
        ):
            yield Projection(
                module=f"{network}.{module}",
                inputs=inputs,
                bias=False,
                parts={f"model.{network}.{part}": outputs for part, outputs in parts.items()},
                stack=stack if network.startswith(f"{name}.experts.") else None,
            )


def parts_of(config: LlamaConfig, module: str) -> dict[str, int]:
    """Of one of our projections: names in checkpoints, and the outputs of each in our order."""
    return next(p.parts for p in projections(config) if p.module == module)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerNorms:
    """Names of a layer's norms in checkpoints, by where they stand; None: there is none."""

    input: str | None  # before attention
    output: str | None  # after its output projection
    network: str | None  # before the network
    down: str | None  # after its last projection


_NORMS = {
    Norms.BEFORE: LayerNorms(
        input="input_layernorm", output=None, network="post_attention_layernorm", down=None
    ),
    Norms.AFTER: LayerNorms(
        input=None,
        output="post_attention_layernorm",
        network=None,
        down="post_feedforward_layernorm",
    ),
    Norms.BOTH: LayerNorms(
        input="input_layernorm",
        output="post_attention_layernorm",
        network="pre_feedforward_layernorm",
        down="post_feedforward_layernorm",
    ),
}


def layer_norms(config: LlamaConfig) -> LayerNorms:
    """The same in all layers."""
    return _NORMS[config.design.norms]


def plain_shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """What is no projection, by its name in checkpoints."""
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocab_size, config.hidden_size)}
    norms = [norm for norm in astuple(layer_norms(config)) if norm is not None]
    if not config.design.norm_weights:
        return shapes
    whole = config.design.whole_qk_norm
    query, key = (heads if whole else 1 for heads in (config.heads, config.kv_heads))
    for layer in range(config.layers):
        name = f"model.layers.{layer}"
        for norm in norms:
            shapes[f"{name}.{norm}.weight"] = (config.hidden_size,)
        if config.qk_norm:
            shapes[f"{name}.self_attn.q_norm.weight"] = (query * config.head_dim,)
            shapes[f"{name}.self_attn.k_norm.weight"] = (key * config.head_dim,)
    shapes[FINAL_NORM] = (config.hidden_size,)
    return shapes


def canonical_name(name: str) -> str:
    """As transformers: names of a base model's checkpoint lack "model.", some heads' have it."""
    if name.startswith(("layers.", "embed_tokens.", "norm.")):
        return f"model.{name}"
    return name.removeprefix("model.") if name.startswith(f"model.{HEAD}.") else name
