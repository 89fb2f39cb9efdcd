"""`python -m cluster`: what `make cluster` and `make cluster-down` run."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from . import argocd, build, down, keda, kwok, up
from .cluster import Cluster
from .commands import say
from .components import COMPONENTS
from .errors import ClusterError
from .layout import CACHE, KUBECONFIG

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


@app.command("up")
def up_command() -> None:
    """Build what is missing, start the cluster and print how to use it."""
    up.prepare(up.NEEDED)
    up.start_cluster()
    say(f"export KUBECONFIG={KUBECONFIG}")
    say(f"export PATH={CACHE / 'bin'}:$PATH")


@app.command("down")
def down_command() -> None:
    """Remove the cluster; built programs and images stay."""
    down.stop_cluster()


@app.command("build")
def build_command(
    component: Annotated[
        list[str] | None,
        typer.Option(help=f"One of {', '.join(COMPONENTS)}; else what the tests use."),
    ] = None,
    drop_caches: Annotated[
        bool, typer.Option(help="Afterwards drop Go's own module and build caches (gigabytes).")
    ] = False,
) -> None:
    """Install the packages and build the components that are missing."""
    up.prepare(component or [name for name, each in COMPONENTS.items() if each.is_tested_with])
    if drop_caches:
        build.drop_go_caches()


@app.command("load")
def load_command(archive: Path) -> None:
    """Give both nodes an image from an OCI or Docker archive that holds its name."""
    Cluster().load_image(archive)


@app.command("kwok")
def kwok_command(
    nodes: Annotated[int, typer.Argument(help="How many; 0 removes them and their pods.")],
    gpus: Annotated[int, typer.Option(help="nvidia.com/gpu of each node.")] = 8,
    pods: Annotated[int, typer.Option(help="Pods that fit on each node.")] = 1000,
) -> None:
    """Add nodes without machines, for tests of scale."""
    if nodes:
        kwok.start_nodes(nodes, gpus=gpus, pods=pods)
    else:
        kwok.stop_nodes()


@app.command("argocd")
def argocd_command(
    setting: Annotated[
        list[str] | None, typer.Option(help="KEY=FILE: an entry of the ConfigMap argocd-cm.")
    ] = None,
    stop: Annotated[bool, typer.Option(help="End it; its objects stay.")] = False,
) -> None:
    """Start Argo CD beside the cluster."""
    if stop:
        argocd.stop_argocd()
    else:
        pairs = (each.partition("=") for each in setting or [])
        argocd.start_argocd({key: Path(file).read_text() for key, _, file in pairs})


@app.command("keda")
def keda_command(
    stop: Annotated[
        bool, typer.Option(help="End it; ScaledObjects stay, and nothing acts.")
    ] = False,
) -> None:
    """Start KEDA beside the cluster; builds it the first time."""
    if stop:
        keda.stop_keda()
    else:
        keda.start_keda()


def main() -> None:
    """Errors of ours are for people: no traceback."""
    try:
        app()
    except ClusterError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
