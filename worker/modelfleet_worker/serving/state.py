"""The worker's states, and which call is allowed in which: pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from ..errors import (
    InvalidRequestError,
    ModelNotServedError,
    PreconditionError,
    RefusalError,
    UnavailableError,
)
from ..spec import ModelSpec
from ..task import Task

_INSTEAD = {
    Task.GENERATE: "generates text and makes no embeddings: send it chats or completions",
    Task.EMBED: "makes embeddings and generates nothing: send it to /v1/embeddings",
}


class State(enum.StrEnum):
    """Named as in worker.proto."""

    STANDBY = "STANDBY"  # started, no model
    LOADING = "LOADING"
    READY = "READY"
    DRAINING = "DRAINING"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What the worker is doing. Every transition gives a new one.

    STANDBY -> LOADING -> READY -> DRAINING -> STANDBY; LOADING and READY may become FAILED, and a
    FAILED worker may load again. A drain leads from any state but FAILED to DRAINING. A STANDBY may
    load a model that nobody asked for yet, and sleep: asked for it, it is READY at once.
    """

    state: State = State.STANDBY
    spec: ModelSpec | None = None
    task: Task = Task.AUTO  # of the model that is loaded; Auto: none is yet
    message: str = ""  # why FAILED, for a person
    asleep: ModelSpec | None = None  # of a STANDBY: what it loads, or has loaded, ahead
    is_loaded: bool = False  # whether `asleep` is in memory

    def sleep(self, spec: ModelSpec) -> Status:
        """Starts loading a model that nobody asked for yet; of a worker that just began."""
        return Status(asleep=spec)

    def not_asleep(self) -> Status:
        """What it was to load ahead could not be loaded: it stands by without."""
        return Status()

    def load(self, spec: ModelSpec) -> Status:
        """Starts loading; itself if it does or did already. Raises PreconditionError."""
        match self.state:
            case State.STANDBY if self.is_loaded and self.asleep == spec:
                return Status(state=State.READY, spec=spec, task=self.task)
            case State.STANDBY | State.FAILED:
                return Status(state=State.LOADING, spec=spec)
            case State.LOADING | State.READY if self.spec == spec:
                return self
            case State.DRAINING:
                raise PreconditionError("this worker is draining: unload its model first")
        loaded = self.spec.model if self.spec else ""
        differing = "with other settings" if loaded == spec.model else "another model"
        raise PreconditionError(
            f"this worker holds {loaded} ({differing}); it cannot load {spec.model}: unload first"
        )

    def loaded(self, task: Task = Task.GENERATE) -> Status:
        """The model is in memory, and its engine runs."""
        if self.state is State.STANDBY:
            return replace(self, is_loaded=True, task=task)
        return replace(self, state=State.READY, task=task)

    def failed(self, message: str) -> Status:
        """The load failed, or the engine did."""
        return replace(self, state=State.FAILED, message=message, asleep=None, is_loaded=False)

    def drain(self) -> Status:
        """No more requests are taken; a failure stays one."""
        if self.state is State.FAILED:
            return self
        return replace(self, state=State.DRAINING, asleep=None, is_loaded=False)

    def stalled(self, reason: str | None) -> Status:
        """FAILED, as seen from outside, while the engine makes no progress (None: it does)."""
        return self.failed(reason) if reason and self.state is State.READY else self

    def refusal(self, model: str, task: Task = Task.GENERATE) -> RefusalError:
        """Why a request for the model, to do this, is not taken now."""
        if self.spec is None or self.spec.model != model:
            holds = (
                f"this worker holds {self.spec.model}"
                if self.spec
                else "this worker holds no model"
            )
            return ModelNotServedError(f"{holds}, not {model!r}")
        if self.task not in (Task.AUTO, task):
            return InvalidRequestError(f"{model} {_INSTEAD[self.task]}")
        match self.state:
            case State.LOADING:
                return UnavailableError(f"{model} is still loading")
            case State.FAILED:
                return UnavailableError(f"this worker failed: {self.message}")
            case _:  # a READY one that takes nothing is about to end
                return UnavailableError("this worker is draining")
