"""The command line of the worker: `modelfleet worker`."""

from __future__ import annotations

import asyncio
import enum
import os
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from modelfleet_process.addresses import checked_address, checked_if_given
from modelfleet_process.command_line import STYLE, run_app
from modelfleet_process.options import (
    DieWithParentOption,
    LogOptions,
    TlsTokenOption,
    takes_log_options,
)

from .errors import WorkerError
from .options import (
    GroupSizeOption,
    ModelDirOption,
    OverrideOption,
    RevisionOption,
    cache_dir,
    cache_limit,
    model_copies,
)
from .quantization.scheme import KVFormat, Override, Quantization, Weights
from .spec import Dtype, GenerationDefaults, ModelSpec
from .task import Task
from .text.output.styles import AUTO, REASONING_PARSERS, TOOL_PARSERS

app = typer.Typer(add_completion=False, **STYLE)


class Device(enum.StrEnum):
    """What computes."""

    AUTO = "auto"
    CPU = "cpu"
    PACED = "paced"


@app.command()
@takes_log_options()
def worker(
    *,
    logs: LogOptions,
    listen: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            callback=checked_address,
            help="Where to serve gRPC; port 0 picks one.",
        ),
    ] = "127.0.0.1:0",
    worker_id: Annotated[
        str | None, typer.Option(help="Name in Stats and logs; default HOSTNAME-PID.")
    ] = None,
    address_file: Annotated[
        Path | None, typer.Option(help="Gets HOST:PORT once calls are taken.")
    ] = None,
    device: Annotated[
        Device,
        typer.Option(
            envvar="MODELFLEET_DEVICE",
            help="What computes; auto is cpu, paced only takes time.",
        ),
    ] = Device.AUTO,
    calibration: Annotated[
        Path | None,
        typer.Option(
            envvar="MODELFLEET_CALIBRATION", help="JSON file with the times of the paced device."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAMESPACE/NAME", help="Full name of the deployment.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(help="hf://, file://, s3:// or oci://...; without it, wait for LoadModel."),
    ] = None,
    revision: RevisionOption = "main",
    dtype: Annotated[
        Dtype, typer.Option(help="Of weights and activations; Auto: the checkpoint's.")
    ] = Dtype.AUTO,
    weights: Annotated[
        Weights, typer.Option(help="Quantizes linear layers while they are loaded.")
    ] = Weights.NONE,
    group_size: GroupSizeOption = 128,
    override: OverrideOption = None,
    kv_cache: Annotated[
        KVFormat,
        typer.Option(help="Keys and values: auto in the model's type, int8 in half of the memory."),
    ] = KVFormat.AUTO,
    context_length: Annotated[
        int | None, typer.Option(min=1, help="Tokens; default and upper bound: the model's.")
    ] = None,
    max_sequences: Annotated[
        int | None,
        typer.Option(min=1, help="Requests at once; default 64, or the calibration's."),
    ] = None,
    max_batch_tokens: Annotated[int, typer.Option(min=1, help="Token budget of a step.")] = 2048,
    kv_cache_memory: Annotated[
        str | None,
        typer.Option(metavar="QUANTITY", help="Like 2Gi; default: a share of what is free."),
    ] = None,
    no_prefix_caching: Annotated[
        bool, typer.Option("--no-prefix-caching", help="Compute every prompt from its start.")
    ] = False,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic",
            help="Only load where answers are equal, bit for bit, whatever is computed beside.",
        ),
    ] = False,
    generation_defaults: Annotated[
        GenerationDefaults,
        typer.Option(
            help="Sampling of requests that do not say it: generation_config.json's, or the API's."
        ),
    ] = GenerationDefaults.CHECKPOINT,
    tool_parser: Annotated[
        str, typer.Option(help=f"How the model writes calls: {', '.join(TOOL_PARSERS)}.")
    ] = AUTO,
    reasoning_parser: Annotated[
        str, typer.Option(help=f"How it writes reasoning: {', '.join(REASONING_PARSERS)}.")
    ] = AUTO,
    task: Annotated[
        Task, typer.Option(help="What the model is for; Auto: what the checkpoint says.")
    ] = Task.AUTO,
    preload: Annotated[
        bool,
        typer.Option(
            "--preload", help="While it waits for LoadModel, do everything but the weights."
        ),
    ] = False,
    fetch: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE[#REVISION]", help="With --preload: models whose files it fetches ahead."
        ),
    ] = None,
    asleep: Annotated[
        bool,
        typer.Option(
            "--asleep", help="Load the model, and take requests only when LoadModel asks for it."
        ),
    ] = False,
    model_dir: ModelDirOption = None,
    drain_timeout: Annotated[
        float, typer.Option(min=0, help="Seconds for running requests after SIGTERM.")
    ] = 30.0,
    tls_listen: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            callback=checked_address,
            envvar="MODELFLEET_TLS_LISTEN",
            help="Where to serve gRPC with TLS, if there is a --tls-issuer.",
        ),
    ] = "[::]:9001",
    tls_issuer: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            callback=checked_if_given,
            envvar="MODELFLEET_TLS_ISSUER",
            help="Where the operator issues certificates; --listen then serves health alone. "
            "Default: no TLS.",
        ),
    ] = "",
    tls_authorities: Annotated[
        str,
        typer.Option(
            metavar="PEM",
            envvar="MODELFLEET_TLS_AUTHORITIES",
            help="The authorities of operators.",
        ),
    ] = "",
    tls_token: TlsTokenOption = None,
    die_with_parent: DieWithParentOption = False,
) -> int:
    """Serve one model over gRPC: load it, batch requests through the engine, drain on SIGTERM."""
    from modelfleet_process import parent
    from modelfleet_process.calibration import Calibration
    from modelfleet_process.logs import bind, configure, console_style

    from .devices.paced import read_calibration
    from .errors import UsageError
    from .loading.device_loaders import cpu_loader, paced_loader
    from .loading.preload import fetch_ahead, preload_cpu
    from .quantities import parse_bytes
    from .serving.server import ServerOptions, serve
    from .serving.tls import tls_options
    from .storage.cache import Cache
    from .storage.sources import parse_source

    if die_with_parent:
        parent.die_with_parent()
    if (model is None) != (source is None):
        raise UsageError("--model and --source go together: give both, or none to wait")
    if asleep and model is None:
        raise UsageError("--asleep is for a worker that knows its model: with --model")
    if preload and model is not None and not asleep:
        raise UsageError(
            "--preload is for a worker that waits for a model: no --model, or --asleep, too"
        )
    if fetch and not preload:
        raise UsageError("--fetch is for a worker that waits for a model: with --preload")
    for ahead in fetch or ():
        parse_source(ahead.partition("#")[0])
    if calibration is not None and device is not Device.PACED:
        raise UsageError("--calibration is for --device paced")
    spec = None
    if model is not None and source is not None:
        parse_source(source)
        spec = ModelSpec(
            model=model,
            source=source,
            revision=revision,
            dtype=dtype,
            quantization=Quantization(
                weights=weights,
                group_size=group_size,
                overrides=tuple(map(Override.parse, override or ())),
                kv_cache=kv_cache,
            ),
            context_length=context_length,
            max_sequences=max_sequences,
            max_batch_tokens=max_batch_tokens,
            kv_cache_bytes=parse_bytes(kv_cache_memory) if kv_cache_memory else None,
            prefix_caching=not no_prefix_caching,
            deterministic=deterministic,
            generation_defaults=generation_defaults,
            tool_parser=tool_parser,
            reasoning_parser=reasoning_parser,
            task=task,
        )
    prepare = None  # the paced device needs nothing of it
    if device is Device.PACED:
        times = read_calibration(calibration) if calibration else Calibration()
        loader = paced_loader(times)
    else:
        cache = Cache(cache_dir() / "remote", cache_limit())
        loader = cpu_loader(model_copies(model_dir), cache)
        kept: list[object] = []  # files that are in use, and so kept in the cache

        def prepare_cpu() -> None:
            preload_cpu()
            kept.append(fetch_ahead(fetch or (), model_copies(model_dir), cache))

        prepare = prepare_cpu if preload else None
    options = ServerOptions(
        listen=listen,
        worker_id=worker_id or f"{socket.gethostname()}-{os.getpid()}",
        address_file=address_file,
        drain_timeout=drain_timeout,
        asleep=asleep,
        tls=tls_options(tls_listen, tls_issuer, tls_authorities, tls_token),
    )
    configure(logs.format, logs.level, console_style(utc=False))
    bind(worker=options.worker_id)
    return asyncio.run(serve(options, loader, spec, prepare))


def main() -> None:
    """Ends with the command's exit code; what the user must fix is one line and code 2."""
    code = run_app(app, "modelfleet worker", (WorkerError,))
    # Not sys.exit: an engine that is stuck in its step must not keep the process.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
