"""`modelfleet validate`: what is wrong with manifests, before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def validate(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="YAML files with ModelDeployments.")
    ],
) -> None:
    """Check manifests as `modelfleet up` and the operator do: every problem, then exit code 1.

    Needs neither a fleet nor a cluster.
    """
    from ..api.manifests import read_manifests
    from ..api.worker_spec import PodTemplate
    from ..terminal import printable

    read = read_manifests(files)
    problems = list(read.problems)
    for manifest in read.deployments:
        if manifest.spec.pod_template == PodTemplate():
            continue  # the Kubernetes client is slow to import
        from ..cluster.pods import template_faults

        where = read.homes[manifest.full_name]
        problems += [f"{where}: {fault}" for fault in template_faults(manifest)]
    if problems:
        typer.echo(printable("\n".join(problems)), err=True)
        raise typer.Exit(1)
    for manifest in read.deployments:
        typer.echo(f"{manifest.full_name} is valid ({read.homes[manifest.full_name]})")
    for class_ in read.classes:
        typer.echo(f"AcceleratorClass {class_.metadata.name} is valid")
    for pool in read.pools:
        typer.echo(f"WarmPool {pool.full_name} is valid")
    if read.others:
        typer.echo(f"not looked at: {', '.join(read.others)}")
