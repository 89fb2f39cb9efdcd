"""The command `modelfleet`. Commands import what they need themselves: --help is instant."""

from __future__ import annotations

import enum
import os
import re
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from modelfleet_process.options import (
    LogFormat,
    LogFormatOption,
    LogLevel,
    LogLevelOption,
    QuietOption,
    VerboseOption,
    chosen_level,
)

app = typer.Typer(
    help="LLM fleets that cost as little as they can and never drop a request.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_KEY = re.compile(r"[a-z0-9][-a-z0-9.]{0,252}/[a-z0-9][-a-z0-9.]{0,252}")  # NAMESPACE/NAME
# The parts read their own command lines; `--help` is theirs, too.
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


class Device(enum.StrEnum):
    """What workers compute on."""

    AUTO = "auto"
    CPU = "cpu"
    PACED = "paced"


StateDir = Annotated[
    Path | None,
    typer.Option(
        help="Where status and logs are kept. Default: $MODELFLEET_STATE_DIR, else "
        "~/.local/state/modelfleet.",
        file_okay=False,
    ),
]


def main() -> None:
    """The entry point: our own errors are one message on standard error and exit code 1."""
    from .errors import ModelfleetError

    try:
        app()
    except ModelfleetError as error:
        print(error, file=sys.stderr)  # noqa: T201  the message is the output
        sys.exit(1)


def _show_version(wanted: bool) -> None:
    if wanted:
        import importlib.metadata

        typer.echo(f"modelfleet {importlib.metadata.version('modelfleet')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


@app.command()
def up(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="YAML files with ModelDeployments.")
    ],
    host: Annotated[str, typer.Option(help="Address that the endpoint listens on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port of the endpoint; 0 picks a free one.", min=0, max=65535)
    ] = 8080,
    device: Annotated[Device, typer.Option(help="What workers compute on.")] = Device.AUTO,
    calibration: Annotated[
        Path | None,
        typer.Option(help="Timing file of the paced device.", exists=True, dir_okay=False),
    ] = None,
    state_dir: StateDir = None,
    drain_timeout: Annotated[
        float, typer.Option(help="Seconds that running requests may take to finish.", min=0)
    ] = 30.0,
    show_logs: Annotated[
        bool, typer.Option("--show-logs", help="Also print what gateway and workers log.")
    ] = False,
    log_format: Annotated[LogFormat, typer.Option(help="How log lines look.")] = LogFormat.TEXT,
    log_level: LogLevelOption = LogLevel.INFO,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run a fleet on this machine: a gateway, and worker processes as they are needed."""
    import asyncio

    from modelfleet_process.logs import configure

    from .api.manifests import load_manifests
    from .local.state import default_directory
    from .local.up import UpOptions, run_fleet
    from .terminal import terminal_style

    level = chosen_level(log_level, verbose=verbose, quiet=quiet)
    configure(log_format, level, terminal_style())
    manifests = load_manifests(files)
    flags = ["--device", device.value]
    if calibration is not None:
        if device is not Device.PACED:
            raise typer.BadParameter("it is for --device paced only", param_hint="--calibration")
        flags += ["--calibration", str(calibration.resolve())]
    options = UpOptions(
        host=host,
        port=port,
        state_dir=(state_dir or default_directory()).absolute(),
        drain_timeout=drain_timeout,
        worker_flags=tuple(flags),
        child_log_format=log_format,
        log_level=level,
        show_logs=show_logs,
    )
    raise typer.Exit(asyncio.run(run_fleet(manifests, options)))


@app.command()
def status(
    state_dir: StateDir = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Show it again as it changes.")
    ] = False,
) -> None:
    """Show what runs on this machine and, where it is not ready, why."""
    from .local.state import StateDirectory, default_directory
    from .local.table import show

    directory = StateDirectory((state_dir or default_directory()).absolute())
    raise typer.Exit(show(directory, watch=watch))


@app.command()
def explain(
    name: Annotated[
        str,
        typer.Argument(metavar="[NAMESPACE/]NAME", help="The ModelDeployment.", show_default=False),
    ] = "",
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Its namespace.")] = "default",
    save: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also keep what the decisions saw, to replay it."),
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Decide again what --save kept.", exists=True, dir_okay=False
        ),
    ] = None,
    state_dir: StateDir = None,
    kubeconfig: Annotated[
        Path | None,
        typer.Option(
            help="Ask the cluster of this file. Default: the fleet on this machine if one runs, "
            "else $KUBECONFIG or ~/.kube/config.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    context: Annotated[
        str | None, typer.Option(help="Ask the cluster of this context of the kubeconfig.")
    ] = None,
    operator_namespace: Annotated[
        str, typer.Option(help="Where the operator runs on the cluster.")
    ] = "modelfleet-system",
    lease_name: Annotated[
        str, typer.Option(help="The operator's Lease; it has the name of the chart's release.")
    ] = "modelfleet-operator",
) -> None:
    """Show what the operator sees of a ModelDeployment, and why it does what it does."""
    import asyncio

    from .errors import ExplainError, StartError
    from .explain.report import report
    from .explain.snapshot import dump_snapshot, load_snapshot

    if bool(name) == bool(replay):
        raise typer.BadParameter("give the name of a ModelDeployment, or --replay FILE")
    if replay is not None:
        snapshot = load_snapshot(replay.read_bytes())
    else:
        from .local.state import StateDirectory, default_directory

        key = name if "/" in name else f"{namespace}/{name}"
        if not _KEY.fullmatch(key):  # it becomes part of a URL
            raise typer.BadParameter(
                f"expected NAME or NAMESPACE/NAME of a ModelDeployment, found {key[:80]!r}"
            )
        directory = StateDirectory((state_dir or default_directory()).absolute())
        asks_cluster = kubeconfig is not None or context is not None
        if not asks_cluster and (state_dir is not None or directory.holder() is not None):
            from .local.explain import fetch_snapshot as fetch_locally

            snapshot = fetch_locally(directory, key)
        else:
            from .cluster.explain import fetch_snapshot

            try:
                snapshot = asyncio.run(
                    fetch_snapshot(
                        key,
                        kubeconfig=kubeconfig,
                        context=context,
                        namespace=operator_namespace,
                        lease=lease_name,
                    )
                )
            except StartError as error:
                raise ExplainError(
                    f"no fleet runs here with the state directory {directory.path}, and there is "
                    f"no cluster to ask: {error}"
                ) from error
    if save is not None:
        try:
            save.write_text(dump_snapshot(snapshot))
        except OSError as error:
            raise ExplainError(f"--save: cannot write {save}: {error.strerror}") from error
    typer.echo(report(snapshot))


@app.command()
def operator(
    worker_image: Annotated[str, typer.Option(help="Image of the worker pods.")],
    fleet_listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where gateways connect.")
    ] = "0.0.0.0:9090",
    advertise: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            help="Where gateways reach this very replica. Default: $POD_IP and the port of "
            "--fleet-listen.",
        ),
    ] = "",
    metrics_listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where /metrics, /healthz and /readyz are.")
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
    log_format: LogFormatOption = None,
    log_level: LogLevelOption = LogLevel.INFO,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run the Kubernetes operator."""
    from modelfleet_process.logs import configure

    from .cluster.environment import read_variables
    from .cluster.options import OperatorOptions, advertised_address
    from .cluster.pods import PodSettings
    from .cluster.resources import read_resources
    from .cluster.run import run_operator
    from .terminal import terminal_style

    level = chosen_level(log_level, verbose=verbose, quiet=quiet)
    configure(log_format, level, terminal_style())
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
        log_level=level,
    )
    if node_cache and not pods.allows_host_path(node_cache):
        raise typer.BadParameter("it must be under a --host-path", param_hint="--node-cache")
    run_operator(
        OperatorOptions(
            fleet_listen=fleet_listen,
            advertise=advertise or advertised_address(fleet_listen, os.environ.get("POD_IP", "")),
            metrics_listen=metrics_listen,
            pods=pods,
            namespaces=tuple(namespace or ()),
            lease_namespace=lease_namespace,
            lease_name=lease_name,
            kubeconfig=kubeconfig,
        )
    )


@app.command(context_settings=_PASS_ON)
def gateway(context: typer.Context) -> None:
    """Run a gateway, as `modelfleet up` and the images do."""
    _become("modelfleet_gateway", context.args)


@app.command(context_settings=_PASS_ON)
def worker(context: typer.Context) -> None:
    """Run a worker, as `modelfleet up` and the images do."""
    _become("modelfleet_worker", context.args)


@app.command(context_settings=_PASS_ON)
def quantize(context: typer.Context) -> None:
    """Write a checkpoint with weights of 4 or 8 bits."""
    _become("modelfleet_worker.quantize", context.args)


def _become(module: str, arguments: list[str]) -> NoReturn:
    """Replaces this process, so that signals and the exit code are the part's own."""
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *arguments])  # noqa: S606
