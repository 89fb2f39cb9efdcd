"""The requests of one priority that wait for a slot, and which of them is next."""

from __future__ import annotations

import bisect
import contextlib
import itertools
from collections.abc import Callable, Iterator

from modelfleet_process.overload import OverloadPolicy

from .fairness import Account, Accounts
from .key_line import KeyLine
from .queued_choice import Pace, QueuedChoice, assign, by_arrival
from .slots import Slot

TakeSlot = Callable[[QueuedChoice], Slot | None]


class PriorityQueue:
    """Streams to resume first, then what had a slot before, then new requests by key."""

    def __init__(self) -> None:
        self.streams: list[QueuedChoice] = []  # to resume, by arrival
        self._returned: list[QueuedChoice] = []  # had a slot, or a sibling has; by arrival
        self._lines: dict[str, KeyLine] = {}  # by key; none is empty
        self._accounts = Accounts()
        self._in_lines = 0
        self.policy = OverloadPolicy()

    def __len__(self) -> int:
        return len(self.streams) + len(self._returned) + self._in_lines

    def __iter__(self) -> Iterator[QueuedChoice]:
        return itertools.chain(self.streams, self.unserved())

    def unserved(self) -> Iterator[QueuedChoice]:
        """All but streams to resume."""
        lines = (line.choices.values() for line in self._lines.values())
        return itertools.chain(self._returned, *lines)

    @property
    def num_new(self) -> int:
        """All but streams to resume: what the queue's limit is about."""
        return len(self._returned) + self._in_lines

    @property
    def num_keys(self) -> int:
        """Keys with new requests."""
        return len(self._lines)

    def num_new_of(self, key: str) -> int:
        """New requests of one key."""
        line = self._lines.get(key)
        return len(line) if line is not None else 0

    def set_policy(self, policy: OverloadPolicy) -> None:
        """Which of a key's new requests is next."""
        self.policy = policy
        for line in self._lines.values():
            line.set_policy(policy)

    def open_account(self, key: str) -> Account:
        """What a new request of this key is counted on; `add` its choices then."""
        line = self._lines.get(key)
        if line is not None:
            return line.account
        return self._accounts.open(key, (other.account for other in self._lines.values()))

    def add(self, choice: QueuedChoice) -> None:
        """A choice of a new request."""
        line = self._lines.get(choice.key)
        if line is None:
            line = self._lines[choice.key] = KeyLine(choice.account, self.policy)
        line.add(choice)
        self._in_lines += 1

    def enqueue(self, choice: QueuedChoice) -> None:
        """A choice that had a slot again: before all new ones."""
        line = self.streams if choice.digest else self._returned
        bisect.insort(line, choice, key=by_arrival)

    def hold(self, choice: QueuedChoice) -> None:
        """A worker accepted a sibling of it: it is not passed over by requests that begin later."""
        if self._take_new(choice):
            bisect.insort(self._returned, choice, key=by_arrival)

    def remove(self, choice: QueuedChoice) -> None:
        """Takes a choice out; no-op for one that is not queued."""
        if not self._take_new(choice):
            for line in (self._returned, self.streams):
                with contextlib.suppress(ValueError):
                    line.remove(choice)

    def clear(self) -> None:
        """Nobody waits."""
        self.streams, self._returned = [], []
        self._lines.clear()
        self._in_lines = 0

    def longest_line(self) -> KeyLine:
        """Of the key with the most new requests, of at least one."""
        return max(self._lines.values(), key=len)

    def had_turn(self, choice: QueuedChoice) -> bool:
        """Whether first in, first out would have served it already, by the slots given so far."""
        line = self._lines.get(choice.key)
        return line is not None and line.had_turn(choice)

    def oldest_queued_at(self) -> float | None:
        """When the oldest choice was queued; None: nobody waits."""
        # Streams are queued anew, so the first of them is not the oldest.
        times = [choice.queued_at for choice in (*self.streams, *self._returned)]
        times += [line.oldest.queued_at for line in self._lines.values()]
        return min(times, default=None)

    def assign_slots(self, take_slot: TakeSlot, *, now: float, pace: Callable[[], Pace]) -> bool:
        """Gives slots to choices in order, until `take_slot` finds none.

        False: one waits that any worker could serve, so no slot is left for others.

        A stream whose digest has no free worker is skipped, and so is a request that is tried
        alone. New requests that any worker can serve are equal: where the first of them finds no
        slot, none does. One with `needs` that finds none is passed over.
        """
        if self.streams:
            self.streams = [c for c in self.streams if not assign(c, take_slot)]
        while self._returned and (choice := self._first_returned(take_slot)) is not None:
            self._returned.remove(choice)
        if any(not (choice.lost_with or choice.needs) for choice in self._returned):
            return False
        while self._lines:
            key, line = self._next_line()
            choice = line.next(now, pace, len(self._lines))
            if not assign(choice, take_slot):
                return bool(choice.needs) and self._assign_others(take_slot, now)
            self._serve(key, line, choice, now)
        return True

    def _next_line(self) -> tuple[str, KeyLine]:
        """Of the key that was served least; of equal ones the one with fewer requests."""
        if len(self._lines) == 1:
            return next(iter(self._lines.items()))
        return min(self._lines.items(), key=lambda item: (item[1].account.served, len(item[1])))

    def _assign_others(self, take_slot: TakeSlot, now: float) -> bool:
        """Serves new requests in order, of which one with needs has found no slot."""
        unmet: set[frozenset[str]] = set()
        for key, line in sorted(self._lines.items(), key=lambda item: item[1].account.served):
            for choice in list(line.choices.values()):
                if choice.needs in unmet:
                    continue
                if assign(choice, take_slot):
                    self._serve(key, line, choice, now)
                elif choice.needs:
                    unmet.add(choice.needs)
                else:
                    return False
        return True

    def _serve(self, key: str, line: KeyLine, choice: QueuedChoice, now: float) -> None:
        line.serve(choice, now)
        self._left_line(key, line)

    def _left_line(self, key: str, line: KeyLine) -> None:
        self._in_lines -= 1
        if not line:
            del self._lines[key]
            self._accounts.close(line.account)

    def _first_returned(self, take_slot: TakeSlot) -> QueuedChoice | None:
        for choice in self._returned:
            if assign(choice, take_slot):
                return choice
            if not (choice.lost_with or choice.needs):
                return None
        return None

    def _take_new(self, choice: QueuedChoice) -> bool:
        """Takes it out of the new ones; False: it is not among them."""
        line = self._lines.get(choice.key)
        if line is None or not line.take(choice):
            return False
        self._left_line(choice.key, line)
        return True
