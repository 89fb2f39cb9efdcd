"""The new requests of one key: which of them is next."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from modelfleet_process.overload import FifoTurns, OverloadPolicy, newest_is_next

from .fairness import Account
from .queued_choice import Pace, QueuedChoice


class KeyLine:
    """In order of arrival, or as the policy says under overload."""

    def __init__(self, account: Account, policy: OverloadPolicy) -> None:
        self.account = account
        self.choices: OrderedDict[int, QueuedChoice] = OrderedDict()  # by arrival
        self._policy = policy
        self._turns: FifoTurns | None = None  # None: all is in order anyway
        self.set_policy(policy)

    def __len__(self) -> int:
        return len(self.choices)

    def set_policy(self, policy: OverloadPolicy) -> None:
        """Another order, from now on."""
        self._policy = policy
        self._turns = None if policy.order == "Fifo" else FifoTurns()
        if self._turns is not None:
            for choice in self.choices.values():
                self._turns.arrive(choice.arrival, choice.queued_at, policy.hold_timeout)

    def add(self, choice: QueuedChoice) -> None:
        """It waits from now on."""
        self.choices[choice.arrival] = choice
        if self._turns is not None:
            self._turns.arrive(choice.arrival, choice.queued_at, self._policy.hold_timeout)

    @property
    def oldest(self) -> QueuedChoice:
        """Of at least one."""
        return next(iter(self.choices.values()))

    @property
    def newest(self) -> QueuedChoice:
        """Of at least one."""
        return next(reversed(self.choices.values()))

    def next(self, now: float, pace: Callable[[], Pace], lines: int) -> QueuedChoice:
        """Of at least one; `lines`: of how many keys' requests share the slots."""
        oldest = self.oldest
        if self._turns is None or now - oldest.queued_at <= self._policy.target:
            return oldest
        slots, service_seconds = pace()
        is_newest = newest_is_next(
            self._policy,
            oldest_wait=now - oldest.queued_at,
            waiting=len(self.choices) * lines,
            slots=slots,
            service_seconds=service_seconds,
        )
        return self.newest if is_newest else oldest

    def serve(self, choice: QueuedChoice, now: float) -> None:
        """It has a slot, or its client has disconnected."""
        del self.choices[choice.arrival]
        if choice.slot_future.cancelled():
            if self._turns is not None:
                self._turns.leave(choice.arrival)
            return
        self.account.served += choice.prompt_tokens
        if self._turns is not None:
            self._turns.serve(choice.arrival, now)

    def take(self, choice: QueuedChoice) -> bool:
        """Takes it out; False: it is not here."""
        if self.choices.pop(choice.arrival, None) is None:
            return False
        if self._turns is not None:
            self._turns.leave(choice.arrival)
        return True

    def had_turn(self, choice: QueuedChoice) -> bool:
        """Whether first in, first out would have served it already, by the slots given so far."""
        return self._turns is not None and self._turns.had_turn(choice.arrival)
