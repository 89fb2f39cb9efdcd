"""Processes of pods, as far as an operator calls them: each at an address of its own, port 9000."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import grpc

from modelfleet_proto import worker_pb2, worker_pb2_grpc

PORT = 9000  # of every worker pod


@dataclass
class StandbyProcess(worker_pb2_grpc.WorkerServicer):
    """Takes LoadModel, and remembers what it was told."""

    ip: str
    told: list[worker_pb2.ModelSpec] = field(default_factory=list)
    refusal: str = ""  # why it loads nothing

    def LoadModel(self, request, context):  # noqa: N802  gRPC's name
        if self.refusal:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, self.refusal)
        self.told.append(request.spec)
        return worker_pb2.LoadModelResponse()

    @property
    def models(self) -> list[str]:
        return [spec.model for spec in self.told]


@contextlib.asynccontextmanager
async def standby_processes(count: int) -> AsyncIterator[list[StandbyProcess]]:
    """On loopback addresses that no other test has, and in threads: what blocks the test's event
    loop, such as a slow API server in it, makes no call to them late."""
    servers, processes = [], []
    try:
        while len(processes) < count:
            ip = ".".join(["127", *(str(random.randrange(2, 250)) for _ in range(3))])
            pool = ThreadPoolExecutor(1)
            server = grpc.server(pool, options=(("grpc.so_reuseport", 0),))
            process = StandbyProcess(ip)
            worker_pb2_grpc.add_WorkerServicer_to_server(process, server)
            with contextlib.suppress(RuntimeError):  # taken
                server.add_insecure_port(f"{ip}:{PORT}")
                server.start()
                servers.append(server)
                processes.append(process)
        yield processes
    finally:
        for ended in [server.stop(0) for server in servers]:
            ended.wait()
