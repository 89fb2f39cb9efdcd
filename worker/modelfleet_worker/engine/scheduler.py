"""Which tokens are computed in the next step.

There is one idea: `num_computed` of every sequence catches up with its `num_tokens`. Chunked
prefill, decoding, a cache hit, recomputing after a preemption and a resumed stream are all that
(after vLLM V1). A step may refer to the previous step's sampled token before it is read back: the
token counts as pending, and the device fills in its id. Pure: no tensor, no clock, no thread.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from collections.abc import Sequence as Items
from dataclasses import dataclass

from .block_manager import BlockManager
from .request import ContextVariants, FinishReason, Sequence

BLOCK_SIZE = 16  # tokens


def steps_ahead(step_seconds: float, batch_seconds: float, most: int) -> int:
    """How many steps may be in flight when one more decode is launched.

    Steps shorter than `batch_seconds` are launched and read together: each time the engine's
    thread wakes, it takes a core from the computation. In batches of 20 ms and at most 4 steps:
    steps of 30 ms -> 1, of 6 ms -> 3, of 2 ms -> 4. A `step_seconds` of 0 is unknown -> 1.
    """
    if not step_seconds:
        return min(1, most)
    return min(max(1, round(batch_seconds / step_seconds)), most)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens `start` to `end` of a sequence, to be computed in this step."""

    sequence: Sequence
    start: int
    end: int
    samples: bool  # it ends with the sequence's last token: the next one is drawn
    block_epoch: int = 0  # the sequence's when this was planned

    @classmethod
    def of(cls, sequence: Sequence, budget: int) -> Chunk:
        """The uncomputed tokens, as far as `budget` (tokens) goes."""
        start = sequence.num_computed
        end = start + min(sequence.num_uncomputed, budget)
        return cls(sequence, start, end, end == sequence.num_tokens, sequence.block_epoch)

    @property
    def is_constrained(self) -> bool:
        """Whether a mask says what it may sample."""
        return self.samples and self.sequence.request.constraint is not None

    @property
    def is_known(self) -> bool:
        """Whether all of its tokens are known, the pending one too."""
        return self.end <= len(self.sequence.token_ids)

    @property
    def is_dropped(self) -> bool:
        """Whether its sequence has ended or given up its blocks since: what it samples is void."""
        return self.block_epoch != self.sequence.block_epoch

    @property
    def num_scheduled_tokens(self) -> int:
        """Tokens that this step computes of the sequence."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step."""

    chunks: tuple[Chunk, ...]
    preempted: tuple[Sequence, ...] = ()
    has_prefill: bool = False
    constrained: tuple[Chunk, ...] = ()  # those that sample what a mask allows
    admitted: tuple[Sequence, ...] = ()  # that waited until now


@dataclass(frozen=True, slots=True)
class NewToken:
    """A sequence got its next token."""

    sequence: Sequence
    finished: FinishReason | None
    row: int  # of the token among those that the step drew
    is_first: bool  # the client has waited for it since its request came


