"""The runner of the compiled step: a step's chunks become one flat batch and one call."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ..engine.device import SampledToken
from ..engine.sampler import Draw, logprobs_of
from ..engine.scheduler import BLOCK_SIZE, Chunk
from ..engine.sequence import Sequence as EngineSequence
from ..models.config import LlamaConfig
from ..models.linear import Linear, QuantizedLinear
from ..models.llama import Layer, Llama, rope_angles
from ..quantization.scheme import KVFormat
from . import library
from .linear import NativeLinear

_STEP = 32  # widths are whole steps of it
_AS_THEY_ARE = (
    *("temperature", "top_k", "top_p", "min_p", "seed", "choice"),
    *("repetition_penalty", "presence_penalty", "frequency_penalty"),
)

Ints = np.ndarray[tuple[int], np.dtype[np.int64]]


def takes(config: LlamaConfig, dtype: torch.dtype) -> bool:
    """Whether models of this shape can be computed here, if their weights are packed for it."""
    widths = (config.hidden_size, config.intermediate_size, config.head_dim)
    return dtype == torch.bfloat16 and not any(w % _STEP for w in widths) and library.has_bfloat16()


class NativeRunner:
    """Owns the model and its cache; decides nothing about who runs.

    Every logit of a request is the same, bit for bit, whatever else is in the batch and however
    its prompt was cut into chunks.
    """

    def __init__(
        self,
        model: Llama,
        *,
        num_blocks: int,
        context_length: int,
        threads: int,
        kv_cache: KVFormat = KVFormat.AUTO,
    ) -> None:
        loaded = library.load_library()
        if loaded is None:
            raise RuntimeError("there is no library: ask `takes` first")
        config = model.config
        self.num_blocks = num_blocks
        self.model = model
        self._vocab = config.vocab_size
        angles = rope_angles(config, context_length)
        # Numpy leaves the zeros to the system: pages are taken when written.
        vectors = 2 * config.layers * num_blocks * BLOCK_SIZE * config.kv_heads
        is_int8 = kv_cache is KVFormat.INT8
        self.cache = np.zeros(vectors * config.head_dim, np.int8 if is_int8 else np.uint16)
        self._scales = np.zeros(vectors, np.float32) if is_int8 else None
        # What the structures point to lives as long as they do.
        self._kept = (cosines := angles.cos(), sines := angles.sin())
        layers = [_layer(cast("Layer", layer)) for layer in model.layers]
        self._layers = (library.Layer * len(layers))(*layers)
        shape = library.Model(
            layers=config.layers,
            hidden=config.hidden_size,
            heads=config.heads,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            inner=config.intermediate_size,
            vocab=config.vocab_size,
            blocks=num_blocks,
            eps=config.norm_eps,
            embeddings=model.embed_tokens.weight.data_ptr(),
            norm=model.norm.weight.data_ptr(),
            cosines=cosines.data_ptr(),
            sines=sines.data_ptr(),
            layer=self._layers,
            head=_struct(model.lm_head),
            cache=self.cache.ctypes.data,
            cache_scales=None if self._scales is None else self._scales.ctypes.data,
        )
        self._stepper = loaded.modelfleet_start(ctypes.byref(shape), threads)
        self._library, self._steps = loaded, 0
        self._last, self._last_rows = np.empty(0, np.int64), dict[EngineSequence, int]()
        weakref.finalize(self, loaded.modelfleet_stop, self._stepper)

    @staticmethod
    def takes(model: Llama) -> bool:
        """Whether it is of a shape that is computed here, with packed weights throughout."""
        dtype = model.norm.weight.dtype
        projections = [m for m in model.modules() if isinstance(m, (Linear, QuantizedLinear))]
        expected = 4 * model.config.layers + 1  # less: some are split into formats of their own
        return (
            takes(model.config, dtype)
            and len(projections) == expected
            and all(_native(module) is not None for module in projections)
        )

    def execute(self, chunks: Sequence[Chunk]) -> list[SampledToken]:
        """Computes the chunks; returns one token for each that samples, in their order."""
        return self.launch(chunks).result()

    def launch(self, chunks: Sequence[Chunk]) -> Launched:
        """Computes the chunks after those launched before, of which one step may be unread."""
        return self._launch(chunks, [Draw.of(chunk) for chunk in chunks if chunk.samples])

    def logits(self, chunks: Sequence[Chunk], *, everywhere: bool = False) -> Tensor:
        """Float32 logits [R, vocab] of the chunks that sample; of all tokens if `everywhere`."""
        step = self._launch(chunks, (), everywhere=everywhere)
        step.wait()
        return step.logits

    def _launch(
        self, chunks: Sequence[Chunk], draws: Sequence[Draw], *, everywhere: bool = False
    ) -> Launched:
        lengths = np.array([len(chunk) for chunk in chunks])
        firsts = np.concatenate(([0], lengths.cumsum()))
        blocks = [-(-chunk.end // BLOCK_SIZE) for chunk in chunks]
        rows = np.array([firsts[i + 1] - 1 for i, chunk in enumerate(chunks) if chunk.samples], int)
        if everywhere:
            rows = np.arange(firsts[-1])
        logits, drawn = torch.empty(len(rows), self._vocab), np.empty(len(rows), np.int64)
        sampling = [chunk for chunk in chunks if chunk.samples]
        drawing, kept = _structs(draws, [self._pending(c) for c in sampling[: len(draws)]])
        arrays = {
            "ids": _flat(self._ids(chunk) for chunk in chunks),
            "positions": _flat(range(c.start, c.end) for c in chunks),
            "owners": np.repeat(np.arange(len(chunks)), lengths),
            "firsts": firsts,
            "table_starts": np.concatenate(([0], np.cumsum(blocks[:-1], dtype=np.int64))),
            "tables": _flat(
                c.sequence.block_table[:n] for c, n in zip(chunks, blocks, strict=True)
            ),
            "rows": rows,
            "drawn": drawn,
        }
        batch = library.Batch(
            tokens=int(firsts[-1]),
            sequences=len(chunks),
            sampled=len(rows),
            draws=ctypes.addressof(drawing) if drawing else None,
            last_drawn=self._last.ctypes.data,
            logits=logits.data_ptr(),
            **{name: array.ctypes.data for name, array in arrays.items()},
        )
        self._library.modelfleet_launch(self._stepper, ctypes.byref(batch))
        self._steps += 1
        step = Launched(
            wait=partial(self._library.modelfleet_wait, self._stepper, self._steps),
            logits=logits,
            drawn=drawn,
            draws=draws,
            kept=(arrays, drawing, kept, self._last),
        )
        self._last = drawn
        self._last_rows = {chunk.sequence: row for row, chunk in enumerate(sampling)}
        return step

    def _ids(self, chunk: Chunk) -> list[int]:
        """Its tokens; one that the last step draws is -1 - the row there."""
        return [*chunk.sequence.token_ids[chunk.start : chunk.end], *self._pending(chunk)]

    def _pending(self, chunk: Chunk) -> list[int]:
        """What stands for the chunk's last token if that is still to be drawn by the last step."""
        sequence = chunk.sequence
        return [] if chunk.end <= len(sequence.token_ids) else [-1 - self._last_rows[sequence]]


