"""Options that several commands share, and what they mean."""

from __future__ import annotations

import enum
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..local.state import StateDirectory

API_KEY = "MODELFLEET_API_KEY"  # variable with the key for a gateway
_KEY = re.compile(r"[a-z0-9][-a-z0-9.]{0,252}/[a-z0-9][-a-z0-9.]{0,252}")  # NAMESPACE/NAME


class Device(enum.StrEnum):
    """What workers compute on."""

    AUTO = "auto"
    CPU = "cpu"
    PACED = "paced"


class TlsMode(enum.StrEnum):
    """Whether operator, gateways and workers show each other certificates."""

    DISABLED = "Disabled"
    PERMISSIVE = "Permissive"  # those without are served as well: for an upgrade
    STRICT = "Strict"


def complete_model(incomplete: str) -> list[str]:
    """Names of the deployments that run on this machine, for the shell."""
    return [name for name in state_directory(None).names() if name.startswith(incomplete)]


def _named(help_text: str, metavar: str = "[NAMESPACE/]NAME") -> Any:
    return typer.Argument(
        metavar=metavar, help=help_text, show_default=False, autocompletion=complete_model
    )


Name = Annotated[str, _named("The ModelDeployment.")]
Names = Annotated[list[str] | None, _named("Only these.", "[NAMESPACE/]NAME...")]
ModelName = Annotated[
    str, _named("A name from `modelfleet models`; needless where there is one model.", "MODEL")
]
StateDir = Annotated[
    Path | None,
    typer.Option(
        help="Where status and logs are kept. Default: $MODELFLEET_STATE_DIR, else "
        "~/.local/state/modelfleet.",
        show_default=False,
        file_okay=False,
    ),
]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="Its namespace.")]
Kubeconfig = Annotated[
    Path | None,
    typer.Option(
        help="Ask the cluster of this file. Default: the fleet on this machine if one runs, "
        "else $KUBECONFIG or ~/.kube/config.",
        show_default=False,
        exists=True,
        dir_okay=False,
    ),
]
Context = Annotated[
    str | None,
    typer.Option(help="Ask the cluster of this context of the kubeconfig.", show_default=False),
]
Endpoint = Annotated[
    str,
    typer.Option(
        metavar="URL",
        envvar="MODELFLEET_ENDPOINT",
        help="A gateway, such as http://127.0.0.1:8080. Default: that of the fleet on this "
        "machine.",
        show_default=False,
    ),
]


def state_directory(chosen: Path | None) -> StateDirectory:
    """That of --state-dir, or the default one."""
    from ..local.state import StateDirectory, default_directory

    return StateDirectory((chosen or default_directory()).absolute())


def asks_cluster(kubeconfig: Path | None, context: str | None) -> bool:
    """Whether the options name a cluster."""
    return kubeconfig is not None or context is not None


def is_local(
    directory: StateDirectory,
    state_dir: Path | None,
    kubeconfig: Path | None,
    context: str | None,
) -> bool:
    """Whether a fleet on this machine is meant: no cluster is named, and one runs or is named."""
    if asks_cluster(kubeconfig, context):
        return False
    return state_dir is not None or directory.holder() is not None


def no_fleet(directory: StateDirectory, error: Exception) -> str:
    """Why there is neither a fleet here nor a cluster to ask."""
    return (
        f"no fleet runs here with the state directory {directory.path}, and there is "
        f"no cluster to ask: {error}"
    )


def full_name(name: str, namespace: str) -> str:
    """`namespace/name` of a deployment; BadParameter for what cannot be one."""
    key = name if "/" in name else f"{namespace}/{name}"
    if not _KEY.fullmatch(key):  # it becomes part of a URL and of file names
        raise typer.BadParameter(
            f"expected NAME or NAMESPACE/NAME of a ModelDeployment, found {key[:80]!r}"
        )
    return key


def api_key() -> str:
    """What the environment has: on a command line everybody on this machine could read it."""
    return os.environ.get(API_KEY, "")


def find_endpoint(endpoint: str, state_dir: Path | None) -> str:
    """The URL of --endpoint, or of the fleet on this machine. EndpointError."""
    from ..client.gateway import normalize
    from ..errors import EndpointError

    if endpoint:
        return normalize(endpoint)
    directory = state_directory(state_dir)
    if directory.holder() is None:
        raise EndpointError(
            f"no fleet runs with the state directory {directory.path}: start one with `modelfleet "
            "up FILE...`, or name a gateway with --endpoint URL"
        )
    if found := directory.endpoint():
        return found
    raise EndpointError("the fleet on this machine starts: its gateway is not ready yet")
