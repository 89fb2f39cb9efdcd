"""The cluster seen by its administrator, through kubectl."""

import json
from pathlib import Path
from typing import Any

from .commands import command
from .components import program
from .layout import KUBECONFIG

MANIFESTS = Path(__file__).parent / "manifests"


def kubectl(*arguments: str | Path, stdin: str | None = None) -> str:
    """Returns what kubectl printed; raises CommandError with its words."""
    return command(program("kubectl"), "--kubeconfig", KUBECONFIG, *arguments, stdin=stdin)


def get(*arguments: str) -> Any:
    """What `kubectl get` answers, as JSON values."""
    return json.loads(kubectl("get", *arguments, "--output", "json"))


def apply(*objects: dict[str, Any]) -> None:
    """Applies objects from the server's side."""
    listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    arguments = ("--server-side", "--force-conflicts", "--filename", "-")
    kubectl("apply", *arguments, stdin=json.dumps(listed))


def apply_manifest(name: str) -> None:
    """Applies a file of manifests/."""
    kubectl("apply", "--server-side", "--force-conflicts", "--filename", MANIFESTS / name)
