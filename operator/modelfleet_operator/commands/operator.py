"""`modelfleet operator`: the control plane of a cluster."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from modelfleet_process.addresses import checked_address, checked_if_given
from modelfleet_process.options import LogOptions, takes_log_options

from .options import Device, TlsMode


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
    worker_ingress_from: Annotated[
        str,
        typer.Option(
            metavar="JSON",
            help="Who may connect to workers, as the `from` of a NetworkPolicy's rule: a JSON "
            "list. Each deployment and pool has a policy of ours then. Default: none has.",
        ),
    ] = "",
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
    tls: Annotated[
        TlsMode,
        typer.Option(
            envvar="MODELFLEET_TLS",
            help="Certificates between operator, gateways and workers; Permissive serves those "
            "without, too, while an installation is upgraded.",
        ),
    ] = TlsMode.DISABLED,
    tls_fleet_listen: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            callback=checked_address,
            envvar="MODELFLEET_TLS_FLEET_LISTEN",
            help="Where gateways connect with TLS.",
        ),
    ] = "0.0.0.0:9092",
    tls_issuer_listen: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            callback=checked_address,
            envvar="MODELFLEET_TLS_ISSUER_LISTEN",
            help="Where gateways and workers get certificates.",
        ),
    ] = "0.0.0.0:9093",
    tls_issuer: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            callback=checked_if_given,
            envvar="MODELFLEET_TLS_ISSUER",
            help="Where workers reach --tls-issuer-listen of any replica: a Service.",
        ),
    ] = "",
    tls_gateway_account: Annotated[
        str,
        typer.Option(
            metavar="NAMESPACE/NAME",
            envvar="MODELFLEET_TLS_GATEWAY_ACCOUNT",
            help="The gateways' ServiceAccount, which nothing else has.",
        ),
    ] = "",
    tls_objects: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            envvar="MODELFLEET_TLS_OBJECTS",
            help="The Secret of the authorities, and the ConfigMap of their certificates, in "
            "--lease-namespace; both must exist.",
        ),
    ] = "modelfleet-tls",
    certificate_lifetime: Annotated[
        float,
        typer.Option(
            min=60,
            envvar="MODELFLEET_CERTIFICATE_LIFETIME",
            help="Seconds that certificates of gateways and workers hold; a third of it before "
            "they are renewed.",
        ),
    ] = 86400.0,
) -> None:
    """Run the Kubernetes operator."""
    from modelfleet_process.logs import configure

    from ..cluster.environment import read_variables, tracing_variables
    from ..cluster.options import OperatorOptions, TlsOptions, advertised_address
    from ..cluster.pod_tls import WorkerTls
    from ..cluster.pods import PodSettings
    from ..cluster.resources import read_resources
    from ..cluster.run import run_operator
    from ..cluster.worker_policies import read_peers
    from ..decisions.authorities import Lifetimes
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
        tracing=tracing_variables(os.environ),
        disruption_budgets=disruption_budgets,
        ingress_from=read_peers(worker_ingress_from, "--worker-ingress-from"),
        tls=None if tls is TlsMode.DISABLED else WorkerTls(tls_issuer),
    )
    if tls is not TlsMode.DISABLED and not (tls_issuer and tls_gateway_account):
        raise typer.BadParameter("give --tls-issuer and --tls-gateway-account", param_hint="--tls")
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
            tls=None
            if tls is TlsMode.DISABLED
            else TlsOptions(
                accepts_plaintext=tls is TlsMode.PERMISSIVE,
                gateway_account=tls_gateway_account,
                objects=tls_objects,
                fleet_listen=tls_fleet_listen,
                issuer_listen=tls_issuer_listen,
                lifetimes=Lifetimes(leaf=certificate_lifetime),
            ),
        )
    )
