"""A worker's port with TLS: who may call what, and what is left of the port without."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from certificates import GATEWAY, OPERATOR, WORKER, IssuerDouble, authority, credentials, issuer
from modelfleet_operator.fleet import issuing
from modelfleet_process.calibration import Calibration
from modelfleet_proto import worker_pb2 as pb
from modelfleet_proto import worker_pb2_grpc
from modelfleet_proto.mtls.credentials import Credentials, target
from modelfleet_worker.loading.device_loaders import paced_loader
from modelfleet_worker.serving.lifecycle import Lifecycle
from modelfleet_worker.serving.server import ServerOptions, TlsOptions, WorkerServer

SIGNER = authority()
SPEC = pb.ModelSpec(model="default/tiny", source="file:///none")
DENIED = grpc.StatusCode.PERMISSION_DENIED


@contextlib.asynccontextmanager
async def a_worker(double: IssuerDouble, folder: Path) -> AsyncIterator[tuple[str, str]]:
    """Its addresses, with TLS and without."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        secure = f"127.0.0.1:{free.getsockname()[1]}"
    tls = TlsOptions(
        listen=secure,
        issuer=double.address,
        token_file=double.token_file(folder, WORKER),
        authorities=double.issuing.bundle,
    )
    lifecycle = Lifecycle(paced_loader(Calibration(step_seconds=0.001, load_seconds=0.0)))
    server = WorkerServer(
        lifecycle, ServerOptions(listen="127.0.0.1:0", worker_id="default/tiny-a-0", tls=tls)
    )
    await server.start()
    try:
        yield secure, server.address
    finally:
        await server.stop()


@contextlib.asynccontextmanager
async def stub(address: str, own: Credentials) -> AsyncIterator[worker_pb2_grpc.WorkerAsyncStub]:
    options = [target(WORKER.server_name)]
    async with grpc.aio.secure_channel(address, own.channel, options) as channel:
        yield worker_pb2_grpc.WorkerStub(channel)


CALLS = {
    "LoadModel": lambda s: s.LoadModel(pb.LoadModelRequest(spec=SPEC), wait_for_ready=True),
    "UnloadModel": lambda s: s.UnloadModel(pb.UnloadModelRequest(), wait_for_ready=True),
    "Drain": lambda s: s.Drain(pb.DrainRequest(deadline_seconds=1), wait_for_ready=True),
    "GetStats": lambda s: s.GetStats(pb.StatsRequest(), wait_for_ready=True),
    "WatchStats": lambda s: s.WatchStats(pb.StatsRequest(), wait_for_ready=True).read(),
    "Tokenize": lambda s: s.Tokenize(pb.TokenizeRequest(), wait_for_ready=True),
    "Embed": lambda s: s.Embed(pb.EmbedRequest(), wait_for_ready=True),
    "Generate": lambda s: s.Generate(pb.GenerateRequest(), wait_for_ready=True).read(),
    "GenerateMany": lambda s: s.GenerateMany(iter([]), wait_for_ready=True).read(),
}
OPERATORS_OWN = {"LoadModel", "UnloadModel", "Drain"}
OF_BOTH = {"GetStats", "WatchStats"}


async def denied(calls, who: worker_pb2_grpc.WorkerAsyncStub) -> set[str]:
    found = set()
    for name, call in calls.items():
        try:
            await call(who)
        except grpc.aio.AioRpcError as error:
            if error.code() is DENIED:
                found.add(name)
    return found


async def test_each_role_may_call_its_own_and_no_more(tmp_path: Path):
    async with issuer(SIGNER) as double, a_worker(double, tmp_path) as (secure, _):
        async with stub(secure, credentials(SIGNER, GATEWAY)) as gateway:
            assert await denied(CALLS, gateway) == OPERATORS_OWN
            stats = await gateway.GetStats(pb.StatsRequest())
            assert stats.state == pb.WORKER_STATE_STANDBY  # nothing was loaded or drained
            assert stats.certificate_expires > 0
        async with stub(secure, credentials(SIGNER, WORKER)) as other:
            assert await denied(CALLS, other) == CALLS.keys()
        async with stub(secure, credentials(SIGNER, OPERATOR)) as operator:
            assert await denied(CALLS, operator) == CALLS.keys() - OPERATORS_OWN - OF_BOTH


async def test_without_a_certificate_there_is_health_and_nothing_else(tmp_path: Path):
    async with issuer(SIGNER) as double, a_worker(double, tmp_path) as (secure, plain):
        async with grpc.aio.insecure_channel(plain) as channel:
            assert await denied(CALLS, worker_pb2_grpc.WorkerStub(channel)) == CALLS.keys()
            health = health_pb2_grpc.HealthStub(channel)
            answer = await health.Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
            listing = channel.stream_stream(
                "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
            )
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await listing(iter([b""])).read()
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        nobody = grpc.ssl_channel_credentials(SIGNER.certificate)
        options = [target(WORKER.server_name)]
        async with stub(secure, credentials(SIGNER, GATEWAY)) as gateway:
            await CALLS["GetStats"](gateway)  # it listens
        async with grpc.aio.secure_channel(secure, nobody, options) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await worker_pb2_grpc.WorkerStub(channel).GetStats(pb.StatsRequest(), timeout=10)
            assert caught.value.code() is not grpc.StatusCode.OK


async def test_while_plaintext_is_accepted_the_other_port_serves_everything(tmp_path: Path):
    async with (
        issuer(SIGNER, accepts_plaintext=True) as double,
        a_worker(double, tmp_path) as (secure, plain),
    ):
        async with stub(secure, credentials(SIGNER, GATEWAY)) as gateway:
            await CALLS["GetStats"](gateway)
        async with grpc.aio.insecure_channel(plain) as channel:
            assert await denied(CALLS, worker_pb2_grpc.WorkerStub(channel)) == set()


async def test_when_plaintext_is_not_accepted_any_more_a_running_worker_hears_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(issuing, "PLAINTEXT_PAUSE", 0.1)
    async with (
        issuer(SIGNER, accepts_plaintext=True) as double,
        a_worker(double, tmp_path) as (secure, plain),
        grpc.aio.insecure_channel(plain) as channel,
        stub(secure, credentials(SIGNER, GATEWAY)) as gateway,
    ):
        await CALLS["GetStats"](gateway)
        stats = {"GetStats": CALLS["GetStats"]}
        anybody = worker_pb2_grpc.WorkerStub(channel)
        assert await denied(stats, anybody) == set()
        assert double.service is not None
        double.service.accepts_plaintext = False
        async with asyncio.timeout(20):
            while await denied(stats, anybody) == set():
                await asyncio.sleep(0.05)
        await CALLS["GetStats"](gateway)  # what is open with TLS goes on
