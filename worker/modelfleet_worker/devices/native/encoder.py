"""The encoder of the compiled step: sequences become one flat batch and one call."""

from __future__ import annotations

import ctypes
import enum
import itertools
import weakref
from array import array
from collections.abc import Sequence

import numpy as np
from typing_extensions import override

from ...engine.embedding import Encoder, Ids, Vector
from ...models.encoder import EncoderConfig
from ...models.encoder_weights import Affine, Array, EncoderLayer, EncoderWeights
from ...models.float_type import FloatType
from . import layouts, library
from .library import CompiledStep
from .pages import aligned

_STEP = 32  # widths are whole steps of it


class Arithmetic(enum.IntEnum):
    """How projections multiply. As in encoder.cpp, which says what each is."""

    FLOATS = 0
    SPLIT = 1
    HALF = 2


def takes_encoder(config: EncoderConfig) -> bool:
    """Whether encoders of this shape can be computed here."""
    widths = (config.hidden_size, config.head_dim, config.intermediate_size)
    return not any(width % _STEP for width in widths) and library.compiled_step() is not None


def fastest_arithmetic(dtype: FloatType, step: CompiledStep) -> Arithmetic:
    """With tiles; bfloat16 is what float32 is rounded to where a type of 16 bits was asked for."""
    if not step.library.modelfleet_has_tiles():
        return Arithmetic.FLOATS
    return Arithmetic.SPLIT if dtype is FloatType.FLOAT32 else Arithmetic.HALF


class NativeEncoder(Encoder):
    """Owns the model. A vector is the same, bit for bit, whatever else is in the batch."""

    def __init__(
        self,
        config: EncoderConfig,
        weights: EncoderWeights,
        *,
        step: CompiledStep,
        arithmetic: Arithmetic,
        threads: int,
    ) -> None:
        self._library, self._hidden = step.library, config.hidden_size
        self._arithmetic = arithmetic
        # What the structures point to lives as long as they do.
        self._kept: list[Array] = []
        layers = (layouts.EncoderLayerStruct * len(weights.layers))(
            *(self._layer(layer) for layer in weights.layers)
        )
        model = layouts.EncoderStruct(
            layers=config.layers,
            hidden=config.hidden_size,
            heads=config.heads,
            inner=config.intermediate_size,
            arithmetic=arithmetic,
            function=config.function,
            pooling=config.pooling,
            normalize=config.normalize,
            eps=config.norm_eps,
            words=self._address(weights.words),
            positions=self._address(weights.positions),
            norm=self._norm(weights.norm),
            layer=layers,
        )
        self._layers = layers
        self._encoder = self._library.modelfleet_encoder_start(ctypes.byref(model), threads)
        weakref.finalize(self, self._library.modelfleet_encoder_stop, self._encoder)

    @override
    def encode(self, sequences: Sequence[Ids]) -> list[Vector]:
        ids = array("q", itertools.chain.from_iterable(sequences))
        firsts = array("q", itertools.accumulate(map(len, sequences), initial=0))
        vectors = np.empty((len(sequences), self._hidden), "<f4")
        batch = layouts.EncoderBatchStruct(
            len(ids),
            len(sequences),
            ids.buffer_info()[0],
            firsts.buffer_info()[0],
            vectors.ctypes.data,
        )
        self._library.modelfleet_encoder_encode(self._encoder, ctypes.byref(batch))
        return [row.tobytes() for row in vectors]

    def _layer(self, layer: EncoderLayer) -> layouts.EncoderLayerStruct:
        parts = (layer.query, layer.key, layer.value)
        qkv = Affine(
            np.concatenate([part.weight for part in parts]),
            np.concatenate([part.bias for part in parts]),
        )
        return layouts.EncoderLayerStruct(
            qkv=self._matrix(qkv),
            output=self._matrix(layer.output),
            up=self._matrix(layer.up),
            down=self._matrix(layer.down),
            attention_norm=self._norm(layer.attention_norm),
            network_norm=self._norm(layer.network_norm),
        )

    def _matrix(self, affine: Affine) -> layouts.MatrixStruct:
        rows = np.ascontiguousarray(affine.weight, np.float32)
        outputs, inputs = rows.shape
        floats = half = rest = None
        if self._arithmetic is Arithmetic.FLOATS:
            floats = aligned(rows.size, np.float32)
        else:
            half = aligned(rows.size, np.uint16)
        if self._arithmetic is Arithmetic.SPLIT:
            rest = aligned(rows.size, np.uint16)
        addresses = [
            None if packed is None else self._address(packed) for packed in (floats, half, rest)
        ]
        self._library.modelfleet_encoder_pack(rows.ctypes.data, outputs, inputs, *addresses)
        return layouts.MatrixStruct(*addresses, self._address(affine.bias), outputs, inputs)

    def _norm(self, norm: Affine) -> layouts.AffineNormStruct:
        return layouts.AffineNormStruct(self._address(norm.weight), self._address(norm.bias))

    def _address(self, values: Array) -> int:
        if not values.flags.c_contiguous:
            raise ValueError("an encoder's numbers are expected to lie one after another")
        self._kept.append(values)
        return int(values.ctypes.data)
