"""Pods that the API server refused: why, and until when none is tried again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..decisions.observed import Deployment
from ..decisions.startup_problem import Refusal, refusal_reason

REFUSAL_STANDS = 20.0  # seconds until a pod that the API server refused is tried again


@dataclass(frozen=True, slots=True)
class _Refused:
    uid: str
    generation: int
    refusal: Refusal


class Refusals:
    """The last one of each deployment."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._refused: dict[str, _Refused] = {}

    def note(self, deployment: Deployment, message: str) -> None:
        """No pod of this deployment was taken."""
        refusal = Refusal(
            reason=refusal_reason(message),
            message=message,
            retry_at=self._clock() + REFUSAL_STANDS,
        )
        refused = _Refused(deployment.uid, deployment.generation, refusal)
        self._refused[deployment.key] = refused

    def forget(self, key: str) -> None:
        """A pod was taken, or the deployment is gone."""
        self._refused.pop(key, None)

    def of(self, deployment: Deployment) -> Refusal | None:
        """It stands until a pod is taken, or the object changes."""
        refused = self._refused.get(deployment.key)
        if refused is None:
            return None
        if (refused.uid, refused.generation) != (deployment.uid, deployment.generation):
            del self._refused[deployment.key]
            return None
        return refused.refusal
