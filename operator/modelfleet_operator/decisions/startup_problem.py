"""What keeps a worker from starting, and how long it may last before the status says so."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .reasons import Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class StartupProblem:
    """Why a worker does not start, or that its node is lost, though its process did not end."""

    reason: Reason
    message: str  # for a person; it names the pod, and what to do where that is not obvious
    since: float  # Unix seconds, as well as the body can tell

    def is_shown(self, now: float) -> bool:
        """Whether it has lasted beyond what is usual in a start that goes well."""
        return self.shown_at <= now

    def is_lasting(self, now: float) -> bool:
        """Whether it has lasted so long that it will hardly pass by itself."""
        return self.stalled_at <= now

    @property
    def shown_at(self) -> float:
        """When conditions begin to name it, Unix seconds."""
        return self.since + GRACE_PERIODS[self.reason][0]

    @property
    def stalled_at(self) -> float:
        """When it makes the deployment Stalled, Unix seconds; inf: never."""
        return self.since + GRACE_PERIODS[self.reason][1]


# Seconds until it is shown, and until it is Stalled. What passes by itself again and again (a
# registry's hiccup, a Secret that another controller writes, a node that an autoscaler brings) gets
# the time that this usually takes.
GRACE_PERIODS: dict[Reason, tuple[float, float]] = {
    Reason.UNSCHEDULABLE: (0.0, 300.0),
    Reason.SCHEDULING_GATED: (0.0, math.inf),
    Reason.IMAGE_PULL: (0.0, 60.0),
    Reason.CONTAINER_CONFIG: (0.0, 60.0),
    Reason.CONTAINER_START: (0.0, 60.0),
    Reason.POD_NOT_STARTING: (20.0, 300.0),
    Reason.NODE_LOST: (0.0, math.inf),  # it is replaced, or comes back
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The API server (or a machine) takes no new worker until a person changes something."""

    reason: Reason
    message: str
    retry_at: float  # when the next worker may be tried, Unix seconds


def refusal_reason(message: str) -> Reason:
    """What an API server's refusal of a pod is about, by the sentence that it gives."""
    return next(
        (reason for words, reason in _REFUSALS if any(word in message for word in words)),
        Reason.POD_REFUSED,
    )


# In order: the first that fits. The words are those of Kubernetes' admission plugins.
_REFUSALS: tuple[tuple[tuple[str, ...], Reason], ...] = (
    (("has another owner",), Reason.POD_NAME_TAKEN),
    (("cannot create resource",), Reason.FORBIDDEN),
    (("spec.deviceClaim",), Reason.DEVICE_CLAIM_REFUSED),
    (("exceeded quota:", "failed quota:"), Reason.QUOTA_EXCEEDED),
    (("violates PodSecurity",), Reason.POD_SECURITY),
    (("is being terminated", 'namespaces "'), Reason.NAMESPACE_TERMINATING),
    (("error looking up service account",), Reason.SERVICE_ACCOUNT_MISSING),
    (("admission webhook", "ValidatingAdmissionPolicy"), Reason.ADMISSION_DENIED),
    (
        (
            *("maximum cpu", "maximum memory", "minimum cpu", "minimum memory"),
            *("limit to request ratio", "usage per Container", "usage per Pod"),
        ),
        Reason.LIMIT_RANGE,
    ),
)
