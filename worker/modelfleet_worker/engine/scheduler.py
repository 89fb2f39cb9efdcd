"""Which tokens are computed in the next step.

There is one idea: `num_computed` of every sequence catches up with its known tokens. Chunked
prefill, decoding, a cache hit, recomputing after a preemption and a resumed stream are all that
(after vLLM V1). A step may be planned before the last one is read: what that one draws is known to
be a token, and the device knows which. Pure: no tensor, no clock, no thread.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from collections.abc import Sequence as Items
from dataclasses import dataclass

from .block_manager import BlockManager
from .messages import FinishReason
from .sequence import Sequence

BLOCK_SIZE = 16  # tokens


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens `start` to `end` of a sequence, to be computed in this step."""

    sequence: Sequence
    start: int
    end: int
    samples: bool  # it ends with the last known token: the next one is drawn
    block_epoch: int = 0  # of the sequence's blocks

    @classmethod
    def of(cls, sequence: Sequence, budget: int) -> Chunk:
        """The uncomputed tokens, as far as `budget` (tokens) goes."""
        start = sequence.num_computed
        end = start + min(sequence.num_uncomputed, budget)
        return cls(sequence, start, end, end == sequence.num_tokens, sequence.block_epoch)

    def __len__(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step."""

    chunks: tuple[Chunk, ...]
    preempted: tuple[Sequence, ...] = ()


@dataclass(frozen=True, slots=True)
class NewToken:
    """A sequence got its next token."""

    sequence: Sequence
    finished: FinishReason | None
    row: int  # of the token among those that the step drew

    @property
    def is_first(self) -> bool:
        """Whether somebody has waited for an answer to begin, and not only for it to go on."""
        return self.sequence.num_output_tokens == len(self.sequence.request.resumed_ids) + 1


class Scheduler:
    """Running sequences and the line of waiting ones, both in order of arrival.

    The order is strict: whoever runs is older than whoever waits, the youngest gives way, and so
    the oldest always gets on: nothing starves. It requires that each request alone fits the cache.
    """

    def __init__(self, blocks: BlockManager, *, max_sequences: int, max_batch_tokens: int) -> None:
        self.blocks = blocks
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
        """Puts it at the end of the line."""
        self.waiting.append(sequence)

    def abort(self, request_id: str) -> bool:
        """Forgets a request, wherever it is; False: there is none of this name."""
        for line in (self.running, self.waiting):
            for sequence in line:
                if sequence.request.request_id == request_id:
                    line.remove(sequence)
                    self._give_up_blocks(sequence)
                    return True
        return False

    def schedule(self) -> StepPlan:
        """Fills the token budget: decodes, then prefills that began, then new ones.

        The plan counts as launched. It is empty while all that runs waits for `complete`.
        """
        planned: dict[Sequence, Chunk] = {}
        preempted: list[Sequence] = []
        budget = self._max_batch_tokens
        decoding = [s for s in self.running if s.num_uncomputed == 1]
        prefilling = [s for s in self.running if s.num_uncomputed > 1]
        for sequence in (*decoding, *prefilling):
            if budget == 0:
                break
            if sequence in preempted:
                continue
            chunk = Chunk.of(sequence, budget)
            while not self._grow(sequence, chunk.end):
                victim = self._preempt_youngest()
                preempted.append(victim)
                if victim in planned:
                    budget += len(planned.pop(victim))
                if victim is sequence:
                    break
            else:
                planned[sequence] = chunk
                budget -= len(chunk)
        for chunk in planned.values():
            self._computing.update(self._filled(chunk))
        if not preempted:  # else a newcomer would take what an older one just lacked
            planned.update((chunk.sequence, chunk) for chunk in self._admit(budget))
        for sequence, chunk in planned.items():
            sequence.num_computed = chunk.end
            sequence.num_pending += chunk.samples
        return StepPlan(tuple(planned.values()), tuple(preempted))

    def _admit(self, budget: int) -> Iterator[Chunk]:
        while budget > 0 and self.waiting and len(self.running) < self._max_sequences:
            sequence = self.waiting[0]
            if not self._take_blocks(sequence):
                return  # strictly in line: a small one behind must not starve the big one
            self.waiting.popleft()
            self.running.append(sequence)
            chunk = Chunk.of(sequence, budget)
            budget -= len(chunk)
            self._computing.update(self._filled(chunk))
            yield chunk

    def _take_blocks(self, sequence: Sequence) -> bool:
        """Blocks for all known tokens, so that a prefill that began never lacks one.

        Without those, or if a launched step computes the next block that it could find: of
        requests that come together with one long prompt, the first one computes it for all.
        """
        known = len(sequence.token_ids)
        # The last known token is always computed: its logits are what the next one is drawn from.
        findable = (known - 1) // BLOCK_SIZE if self.blocks.caching else 0
        block_hashes = sequence.block_hashes(findable, BLOCK_SIZE)
        table = self.blocks.hold_cached(block_hashes)
        if len(table) < findable and block_hashes[len(table)] in self._computing:
            self.blocks.release(table)
            return False
        fresh = self.blocks.allocate(-(-known // BLOCK_SIZE) - len(table))
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
        """Its tokens stay known; what the cache still has of them later, it finds again."""
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

        Whoever ended or gave up its blocks since the step was launched gets nothing: the token is
        drawn again, or not wanted any more.
        """
        rows = itertools.count()
        new_tokens: list[NewToken] = []
        for chunk in plan.chunks:
            self._computing.difference_update(self._filled(chunk))
            row = next(rows) if chunk.samples else None
            if chunk.block_epoch != chunk.sequence.block_epoch:
                continue
            self._publish(chunk)
            if row is not None:
                finished = chunk.sequence.append(token_ids[row])
                new_tokens.append(NewToken(chunk.sequence, finished, row))
        ended = {p.sequence for p in new_tokens if p.finished}
        if ended:
            for sequence in ended:
                self._give_up_blocks(sequence)
            self.running = [s for s in self.running if s not in ended]
        return new_tokens

    def _filled(self, chunk: Chunk) -> Items[bytes]:
        """The hashes of the blocks that a part of a prompt fills."""
        if len(chunk) == 1 or not self.blocks.caching:
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
