"""The cluster's certificates and kubeconfigs: one authority, made anew by each start."""

import json
from collections.abc import Sequence
from pathlib import Path

from .commands import command
from .layout import (
    API_SERVER,
    API_SERVICE_ADDRESS,
    DNS_DOMAIN,
    HOST_ADDRESS,
    KUBECONFIG,
    NODES,
    PKI,
)

AUTHORITY = PKI / "ca.crt"


def make_certificates() -> None:
    """Writes every certificate, key and kubeconfig."""
    PKI.mkdir(parents=True)
    PKI.chmod(0o700)
    command(
        *("openssl", "req", "-x509", "-subj", "/CN=modelfleet-e2e"),
        *("-addext", "basicConstraints=critical,CA:TRUE", *new_key("ca")),
    )
    issue("service-accounts", "/CN=service-accounts")  # only a key pair; signs the pods' tokens
    names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
    names += [f"kubernetes.default.svc.{DNS_DOMAIN}"]
    addresses = [HOST_ADDRESS, API_SERVICE_ADDRESS, "127.0.0.1"]
    issue("kube-apiserver", "/CN=kube-apiserver", names=names, addresses=addresses)
    names = ["metrics-server.kube-system.svc"]
    issue("metrics-server", "/CN=system:metrics-server", names=names)
    issue("coredns", "/CN=system:coredns")
    for service in ("metrics-server", "coredns"):
        kubeconfig(service, PKI / f"{service}.kubeconfig")
    issue("kubelet-client", "/O=system:masters/CN=kube-apiserver-kubelet-client")
    # The aggregation layer: requests that the API server passes on to the metrics API.
    issue("front-proxy", "/CN=front-proxy")
    issue("admin", "/O=system:masters/CN=kubernetes-admin")
    kubeconfig("admin", KUBECONFIG)
    for component in ("kube-controller-manager", "kube-scheduler", "kube-proxy"):
        issue(component, f"/CN=system:{component}")
        kubeconfig(component, PKI / f"{component}.kubeconfig")
    for node in NODES:
        subject = f"/O=system:nodes/CN=system:node:{node.name}"
        issue(node.name, subject, names=[node.name], addresses=[node.address])
        kubeconfig(node.name, PKI / f"{node.name}.kubeconfig")


def issue(
    name: str, subject: str, *, names: Sequence[str] = (), addresses: Sequence[str] = ()
) -> None:
    """One certificate for clients, and for servers when it has names or addresses."""
    alternatives = [f"DNS:{name}" for name in names] + [f"IP:{address}" for address in addresses]
    extensions = ["-addext", "extendedKeyUsage=clientAuth,serverAuth"]
    if alternatives:
        extensions += ["-addext", f"subjectAltName={','.join(alternatives)}"]
    command(
        *("openssl", "req", "-x509", "-CA", AUTHORITY, "-CAkey", PKI / "ca.key"),
        *("-subj", subject, "-addext", "basicConstraints=CA:FALSE", *extensions, *new_key(name)),
    )


def new_key(name: str) -> tuple[str | Path, ...]:
    """The arguments that make a key of our kind and write it beside its certificate."""
    return (
        *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", "30"),
        *("-keyout", PKI / f"{name}.key", "-out", PKI / f"{name}.crt"),
    )


def kubeconfig(user: str, path: Path, *, impersonate: str = "") -> None:
    """A kubeconfig (JSON is YAML) that holds the certificates by their paths.

    With `impersonate` it has the rights of that user alone, which `user` may act as.
    """
    cluster = {"server": API_SERVER, "certificate-authority": str(AUTHORITY)}
    credentials = {
        "client-certificate": str(PKI / f"{user}.crt"),
        "client-key": str(PKI / f"{user}.key"),
        **({"as": impersonate} if impersonate else {}),
    }
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "modelfleet-e2e", "cluster": cluster}],
        "users": [{"name": user, "user": credentials}],
        "contexts": [
            {"name": "modelfleet-e2e", "context": {"cluster": "modelfleet-e2e", "user": user}}
        ],
        "current-context": "modelfleet-e2e",
    }
    path.write_text(json.dumps(content, indent=2))
    path.chmod(0o600)
