"""`modelfleet up`: a fleet on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from modelfleet_process.options import LogFormat, LogOptions, takes_log_options

from .options import Device, StateDir, state_directory


@takes_log_options(LogFormat.TEXT)
def up(
    *,
    logs: LogOptions,
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
    tls_certificate: Annotated[
        Path | None,
        typer.Option(
            help="Serve HTTPS with this certificate (PEM, with its chain), read again when it "
            "changes; with --tls-key. Default: plain HTTP.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(help="The key of --tls-certificate (PEM).", exists=True, dir_okay=False),
    ] = None,
    show_logs: Annotated[
        bool, typer.Option("--show-logs", help="Also print what gateway and workers log.")
    ] = False,
) -> None:
    """Run a fleet on this machine: a gateway, and worker processes as they are needed."""
    import asyncio

    from modelfleet_process.logs import configure

    from ..local.up import UpOptions, run_fleet
    from ..terminal import terminal_style

    configure(logs.format, logs.level, terminal_style())
    flags = ["--device", device.value]
    if calibration is not None:
        if device is not Device.PACED:
            raise typer.BadParameter("it is for --device paced only", param_hint="--calibration")
        flags += ["--calibration", str(calibration.resolve())]
    if (tls_certificate is None) != (tls_key is None):
        raise typer.BadParameter("give both or none", param_hint="--tls-certificate, --tls-key")
    options = UpOptions(
        files=tuple(files),
        host=host,
        port=port,
        state_dir=state_directory(state_dir).path,
        drain_timeout=drain_timeout,
        worker_flags=tuple(flags),
        logs=logs,
        show_logs=show_logs,
        door=(tls_certificate, tls_key) if tls_certificate and tls_key else None,
    )
    raise typer.Exit(asyncio.run(run_fleet(options)))
