"""Builds worker pods: created whole, never changed, named by what is in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelfleet_process.options import LOG_LEVEL_VARIABLE, LogLevel

from ..api.model_deployment import API_VERSION, KIND, ModelDeployment
from ..decisions.names import revision_hash, worker_name
from ..decisions.reasons import Reason
from ..views import model_flags
from .environment import ALLOWED_ENDPOINTS, Variable, allowed_endpoints
from .host_folders import HostFolders, read_only
from .pod_problems import WORKER
from .pod_security import annotation_findings, findings
from .pod_template import Problem, lay_under, problems
from .pod_tls import WorkerTls, trusting
from .resources import Layer, guessed, with_requests
from .storage import Storage, host_folder, storage

DEPLOYMENT = "modelfleet.dev/deployment"
REVISION = "modelfleet.dev/revision"
ORDINAL = "modelfleet.dev/ordinal"
UNROUTED_AT = "modelfleet.dev/unrouted-at"  # Unix seconds; set on a pod that gets nothing new
POOL = "modelfleet.dev/pool"  # the WarmPool that it was started for; stays when it is claimed
POOL_TEMPLATE = "modelfleet.dev/pool-template"  # hash of all that a standby was started with
CLAIMED_AT = "modelfleet.dev/claimed-at"  # Unix seconds; when a deployment took it from its pool

# Karpenter leaves a pod with it alone, until its node's grace period ends if it has one.
DO_NOT_DISRUPT = "karpenter.sh/do-not-disrupt"
# The Cluster Autoscaler: "false" keeps the node; without it, a pod with an emptyDir keeps it, too.
SAFE_TO_EVICT = "cluster-autoscaler.kubernetes.io/safe-to-evict"
# A worker whose node is silent serves nothing that another could not: nothing of it is lost with
# the pod. A kubelet that restarts says for some seconds that it is not ready.
NODE_TOLERATIONS = {"node.kubernetes.io/not-ready": 10, "node.kubernetes.io/unreachable": 2}

PORT = 9000
DRAIN_MARGIN = 15.0  # seconds between the end of the drain and the kubelet's SIGKILL


@dataclass(frozen=True, slots=True, kw_only=True)
class PodSettings:
    """What the operator's own flags say about worker pods."""

    image: str
    device: str = "auto"
    drain_timeout: float = 60.0  # seconds that running requests get after SIGTERM
    host_paths: tuple[str, ...] = ()  # folders of the node that pods may mount from
    node_cache: str = ""  # one of them: the models that a node's workers share; empty: each its own
    image_pull_secrets: tuple[str, ...] = ()
    hub_endpoint: str = ""  # of hf:// sources; empty: the public hub
    offline: bool = False  # no hub is asked: what is in the cache is all there is
    image_volumes: bool = False  # oci:// sources are mounted by the node's container runtime
    allowed_endpoints: tuple[str, ...] = ()  # HOST[:PORT]: private, and models may come from it
    env: tuple[Variable, ...] = ()  # of every worker, where its podTemplate says nothing else
    resources: Layer = field(default_factory=dict)  # the same
    log_level: LogLevel = LogLevel.INFO  # the operator's own; no part of a revision
    tracing: tuple[Variable, ...] = ()  # OpenTelemetry's, the operator's own; the same
    disruption_budgets: bool = True  # each deployment has a PodDisruptionBudget of ours
    ingress_from: tuple[Mapping[str, Any], ...] = ()  # NetworkPolicyPeers; empty: no policies
    tls: WorkerTls | None = None  # None: workers speak without

    @property
    def host_folders(self) -> HostFolders:
        """Folders of the node that pods may mount."""
        return HostFolders(self.host_paths, self.node_cache)

    def allows_host_path(self, path: str) -> bool:
        """Whether the administrator let pods mount this folder of the node."""
        return self.host_folders.allows(path)


def selector(deployment: str) -> str:
    """Finds the worker pods of a deployment in its namespace."""
    return f"{DEPLOYMENT}={deployment}"


def pod_template(manifest: ModelDeployment, settings: PodSettings) -> dict[str, Any]:
    """All that workers of one revision have in common; it is kept in the history and used later.

    Call `template_problems` first.
    """
    template = lay_under(_pod_spec(manifest, settings), manifest.spec.pod_template, settings.env)
    spec = template["spec"]
    worker = next(c for c in spec["containers"] if c["name"] == WORKER)
    guess = guessed(manifest, settings.device, worker["env"])
    return {**template, "spec": with_requests(spec, settings.resources, guess)}


