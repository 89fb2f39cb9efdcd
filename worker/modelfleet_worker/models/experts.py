"""What config.json says about the experts of a model. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ModelError, NotOurModulesError
from .config_fields import Fields

MOST_CHOSEN = 64  # by one token: what the compiled step has room for
_MOST = 2**16  # experts of all layers together, far beyond any model there is
_COUNTS = ("num_experts", "num_local_experts")  # one of them, by the family and the version


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertRules:
    """How a family has experts: fields of config.json, and what they are where it has none."""

    count: int
    chosen: int
    inner_field: str
    inner: int
    shared_inner: int | None = None  # None: there is no shared expert
    normalized: bool | None = None  # None: norm_topk_prob says it
    dense_layers: bool = False  # some may have none: mlp_only_layers, decoder_sparse_step
    always: tuple[str, ...] = ()  # flags: if one is off, only transformers computes it


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """Gated networks of which each token takes some, by a softmax over what a router says."""

    count: int  # of a layer
    chosen: int  # by each token
    inner: int
    shared_inner: int | None  # of one more that every token takes, by a gate of its own
    normalized: bool  # the weights of the chosen ones sum to 1; else those of all do
    layers: tuple[bool, ...]  # whether each has experts; else it has one network, as others do

    @property
    def taken_inner(self) -> int:
        """Of all experts that a token is sent to."""
        return self.chosen * self.inner + (self.shared_inner or 0)


MIXTRAL = ExpertRules(
    count=8, chosen=2, inner_field="intermediate_size", inner=14336, normalized=True
)
QWEN2_MOE = ExpertRules(
    count=60,
    chosen=4,
    inner_field="moe_intermediate_size",
    inner=1408,
    shared_inner=5632,
    dense_layers=True,
    always=("qkv_bias",),
)
QWEN3_MOE = ExpertRules(
    count=128, chosen=8, inner_field="moe_intermediate_size", inner=768, dense_layers=True
)
OLMOE = ExpertRules(count=64, chosen=8, inner_field="intermediate_size", inner=2048)
# The softmax of the chosen logits alone is the same as that of all, normalized.
GRANITE_MOE = ExpertRules(
    count=8, chosen=2, inner_field="intermediate_size", inner=11008, normalized=True
)


def parse_experts(rules: ExpertRules, fields: Fields, layers: int) -> Experts | None:
    """None: no layer has any. Raises NotOurModulesError for what is not computed here."""
    if off := [name for name in rules.always if not fields.flag(name, default=True)]:
        raise NotOurModulesError(f"config.json: {off[0]} is off; ours is on")
    having = _layers(fields, layers) if rules.dense_layers else (True,) * layers
    if not any(having):
        return None
    count = _count(rules, fields)
    chosen = fields.integer("num_experts_per_tok", rules.chosen)
    if chosen > min(count, MOST_CHOSEN):
        raise NotOurModulesError(f"config.json: {chosen} of {count} experts at once are not ours")
    if count * layers > _MOST:
        raise NotOurModulesError(f"config.json: {count} experts in {layers} layers are not ours")
    shared = rules.shared_inner
    if shared is not None:
        shared = fields.integer("shared_expert_intermediate_size", shared)
    normalized = rules.normalized
    if normalized is None:
        normalized = fields.flag("norm_topk_prob", default=False)
    return Experts(
        count=count,
        chosen=chosen,
        inner=fields.integer(rules.inner_field, rules.inner),
        shared_inner=shared,
        normalized=normalized,
        layers=having,
    )


def _count(rules: ExpertRules, fields: Fields) -> int:
    said = {fields.integer(name) for name in _COUNTS if fields.raw.get(name) is not None}
    if len(said) > 1:
        raise NotOurModulesError(f"config.json: {' and '.join(_COUNTS)} differ")
    return said.pop() if said else rules.count


def _layers(fields: Fields, layers: int) -> tuple[bool, ...]:
    if any(fields.raw.get(name) == 0 for name in _COUNTS):
        return (False,) * layers
    step = fields.integer("decoder_sparse_step", 1)
    dense = fields.raw.get("mlp_only_layers") or []
    if not isinstance(dense, list) or not all(type(layer) is int for layer in dense):
        raise ModelError(f"config.json: mlp_only_layers is {dense!r}: a list of layers is expected")
    return tuple(i not in dense and (i + 1) % step == 0 for i in range(layers))
