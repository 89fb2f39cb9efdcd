"""The runner of the compiled step: a step's chunks become one flat batch and one call."""

from __future__ import annotations

import ctypes
import itertools
import weakref
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from typing_extensions import override

from ...engine.device import MAX_STEPS_IN_FLIGHT, Runner, SampledToken
from ...engine.request import ContextVariants, SamplingParams
from ...engine.request import Sequence as EngineSequence
from ...engine.scheduler import BLOCK_SIZE, Chunk
from ...models.config import LlamaConfig
from ...models.float_type import FloatType
from ...models.rope_config import context_variants
from ...models.rope_factors import rope_factors_by_length
from ...quantization.scheme import KVFormat
from ..masks import MaskRows
from . import layouts, library
from .logprobs import logprobs_of
from .model import NativeModel
from .packed import Array
from .pages import Pages, weights_onto_large_pages, zeros

Logits = np.ndarray[Any, np.dtype[np.float32]]

_STEP = 32  # widths are whole steps of it
_PREPARED = 256 << 20  # bytes of the cache
_NOTHING = object()
_AS_THEY_ARE = (
    *("temperature", "top_k", "top_p", "min_p", "seed", "choice"),
    *("repetition_penalty", "presence_penalty", "frequency_penalty"),
)


def takes(config: LlamaConfig, dtype: FloatType) -> bool:
    """Whether models of this shape can be computed here, if their weights are packed for it."""
    widths = (config.hidden_size, config.head_dim, config.rope.dim, *config.inner_sizes)
    fits = dtype is FloatType.BFLOAT16 and not any(w % _STEP for w in widths)
    return fits and library.load_library() is not None