def template_problems(manifest: ModelDeployment, settings: PodSettings) -> list[Problem]:
    """What the user must correct before a pod can be made."""
    found = []
    folder = host_folder(manifest.spec.model.source)
    if folder and (refusal := settings.host_folders.refusal(folder)):
        found.append((Reason.HOST_PATH_NOT_ALLOWED, f"spec.model.source: {refusal}"))
    ours = _pod_spec(manifest, settings)
    found += problems(manifest.spec.pod_template, ours, settings.host_folders)
    return found


def template_refusal(template: Mapping[str, Any], settings: PodSettings) -> str:
    """Why no pod is made of a template, kept from other days, any more; empty: one may be."""
    metadata, spec = template["metadata"], template["spec"]
    beyond = [*annotation_findings(metadata.get("annotations", {})), *findings(spec)]
    sentences = [f"{path}: {sentence}" for path, sentence in beyond]
    sentences += settings.host_folders.problems(spec, is_ours=True)
    return sentences[0] if sentences else ""


def template_faults(manifest: ModelDeployment) -> list[str]:
    """The same where no operator can be asked: what none of them would take."""
    every_folder = PodSettings(image="", host_paths=("/",))
    return [sentence for _, sentence in template_problems(manifest, every_folder)]


def template_revision(template: Mapping[str, Any]) -> str:
    """Changes with anything in the pod, the image included, and with nothing else."""
    return revision_hash(template)


def worker_pod(
    owner: Mapping[str, Any],
    template: Mapping[str, Any],
    *,
    revision: str,
    ordinal: int,
    log_level: LogLevel = LogLevel.INFO,
    tracing: Iterable[Variable] = (),
    bundle: bytes = b"",
) -> dict[str, Any]:
    """The whole pod. Created twice, or by two leaders, it is still one: the name is its content.

    `owner` is the metadata of the ModelDeployment. The level of the logs, where traces go and the
    `bundle` of authorities (PEM) are no part of the template, so others replace no worker: the next
    ones have them.
    """
    given = template["metadata"]
    spec = observed_by(log_level, tracing, read_only(template["spec"]))
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            **given,
            "annotations": {**given.get("annotations", {}), **protection(is_on=True)},
            "name": worker_name(owner["name"], revision, ordinal),
            "namespace": owner["namespace"],
            "labels": {
                **given.get("labels", {}),
                # Network policies select by them: they are not a podTemplate's to change.
                "app.kubernetes.io/name": "modelfleet-worker",
                "app.kubernetes.io/managed-by": "modelfleet",
                DEPLOYMENT: owner["name"],
                REVISION: revision,
                ORDINAL: str(ordinal),
            },
            "ownerReferences": [owner_reference(owner)],
        },
        "spec": leaving_silent_nodes(trusting(bundle, spec, WORKER)),
    }


def protection(*, is_on: bool) -> dict[str, str | None]:
    """Annotations for the controllers of nodes; None: it is removed. A new worker loads."""
    return {
        DO_NOT_DISRUPT: "true" if is_on else None,
        SAFE_TO_EVICT: "false" if is_on else "true",
    }


def leaving_silent_nodes(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """The spec with short tolerations of lost nodes; those of the podTemplate stay."""
    given = spec.get("tolerations", [])
    said = {toleration.get("key") for toleration in given}
    ours = [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}
        for key, seconds in NODE_TOLERATIONS.items()
        if key not in said
    ]
    return {**spec, "tolerations": [*given, *ours]}


def observed_by(
    level: LogLevel, tracing: Iterable[Variable], spec: Mapping[str, Any]
) -> Mapping[str, Any]:
    """The spec with these in its worker's environment; the podTemplate's own variables stay."""
    worker, *others = spec["containers"]
    given = {variable["name"] for variable in worker["env"]}
    wanted = [*tracing]
    if level is not LogLevel.INFO:  # the worker's default
        wanted.append({"name": LOG_LEVEL_VARIABLE, "value": level.value})
    fresh = [variable for variable in wanted if variable["name"] not in given]
    if not fresh:
        return spec
    return {**spec, "containers": [{**worker, "env": [*worker["env"], *fresh]}, *others]}


