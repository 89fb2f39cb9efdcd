"""Volumes with a model in them, filled by a pod."""

from __future__ import annotations

from pathlib import Path

from kube import Kube, eventually


def fill_claim(kube: Kube, image: str, model: Path) -> None:
    """A claim `models` with the files of this folder of the nodes in its folder `tiny`."""
    claim = {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": "1Gi"}},
    }
    container = {
        "name": "copy",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["cp", "-r", "/from", "/to/tiny"],
        "securityContext": {"runAsUser": 0},
        "volumeMounts": [
            {"name": "from", "mountPath": "/from"}, {"name": "to", "mountPath": "/to"}
        ],
    }  # fmt: skip
    volumes = [
        {"name": "from", "hostPath": {"path": str(model)}},
        {"name": "to", "persistentVolumeClaim": {"claimName": "models"}},
    ]
    kube.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "models"},
            "spec": claim,
        },
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "fill"},
            "spec": {"restartPolicy": "Never", "containers": [container], "volumes": volumes},
        },
    )
    eventually("it is filled", lambda: kube.get("pod", "fill")["status"]["phase"] == "Succeeded")
