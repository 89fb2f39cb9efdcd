"""The cluster seen by its administrator, through kubectl."""

import json
from pathlib import Path
from string import Template
from typing import Any

from .commands import BRIEF, command
from .components import program
from .layout import DNS_SERVICE_ADDRESS, HOST_ADDRESS, KUBECONFIG

MANIFESTS = Path(__file__).parent / "manifests"


def kubectl(*arguments: str | Path, stdin: str | None = None) -> str:
    """Returns what kubectl printed; raises CommandError with its words."""
    program_and_place = (program("kubectl"), "--kubeconfig", KUBECONFIG)
    return command(*program_and_place, *arguments, stdin=stdin, environment=BRIEF)


def get(*arguments: str) -> Any:
    """What `kubectl get` answers, as JSON values."""
    return json.loads(kubectl("get", *arguments, "--output", "json"))


def apply(*objects: dict[str, Any]) -> None:
    """Applies objects from the server's side."""
    listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    arguments = ("--server-side", "--force-conflicts", "--filename", "-")
    kubectl("apply", *arguments, stdin=json.dumps(listed))


def apply_manifest(name: str) -> None:
    """Applies a file of manifests/ with this cluster's addresses in it."""
    addresses = {"host": HOST_ADDRESS, "dns": DNS_SERVICE_ADDRESS}
    text = Template((MANIFESTS / name).read_text()).substitute(addresses)
    kubectl("apply", "--server-side", "--force-conflicts", "--filename", "-", stdin=text)
