"""`modelfleet operator`: the control plane of a cluster."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from modelfleet_process.addresses import checked_address, checked_if_given
from modelfleet_process.options import LogOptions, takes_log_options

from .options import Device


@takes_log_options()
def operator(
    *,
    logs: LogOptions,
    worker_image: Annotated[str, typer.Option(help="Image of the worker pods.")],
    fleet_listen: Annotated[
        str,
        typer.Option(metavar="HOST:PORT", callback=checked_address, help="Where gateways connect."),
    ] = "0.0.0.0:9090",
    advertise: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            callback=checked_if_given,
            help="Where gateways reach this very replica. Default: $POD_IP and the port of "
            "--fleet-listen.",
        ),
    ] = "",
    metrics_listen: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            callback=checked_if_given,
            help="Where /metrics, /healthz and /readyz are.",
        ),
    ] = "0.0.0.0:9091",
    namespace: Annotated[
        list[str] | None, typer.Option(help="Watch only this one; may be repeated. Default: all.")
    ] = None,
    lease_namespace: Annotated[
        str, typer.Option(envvar="POD_NAMESPACE", help="Where the Lease of the leader is kept.")
    ] = "default",
    lease_name: Annotated[
        str, typer.Option(help="Operators with the same Lease: one leads, the others stand by.")
    ] = "modelfleet-operator",
    key_namespaces: Annotated[
        str,
        typer.Option(
            metavar="NAMESPACE,...",
            envvar="MODELFLEET_KEY_NAMESPACES",
            help="Where Secrets of API keys are read, beside --lease-namespace.",
        ),
    ] = "",
    kubeconfig: Annotated[
        Path | None,
        typer.Option(
            help="Default: the pod's service account, else $KUBECONFIG or ~/.kube/config.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    device: Annotated[Device, typer.Option(help="What workers compute on.")] = Device.AUTO,
    drain_timeout: Annotated[
        float, typer.Option(help="Seconds that running requests of a worker may take.", min=0)
    ] = 60.0,
    host_path: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FOLDER",
            help="Pods may mount this folder of their node and what is under it; may be repeated. "
            "Default: none.",
        ),
    ] = None,
    node_cache: Annotated[
        str,
        typer.Option(
            metavar="FOLDER",
            help="Folder of the node, under a --host-path, in which its workers share models. "
            "Default: each pod has its own cache.",
        ),
    ] = "",
    image_pull_secret: Annotated[
        list[str] | None,
        typer.Option(help="Secret, in the deployment's namespace, for images; may be repeated."),
    ] = None,
    hub_endpoint: Annotated[
        str, typer.Option(metavar="URL", help="Hub of hf:// sources. Default: the public one.")
    ] = "",
    gateway_url: Annotated[
        str,
        typer.Option(
            metavar="URL",
            envvar="MODELFLEET_GATEWAY_URL",
            help="Where clients reach the gateways; statuses show it (`kubectl get mdep`).",
        ),
    ] = "",
    offline: Annotated[
        bool, typer.Option("--offline", help="Workers ask no hub: the cache is all there is.")
    ] = False,
    image_volumes: Annotated[
        bool,
        typer.Option(
            "--image-volumes",
            help="Nodes mount oci:// models themselves (Kubernetes' ImageVolume feature, and a "
            "container runtime that has it). Default: workers pull them.",
        ),
    ] = False,
    allowed_endpoint: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST[:PORT]",
            help="Models may be fetched from this endpoint although its address is private, "
            "loopback or link-local; may be repeated. Default: none but --hub-endpoint.",
        ),
    ] = None,
    disruption_budgets: Annotated[
        bool,
        typer.Option(
            help="Keep a PodDisruptionBudget for the workers of each deployment. A pod may have "
            "one only: say no where you write your own."
        ),
    ] = True,
    worker_env: Annotated[
        str,
        typer.Option(
            metavar="JSON", help="Environment of every worker, as a container's env: a JSON list."
        ),
    ] = "",
    worker_resources: Annotated[
        str,
        typer.Option(
            metavar="JSON",
            help="Requests and limits of workers whose podTemplate has none, as a container's "
            "resources. Default: requests by the model's size.",
        ),
    ] = "",
) -> None:
    """Run the Kubernetes operator."""
    from modelfleet_process.logs import configure

    from ..cluster.environment import read_variables
    from ..cluster.options import OperatorOptions, advertised_address
    from ..cluster.pods import PodSettings
    from ..cluster.resources import read_resources
    from ..cluster.run import run_operator
    from ..terminal import terminal_style

    configure(logs.format, logs.level, terminal_style())
    pods = PodSettings(
        image=worker_image,
        device=device.value,
        drain_timeout=drain_timeout,
        host_paths=tuple(host_path or ()),
        node_cache=node_cache,
        image_pull_secrets=tuple(image_pull_secret or ()),
        hub_endpoint=hub_endpoint,
        offline=offline,
        image_volumes=image_volumes,
        allowed_endpoints=tuple(allowed_endpoint or ()),
        env=read_variables(worker_env, "--worker-env"),
        resources=read_resources(worker_resources, "--worker-resources"),
        log_level=logs.level,
        disruption_budgets=disruption_budgets,
    )
    if node_cache and not pods.allows_host_path(node_cache):
        raise typer.BadParameter("it must be under a --host-path", param_hint="--node-cache")
    run_operator(
        OperatorOptions(
            fleet_listen=fleet_listen,
            advertise=advertise or advertised_address(fleet_listen, os.environ.get("POD_IP", "")),
            metrics_listen=metrics_listen,
            pods=pods,
            endpoint=gateway_url,
            namespaces=tuple(namespace or ()),
            lease_namespace=lease_namespace,
            lease_name=lease_name,
            key_namespaces=tuple(filter(None, map(str.strip, key_namespaces.split(",")))),
            kubeconfig=kubeconfig,
        )
    )
