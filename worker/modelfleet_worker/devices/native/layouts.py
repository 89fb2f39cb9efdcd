"""How the C++ of this folder lays out what it is given."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_double, c_int64, c_uint64, c_void_p


class LinearStruct(ctypes.Structure):
    """As in projections.h."""

    _fields_ = (
        *((name, c_void_p) for name in ("codes", "scales", "zeros", "bias")),
        *((name, c_int64) for name in ("bits", "group", "outputs", "inputs")),
    )


class ExpertStruct(ctypes.Structure):
    """As in experts.h."""

    _fields_ = (("gate_up", LinearStruct), ("down", LinearStruct))


class ExpertsStruct(ctypes.Structure):
    """As in experts.h."""

    _fields_ = (
        ("router", LinearStruct),
        ("expert", c_void_p),
        *((name, c_int64) for name in ("count", "chosen", "shared", "normalized", "rounded")),
    )


class LayerStruct(ctypes.Structure):
    """As in forward.cpp."""

    _fields_ = (
        *(
            (name, c_void_p)
            for name in (
                *("input_norm", "output_norm", "network_norm", "down_norm"),
                *("query_norm", "key_norm"),
            )
        ),
        *((name, LinearStruct) for name in ("qkv", "output", "gate_up", "down")),
        ("window", c_int64),
        *((name, c_void_p) for name in ("cosines", "sines")),
        ("experts", c_void_p),
    )


class ModelStruct(ctypes.Structure):
    """As in forward.cpp."""

    _fields_ = (
        *(
            (name, c_int64)
            for name in (
                *("layers", "hidden", "heads", "kv_heads", "head_dim", "inner", "vocab", "blocks"),
                *("rotary", "activation", "whole_qk_norm", "centered"),
            )
        ),
        *(
            (name, c_double)
            for name in (
                *("eps", "norm_offset", "embedding_scale", "residual_scale"),
                *("attention_scale", "attention_cap", "logit_scale", "logit_cap"),
            )
        ),
        *((name, c_void_p) for name in ("embeddings", "norm")),
        ("layer", POINTER(LayerStruct)),
        ("head", LinearStruct),
        ("cache", c_void_p),
        ("cache_scales", c_void_p),
    )


class PartStruct(ctypes.Structure):
    """As in packing.cpp."""

    _fields_ = (("rows", c_void_p), ("outputs", c_int64), ("type", c_int64))


class PackingStruct(ctypes.Structure):
    """As in packing.cpp."""

    _fields_ = (
        ("parts", POINTER(PartStruct)),
        *(
            (name, c_int64)
            for name in ("num_parts", "bits", "group", "inputs", "outputs", "symmetric")
        ),
        *((name, c_void_p) for name in ("codes", "scales", "zeros")),
    )


class DrawStruct(ctypes.Structure):
    """As in sampling.h."""

    _fields_ = (
        *(
            (name, c_double)
            for name in (
                *("temperature", "top_p", "min_p"),
                *("repetition_penalty", "presence_penalty", "frequency_penalty"),
            )
        ),
        *((name, c_uint64) for name in ("seed", "choice", "position")),
        *((name, c_int64) for name in ("top_k", "num_biased", "num_tokens", "num_prompt_tokens")),
        *((name, c_void_p) for name in ("bias_ids", "bias", "token_ids", "allowed")),
    )


class BatchStruct(ctypes.Structure):
    """As in forward.cpp."""

    _fields_ = (
        *((name, c_int64) for name in ("tokens", "sequences", "sampled")),
        *(
            (name, c_void_p)
            for name in (
                *("ids", "positions", "owners", "firsts", "table_starts", "tables", "rows"),
                *("draws", "last_drawn", "logits", "drawn", "cosines", "sines", "choices"),
            )
        ),
        ("masked", c_int64),
    )


class MatrixStruct(ctypes.Structure):
    """As in encoder.cpp."""

    _fields_ = (
        *((name, c_void_p) for name in ("floats", "half", "rest", "bias")),
        *((name, c_int64) for name in ("outputs", "inputs")),
    )


class AffineNormStruct(ctypes.Structure):
    """As in encoder.cpp."""

    _fields_ = (("weight", c_void_p), ("bias", c_void_p))


class EncoderLayerStruct(ctypes.Structure):
    """As in encoder.cpp."""

    _fields_ = (
        *((name, MatrixStruct) for name in ("qkv", "output", "up", "down")),
        *((name, AffineNormStruct) for name in ("attention_norm", "network_norm")),
    )


class EncoderStruct(ctypes.Structure):
    """EncoderModel in encoder.cpp."""

    _fields_ = (
        *(
            (name, c_int64)
            for name in (
                *("layers", "hidden", "heads", "inner"),
                *("arithmetic", "function", "pooling", "normalize"),
            )
        ),
        ("eps", c_double),
        *((name, c_void_p) for name in ("words", "positions")),
        ("norm", AffineNormStruct),
        ("layer", POINTER(EncoderLayerStruct)),
    )


class EncoderBatchStruct(ctypes.Structure):
    """As in encoder.cpp."""

    _fields_ = (
        *((name, c_int64) for name in ("tokens", "sequences")),
        *((name, c_void_p) for name in ("ids", "firsts", "vectors")),
    )
