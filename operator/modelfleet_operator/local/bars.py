"""How far models are loaded: one live line each, below the log lines of a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Console

from ..decisions.status import ColdStartProgress

if TYPE_CHECKING:
    from rich.progress import TaskID


def is_loading(cold: ColdStartProgress | None) -> bool:
    """Whether time brings it nearer."""
    return cold is not None and cold.phase not in ("BackOff", "Pending")


class LoadBars:
    """`show` what a plan says, `end` when nothing loads any more."""

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        """`clock` gives Unix seconds."""
        # Only on a terminal, and it takes 0.05 s.
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        self._clock = clock
        self._tasks: dict[str, TaskID] = {}
        self._progress = Progress(
            # Names and phases are words of others.
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("{task.fields[details]}", markup=False),
            console=console,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # else it is a file or a pipe: not ours to take
            auto_refresh=False,
        )

    @property
    def models(self) -> list[str]:
        """Those that are shown."""
        return list(self._tasks)

    def show(self, model: str, cold: ColdStartProgress | None) -> None:
        """Nothing that loads now removes the model's line."""
        if cold is None or not is_loading(cold):
            self._drop(model)
            return
        if model not in self._tasks:
            if not self._tasks:
                self._progress.start()
            name = model.removeprefix("default/")
            self._tasks[model] = self._progress.add_task(name, total=100, details="")
        self._progress.update(
            self._tasks[model], completed=cold.percent, details=self._details(cold)
        )
        self._progress.refresh()

    def end(self) -> None:
        """Leaves nothing on the terminal."""
        for model in self.models:
            self._drop(model)

    def _details(self, cold: ColdStartProgress) -> str:
        left = cold.eta - self._clock()
        return f"{cold.phase.lower()}, about {left:.0f} s" if left >= 0.5 else cold.phase.lower()

    def _drop(self, model: str) -> None:
        task = self._tasks.pop(model, None)
        if task is None:
            return
        self._progress.remove_task(task)
        if not self._tasks:
            self._progress.stop()
