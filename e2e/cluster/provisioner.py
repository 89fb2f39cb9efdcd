"""Makes the volumes of the cluster's default storage class: folders of this machine.

A process of its own, started by the cluster: `provisioner.py KUBECONFIG FOLDER`. Both nodes see the
same folder, so ReadWriteMany works as well.
"""

import contextlib
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from kubernetes import config
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import ConflictError, DynamicApiError, NotFoundError
from urllib3.exceptions import HTTPError

PROVISIONER = "modelfleet.dev/host-folder"
STORAGE_CLASS = "standard"
PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"


def volume(claim: Any, folder: Path) -> dict[str, Any]:
    """The PersistentVolume that a pending claim asks for; its name is the claim's for ever."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name_for(claim), "annotations": {PROVISIONED_BY: PROVISIONER}},
        "spec": {
            "storageClassName": STORAGE_CLASS,
            "capacity": {"storage": claim.spec.resources.requests.storage},
            "accessModes": list(claim.spec.accessModes),
            "persistentVolumeReclaimPolicy": "Delete",
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": claim.metadata.namespace,
                "name": claim.metadata.name,
                "uid": claim.metadata.uid,
            },
            "hostPath": {"path": str(folder), "type": "Directory"},
        },
    }


def name_for(claim: Any) -> str:
    """The name of a claim's volume."""
    return f"pvc-{claim.metadata.uid}"


class Provisioner:
    """Knows the API and the folder that holds all volumes."""

    def __init__(self, api: DynamicClient, root: Path) -> None:
        self.claims = api.resources.get(api_version="v1", kind="PersistentVolumeClaim")
        self.volumes = api.resources.get(api_version="v1", kind="PersistentVolume")
        self.root = root

    def reconcile(self) -> None:
        """Makes what is claimed and removes what is released."""
        for claim in self.claims.get().items:
            if claim.spec.storageClassName == STORAGE_CLASS and not claim.spec.volumeName:
                self.provide(claim)
        for existing in self.volumes.get().items:
            annotations = existing.metadata.annotations or {}
            ours = dict(annotations).get(PROVISIONED_BY) == PROVISIONER
            if ours and existing.status.phase == "Released":
                shutil.rmtree(existing.spec.hostPath.path, ignore_errors=True)
                with contextlib.suppress(NotFoundError):
                    self.volumes.delete(name=existing.metadata.name)

    def provide(self, claim: Any) -> None:
        """Makes the folder, then the volume; both may be there already."""
        folder = self.root / name_for(claim)
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o777)  # the kubelet gives folders of the host to no user
        with contextlib.suppress(ConflictError):
            self.volumes.create(body=volume(claim, folder))

    def run(self) -> None:
        """Reconciles after every change of a claim, at the latest after five seconds."""
        while True:
            self.reconcile()
            # A volume is released a moment after its claim has gone, which nothing here waits for.
            for _ in self.claims.watch(timeout=5):
                self.reconcile()


def main(kubeconfig: str, root: Path) -> None:
    """Starts again when the API server does, as it does in tests."""
    while True:
        try:
            Provisioner(DynamicClient(config.new_client_from_config(kubeconfig)), root).run()
        except (ApiException, HTTPError, DynamicApiError) as error:
            sys.stderr.write(f"again in a second: {error}\n")
            time.sleep(1)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
