"""The command line of the gateway: `modelfleet gateway`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from modelfleet_process import parent
from modelfleet_process.addresses import checked_address, checked_if_given
from modelfleet_process.command_line import STYLE, run_app
from modelfleet_process.options import DieWithParentOption, LogOptions, takes_log_options

from .errors import StartupError
from .options import DEFAULT_MAX_BODY_BYTES, DEFAULT_MAX_HELD_BYTES, Options

app = typer.Typer(add_completion=False, **STYLE)


@app.command()
@takes_log_options()
def gateway(
    *,
    logs: LogOptions,
    operator: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            callback=checked_address,
            help="Where the operator's Fleet service is.",
        ),
    ],
    listen: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            callback=checked_address,
            help="Where clients connect; port 0 picks one.",
        ),
    ] = "127.0.0.1:8080",
    gateway_id: Annotated[
        str, typer.Option(help="Name among the gateways; default: host name and process id.")
    ] = "",
    address_file: Annotated[
        Path | None, typer.Option(help="Gets the actual HOST:PORT once it listens.")
    ] = None,
    linger: Annotated[
        float,
        typer.Option(
            min=0,
            envvar="MODELFLEET_GATEWAY_LINGER",
            help="Seconds after SIGTERM in which it still takes requests, telling each client to "
            "connect anew: for use behind a load balancer.",
        ),
    ] = 0.0,
    drain_timeout: Annotated[
        float, typer.Option(min=0, help="Seconds that running requests may take after SIGTERM.")
    ] = 30.0,
    max_body_bytes: Annotated[
        int, typer.Option(min=1, help="Largest request body that is read.")
    ] = DEFAULT_MAX_BODY_BYTES,
    max_held_bytes: Annotated[
        int,
        typer.Option(
            min=1,
            help="Bytes of requests that are held at the same time, half-received ones included; "
            "at least twice --max-body-bytes. More get a 503.",
        ),
    ] = DEFAULT_MAX_HELD_BYTES,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            help="Origin (like https://chat.example.com) that browsers may call from, or * for "
            "any; may be repeated. Default: none.",
        ),
    ] = None,
    metrics_listen: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            callback=checked_if_given,
            envvar="MODELFLEET_GATEWAY_METRICS_LISTEN",
            help="Where /metrics, /healthz and /readyz are; port 0 picks one. Default: nowhere.",
        ),
    ] = "",
    metrics_address_file: Annotated[
        Path | None, typer.Option(help="Gets the actual HOST:PORT of --metrics-listen.")
    ] = None,
    access_log: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            envvar="MODELFLEET_GATEWAY_ACCESS_LOG",
            help="Gets one JSON line for each request, without its text; - is standard output. "
            "Default: none.",
        ),
    ] = "",
    keep_responses: Annotated[
        int,
        typer.Option(
            min=0,
            help="Answers of /v1/responses that this gateway keeps in memory, the latest, for "
            "previous_response_id. Default: none; clients send the whole conversation.",
        ),
    ] = 0,
    keep_responses_for: Annotated[
        float, typer.Option(min=1, help="Seconds that it keeps each.")
    ] = 3600.0,
    require_keys: Annotated[
        bool,
        typer.Option(
            "--require-keys",
            envvar="MODELFLEET_GATEWAY_REQUIRE_KEYS",
            help="Answer only requests with an API key. Default: only where the operator says so.",
        ),
    ] = False,
    die_with_parent: DieWithParentOption = False,
) -> None:
    """The HTTP endpoint for clients: OpenAI's API, queue, routing, failover, metering."""
    if die_with_parent:
        parent.die_with_parent()
    # gRPC's core would write a line to stderr for each lost connection; our own log does that.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    from .main import run  # the servers' libraries stay out of --help

    try:
        options = Options(
            operator=operator,
            listen=listen,
            gateway_id=gateway_id,
            address_file=address_file,
            linger=linger,
            drain_timeout=drain_timeout,
            max_body_bytes=max_body_bytes,
            max_held_bytes=max_held_bytes,
            cors_origins=tuple(cors_origin or ()),
            metrics_listen=metrics_listen,
            metrics_address_file=metrics_address_file,
            access_log=access_log,
            keep_responses=keep_responses,
            keep_responses_for=keep_responses_for,
            require_keys=require_keys,
        )
    except StartupError as error:
        raise typer.BadParameter(str(error)) from None
    raise typer.Exit(run(options, log_format=logs.format, log_level=logs.level))


def main() -> None:
    """The entry point."""
    sys.exit(run_app(app, "modelfleet gateway"))
