"""Every reason that a condition can give; docs/troubleshooting.md explains each."""

from __future__ import annotations

import enum


class Reason(enum.StrEnum):
    """Stable: programs read them. The messages beside them are for people."""

    # Ready
    SERVING = "Serving"
    SERVING_OLD_REVISION = "ServingOldRevision"
    ASLEEP = "Asleep"
    STARTING = "Starting"
    WAKING = "Waking"
    NO_GATEWAY = "NoGateway"
    GATEWAY_BEHIND = "GatewayBehind"
    UNREACHABLE = "Unreachable"
    CERTIFICATE_REFUSED = "CertificateRefused"
    SCALED_TO_ZERO = "ScaledToZero"

    # Reconciling
    AS_DESIRED = "AsDesired"
    SCALING_UP = "ScalingUp"
    SCALING_DOWN = "ScalingDown"
    ROLLOUT = "Rollout"
    INTERRUPTED = "Interrupted"
    STALLED = "Stalled"

    # Stalled
    PROGRESSING = "Progressing"
    ROLLOUT_STUCK = "RolloutStuck"

    # NameConflict
    NO_CONFLICT = "NoConflict"
    NAME_TAKEN = "NameTaken"

    # PlacementLimited
    AS_ASKED = "AsAsked"
    ACCELERATOR_SHORT = "AcceleratorShort"
    SPOT_SHORT = "SpotShort"
    ACCELERATOR_CLASS_MISSING = "AcceleratorClassMissing"
    MODEL_DOES_NOT_FIT = "ModelDoesNotFit"  # Stalled, too
    CLASS_NOT_COMPARED = "ClassNotCompared"

    # BudgetLimited
    WITHIN_BUDGET = "WithinBudget"
    BUDGET_REACHED = "BudgetReached"
    PRICE_UNKNOWN = "PriceUnknown"
    MINIMUM_ABOVE_BUDGET = "MinimumAboveBudget"  # Stalled, too

    # What the user must correct in the object
    INVALID_SPEC = "InvalidSpec"
    HOST_PATH_NOT_ALLOWED = "HostPathNotAllowed"

    # The API server takes no pod (Ready, Stalled)
    QUOTA_EXCEEDED = "QuotaExceeded"
    LIMIT_RANGE = "LimitRange"
    POD_SECURITY = "PodSecurity"
    SERVICE_ACCOUNT_MISSING = "ServiceAccountMissing"
    ADMISSION_DENIED = "AdmissionDenied"
    FORBIDDEN = "Forbidden"
    NAMESPACE_TERMINATING = "NamespaceTerminating"
    POD_NAME_TAKEN = "PodNameTaken"
    DEVICE_CLAIM_REFUSED = "DeviceClaimRefused"
    POD_REFUSED = "PodRefused"

    # A pod does not start, or its node is lost (Ready, Reconciling, Stalled)
    UNSCHEDULABLE = "Unschedulable"
    SCHEDULING_GATED = "SchedulingGated"
    IMAGE_PULL = "ImagePull"
    CONTAINER_CONFIG = "ContainerConfig"
    CONTAINER_START = "ContainerStart"
    POD_NOT_STARTING = "PodNotStarting"
    NODE_LOST = "NodeLost"

    # A worker ended or failed (Ready, Stalled)
    WORKER_FAILED = "WorkerFailed"
    CRASH_LOOP = "CrashLoop"
    OUT_OF_MEMORY = "OutOfMemory"
    EVICTED = "Evicted"
    NODE_REFUSED = "NodeRefused"
    INIT_CONTAINER_FAILED = "InitContainerFailed"
    LOAD_FAILED = "LoadFailed"

    # A wake takes longer than spec.coldStart.deadline (Ready, Stalled)
    COLD_START_TIMEOUT = "ColdStartTimeout"
