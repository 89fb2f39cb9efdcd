"""Reads the Stats that a worker streams, and connects again when that ends."""

from __future__ import annotations

import asyncio
from typing import Final

import grpc
import structlog

from modelfleet_proto import worker_pb2

from . import workers
from .workers import FIRST_PAUSE, LONGEST_PAUSE, Worker

# How gRPC's core says what is wrong with the other side's certificate. A server that refuses ours
# only closes.
_PROBLEMS: Final = {
    "certificate has expired": "its certificate has expired",
    "certificate is not yet valid": "its certificate is not valid yet",
    "Hostname Verification Check failed": "its certificate is of another pod",
    "unable to get local issuer certificate": "its certificate is of an unknown authority",
    "handshake failed": "the handshake failed",
}

log = structlog.get_logger()


async def watch(worker: Worker) -> None:
    """Tells the worker's object all that its Stats say, until it is cancelled."""
    pause, logged = FIRST_PAUSE, ""
    while True:
        reason = "it ended its Stats stream"
        try:
            call = worker.watch_stats()
            while isinstance(stats := await _read(call), worker_pb2.Stats):
                pause = FIRST_PAUSE
                worker.on_stats(stats)
        except TimeoutError:
            reason = f"no Stats for {workers.STATS_TIMEOUT:.0f} s"
        except grpc.aio.AioRpcError as error:
            reason = f"{error.code().name}: {error.details()}"
            worker.tls_problem = tls_problem(error.details() or "") or worker.own_problem
            # The address answers, but refuses the stream: another version, or not a worker.
            if error.code() is not grpc.StatusCode.UNAVAILABLE and reason != logged:
                logged = reason
                log.error(
                    "worker refuses this gateway",
                    model=worker.model,
                    worker=worker.worker_id,
                    reason=reason,
                )
        worker.on_disconnect(reason)
        await asyncio.sleep(pause)
        await worker.renew_channel()
        pause = min(pause * 2, LONGEST_PAUSE)


async def _read(call: workers.StatsCall) -> object:
    async with asyncio.timeout(workers.STATS_TIMEOUT):
        return await call.read()


def tls_problem(details: str) -> str:
    """What is wrong with a worker's certificate, from a call's error; empty: nothing is known.

    "...: Tls handshake failed: ...: certificate has expired: OK" -> "its certificate has expired"
    """
    return next((problem for words, problem in _PROBLEMS.items() if words in details), "")
