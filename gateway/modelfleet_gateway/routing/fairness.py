"""Fairness by tokens served among the keys of one model. Pure.

Virtual token counters ("Fairness in Serving Large Language Models", OSDI 2024): of all keys with
requests that wait, the one that was served the fewest tokens is next. So a key that asks little has
the first slot that frees, however much another one has queued.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

COMPLETION_WEIGHT: Final = 2  # a generated token costs a worker more than one of a prompt
BYTES_PER_TOKEN: Final = 4  # of a prompt, until a worker has counted its tokens
MOST_ACCOUNTS: Final = 10_000  # keys whose tokens are remembered while they do not wait


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """On whose account a request waits, and how."""

    key: str = ""  # id of the API key; empty: nobody is asked for one
    is_batch: bool = False  # behind all that is interactive, and makes room for it
    queue_share: float | None = None  # of the queue that the key's requests may take; None: all
    prompt_tokens: int = 1  # of each choice, an estimate


ANYBODY: Final = Share()


def estimated_tokens(size: int) -> int:
    """Of a prompt of so many bytes: 400 -> 100."""
    return max(size // BYTES_PER_TOKEN, 1)


@dataclass(slots=True, eq=False)
class Account:
    """What one key was served: its prompts' computed tokens, and its answers' by their weight."""

    served: int = 0


class Accounts:
    """The accounts of all keys, of which the ones that were used last are kept."""

    def __init__(self) -> None:
        self._accounts: OrderedDict[str, Account] = OrderedDict()
        self._last_waiting: Account | None = None  # whose last request got its slot

    def open(self, key: str, waiting: Iterable[Account]) -> Account:
        """The account of a key that begins to wait, beside these.

        It is lifted to the least served of them: who asked nothing for a while has saved nothing
        up, and shuts nobody out. Where nobody waits, to the one who waited last.
        """
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = Account()
            if len(self._accounts) > MOST_ACCOUNTS:
                self._accounts.popitem(last=False)
        self._accounts.move_to_end(key)
        last = self._last_waiting.served if self._last_waiting is not None else 0
        floor = min((other.served for other in waiting), default=last)
        account.served = max(account.served, floor)
        return account

    def close(self, account: Account) -> None:
        """The last of its requests waits no more."""
        self._last_waiting = account
