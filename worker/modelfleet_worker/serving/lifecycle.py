"""The life cycle of the model in this process: load, serve, drain, unload, fail."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import structlog

from ..engine.device import MemoryUse
from ..engine.messages import EngineFailure
from ..errors import (
    HandedOverError,
    InvalidRequestError,
    LoadCancelledError,
    ModelError,
    RefusalError,
    TooLargeError,
    UnavailableError,
)
from ..loading.device_loaders import Loaded, Loader
from ..loading.encoder import LoadedEncoder
from ..progress import LoadProgress, phase_seconds
from ..spec import ModelSpec
from ..task import Task
from ..threads import in_thread, post
from .change_notifier import ChangeNotifier
from .counters import WorkerCounters
from .serving_model import ServingEncoder, ServingModel, describe, start_serving
from .state import State, Status
from .streams import Streams

log = structlog.get_logger()

_READ_SECONDS = 2.0  # how long a client may take to read that its stream was handed over
# Setting up grammars holds the GIL for 0.3 s or more: not while the first requests come.
_SET_UP_AFTER = 3.0  # seconds
_STOP_SECONDS = 2.0  # how long an engine or a load may take to notice the process's end


@contextmanager
def _without_gc() -> Iterator[None]:
    """Objects that imports and a load make stay alive: collecting among them costs 0.3 s."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _collect() -> None:
    """The memory of a model that was freed, for the next one."""
    gc.unfreeze()
    gc.collect()


