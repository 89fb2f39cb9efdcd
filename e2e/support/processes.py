"""Kills what runs in pods, as a machine does: without asking Kubernetes."""

from __future__ import annotations

from pathlib import Path

import psutil

from kube import Object


def kill_worker(pod: Object) -> None:
    """SIGKILL for the worker process of this pod, on the machine that the nodes are on."""
    victims = worker_processes(pod["metadata"]["uid"])
    assert victims, f"no worker process of pod {pod['metadata']['name']} on this machine"
    for victim in victims:
        victim.kill()


def worker_processes(pod_uid: str) -> list[psutil.Process]:
    """Worker processes in the cgroups of a pod."""
    return processes(pod_uid, "modelfleet_worker")


def processes(pod_uid: str, word: str) -> list[psutil.Process]:
    """Processes in the cgroups of a pod that have this word in their command line."""
    found = []
    for process in psutil.process_iter():
        try:
            in_pod = pod_uid in Path(f"/proc/{process.pid}/cgroup").read_text()
            if in_pod and word in process.cmdline():
                found.append(process)
        except (psutil.NoSuchProcess, OSError):
            continue
    return found
