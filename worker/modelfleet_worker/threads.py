"""Blocking work beside the event loop, in threads that never keep the process alive."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")

# Transformers imports its modules when they are asked for: of two threads that do, one can find
# half of a module. A tokenizer is read beside the weights.
using_transformers = threading.Lock()


def post(loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *args: object) -> None:
    """Calls back on the loop, from any thread; nothing happens once the loop is closed."""
    with suppress(RuntimeError):  # the loop is closed: the process is ending
        loop.call_soon_threadsafe(callback, *args)


def in_thread(work: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Runs it in a daemon thread: a default executor would be joined at exit, stuck or not."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # it is a T if there is no error

    context = contextvars.copy_context()  # what logs say about the caller

    def run() -> None:
        try:
            result = context.run(work)
        except BaseException as error:  # raised where the future is awaited
            post(loop, settle, None, error)
        else:
            post(loop, settle, result, None)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