class Lifecycle:
    """Used from the event loop only; `changed` notifies of each new `status`."""

    def __init__(self, loader: Loader, *, stall_after: float = 60.0) -> None:
        self._loader = loader
        self._stall_after = stall_after
        self._loop = asyncio.get_running_loop()
        self._status = Status()  # without a stall
        self._stall: str | None = None
        self._cancel_load = threading.Event()
        self._load: asyncio.Task[None] | None = None
        self._hand_over: asyncio.TimerHandle | None = None
        self._handed_over = asyncio.Event()
        self._unloading = asyncio.Lock()
        self.status = Status()  # as seen from outside: FAILED while the engine makes no progress
        # From its load to its unload.
        self.model: ServingModel | ServingEncoder | None = None
        # The same while READY, when it takes requests: to generate, or to embed.
        self.serving: ServingModel | None = None
        self.embedding: ServingEncoder | None = None
        self.memory: MemoryUse | None = None  # of the model, or of the one that did not fit
        self.progress = LoadProgress(started=0.0)
        self.streams = Streams(self._on_failure)
        self.counters = WorkerCounters()
        self.changed = ChangeNotifier()
        self.broken = asyncio.Event()  # the engine's loop ended: replace this process

    def load(self, spec: ModelSpec) -> None:
        """Starts loading; the same model again is a no-op. Raises PreconditionError."""
        before, status = self._status, self._status.load(spec)
        if status is before:
            return
        if before.asleep != spec:
            self._begin_load(status, spec)
            return
        log.info("woken", model=spec.model, loaded=before.is_loaded)
        if before.is_loaded:
            self.progress = LoadProgress(started=time.time()).done(time.time())
        self._become(status)

    def sleep(self, spec: ModelSpec) -> None:
        """Loads a model that nobody asked for yet; `load` of the same makes it serve at once."""
        self._begin_load(self._status.sleep(spec), spec)

    def _begin_load(self, status: Status, spec: ModelSpec) -> None:
        self._cancel_load.set()  # of another model, which nobody asked for
        before, self._cancel_load = self._load, threading.Event()
        self.memory = None
        self.progress = LoadProgress(started=time.time())
        self._become(status)
        self._load = asyncio.create_task(self._run_load(spec, self._cancel_load, before))

    async def _run_load(
        self, spec: ModelSpec, cancelled: threading.Event, before: asyncio.Task[None] | None
    ) -> None:
        if before is not None:
            await before
            await self._free_engine()
            _collect()
        begun: dict[str, float] = {}  # when each phase began

        def report(phase: str, share: float) -> None:
            if cancelled.is_set():
                raise LoadCancelledError
            begun.setdefault(phase, time.monotonic())
            post(self._loop, self._advance, phase, share)

        began = time.monotonic()
        log.info("loading", model=spec.model, source=spec.source)
        try:
            with (
                structlog.contextvars.bound_contextvars(model=spec.model),
                _without_gc(),
            ):
                loaded = await in_thread(lambda: self._loader(spec, report), "load")
        except LoadCancelledError:
            log.info("loading was cancelled", model=spec.model)
            return
        except ModelError as error:
            reason = str(error)
            self.memory = _memory_needed(error)
        except Exception as error:  # whatever files provoke: the operator has to see it in Stats
            log.exception("loading failed unexpectedly", model=spec.model)
            reason = f"unexpected {type(error).__name__}: {error}"
        else:
            if not cancelled.is_set():
                phases = phase_seconds(begun, time.monotonic())
                self.progress = self.progress.done(time.time())
                self._serve(loaded)
                seconds = round(time.monotonic() - began, 2)
                log.info(
                    "asleep" if self._status.asleep else "ready",
                    seconds=seconds,
                    phases=phases,
                    **describe(loaded),
                )
            return
        if not cancelled.is_set():
            log.error("loading failed", model=spec.model, reason=reason)
            asleep = self._status.asleep is not None
            self._become(self._status.not_asleep() if asleep else self._status.failed(reason))

    def _serve(self, loaded: Loaded | LoadedEncoder) -> None:
        self.model = start_serving(loaded, self.streams.receive)
        if isinstance(loaded, LoadedEncoder):
            self._become(self._status.loaded(Task.EMBED))
            return
        self.memory = loaded.model.memory
        self._become(self._status.loaded())
        if isinstance(self.model, ServingModel) and self.model.computation.path != "paced":
            self._loop.call_later(_SET_UP_AFTER, self._set_up_grammars, self.model)

    def _set_up_grammars(self, model: ServingModel) -> None:
        """Before a request needs them, as soon as none runs."""
        if self.model is not model:
            return
        if self.streams:
            self._loop.call_later(_SET_UP_AFTER, self._set_up_grammars, model)
            return

        def set_up() -> None:
            with suppress(InvalidRequestError):  # who needs them is told
                model.grammars.set_up()

        in_thread(set_up, "grammars")

    def _on_failure(self, failure: EngineFailure) -> None:
        if not self.broken.is_set():
            log.error("engine failed", model=self._model_name, reason=failure.error)
        message = f"engine failed: {failure.error}"
        self.streams.end_all(UnavailableError(message))
        self._become(self._status.failed(message))
        self.broken.set()

    def drain(self, deadline: float) -> int:
        """Takes no more requests, and hands over those that still run in `deadline` seconds.

        Returns how many run now. Calling it again only changes the deadline.
        """
        if self._status.state in (State.LOADING, State.STANDBY):
            self._cancel_load.set()
        if self._hand_over is not None:
            self._hand_over.cancel()
        error = HandedOverError("handed over: this worker is draining")
        self._handed_over.clear()
        self._hand_over = self._loop.call_later(deadline, self._end_streams, error)
        running = len(self.streams)
        log.info("draining", model=self._model_name, running=running, deadline=deadline)
        self._become(self._status.drain())
        return running

    def _end_streams(self, error: RefusalError) -> None:
        if self.streams:
            log.info("handing over", model=self._model_name, running=len(self.streams))
        self.streams.end_all(error)
        self._handed_over.set()

    async def drained(self) -> None:
        """Waits until no request runs, or the running ones were handed over, read or not."""
        empty = asyncio.create_task(self.streams.wait_empty())
        handed_over = asyncio.create_task(self._handed_over.wait())
        await asyncio.wait([empty, handed_over], return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait([empty], timeout=_READ_SECONDS)
        empty.cancel()
        handed_over.cancel()

    async def unload(self, deadline: float) -> None:
        """Drains, then frees the weights and the cache; returns when they are free."""
        async with self._unloading:
            if self._status == Status():
                return
            self.drain(deadline)
            await self.drained()
            await self._free_model()
            _collect()
            self._become(Status())
            log.info("unloaded")

    async def close(self) -> None:
        """Stops engine and load for good; gives up on one that is stuck."""
        self._cancel_load.set()
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await self._free_model()
        except TimeoutError:
            log.warning("a thread does not stop; leaving it behind", model=self._model_name)

    async def _free_model(self) -> None:
        self._cancel_load.set()
        if self._hand_over is not None:
            self._hand_over.cancel()
        if self._load is not None:
            await self._load
        await self._free_engine()
        self._stall = None

    async def _free_engine(self) -> None:
        self.serving = self.embedding = None
        if self.model is not None:
            engine = self.model.engine
            await in_thread(engine.stop, "stop")
            self.counters.add_engine(engine.stats)
            self.model = None
            self.memory = None

    async def watch_engine(self, interval: float = 0.5) -> None:
        """Watches for a stalled engine; never returns."""
        while True:
            await asyncio.sleep(interval)
            stall = None
            if self.model is not None:
                stall = self.model.engine.stalled(time.monotonic(), after=self._stall_after)
            if (stall is None) != (self._stall is None):
                log.warning(stall or "the engine makes progress again", model=self._model_name)
                self._stall = stall
                self._publish()

    def _advance(self, phase: str, share: float) -> None:
        self.progress = self.progress.advance(phase, share, time.time())

    def _become(self, status: Status) -> None:
        self._status = status
        self._publish()

    def _publish(self) -> None:
        """What requests and Stats see, after a change of the status or of a stall."""
        status = self._status.stalled(self._stall)
        if status != self.status:
            self.status = status
            ready = self.model if status.state is State.READY else None
            self.serving = ready if isinstance(ready, ServingModel) else None
            self.embedding = ready if isinstance(ready, ServingEncoder) else None
            self.changed.notify()

    @property
    def _model_name(self) -> str:
        return self._status.spec.model if self._status.spec else ""


def _memory_needed(error: BaseException | None) -> MemoryUse | None:
    """Of a load that failed for want of memory, all as weights; None: it failed otherwise."""
    while error is not None and not isinstance(error, TooLargeError):
        error = error.__cause__
    if error is None:
        return None
    return MemoryUse(weights=error.needed, cache=0, working=0, available=error.available)
