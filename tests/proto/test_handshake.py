"""Parts one minor version apart work together; others refuse each other by name."""

import grpc
import pytest

from modelfleet_proto import worker_pb2, worker_pb2_grpc
from modelfleet_proto.handshake import VERSION, VersionInterceptor, call_metadata, incompatibility


@pytest.mark.parametrize(
    ("theirs", "works"),
    [
        pytest.param("gateway/1.4.0", True, id="the same version"),
        pytest.param("gateway/1.4.9", True, id="another patch"),
        pytest.param("gateway/1.3.0", True, id="one minor version older"),
        pytest.param("gateway/1.5.2", True, id="one minor version newer"),
        pytest.param("gateway/1.5.0rc1", True, id="a release candidate of the next"),
        pytest.param("gateway/1.2.0", False, id="two minor versions older"),
        pytest.param("gateway/1.6.0", False, id="two minor versions newer"),
        pytest.param("gateway/2.4.0", False, id="another major version"),
        pytest.param("1.4.0", False, id="no part named"),
        pytest.param("gateway/one", False, id="no version"),
    ],
)
def test_judges_versions_by_their_distance(theirs: str, works: bool):
    reason = incompatibility("worker/1.4.0", theirs)
    assert (reason is None) == works
    if reason is not None:
        assert theirs in reason


class EchoWorker(worker_pb2_grpc.WorkerServicer):
    async def GetStats(self, request, context):  # noqa: N802 - the name in the proto
        return worker_pb2.Stats(worker_id="w")

    async def WatchStats(self, request, context):  # noqa: N802 - the name in the proto
        yield worker_pb2.Stats(worker_id="w")


@pytest.fixture
async def worker():
    server = grpc.aio.server(interceptors=[VersionInterceptor("worker")])
    worker_pb2_grpc.add_WorkerServicer_to_server(EchoWorker(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield worker_pb2_grpc.WorkerStub(channel)
    await server.stop(None)


async def test_serves_callers_of_its_own_version_and_callers_that_name_none(worker):
    named = await worker.GetStats(worker_pb2.StatsRequest(), metadata=call_metadata("gateway"))
    unnamed = await worker.GetStats(worker_pb2.StatsRequest())
    assert named.worker_id == unnamed.worker_id == "w"


async def test_refuses_a_distant_caller_with_both_names(worker):
    distant = call_metadata("gateway", "99.0.0")
    with pytest.raises(grpc.aio.AioRpcError) as unary:
        await worker.GetStats(worker_pb2.StatsRequest(), metadata=distant)
    with pytest.raises(grpc.aio.AioRpcError) as streamed:
        await anext(aiter(worker.WatchStats(worker_pb2.StatsRequest(), metadata=distant)))
    for refusal in (unary.value, streamed.value):
        assert refusal.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert f"worker/{VERSION}" in (refusal.details() or "")
        assert "gateway/99.0.0" in (refusal.details() or "")
