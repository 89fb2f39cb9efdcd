"""Argo CD beside the cluster: its controller, its repository server and redis, without its pods.

They live in namespaces of their own, because some of their ports open on every address.
Applications sync to `https://kubernetes.default.svc` as usual, from `file://` repositories.
"""

import secrets
from collections.abc import Iterator
from pathlib import Path

from . import processes, up
from .components import program
from .kubectl import apply, get, kubectl
from .layout import ARGO_CD, ARGO_CD_ADDRESS, CACHE, KUBECONFIG, RUN
from .machine import start_machine, stop_machine

NAMESPACE = "argocd"
FOLDER = RUN / "argocd"
REDIS = "127.0.0.1:6379"
REPO_SERVER = "127.0.0.1:8081"


def start_argocd(settings: dict[str, str] | None = None) -> None:
    """Returns when Argo CD works; `settings` go into argocd-cm and may be changed by a later call.

    An example is `resource.customizations.health.modelfleet.dev_ModelDeployment` with Lua.
    """
    up.prepare(["helm", "argo-cd"])
    crds = program("argocd-repo-server").parent / "crds"
    kubectl("apply", "--server-side", "--force-conflicts", "--kustomize", crds)
    # Not `kubectl wait`: it fails on an object that has no conditions at all, as a new CRD.
    kinds = {"applications.argoproj.io", "appprojects.argoproj.io"}
    processes.wait_until("Argo CD's CRDs", lambda: kinds <= set(established_crds()))
    apply(*objects(settings or {}))
    if processes.find("argocd-application-controller", "argocd-application-controller") is None:
        stop_argocd()
        start_processes()


def established_crds() -> Iterator[str]:
    """Their names."""
    for crd in get("crds")["items"]:
        conditions = crd["status"].get("conditions") or ()
        if any((c["type"], c["status"]) == ("Established", "True") for c in conditions):
            yield crd["metadata"]["name"]


def objects(settings: dict[str, str]) -> list[dict[str, object]]:
    """What `argocd`'s install manifests make besides its workloads."""
    labels = {"app.kubernetes.io/part-of": "argocd"}

    def made(kind: str, name: str, **content: object) -> dict[str, object]:
        metadata = {"name": name, "namespace": NAMESPACE, "labels": labels}
        return {"apiVersion": "v1", "kind": kind, "metadata": metadata, **content}

    names = ("rbac", "ssh-known-hosts", "tls-certs", "gpg-keys")
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        made("ConfigMap", "argocd-cm", data=settings),
        *(made("ConfigMap", f"argocd-{name}-cm") for name in names),
        made("Secret", "argocd-secret", stringData={"server.secretkey": secrets.token_hex(16)}),
        {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "AppProject",
            "metadata": {"name": "default", "namespace": NAMESPACE},
            "spec": {
                "sourceRepos": ["*"],
                "destinations": [{"namespace": "*", "server": "*"}],
                "clusterResourceWhitelist": [{"group": "*", "kind": "*"}],
            },
        },
    ]


def start_processes() -> None:
    """redis, repository server and application controller."""
    enter = start_machine(ARGO_CD, ARGO_CD_ADDRESS, FOLDER)
    environment: dict[str, str | Path] = {
        "PATH": f"{CACHE / 'bin'}:/usr/local/bin:/usr/bin:/bin",  # its helm is ours
        "TMPDIR": FOLDER,
        "KUBECONFIG": KUBECONFIG,
        "ARGOCD_FAKE_IN_CLUSTER": "true",  # https://kubernetes.default.svc is the kubeconfig's
        "ARGOCD_GPG_ENABLED": "false",
        "ARGOCD_CONTROLLER_REPLICAS": "1",
        "ARGOCD_RECONCILIATION_TIMEOUT": "10s",
        "ARGOCD_RECONCILIATION_JITTER": "0s",
        "ARGOCD_TLS_DATA_PATH": FOLDER,
        "ARGOCD_SSH_DATA_PATH": FOLDER,
    }
    redis, port = REDIS.split(":")
    processes.start(
        *(
            "argocd-redis",
            "redis-server",
            "--set-proc-title",
            "no",
            "--bind",
            redis,
            "--port",
            port,
        ),
        *("--save", "", "--dir", FOLDER),
        prefix=enter,
    )
    processes.start(
        *("argocd-repo-server", program("argocd-repo-server"), "--redis", REDIS),
        *("--address", "127.0.0.1", "--metrics-address", "127.0.0.1", "--disable-tls"),
        prefix=enter,
        environment=environment,
    )
    processes.start(
        *("argocd-application-controller", program("argocd-application-controller")),
        *("--namespace", NAMESPACE, "--redis", REDIS),
        *("--repo-server", REPO_SERVER, "--repo-server-plaintext"),
        prefix=enter,
        environment=environment,
    )


def stop_argocd() -> None:
    """Ends the processes; the objects stay."""
    stop_machine(ARGO_CD)