class NativeRunner(Runner):
    """Owns the model and its cache; computes the chunks that the scheduler chose.

    Every logit of a request is the same, bit for bit, whatever else is in the batch and however
    its prompt was cut into chunks.
    """

    def __init__(
        self,
        model: NativeModel,
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
        vectors = 2 * config.layers * num_blocks * BLOCK_SIZE * config.kv_heads
        is_int8 = kv_cache is KVFormat.INT8
        self.cache = zeros(vectors * config.head_dim, np.int8 if is_int8 else np.uint16)
        self._scales = zeros(vectors, np.float32) if is_int8 else None
        self.variants = context_variants(
            config.rope_scaling, context_length, recomputes=config.design.recomputes
        )
        # Of rope by the length of sequences there is no table: each step has its own.
        self.max_steps_in_flight = MAX_STEPS_IN_FLIGHT if self.variants is None else 0
        tabled = context_length if self.variants is None else 1
        # What the structure points to lives as long as it does.
        shape, self._kept = model.struct(num_blocks, tabled, self.cache, self._scales)
        self._pages = Pages(self.cache, config.layers)
        self._moving_weights = weights_onto_large_pages()
        self._stepper = loaded.modelfleet_start(ctypes.byref(shape), threads)
        self._library, self._steps = loaded, 0
        self._last, self._last_rows = array("q"), dict[EngineSequence, int]()
        self._logits = [_Logits.of(0, self._vocab), _Logits.of(0, self._vocab)]
        self._masks = [MaskRows.of(0, self._vocab), MaskRows.of(0, self._vocab)]
        self._masked_steps = 0
        weakref.finalize(self, loaded.modelfleet_stop, self._stepper)

    @override
    def launch(self, chunks: Sequence[Chunk]) -> NativeStep:
        """Computes the chunks after those of the steps in flight; returns at once."""
        sampling = [chunk for chunk in chunks if chunk.samples]
        samplings = [chunk.sequence.request.sampling for chunk in sampling]
        drawing, kept = None, list[object]()
        constrained = [chunk for chunk in sampling if chunk.is_constrained]
        masks = self._masks_of(len(constrained)) if constrained else None
        if masks or any(params.temperature > 0 or params.shifts_logits for params in samplings):
            drawing, kept = _draw_structs([(c, self._pending(c)) for c in sampling], masks)
        rows = _sampled(chunks)
        logits = self._logits_of(len(rows))
        drawn, read = self._launch(chunks, rows, logits, drawing, is_masked=bool(masks))
        step = NativeStep(
            wait=partial(self._library.modelfleet_wait, self._stepper, self._steps),
            logits=logits.values,
            drawn=drawn,
            samplings=samplings,
            kept=(read, drawing, kept, self._last),
            masking=None if masks is None else _Masking(masks, constrained, self._supply),
        )
        self._last = drawn
        self._last_rows = {chunk.sequence: row for row, chunk in enumerate(sampling)}
        return step

    @override
    def prepare(self, used: int) -> bool:
        """Takes pages of the cache from the system: some for more blocks than the `used` ones.

        A large page takes 0.2 ms to clear, on a virtual machine whose host has to find it first
        2.7 ms: 6 % of the time of 16 requests that are the first to come this far. Not all pages:
        the memory of a worker with few requests should show what it uses, not what it may use.
        Then weights move onto large pages, from which a step of one sequence reads them in 0.88 of
        the time: fewer addresses are looked up, and the processor reads ahead farther.
        """
        if self._pages.take(self.cache.nbytes // self.num_blocks * used + _PREPARED):
            return True
        return next(self._moving_weights, _NOTHING) is not _NOTHING

    def logits(self, chunks: Sequence[Chunk], *, everywhere: bool = False) -> Logits:
        """Float32 logits [R, vocab] of the chunks that sample; of all tokens if `everywhere`."""
        num_tokens = sum(chunk.num_scheduled_tokens for chunk in chunks)
        rows = list(range(num_tokens)) if everywhere else _sampled(chunks)
        logits = _Logits.of(len(rows), self._vocab)
        kept = self._launch(chunks, rows, logits, None)
        self._library.modelfleet_wait(self._stepper, self._steps)
        del kept  # it was read and written until now
        return logits.values

    def chosen_experts(self, chunks: Sequence[Chunk]) -> Array:
        """What the routers choose for all tokens of the chunks, int32 [layers, T, chosen].

        -1 in layers without experts. From the likeliest expert on.
        """
        config = self.model.config
        experts = config.experts
        tokens = sum(chunk.num_scheduled_tokens for chunk in chunks)
        each = 0 if experts is None else experts.chosen
        chosen = np.full((config.layers, tokens, each), -1, np.int32)
        logits = _Logits.of(0, self._vocab)
        kept = self._launch(chunks, [], logits, None, chosen.ctypes.data)
        self._library.modelfleet_wait(self._stepper, self._steps)
        del kept  # it was read and written until now
        return chosen

    def _launch(
        self,
        chunks: Sequence[Chunk],
        rows: list[int],
        logits: _Logits,
        drawing: ctypes.Array[layouts.DrawStruct] | None,
        chosen_experts: int | None = None,
        *,
        is_masked: bool = False,
    ) -> tuple[array[int], object]:
        """What the step draws, and what it reads: both must outlive it.

        A step reads all weights, which evicts the rest from the processor's caches. So all code
        and objects used here are read from memory while the cores wait: use few of them.
        """
        ids, positions, owners = list[int](), list[int](), list[int]()
        firsts, starts, tables = [0], list[int](), list[int]()
        for i, chunk in enumerate(chunks):
            start, end = chunk.start, chunk.end
            ids += chunk.sequence.token_ids[start:end]
            ids += self._pending(chunk)
            positions += range(start, end)
            owners += [i] * (end - start)
            firsts.append(len(ids))
            starts.append(len(tables))
            tables += chunk.sequence.block_table[: -(-end // BLOCK_SIZE)]
        columns = (ids, positions, owners, firsts, starts, tables, rows)
        values = array("q", itertools.chain.from_iterable(columns))
        address = values.buffer_info()[0]
        offsets = itertools.accumulate(map(len, columns[:-1]), initial=0)
        drawn = array("q", bytes(values.itemsize * len(rows)))
        rope = None if self.variants is None else self._rope(chunks, positions, self.variants)
        self._masked_steps += is_masked
        batch = layouts.BatchStruct(
            len(ids),
            len(chunks),
            len(rows),
            *[address + values.itemsize * offset for offset in offsets],
            None if drawing is None else ctypes.addressof(drawing),
            self._last.buffer_info()[0],
            logits.address,
            drawn.buffer_info()[0],
            None if rope is None else rope[0].ctypes.data,
            None if rope is None else rope[1].ctypes.data,
            chosen_experts,
            self._masked_steps % 2**32 if is_masked else -1,
        )
        self._library.modelfleet_launch(self._stepper, ctypes.byref(batch))
        self._steps += 1
        return drawn, (values, rope)

    def _masks_of(self, rows: int) -> MaskRows:
        """Where the masks of the next step go, as `_logits_of`."""
        index = self._masked_steps % len(self._masks)
        if len(self._masks[index].values) < rows:
            self._masks[index] = MaskRows.of(rows, self._vocab)
        return self._masks[index]

    def _supply(self) -> None:
        self._library.modelfleet_supply(self._stepper)

    def _rope(
        self, chunks: Sequence[Chunk], positions: list[int], variants: ContextVariants
    ) -> tuple[Array, Array]:
        """Cosines and sines of each token, where they depend on the length of its sequence."""
        reaches = (variants.reaches(chunk.sequence, chunk.start, chunk.end) for chunk in chunks)
        lengths = list(itertools.chain.from_iterable(reaches))
        return rope_factors_by_length(self.model.config.rope, positions, lengths)

    def _logits_of(self, rows: int) -> _Logits:
        """Where the next step writes them: not where the step before, maybe unread, does."""
        logits = self._logits[self._steps % len(self._logits)]
        if len(logits.values) < rows:
            logits = _Logits.of(rows, self._vocab)
            self._logits[self._steps % len(self._logits)] = logits
        return logits

    def _pending(self, chunk: Chunk) -> list[int]:
        """The id of a pending last token: -1 - its row in the step before, which draws it."""
        sequence = chunk.sequence
        return [] if chunk.end <= len(sequence.token_ids) else [-1 - self._last_rows[sequence]]


@dataclass(frozen=True, slots=True)
class _Logits:
    """Rows that a step writes. Asking numpy for an address takes longer than the rest of a call."""

    values: Logits  # [R or more, vocab]
    address: int

    @classmethod
    def of(cls, rows: int, vocab: int) -> _Logits:
        values = np.empty((rows, vocab), np.float32)
        return cls(values, values.ctypes.data)


@dataclass(slots=True)
class _Masking:
    """The masks that a step waits for."""

    rows: MaskRows
    chunks: list[Chunk]
    signal: Callable[[], None]
    is_done: bool = False

    def supply(self) -> None:
        """Whatever happens, the step goes on: it waits for nothing else."""
        if self.is_done:
            return
        self.is_done = True
        try:
            self.rows.write(self.chunks)
        finally:
            self.signal()


@dataclass(frozen=True, slots=True)
class NativeStep:
    """A step that was launched, and all that it reads and writes."""

    wait: Callable[[], None]
    logits: Logits  # [R or more, vocab], until the second step after this one is launched
    drawn: array[int]  # [R]
    samplings: Sequence[SamplingParams]  # [R]
    kept: object
    masking: _Masking | None = None

    def supply_masks(self) -> None:
        """Of its constrained chunks, whose tokens are known now; it waits for them to draw."""
        if self.masking is not None:
            self.masking.supply()

    def result(self) -> list[SampledToken]:
        """Waits for it: one token for each chunk that samples, in their order."""
        self.wait()
        return [
            SampledToken(id_)
            if params.logprobs is None
            else SampledToken(id_, logprobs_of(self.logits[row], id_, params.logprobs))
            for row, (id_, params) in enumerate(zip(self.drawn, self.samplings, strict=True))
        ]


def _sampled(chunks: Sequence[Chunk]) -> list[int]:
    """The rows after which a token is drawn."""
    ends = itertools.accumulate(chunk.num_scheduled_tokens for chunk in chunks)
    return [end - 1 for chunk, end in zip(chunks, ends, strict=True) if chunk.samples]


def _draw_structs(
    chunks: Sequence[tuple[Chunk, list[int]]], masks: MaskRows | None
) -> tuple[ctypes.Array[layouts.DrawStruct], list[object]]:
    """How to draw after each chunk, given with its pending id; and what must live as long."""
    kept: list[object] = [] if masks is None else [masks]
    masked = itertools.count()
    structs = (layouts.DrawStruct * len(chunks))()
    for struct, (chunk, pending) in zip(structs, chunks, strict=True):
        request = chunk.sequence.request
        params, prompt_tokens = request.sampling, len(request.prompt_ids)
        if masks is not None and request.constraint is not None:
            struct.allowed = masks.address + next(masked) * masks.row_bytes
        if params.temperature <= 0 and not params.shifts_logits:
            continue  # zeros: the likeliest
        for name in _AS_THEY_ARE:
            setattr(struct, name, getattr(params, name))
        struct.position = chunk.end - prompt_tokens
        if params.logit_bias:
            ids, bias = zip(*params.logit_bias, strict=True)
            arrays = np.array(ids, np.int64), np.array(bias, np.float64)
            struct.num_biased = len(ids)
            struct.bias_ids, struct.bias = (array.ctypes.data for array in arrays)
            kept.append(arrays)
        if params.penalizes:
            tokens = np.array([*chunk.sequence.token_ids, *pending], np.int64)
            struct.num_tokens, struct.num_prompt_tokens = len(tokens), prompt_tokens
            struct.token_ids = tokens.ctypes.data
            kept.append(tokens)
    return structs, kept
