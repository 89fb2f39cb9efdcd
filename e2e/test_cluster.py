"""`make cluster` and `make cluster-down`, on a second cluster that may be broken at will."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

NUMBER = "9"  # its own folder, addresses and names: the other tests' cluster goes on beside it
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modelfleet" / "cluster"
RUN = CACHE / f"run-{NUMBER}"
ENVIRONMENT = {
    **os.environ,
    "MODELFLEET_CLUSTER_NUMBER": NUMBER,
    "PYTHONPATH": str(Path(__file__).parent),
    "KUBECONFIG": str(RUN / "admin.kubeconfig"),
    "PATH": f"{CACHE / 'bin'}:{os.environ['PATH']}",
}

pytestmark = pytest.mark.skipif(
    "KUBECONFIG" in os.environ, reason="KUBECONFIG names a cluster that is not to be started here"
)


@pytest.fixture(scope="module", autouse=True)
def before() -> Iterator[dict[str, object]]:
    """What there was without the cluster; it is gone when the tests have ended."""
    cluster("down")
    yield traces()
    cluster("down")


@pytest.fixture
def up() -> None:
    """One cluster for the tests that leave it whole: it is started where it is not there."""
    cluster("up")


def test_a_cluster_has_names_volumes_metrics_logs_and_a_way_in(up: None):
    run("kubectl", "apply", "--filename", "-", stdin=json.dumps(SERVER))
    run("kubectl", "wait", "--for=condition=Available", "deployment/server", "--timeout=60s")
    pods = run("kubectl", "get", "pods", "--output", "name").split()
    nodes = run("kubectl", "get", "pods", "--output=jsonpath={.items[*].spec.nodeName}").split()
    assert set(nodes) == {"node-1", "node-2"}

    # By name from every pod, and by address from this machine.
    url = "http://server.default.svc.cluster.local/greeting"
    for pod in pods:
        assert run("kubectl", "exec", pod, "--", "/busybox", "wget", "-qO-", url) == "hello\n"
    address = run("kubectl", "get", "service", "server", "--output=jsonpath={.spec.clusterIP}")
    assert run("curl", "--silent", "--max-time", "5", f"http://{address}/greeting") == "hello\n"

    assert run("kubectl", "logs", pods[0]) == "ready\n"
    assert run("kubectl", "get", "pvc", "--output=jsonpath={.items[*].status.phase}") == "Bound"
    eventually(lambda: "server" in run("kubectl", "top", "pods", check=False))


def test_a_second_start_repairs_what_is_missing_and_keeps_the_rest(up: None):
    run("kubectl", "create", "configmap", "kept")
    for part in (b"kube-apiserver", b"coredns", b"node-1-kubelet", b"node-2"):
        for pid in processes():
            if b"MODELFLEET_CLUSTER_PART=" + part in environment_of(pid).split(b"\0"):
                os.kill(pid, signal.SIGKILL)
    assert "ready" in cluster("up")
    assert run("kubectl", "get", "configmap", "kept", "--output", "name") == "configmap/kept\n"
    assert "is up" in cluster("up")


def test_it_comes_down_without_a_trace(up: None, before: dict[str, object]):
    assert traces() != before
    cluster("down")
    assert traces() == before
    assert cluster("down").strip() == "No cluster is up."


@pytest.mark.parametrize("part", ["network", "node-1-containerd"])
def test_it_comes_down_without_a_trace_after_a_crash_of(
    part: str, up: None, before: dict[str, object]
):
    for pid in processes():
        if f"MODELFLEET_CLUSTER_PART={part}".encode() in environment_of(pid):
            os.kill(pid, signal.SIGKILL)
    cluster("down")
    assert traces() == before


def test_a_start_that_was_killed_leaves_nothing_that_down_does_not_remove(
    before: dict[str, object],
):
    cluster("down")
    starting = subprocess.Popen(
        [sys.executable, "-m", "cluster", "up"], env=ENVIRONMENT, start_new_session=True
    )
    eventually((RUN / "node-1" / "kubelet.yaml").exists)
    starting.kill()
    starting.wait()
    cluster("down")
    assert traces() == before


def traces() -> dict[str, object]:
    """Everything that a cluster could leave on this machine, without what others do meanwhile."""
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    return {
        "processes": processes(),
        "links": ours_or_nobodys(run("ip", "-oneline", "link")),
        "routes": ours_or_nobodys(run("ip", "route")),
        "mounts": {line for line in mounts if "/buildah/" not in line},  # images being built
        "rules": rules(),
        "cgroups": set(Path("/sys/fs/cgroup").glob(f"**/modelfleet-{NUMBER}")),
        "files": RUN.exists(),
        "settings": [Path("/proc/sys", name).read_text() for name in SETTINGS],
    }


def ours_or_nobodys(lines: str) -> set[str]:
    """Without the links of other clusters, which come and go as well."""
    others = re.compile(rf"modelfleet(?!{NUMBER}\b)\d")
    return {line for line in lines.splitlines() if not others.search(line)}


SETTINGS = ("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops")


def processes() -> list[int]:
    """Processes that belong to the cluster, or that see something of it, zombies left out."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                seen = (folder / "environ").read_bytes() + (folder / "mountinfo").read_bytes()
            except OSError:
                continue
            if str(RUN).encode() in seen:
                found.append(int(folder.name))
    return found


def environment_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def rules() -> list[str]:
    """The packet filter's, without its counters and comments."""
    saved = run("iptables-save") + run("ip6tables-save")
    return [line for line in saved.splitlines() if line.startswith("-A")]


def cluster(command: str) -> str:
    return run(sys.executable, "-m", "cluster", command)


def run(*command: str, stdin: str | None = None, check: bool = True) -> str:
    ended = subprocess.run(
        command,
        env=ENVIRONMENT,
        input=stdin,
        text=True,
        capture_output=True,
        timeout=240,
        check=False,
    )
    assert not check or ended.returncode == 0, f"{' '.join(command)}:\n{ended.stderr}"
    return ended.stdout


def eventually(true: Callable[[], object], timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < deadline, f"did not happen within {timeout:.0f} s"
        time.sleep(0.2)


GREET = "echo hello > /www/greeting; echo ready; exec /busybox httpd -f -p 8080 -h /www"
LABELS = {"app": "server"}
SERVER = {
    "apiVersion": "v1",
    "kind": "List",
    "items": [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "pages"},
            "spec": {
                "accessModes": ["ReadWriteMany"],
                "resources": {"requests": {"storage": "1Mi"}},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "server"},
            "spec": {"selector": LABELS, "ports": [{"port": 80, "targetPort": 8080}]},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "server"},
            "spec": {
                "replicas": 2,
                "selector": {"matchLabels": LABELS},
                "template": {
                    "metadata": {"labels": LABELS},
                    "spec": {
                        "securityContext": {"runAsUser": 65532},
                        "terminationGracePeriodSeconds": 0,
                        "topologySpreadConstraints": [
                            {
                                "maxSkew": 1,
                                "topologyKey": "kubernetes.io/hostname",
                                "whenUnsatisfiable": "DoNotSchedule",
                                "labelSelector": {"matchLabels": LABELS},
                            }
                        ],
                        "containers": [
                            {
                                "name": "server",
                                "image": "localhost/modelfleet/pause:1",
                                "command": ["/busybox", "sh", "-c", GREET],
                                "volumeMounts": [{"name": "pages", "mountPath": "/www"}],
                            }
                        ],
                        "volumes": [
                            {"name": "pages", "persistentVolumeClaim": {"claimName": "pages"}}
                        ],
                    },
                },
            },
        },
    ],
}
