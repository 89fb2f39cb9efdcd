"""A request's places in the queue of its model, and the slots that they become."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from ..errors import QueueFullError
from .fairness import ANYBODY, Account, Share
from .prefixes import PromptKeys
from .queue import ModelQueue
from .queued_choice import QueuedChoice
from .slots import Slot
from .view import not_ready, queue_full


class SlotClaim:
    """One request's claim on a slot for each of its choices.

    Making it queues all choices, or raises QueueFullError or NotReadyError. Leaving its block takes
    them out of the queue and releases their slots. `keys`: of each choice's prompt; without them it
    goes where the least is to do.
    """

    def __init__(
        self,
        queue: ModelQueue,
        choices: int,
        needs: frozenset[str] = frozenset(),
        keys: Sequence[PromptKeys] = (),
        share: Share = ANYBODY,
    ) -> None:
        queue.check_can_serve()
        self._queue = queue
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        try:
            self._choices = queue.requests.add_request(
                choices,
                limit=queue.view.max_queue,
                now=self._since,
                needs=needs,
                share=share,
                pace=queue.pace,
            )
        except QueueFullError as error:
            raise queue_full(error, queue.view, queue.ready_workers, time.time()) from None
        for choice, its_keys in zip(self._choices, keys, strict=False):
            choice.keys = its_keys
        self._timer = self._loop.call_later(queue.view.hold_timeout, self._on_hold_timeout)
        self._timed_out = False
        self.received: list[list[int]] = []  # token ids of each choice, as they come
        queue.assign_slots()
        queue.signal_if_unserved()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        for choice in self._choices:
            self._queue.requests.remove(choice)
            future = choice.slot_future
            if future.done() and not future.cancelled() and not future.exception():
                future.result().release()
            future.cancel()
            choice.siblings = ()  # else only the garbage collector would free them
        self._queue.assign_slots()

    async def slot(self, index: int) -> Slot:
        """Waits for the slot of the choice with this index. NotReadyError if none comes in time."""
        return await self._choices[index].slot_future

    def requeue(self, index: int, *, digest: str, weights: str, revision: str, avoid: str) -> None:
        """Queues a choice again: at its old place, or ahead of new ones with a `digest` to resume.

        `revision`: of the worker that accepted it; empty while none has.
        """
        choice = self._choices[index]
        choice.slot_future = self._loop.create_future()
        if digest:
            choice.queued_at = self._loop.time()
        choice.digest, choice.weights = digest, weights
        choice.revision, choice.avoid = revision, avoid
        self._queue.requeue(choice)
        if self._timed_out:
            self._reject(choice)

    def take_next_slot(self, index: int, *, digest: str, weights: str, avoid: str) -> Slot | None:
        """A second slot for a stream that is about to move; None: none is free. See `go_on`."""
        choice = self._choices[index]
        choice.digest, choice.weights, choice.avoid = digest, weights, avoid
        return self._queue.take_slot(choice)

    def go_on(self, index: int, slot: Slot) -> None:
        """The choice has its second slot only."""
        self._choices[index].slot_future = future = self._loop.create_future()
        future.set_result(slot)

    @property
    def tokens_received(self) -> int:
        """Tokens of all choices so far."""
        return sum(map(len, self.received))

    def on_accepted(self) -> None:
        """A worker accepted a choice: from here on hold_timeout does not end the request."""
        self._timer.cancel()
        for choice in self._choices:
            self._queue.requests.hold(choice)

    def account(self, index: int) -> Account:
        """What the choice's tokens are counted on."""
        return self._choices[index].account

    def count_prompt(self, index: int, tokens: int) -> None:
        """A worker has counted the choice's prompt, which was an estimate."""
        choice = self._choices[index]
        choice.account.served += tokens - choice.prompt_tokens
        choice.prompt_tokens = tokens

    def charge(self, index: int, slot: Slot) -> int:
        """A choice's worker was lost: how many the request may have broken; 0: not this one."""
        if not slot.worker.may_be_lost_by(slot):
            return 0
        self._choices[index].lost_with |= {slot.worker.worker_id}
        return len(frozenset[str]().union(*(choice.lost_with for choice in self._choices)))

    def on_served(self, index: int) -> None:
        """A choice had its first token from a worker: what waits to be tried alone may go on."""
        if any(choice.lost_with for choice in self._choices):
            self._choices[index].lost_with = frozenset()
            self._queue.assign_slots()
        if (choice := self._choices[index]).yielded_unserved:
            choice.yielded_unserved = False
            self._queue.assign_slots()

    def _on_hold_timeout(self) -> None:
        requests, waits = self._queue.requests, self._loop.time() - self._since
        waiting = [choice for choice in self._choices if not choice.slot_future.done()]
        if waiting and all(map(requests.had_turn, waiting)):
            return  # passed over by newer ones: it is next
        self._timed_out = True
        for choice in waiting:
            self._queue.meter.note_wait(waits)
            self._reject(choice)

    def _reject(self, choice: QueuedChoice) -> None:
        if not choice.slot_future.done():
            queue, waited = self._queue, self._loop.time() - self._since
            able, lacking = queue.ready_for(choice.needs), " or ".join(sorted(choice.needs))
            error = not_ready(
                queue.view, waited, queue.ready_workers, time.time(), "" if able else lacking
            )
            queue.requests.reject(choice, error)
