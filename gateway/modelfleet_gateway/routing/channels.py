"""gRPC channels to operators and workers: keepalive, large messages, quick reconnects, TLS."""

from __future__ import annotations

from typing import Final

import grpc

from modelfleet_proto.handshake import call_metadata
from modelfleet_proto.mtls.credentials import Credentials, target

MEBIBYTE: Final = 1024 * 1024
MAX_MESSAGE: Final = 64 * MEBIBYTE
METADATA: Final = call_metadata("gateway")
OPTIONS: Final = (
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # grpcio 1.85.1 ignores a keepalive timeout below this one, whose default is a minute
    # (findings/grpc-keepalive-timeout.sh, grpc/grpc#39239).
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Without this, the third ping of a silent connection waits for a minute.
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    # Refusals of older workers may be longer than the 8 KiB beyond which gRPC drops their status.
    ("grpc.max_metadata_size", MEBIBYTE),
    # A worker that restarts at its address is reached again within a second, not in minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Traffic inside the fleet never goes through the proxy that the environment names.
    ("grpc.enable_http_proxy", 0),
    # Each channel has its own connection: the back-off of one does not delay another.
    ("grpc.use_local_subchannel_pool", 1),
)


def open_channel(
    address: str, credentials: Credentials | None = None, server_name: str = ""
) -> grpc.aio.Channel:
    """A channel to HOST:PORT; it connects by itself when it is first used.

    With credentials it has TLS: the other side must have a certificate of this name.
    """
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=OPTIONS)
    options = (*OPTIONS, target(server_name))
    return grpc.aio.secure_channel(address, credentials.channel, options=options)
