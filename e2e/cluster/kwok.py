"""Nodes without machines: kwok reports their pods as running as soon as they are bound.

Pods get there only if they tolerate the taint, so nothing real lands on them by accident.
"""

import signal
from collections import defaultdict

from . import processes, up
from .components import program
from .kubectl import apply, get, kubectl
from .layout import FAKE_POD_NETWORK, KUBECONFIG

PART = "kwok"
FAKE = "kwok.x-k8s.io/node"  # the annotation that kwok looks for; our label and our taint, too
STAGES = ("node/fast/node-initialize", "pod/fast/pod-ready", "pod/fast/pod-delete")


def start_nodes(count: int, *, gpus: int = 8, pods: int = 1000) -> None:
    """Adds `count` nodes, each with room for `pods` pods and with `gpus` of nvidia.com/gpu."""
    up.prepare([PART])
    if processes.find(PART, "kwok") is None:
        stages = program("kwok").parent / "stage"
        processes.start(
            *(PART, program("kwok"), "--kubeconfig", KUBECONFIG),
            *(f"--config={stages / stage}.yaml" for stage in STAGES),
            *("--manage-nodes-with-annotation-selector", f"{FAKE}=fake"),
            *("--cidr", FAKE_POD_NETWORK, "--node-lease-duration-seconds", "40"),
        )
    amounts = {"cpu": "512", "memory": "4Ti", "pods": str(pods), "nvidia.com/gpu": str(gpus)}
    apply(*(fake_node(f"fake-{number}", amounts) for number in range(1, count + 1)))
    kubectl("wait", "--for=condition=Ready", "nodes", "--selector", FAKE, "--timeout=60s")


def fake_node(name: str, amounts: dict[str, str]) -> dict[str, object]:
    """The Node object that kwok brings to life."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {FAKE: "fake", "kubernetes.io/hostname": name},
            "annotations": {FAKE: "fake"},
        },
        "spec": {"taints": [{"key": FAKE, "value": "fake", "effect": "NoSchedule"}]},
        "status": {"capacity": amounts, "allocatable": amounts},
    }


def stop_nodes() -> None:
    """Removes the pods of the fake nodes, the nodes, and then kwok, which all of it needs."""
    fakes = {node["metadata"]["name"] for node in get("nodes", "--selector", FAKE)["items"]}
    if fakes:
        kubectl("cordon", "--selector", FAKE)
    bound = defaultdict(list)
    for pod in get("pods", "--all-namespaces")["items"]:
        if pod["spec"].get("nodeName") in fakes:
            bound[pod["metadata"]["namespace"]].append(pod["metadata"]["name"])
    for namespace, pods in bound.items():
        kubectl("delete", "pods", "--namespace", namespace, "--ignore-not-found", *pods)
    kubectl("delete", "nodes", "--selector", FAKE)
    pid = processes.find(PART, "kwok")
    if pid is not None:
        processes.stop([pid], with_signal=signal.SIGTERM)
