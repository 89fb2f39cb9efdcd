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
from modelfleet_process.options import (
    DieWithParentOption,
    LogOptions,
    TlsTokenOption,
    takes_log_options,
)

from .errors import StartupError
from .options import (
    DEFAULT_BATCHES,
    DEFAULT_MAX_BODY_BYTES,
    DEFAULT_MAX_HELD_BYTES,
    BatchLimits,
    DoorCertificate,
    Options,
    TlsOptions,
)

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
    tls_certificate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Serve HTTPS with this certificate (PEM, with its chain), read again when it "
            "changes; with --tls-key. Default: plain HTTP.",
        ),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The key of --tls-certificate (PEM).")
    ] = None,
    tls_operator: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            callback=checked_if_given,
            envvar="MODELFLEET_TLS_OPERATOR",
            help="Where the operator's Fleet service is with TLS, instead of --operator.",
        ),
    ] = "",
    tls_issuer: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            callback=checked_if_given,
            envvar="MODELFLEET_TLS_ISSUER",
            help="Where the operator issues certificates. Default: there is no TLS to operators "
            "and workers.",
        ),
    ] = "",
    tls_authorities: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            envvar="MODELFLEET_TLS_AUTHORITIES",
            help="PEM file of the authorities of operators.",
        ),
    ] = None,
    tls_token: TlsTokenOption = None,
    batch_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            envvar="MODELFLEET_GATEWAY_BATCH_DIR",
            help="Keeps what /v1/files and /v1/batches are given, and what comes of it; on a local "
            "disk, or a volume that one machine mounts. Default: neither is served.",
        ),
    ] = None,
    batch_store_bytes: Annotated[
        int,
        typer.Option(
            min=1,
            envvar="MODELFLEET_GATEWAY_BATCH_STORE_BYTES",
            help="All files and results there; more get a 507.",
        ),
    ] = DEFAULT_BATCHES.store_bytes,
    batch_file_bytes: Annotated[
        int, typer.Option(min=1, help="Largest file that is taken.")
    ] = DEFAULT_BATCHES.file_bytes,
    batch_lease: Annotated[
        float,
        typer.Option(
            min=1,
            help="Seconds after which another gateway with this folder goes on with the batches of "
            "one that is gone.",
        ),
    ] = DEFAULT_BATCHES.lease,
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
            operator=tls_operator if tls_issuer and tls_operator else operator,
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
            tls=_tls(tls_issuer, tls_authorities, tls_token),
            door=_door(tls_certificate, tls_key),
            batch_dir=batch_dir,
            batches=BatchLimits(
                store_bytes=batch_store_bytes,
                file_bytes=batch_file_bytes,
                line_bytes=max_body_bytes,
                lease=batch_lease,
            ),
            require_keys=require_keys,
        )
    except StartupError as error:
        raise typer.BadParameter(str(error)) from None
    raise typer.Exit(run(options, log_format=logs.format, log_level=logs.level))


def _tls(issuer: str, authorities: Path | None, token: Path | None) -> TlsOptions | None:
    if not issuer:
        return None
    if authorities is None or token is None:
        raise StartupError("--tls-issuer: give --tls-authorities and --tls-token, too")
    return TlsOptions(issuer=issuer, token_file=token, authorities_file=authorities)


def _door(certificate: Path | None, key: Path | None) -> DoorCertificate | None:
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise StartupError("--tls-certificate and --tls-key go together: give both")
    return DoorCertificate(certificate=certificate, key=key)


def main() -> None:
    """The entry point."""
    sys.exit(run_app(app, "modelfleet gateway"))
