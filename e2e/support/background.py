"""Something that goes on beside a test for as long as a block lasts."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self


class Background:
    """A thread that runs `work` from the block's beginning; it ends itself once `ending` is set."""

    def __init__(self) -> None:
        self.ending = threading.Event()
        self._thread = threading.Thread(target=self.work, name=type(self).__name__)

    def work(self) -> None:
        """In the thread."""
        raise NotImplementedError  # each kind of background has its own

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.ending.set()
        self._thread.join()