class Scheduler:
    """Running sequences and the queue of waiting ones, both in order of arrival.

    The order is strict: running sequences are older than waiting ones, and the youngest is
    preempted first. So the oldest always makes progress and nothing starves, provided that each
    request alone fits the cache.
    """

    def __init__(
        self,
        blocks: BlockManager,
        *,
        max_sequences: int,
        max_batch_tokens: int,
        variants: ContextVariants | None = None,
    ) -> None:
        self.blocks = blocks
        self._variants = variants
        self.running: list[Sequence] = []
        self.waiting: deque[Sequence] = deque()
        self._computing: set[bytes] = set()  # hashes of blocks that launched steps fill
        self._max_sequences = max_sequences
        self._max_batch_tokens = max_batch_tokens

    def __len__(self) -> int:
        return len(self.running) + len(self.waiting)

    def __iter__(self) -> Iterator[Sequence]:
        yield from self.running
        yield from self.waiting

    def add(self, sequence: Sequence) -> None:
        """Puts it at the end of the queue."""
        self.waiting.append(sequence)

    def abort(self, request_id: str) -> bool:
        """Forgets a request, wherever it is; False: there is none of this name."""
        for queue in (self.running, self.waiting):
            for sequence in queue:
                if sequence.request.request_id == request_id:
                    queue.remove(sequence)
                    self._give_up_blocks(sequence)
                    return True
        return False

    def schedule(self) -> StepPlan:
        """Fills the token budget: decodes, then prefills that began, then new ones.

        The plan counts as launched. It is empty while all that runs waits for `complete`.
        """
        if self._variants is not None:
            self._restart_outgrown(self._variants)
        planned: dict[Sequence, Chunk] = {}
        preempted: list[Sequence] = []
        token_budget = self._max_batch_tokens
        # Phase 1: decodes, one token each, then the chunks of prefills that have begun.
        decoding = [s for s in self.running if s.num_uncomputed == 1]
        prefilling = [s for s in self.running if s.num_uncomputed > 1]
        for sequence in (*decoding, *prefilling):
            if token_budget == 0:
                break
            if sequence in preempted:
                continue
            chunk = Chunk.of(sequence, token_budget)
            while not self._grow(sequence, chunk.end):
                victim = self._preempt_youngest()
                preempted.append(victim)
                if victim in planned:
                    token_budget += planned.pop(victim).num_scheduled_tokens
                if victim is sequence:
                    break
            else:
                planned[sequence] = chunk
                token_budget -= chunk.num_scheduled_tokens
        for chunk in planned.values():
            self._computing.update(self._filled(chunk))
        # Phase 2: prefills of waiting requests. Not if a sequence was preempted: a newcomer would
        # take the blocks that an older one has just lacked.
        admitted: tuple[Sequence, ...] = ()
        if not preempted and self.waiting:
            fresh = {chunk.sequence: chunk for chunk in self._admit(token_budget)}
            planned.update(fresh)
            admitted = tuple(fresh)
        has_prefill = False
        for sequence, chunk in planned.items():
            sequence.num_computed = chunk.end
            sequence.num_pending += chunk.samples
            if chunk.num_scheduled_tokens > 1:
                has_prefill = True
                sequence.num_prefill_steps += 1
        chunks = tuple(planned.values())
        constrained = tuple(c for c in chunks if c.is_constrained)
        return StepPlan(chunks, tuple(preempted), has_prefill, constrained, admitted)

    def _restart_outgrown(self, variants: ContextVariants) -> None:
        """Computes anew what has become too long for how it was computed."""
        for sequence in reversed(self.running):
            if variants.variant_of(sequence) != sequence.variant:
                self.running.remove(sequence)
                self._give_up_blocks(sequence)
                self.waiting.appendleft(sequence)

    def _admit(self, token_budget: int) -> Iterator[Chunk]:
        while token_budget > 0 and self.waiting and len(self.running) < self._max_sequences:
            sequence = self.waiting[0]
            if not self._take_blocks(sequence):
                return  # strictly in order: small requests behind it must not starve a big one
            self.waiting.popleft()
            self.running.append(sequence)
            chunk = Chunk.of(sequence, token_budget)
            token_budget -= chunk.num_scheduled_tokens
            self._computing.update(self._filled(chunk))
            yield chunk

    def _take_blocks(self, sequence: Sequence) -> bool:
        """Blocks for all of its tokens, so that a prefill that began never lacks one.

        False if there are too few, or if a step in flight computes the next block of its prefix:
        of requests that come together with one long prompt, the first one computes it for all.
        """
        num_tokens = len(sequence.token_ids)
        if self._variants is not None:
            sequence.take_variant(self._variants.variant_of(sequence))
        # The last token is always computed: the next one is drawn from its logits.
        findable = (num_tokens - 1) // BLOCK_SIZE if self.blocks.caching else 0
        block_hashes = sequence.block_hashes(findable, BLOCK_SIZE)
        table = self.blocks.hold_cached(block_hashes)
        if len(table) < findable and block_hashes[len(table)] in self._computing:
            self.blocks.release(table)
            return False
        fresh = self.blocks.allocate(-(-num_tokens // BLOCK_SIZE) - len(table))
        if fresh is None:
            self.blocks.release(table)
            return False
        sequence.num_computed = len(table) * BLOCK_SIZE
        sequence.block_table = table + fresh
        if sequence.num_cached_tokens is None:
            sequence.num_cached_tokens = min(
                sequence.num_computed, len(sequence.request.prompt_ids)
            )
        return True

    def _grow(self, sequence: Sequence, tokens: int) -> bool:
        missing = -(-tokens // BLOCK_SIZE) - len(sequence.block_table)
        if missing <= 0:
            return True
        fresh = self.blocks.allocate(missing)
        if fresh is None:
            return False
        sequence.block_table.extend(fresh)
        return True

    def _preempt_youngest(self) -> Sequence:
        """It keeps its tokens; blocks of them that the cache still has later are found again."""
        victim = self.running.pop()
        self._give_up_blocks(victim)
        self.waiting.appendleft(victim)
        return victim

    def _give_up_blocks(self, sequence: Sequence) -> None:
        self.blocks.release(sequence.block_table)
        sequence.block_table = []
        sequence.num_computed = sequence.num_pending = 0
        sequence.block_epoch += 1

    def complete(self, plan: StepPlan, token_ids: Items[int]) -> list[NewToken]:
        """Takes a step's outcome: one token for each chunk that samples, in the plan's order.

        A sequence that ended or gave up its blocks since the step was launched gets no token: it
        is drawn again, or not wanted any more.
        """
        rows = itertools.count()
        new_tokens: list[NewToken] = []
        for chunk in plan.chunks:
            self._computing.difference_update(self._filled(chunk))
            row = next(rows) if chunk.samples else None
            if chunk.is_dropped:
                continue
            self._publish(chunk)
            if row is not None:
                sequence = chunk.sequence
                finished = sequence.append(token_ids[row])
                is_first = sequence.num_output_tokens == len(sequence.request.resumed_ids) + 1
                new_tokens.append(NewToken(sequence, finished, row, is_first))
        ended = {p.sequence for p in new_tokens if p.finished}
        if ended:
            for sequence in ended:
                self._give_up_blocks(sequence)
            self.running = [s for s in self.running if s not in ended]
        return new_tokens

    def _filled(self, chunk: Chunk) -> Items[bytes]:
        """The hashes of the blocks that a part of a prompt fills."""
        if chunk.num_scheduled_tokens == 1 or not self.blocks.caching:
            return ()
        full = min(chunk.end, len(chunk.sequence.token_ids)) // BLOCK_SIZE
        return chunk.sequence.block_hashes(full, BLOCK_SIZE)[chunk.start // BLOCK_SIZE :]

    def _publish(self, chunk: Chunk) -> None:
        sequence = chunk.sequence
        full_before, full = chunk.start // BLOCK_SIZE, chunk.end // BLOCK_SIZE
        if full > full_before and self.blocks.caching:
            block_hashes = sequence.block_hashes(full, BLOCK_SIZE)
            for i in range(full_before, full):
                self.blocks.publish(sequence.block_table[i], block_hashes[i])