def owner_reference(owner: Mapping[str, Any], kind: str = KIND) -> dict[str, Any]:
    """Kubernetes' garbage collector deletes objects that have it with their owner."""
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "name": owner["name"],
        "uid": owner["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def _pod_spec(manifest: ModelDeployment, settings: PodSettings) -> dict[str, Any]:
    stored = storage(
        manifest.spec.model,
        node_cache=settings.node_cache,
        hub_endpoint=settings.hub_endpoint,
        offline=settings.offline,
        pull_secrets=_pull_secrets(manifest, settings),
        image_volumes=settings.image_volumes,
    )
    return bare_pod_spec(settings, stored, model_flags(manifest, source=stored.source))


def bare_pod_spec(settings: PodSettings, stored: Storage, model: Sequence[str]) -> dict[str, Any]:
    """A worker's pod before anything is laid under it; `model`: the flags about its model."""
    secrets = [{"name": name} for name in settings.image_pull_secrets]
    return {
        **({"imagePullSecrets": secrets} if secrets else {}),
        # A worker that exited is replaced by the plan, with its back-off, not restarted in place:
        # what is routed to a pod is then always the process that the pod began with.
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": int(settings.drain_timeout + DRAIN_MARGIN),
        "automountServiceAccountToken": False,  # a worker never talks to Kubernetes
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(settings, stored, model)],
        "volumes": [
            *stored.volumes,
            {"name": "tmp", "emptyDir": {}},
            *(settings.tls.volumes() if settings.tls else ()),
        ],
    }


def _pull_secrets(manifest: ModelDeployment, settings: PodSettings) -> list[str]:
    """Of the whole pod: they open the registry of its model, too."""
    given = manifest.spec.pod_template.spec.get("imagePullSecrets") or ()
    # The template is not validated yet: an entry that is no object is reported by that check.
    told = [secret.get("name") for secret in given if isinstance(secret, dict)]
    return list(dict.fromkeys([*settings.image_pull_secrets, *filter(None, told)]))


def _container(settings: PodSettings, stored: Storage, model: Sequence[str]) -> dict[str, Any]:
    return {
        "name": WORKER,
        "image": settings.image,
        "command": ["python", "-m", "modelfleet_worker"],
        "args": [
            f"--listen=[::]:{PORT}",  # both families: the pod's address may be of either
            # The kubelet fills these in, so that all pods of a revision are written alike.
            "--worker-id=$(POD_NAMESPACE)/$(POD_NAME)",
            # Said only when it was chosen: a podTemplate may choose by MODELFLEET_DEVICE otherwise.
            *([f"--device={settings.device}"] if settings.device != "auto" else []),
            f"--drain-timeout={settings.drain_timeout:g}",
            "--log-format=json",
            *model,
        ],
        # Always said: a variable of envFrom, which users choose, would count if it were not.
        "env": [
            *_identity(),
            *stored.environment,
            _allowed_endpoints(settings),
            *(settings.tls.environment() if settings.tls else ()),
        ],
        "ports": [{"name": "grpc", "containerPort": PORT}],
        # This port stays without TLS, which no probe of the kubelet's speaks with a certificate;
        # with TLS it serves health alone.
        # Loading takes minutes and answers NOT_SERVING all the while, so only readiness asks for
        # health. The others ask whether the process listens, which it does before it loads. A
        # worker that listens but makes no progress is drained and replaced by the plan.
        "startupProbe": {
            "tcpSocket": {"port": PORT},
            "periodSeconds": 1,
            "failureThreshold": 120,
        },
        "livenessProbe": {
            "tcpSocket": {"port": PORT},
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
        "readinessProbe": {
            "grpc": {"port": PORT},
            "periodSeconds": 5,
            "timeoutSeconds": 3,
            "failureThreshold": 2,
        },
        # The last lines of a worker's log say why it ended; they go into our status.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            *stored.mounts,
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  the container's own
            *(settings.tls.mounts() if settings.tls else ()),
        ],
    }


def _allowed_endpoints(settings: PodSettings) -> dict[str, Any]:
    listed = allowed_endpoints(settings.allowed_endpoints, settings.hub_endpoint, settings.env)
    return {"name": ALLOWED_ENDPOINTS, "value": listed}


def _identity() -> list[dict[str, Any]]:
    def downward(name: str, path: str) -> dict[str, Any]:
        return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}

    return [
        downward("POD_NAMESPACE", "metadata.namespace"),
        downward("POD_NAME", "metadata.name"),
    ]
