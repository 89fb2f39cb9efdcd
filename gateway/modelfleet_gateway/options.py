"""What a gateway is started with."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from .errors import StartupError

ORIGIN: Final = re.compile(r"https?://[^/?#\s]+")  # as browsers send it: without a path
MEBIBYTE: Final = 1024 * 1024
DEFAULT_MAX_BODY_BYTES: Final = 8 * MEBIBYTE
DEFAULT_MAX_HELD_BYTES: Final = 96 * MEBIBYTE


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """What one client's connection may take; times in seconds."""

    header_bytes: int = 32 * 1024  # of one request's line and headers
    header_time: float = 10.0  # until they are complete
    body_time: float = 60.0  # until the body is complete
    upload_time: float = 600.0  # the same, of a file
    idle_time: float = 75.0  # without a request; longer than load balancers', which close first
    stall_time: float = 30.0  # in which the client reads nothing of what is to be written
    linger_time: float = 30.0  # in which what still comes is dropped, so that an error arrives


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsOptions:
    """How this gateway gets its certificate."""

    issuer: str  # HOST:PORT of the operator's Certificates service
    token_file: Path  # of the pod's ServiceAccount
    authorities_file: Path  # PEM: whose certificate the operator must have


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorCertificate:
    """PEM files, read again when they change."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """What files and batches may take."""

    file_bytes: int = 200 * MEBIBYTE  # of one uploaded file, as OpenAI
    lines: int = 50_000  # of one batch, as OpenAI
    line_bytes: int = DEFAULT_MAX_BODY_BYTES
    store_bytes: int = 10 * 1024 * MEBIBYTE  # of all files and results; more get a 507
    files_per_key: int = 1000  # that were uploaded
    batches_per_key: int = 100  # that have not ended
    file_seconds: int = 30 * 86_400  # that files are kept which have no time of their own
    uploads: int = 8  # at the same time; more get a 503
    lines_at_once: int = 64  # that one gateway runs
    lease: float = 20.0  # seconds after which another gateway goes on with the batches of one


DEFAULT_BATCHES: Final = BatchLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Everything that a gateway's user can choose."""

    operator: str  # HOST:PORT of the Fleet service
    listen: str = "127.0.0.1:8080"  # HOST:PORT; port 0 picks one
    gateway_id: str = "gateway"
    address_file: Path | None = None  # gets the actual HOST:PORT once requests are accepted
    linger: float = 0.0  # seconds after SIGTERM in which requests are still taken
    drain_timeout: float = 30.0  # seconds that running requests may take after that
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES
    max_held_bytes: int = DEFAULT_MAX_HELD_BYTES  # of all requests, half-received ones included
    cors_origins: tuple[str, ...] = ()  # that browsers may call from; "*": any
    metrics_listen: str = ""  # HOST:PORT of /metrics; empty: nowhere
    metrics_address_file: Path | None = None  # gets the actual HOST:PORT of /metrics
    tls: TlsOptions | None = None  # to operators and workers; None: plaintext
    door: DoorCertificate | None = None  # that clients see; None: they speak plain HTTP
    access_log: str = ""  # file that gets a line for each request; "-": standard output
    keep_responses: int = 0  # answers of /v1/responses that later ones may go on from; 0: none
    keep_responses_for: float = 3600.0  # seconds
    batch_dir: Path | None = None  # of files and batches; None: there are none
    batches: BatchLimits = DEFAULT_BATCHES
    require_keys: bool = False  # no API key, no access; else only where the operator says so
    limits: ConnectionLimits = field(default_factory=ConnectionLimits)

    def __post_init__(self) -> None:
        if self.max_held_bytes < 2 * self.max_body_bytes:
            raise StartupError(
                f"--max-held-bytes: expected at least twice --max-body-bytes "
                f"({2 * self.max_body_bytes}), found {self.max_held_bytes}"
            )
        for origin in self.cors_origins:
            if origin != "*" and not ORIGIN.fullmatch(origin):
                raise StartupError(
                    f"--cors-origin: expected an origin (like https://chat.example.com) or *, "
                    f"found {origin!r}"
                )
