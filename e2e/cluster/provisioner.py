"""Makes the volumes of the cluster's default storage class: folders of this machine.

A process of its own, started by the cluster: `provisioner.py KUBECONFIG FOLDER`. Both nodes see the
same folder, so ReadWriteMany works as well.
"""

import shutil
import sys
import time
from pathlib import Path
from typing import Any

from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

PROVISIONER = "modelfleet.dev/host-folder"
STORAGE_CLASS = "standard"
PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
CONFLICT = 409
GONE = 404


def volume(claim: Any, folder: Path) -> dict[str, Any]:
    """The PersistentVolume that a pending claim asks for; its name is the claim's for ever."""
    return {
        "metadata": {
            "name": f"pvc-{claim.metadata.uid}",
            "annotations": {PROVISIONED_BY: PROVISIONER},
        },
        "spec": {
            "storageClassName": STORAGE_CLASS,
            "capacity": {"storage": claim.spec.resources.requests["storage"]},
            "accessModes": claim.spec.access_modes,
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


def look(api: client.CoreV1Api, root: Path) -> None:
    """Makes what is claimed and removes what is released."""
    for claim in api.list_persistent_volume_claim_for_all_namespaces().items:
        if claim.spec.storage_class_name == STORAGE_CLASS and claim.spec.volume_name is None:
            provide(api, claim, root / f"pvc-{claim.metadata.uid}")
    for existing in api.list_persistent_volume().items:
        ours = (existing.metadata.annotations or {}).get(PROVISIONED_BY) == PROVISIONER
        if ours and existing.status.phase == "Released":
            shutil.rmtree(existing.spec.host_path.path, ignore_errors=True)
            try:
                api.delete_persistent_volume(existing.metadata.name)
            except ApiException as error:
                if error.status != GONE:
                    raise


def provide(api: client.CoreV1Api, claim: Any, folder: Path) -> None:
    """Makes the folder, then the volume; both may be there already."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o777)  # the kubelet gives folders of the host to no user
    try:
        api.create_persistent_volume(volume(claim, folder))
    except ApiException as error:
        if error.status != CONFLICT:
            raise


def main(kubeconfig: str, root: Path) -> None:
    """Looks again after every change of a claim or a volume, and once a minute."""
    config.load_kube_config(kubeconfig)
    api = client.CoreV1Api()
    while True:
        try:
            look(api, root)
            # A released volume follows the deletion of its claim within moments; both are events.
            for _ in watch.Watch().stream(
                api.list_persistent_volume_claim_for_all_namespaces, timeout_seconds=60
            ):
                look(api, root)
        except (ApiException, HTTPError) as error:  # the API server restarts under us in tests
            sys.stderr.write(f"asking again in a second: {error}\n")
            time.sleep(1)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