@dataclass(frozen=True, slots=True)
class Launched:
    """A step that was launched, and all that it reads and writes."""

    wait: Callable[[], None]
    logits: Tensor  # [R, vocab]
    drawn: Ints  # [R]
    draws: Sequence[Draw]
    kept: object

    def result(self) -> list[SampledToken]:
        """Waits for it: one token for each chunk that samples, in their order."""
        self.wait()
        return [
            SampledToken(id_, logprobs_of(self.logits[row], id_, draw.params.logprobs))
            for row, (id_, draw) in enumerate(zip(self.drawn.tolist(), self.draws, strict=True))
        ]


def _structs(
    draws: Sequence[Draw], pending: Sequence[list[int]]
) -> tuple[ctypes.Array[library.Draw] | None, list[object]]:
    """None if the likeliest tokens are asked for; and what must live as long as the structures."""
    if not any(draw.params.temperature > 0 or draw.params.shifts_logits for draw in draws):
        return None, []
    kept: list[object] = []
    structs = (library.Draw * len(draws))()
    for struct, draw, after in zip(structs, draws, pending, strict=True):
        params = draw.params
        for name in _AS_THEY_ARE:
            setattr(struct, name, getattr(params, name))
        struct.position = draw.position
        if params.logit_bias:
            ids, bias = zip(*params.logit_bias, strict=True)
            arrays = np.array(ids, np.int64), np.array(bias, np.float64)
            struct.biased = len(ids)
            struct.bias_ids, struct.bias = (array.ctypes.data for array in arrays)
            kept.append(arrays)
        if params.penalizes:
            known = np.array([*draw.known_ids, *after], np.int64)
            struct.known, struct.prompt = len(known), len(known) - draw.position
            struct.known_ids = known.ctypes.data
            kept.append(known)
    return structs, kept


def _flat(parts: Iterable[Iterable[int]]) -> Ints:
    return np.fromiter(chain.from_iterable(parts), np.int64)


def _layer(layer: Layer) -> library.Layer:
    attention, mlp = layer.self_attn, layer.mlp
    norms = {
        "input_norm": layer.input_layernorm,
        "post_norm": layer.post_attention_layernorm,
        "query_norm": getattr(attention, "q_norm", None),
        "key_norm": getattr(attention, "k_norm", None),
    }
    return library.Layer(
        **{name: None if norm is None else norm.weight.data_ptr() for name, norm in norms.items()},
        qkv=_struct(attention.qkv_proj),
        output=_struct(attention.o_proj),
        gate_up=_struct(mlp.gate_up_proj),
        down=_struct(mlp.down_proj),
    )


def _native(module: Linear | QuantizedLinear) -> NativeLinear | None:
    """Its packed weight, if it is ours and takes inputs as they come."""
    kernel = module.kernel
    return kernel if isinstance(kernel, NativeLinear) and kernel.order is None else None


def _struct(module: Linear | QuantizedLinear) -> library.Linear:
    kernel = _native(module)
    if kernel is None:
        raise TypeError("not packed for the compiled step: ask `takes` first")
    struct = library.Linear.from_buffer_copy(kernel.struct)
    struct.bias = None if module.bias is None else module.bias.data_ptr()
    return struct
