"""The pod security standard `restricted` as an allow list, for what users lay under worker pods.

The right to write a ModelDeployment must not give more of a node, or of the cluster, than the
administrator gave, in namespaces without a level of their own, too. What is not listed is refused:
a field of tomorrow's Kubernetes is looked at before it is let through.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Part = Mapping[str, Any]
Finding = tuple[str, str]  # path below the pod's spec, and what is wrong there

# Fields of a pod's spec that a podTemplate may have.
POD_FIELDS = frozenset(
    {"affinity", "nodeSelector", "tolerations", "topologySpreadConstraints", "schedulerName"}
    | {"schedulingGates", "priorityClassName", "preemptionPolicy", "runtimeClassName", "overhead"}
    | {"serviceAccountName", "serviceAccount", "imagePullSecrets", "securityContext", "os"}
    | {"containers", "initContainers", "volumes", "resources", "resourceClaims", "hostUsers"}
    | {"dnsConfig", "dnsPolicy", "hostAliases", "hostname", "hostnameOverride", "subdomain"}
    | {"setHostnameAsFQDN", "shareProcessNamespace", "readinessGates"}
    | {"hostNetwork", "hostPID", "hostIPC"}  # as false
)
_CONTAINER_FIELDS = frozenset(
    {"name", "image", "command", "args", "workingDir", "ports", "env", "envFrom", "resources"}
    | {"resizePolicy", "volumeMounts", "volumeDevices", "livenessProbe", "readinessProbe"}
    | {"startupProbe", "lifecycle", "terminationMessagePath", "terminationMessagePolicy"}
    | {"imagePullPolicy", "securityContext", "stdin", "stdinOnce", "tty", "restartPolicy"}
    | {"restartPolicyRules"}
)
VOLUMES = frozenset(
    {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "secret", "projected"}
    | {"persistentVolumeClaim"}
    | {"hostPath"}  # see host_folders.py
)
_FREE = frozenset(  # of a security context: `restricted` says nothing about them
    {"fsGroup", "fsGroupChangePolicy", "readOnlyRootFilesystem", "runAsGroup", "supplementalGroups"}
    | {"supplementalGroupsPolicy", "seLinuxChangePolicy"}
)
_PROFILES = frozenset({None, "RuntimeDefault", "Localhost"})
_SELINUX_TYPES = frozenset(
    {None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
)
_CAPABILITIES = frozenset({"NET_BIND_SERVICE"})
_SYSCTLS = frozenset(
    {"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports"}
    | {"net.ipv4.ip_unprivileged_port_start", "net.ipv4.tcp_syncookies", "net.ipv4.tcp_wmem"}
    | {"net.ipv4.ping_group_range", "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout"}
    | {"net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem"}
)
_NOT_ALLOWED = "the pod security standard `restricted` does not allow it: remove it"
_HOOKS = ("livenessProbe", "readinessProbe", "startupProbe")


def findings(spec: Part) -> Iterator[Finding]:
    """What a pod's spec (of core/v1, without nulls) has beyond `restricted`."""
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            yield field, "workers share nothing with their node: remove it"
    yield from _context(spec.get("securityContext", {}), "securityContext")
    for field in ("initContainers", "containers"):
        for container in spec.get(field, ()):
            yield from _container(container, f"{field}[{container.get('name')}]")
    for volume in spec.get("volumes", ()):
        for kind in sorted(volume.keys() - VOLUMES - {"name"}):
            yield f"volumes[{volume.get('name')}].{kind}", _NOT_ALLOWED
    if str(spec.get("priorityClassName", "")).startswith("system-"):
        yield "priorityClassName", "system- classes are the cluster's own: choose another"
    for place, toleration in enumerate(spec.get("tolerations", ())):
        if not toleration.get("key"):
            yield f"tolerations[{place}]", "this tolerates every taint: name a key"


def annotation_findings(annotations: Mapping[str, str]) -> Iterator[Finding]:
    """What annotations of a pod still ask for, by their older spelling."""
    for name, value in annotations.items():
        prefix = name.partition("/")[0]
        is_profile = prefix == "container.apparmor.security.beta.kubernetes.io"
        if is_profile and value != "runtime/default" and not value.startswith("localhost/"):
            yield f"[{name}]", _NOT_ALLOWED
        if prefix.endswith("seccomp.security.alpha.kubernetes.io"):
            yield f"[{name}]", "say it by securityContext.seccompProfile"


def _container(container: Part, where: str) -> Iterator[Finding]:
    for field in sorted(container.keys() - _CONTAINER_FIELDS):
        yield f"{where}.{field}", "a podTemplate may not set it: remove it"
    yield from _context(container.get("securityContext", {}), f"{where}.securityContext")
    for port in container.get("ports", ()):
        if port.get("hostPort"):
            yield f"{where}.ports[{port.get('containerPort')}].hostPort", _NOT_ALLOWED
    lifecycle = container.get("lifecycle", {})
    hooks = {name: container.get(name, {}) for name in _HOOKS}
    hooks |= {f"lifecycle.{name}": lifecycle.get(name, {}) for name in ("postStart", "preStop")}
    for name, hook in hooks.items():
        for way in ("httpGet", "tcpSocket"):
            if hook.get(way, {}).get("host"):
                yield f"{where}.{name}.{way}.host", _NOT_ALLOWED


def _context(context: Part, where: str) -> Iterator[Finding]:
    linux = context.get("seLinuxOptions", {})
    added = context.get("capabilities", {}).get("add", ())
    asked = {
        "privileged": bool(context.get("privileged")),
        "allowPrivilegeEscalation": bool(context.get("allowPrivilegeEscalation")),
        "runAsNonRoot": context.get("runAsNonRoot") is False,
        "runAsUser": context.get("runAsUser") == 0,
        "procMount": context.get("procMount") not in (None, "Default"),
        "seccompProfile": context.get("seccompProfile", {}).get("type") not in _PROFILES,
        "appArmorProfile": context.get("appArmorProfile", {}).get("type") not in _PROFILES,
        "capabilities.add": not _CAPABILITIES.issuperset(added),
        "seLinuxOptions": bool(linux.get("user") or linux.get("role"))
        or linux.get("type") not in _SELINUX_TYPES,
        "sysctls": not _SYSCTLS.issuperset(s.get("name") for s in context.get("sysctls", ())),
    }
    known = _FREE | {name.partition(".")[0] for name in asked}
    refused = [name for name, is_refused in asked.items() if is_refused]
    for field in [*refused, *sorted(context.keys() - known)]:
        yield f"{where}.{field}", _NOT_ALLOWED
