"""How a model computes, by the row of its family and its config.json. Imports no torch."""

from __future__ import annotations

import math

import numpy as np

from ..errors import NotOurModulesError
from .config_fields import Fields
from .design import ACTIVATIONS, Activation, Design
from .families import Family, QKNorm
from .rope_config import Rope


def read_design(
    family: Family, fields: Fields, *, ropes: tuple[Rope | None, ...], rotary_dim: int | None
) -> Design:
    """Raises NotOurModulesError and ModelError."""
    for name in family.unless:
        if fields.raw.get(name):
            raise NotOurModulesError(f"config.json: {name} is {fields.raw[name]!r}; ours lack it")
    return Design(
        activation=_activation(family, fields),
        norms=family.norms,
        norm_offset=family.norm_offset,
        norm_weights=family.norm_weights,
        centered_norms=family.centered_norms,
        whole_qk_norm=family.qk_norm is QKNorm.WHOLE,
        fused=family.fused,
        embedding_scale=_embedding_scale(family, fields),
        residual_scale=_scale(family.residual_scale, fields),
        attention_scale=_attention_scale(family, fields),
        attention_softcap=_softcap(family.attention_softcap, fields),
        logit_scale=1 / _scale(family.logit_divisor, fields),
        logit_softcap=_softcap(family.logit_softcap, fields),
        ropes=ropes,
        rotary_dim=rotary_dim,
        recomputes=family.ropes.recomputes,
    )


def _activation(family: Family, fields: Fields) -> Activation:
    name = fields.raw.get(family.activation, family.activation_default)
    if isinstance(name, str):
        name = family.activations.get(name, name)
        if name in ACTIVATIONS:
            return ACTIVATIONS[name]
    raise NotOurModulesError(
        f"config.json: {family.activation} is {name!r}; ours are {', '.join(ACTIVATIONS)}"
    )


def _embedding_scale(family: Family, fields: Fields) -> float:
    if not family.root_embeddings:
        return _scale(family.embedding_scale, fields)
    # As transformers multiplies in bfloat16: with a root that is rounded to it.
    root = np.float32(math.sqrt(fields.integer("hidden_size")))
    bits = int(root.view(np.uint32))
    rounded = np.uint32((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000)
    return float(rounded.view(np.float32))


def _scale(name: str | None, fields: Fields) -> float:
    return 1.0 if name is None else fields.number(name, 1.0)


def _attention_scale(family: Family, fields: Fields) -> float | None:
    if family.attention_scale is not None:
        return fields.number(family.attention_scale, 1.0)
    if family.query_scalar is not None:
        return 1 / math.sqrt(fields.number(*family.query_scalar))
    return None


def _softcap(named: tuple[str, float | None] | None, fields: Fields) -> float | None:
    """Nothing is a default, null is none."""
    if named is None or fields.raw.get(*named) is None:
        return None
    return fields.number(*named)
