"""The bytes of requests that a gateway holds, from the first one received to the answer's end."""

from __future__ import annotations

from types import TracebackType
from typing import Final, Self

from ..errors import OverloadedError

SMALL: Final = 64 * 1024  # bytes of a request that may use the last quarter of the budget
RETRY_AFTER: Final = 2.0  # seconds


class ByteBudget:
    """Refuses requests that would exceed `limit` bytes in all.

    A quarter is kept for small ones, so that a few large requests cannot shut out all others.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.used = 0

    def hold(self) -> Hold:
        """For one request; use it as a context manager."""
        return Hold(self)

    def check(self, size: int, more: int) -> None:
        """OverloadedError if a request of `size` bytes may not take `more` of them now."""
        limit = self._limit if size <= SMALL else self._limit - self._limit // 4
        if self.used + more > limit:
            raise OverloadedError(
                f"This gateway holds {self.used >> 20} MiB of requests, and {size} bytes more are "
                "too many now. Try again later.",
                retry_after=RETRY_AFTER,
            )


class Hold:
    """The bytes of one request; leaving its block gives them back."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.resize(0)

    def announce(self, size: int) -> None:
        """OverloadedError if a body of this size could not be held as it is now."""
        self._budget.check(size, size - self._size)

    def resize(self, size: int) -> None:
        """The request is now `size` bytes; OverloadedError when these are too many."""
        more = size - self._size
        if more > 0:
            self._budget.check(size, more)
        self._budget.used += more
        self._size = size
