"""One choice of a request, as it waits for a slot."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .fairness import Account
from .prefixes import PromptKeys
from .slots import Slot

# How many requests workers have at once, and the seconds that one takes there; 0: not known.
Pace = tuple[int, float]


def unknown_pace() -> Pace:
    """Nothing was served yet."""
    return 0, 0.0


@dataclass(slots=True, eq=False)
class QueuedChoice:
    """One choice of a request that waits for a slot."""

    arrival: int  # kept when it is queued again, so that it returns to its old place
    queued_at: float  # seconds on the loop's clock
    slot_future: asyncio.Future[Slot]
    digest: str = ""  # a stream to resume: on a worker of this model_digest,
    weights: str = ""  # or else of this weights_digest (continuation.continuers)
    revision: str = ""  # of the worker that it was on last
    avoid: str = ""  # id of the worker that failed it last
    lost_with: frozenset[str] = frozenset()
    """Ids of workers that it may have broken since its last token (failover.may_be_cause)."""
    needs: frozenset[str] = frozenset()  # features that its worker must have
    keys: PromptKeys | None = None  # of its prompt; None: it goes where the least is to do
    siblings: Sequence[QueuedChoice] = ()  # all choices of its request
    is_held: bool = False  # a worker accepted a sibling: it waits for as long as it takes
    key: str = ""  # whose request it is (fairness.Share)
    account: Account = field(default_factory=Account)  # that its tokens are counted on
    prompt_tokens: int = 1  # that were counted so far, first an estimate
    is_batch: bool = False
    yielded_unserved: bool = False  # it made room once before it had a token

    @property
    def must_wait(self) -> bool:
        """Whether a sibling shows just now if their request breaks another worker."""
        return bool(self.lost_with) and any(choice.is_unserved for choice in self.siblings)

    @property
    def is_unserved(self) -> bool:
        """Whether it has a slot and no token of that worker yet."""
        future = self.slot_future
        return (
            future.done()
            and not future.cancelled()
            and future.exception() is None
            and not future.result().served
        )


def assign(choice: QueuedChoice, take_slot: Callable[[QueuedChoice], Slot | None]) -> bool:
    """Whether it waits no more: it has a slot now, or its client has disconnected."""
    if choice.slot_future.done():
        return True
    slot = take_slot(choice)
    if slot is not None:
        choice.slot_future.set_result(slot)
    return slot is not None


def by_arrival(choice: QueuedChoice) -> int:
    """The order in which choices return to the queue."""
    return choice.arrival
