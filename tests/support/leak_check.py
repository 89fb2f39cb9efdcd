"""After every test: each cache block is held, cached or free, and only living requests hold any."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from modelfleet_worker.engine.block_manager import BlockManager
from modelfleet_worker.engine.engine import Engine
from modelfleet_worker.engine.messages import Add
from modelfleet_worker.engine.scheduler import Scheduler

_TIMEOUT = 5.0  # seconds that a thread which was told to stop may take


@dataclass
class Made:
    """What a test made. Engines weakly: one holds a model, and tests see that it is freed."""

    pools: list[BlockManager] = field(default_factory=list)
    schedulers: list[Scheduler] = field(default_factory=list)
    engines: list[weakref.ref[Engine]] = field(default_factory=list)

    def check(self) -> None:
        """Raises AssertionError for a leak."""
        engines = [engine for ref in self.engines if (engine := ref()) is not None]
        running = [engine for engine in engines if not _stopped(engine)]
        busy = {id(engine._scheduler) for engine in running}
        for scheduler in self.schedulers:
            if id(scheduler) not in busy:
                check_scheduler(scheduler)
        owned = {id(scheduler.blocks) for scheduler in self.schedulers}
        for pool in self.pools:
            if id(pool) not in owned:
                check_pool(pool)
        for engine in engines:
            if engine not in running:
                check_names(engine)
        assert not running, f"{len(running)} engines still run after the test"


def watch(patch: Callable[[Any, str, Any], None]) -> Made:
    """Notes all that is made from now on; `patch` is a MonkeyPatch's setattr."""
    made = Made()
    _note(patch, BlockManager, made.pools.append)
    _note(patch, Scheduler, made.schedulers.append)
    _note(patch, Engine, lambda engine: made.engines.append(weakref.ref(engine)))
    return made


def check_scheduler(scheduler: Scheduler) -> None:
    """Free + cached + held = all; references are the living tables; a waiting one holds none."""
    scheduler.blocks.check([sequence.block_table for sequence in scheduler])
    for sequence in scheduler.waiting:
        name = sequence.request.request_id
        assert not sequence.block_table, f"{name} waits, and holds {sequence.block_table}"
        assert not sequence.num_computed, f"{name} waits, but {sequence.num_computed} are computed"
    if not len(scheduler):
        assert scheduler.blocks.used == 0
    assert scheduler.blocks.used + scheduler.blocks.available == scheduler.blocks.num_blocks


def check_pool(pool: BlockManager) -> None:
    """Of a pool without a scheduler the tables are the test's own: as many as it refers to."""
    references = pool._references
    tables = [
        [block for block, count in enumerate(references) if count > i]
        for i in range(max(references, default=0))
    ]
    pool.check(tables)


def check_names(engine: Engine) -> None:
    """Names are free again once their requests are gone; a failed engine takes none anyway."""
    if engine._inbox._failure is None:
        living = {sequence.request.request_id for sequence in engine._scheduler}
        living |= {c.request.request_id for c in engine._inbox._commands if isinstance(c, Add)}
        assert engine._inbox._living == living


def _stopped(engine: Engine) -> bool:
    ends = engine._inbox._stopping or engine._inbox._failure is not None
    if ends and engine._thread.is_alive():
        engine._thread.join(_TIMEOUT)
    return not engine._thread.is_alive()


def _note(patch: Callable[[Any, str, Any], None], kind: type, note: Callable[[Any], None]) -> None:
    original = kind.__init__

    def made(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        note(self)

    patch(kind, "__init__", made)
