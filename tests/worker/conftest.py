"""A worker in the test's own process, and the real model, ours and transformers', loaded once."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

import leak_check
from modelfleet_process.calibration import Calibration
from modelfleet_proto import worker_pb2 as pb
from modelfleet_proto import worker_pb2_grpc
from modelfleet_worker.engine.device import Runner
from modelfleet_worker.loading.device_loaders import Loader, paced_loader
from modelfleet_worker.serving.lifecycle import Lifecycle
from modelfleet_worker.serving.server import ServerOptions, WorkerServer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from modelfleet_worker.devices.torch.runner import TorchRunner

MODEL = "default/model"
TIMEOUT = 60.0  # seconds until a condition that never comes true fails its test


@dataclass
class Reply:
    """All that came for one request."""

    accepted: pb.Accepted = field(default_factory=pb.Accepted)
    tokens: list[pb.Tokens] = field(default_factory=list)
    finished: pb.Finished = field(default_factory=pb.Finished)

    @property
    def ids(self) -> list[int]:
        return [token_id for tokens in self.tokens for token_id in tokens.ids]

    @property
    def text(self) -> str:
        return "".join(tokens.text for tokens in self.tokens) + self.finished.text


class Worker:
    """The client's side of a running worker, and its insides for faults."""

    def __init__(self, lifecycle: Lifecycle, channel: grpc.aio.Channel, address: str) -> None:
        self.lifecycle = lifecycle
        self.address = address
        self.channel = channel
        self.stub = worker_pb2_grpc.WorkerStub(channel)

    async def load(self, model: str = MODEL, source: str = "hf://a/b", **spec: Any) -> None:
        told = pb.ModelSpec(model=model, source=source, **spec)
        await self.stub.LoadModel(pb.LoadModelRequest(spec=told))

    async def ready(self, **spec: Any) -> Worker:
        await self.load(**spec)
        await self.stats_when(lambda stats: stats.state == pb.WORKER_STATE_READY)
        return self

    def start(self, prompt: str = "Wake up", **fields: Any) -> grpc.aio.UnaryStreamCall[Any, Any]:
        fields = {"model": MODEL, "request_id": "test"} | fields
        if not fields.keys() & {"chat", "prompt_token_ids"}:
            fields["prompt"] = prompt
        return self.stub.Generate(pb.GenerateRequest(**fields))

    async def generate(self, prompt: str = "Wake up", **fields: Any) -> Reply:
        return await self.read(self.start(prompt, **fields))

    async def read(self, call: grpc.aio.UnaryStreamCall[Any, Any]) -> Reply:
        """Checks the order of events, too."""
        kinds: list[str | None] = []
        reply = Reply()
        async for response in call:
            kinds.append(response.WhichOneof("event"))
            if response.HasField("tokens"):
                reply.tokens.append(response.tokens)
            elif response.HasField("accepted"):
                reply.accepted = response.accepted
            else:
                reply.finished = response.finished
        assert kinds[0] == "accepted"
        assert kinds[-1] == "finished"
        assert set(kinds[1:-1]) <= {"tokens"}
        return reply

    async def accepted(self, **fields: Any) -> grpc.aio.UnaryStreamCall[Any, Any]:
        """A call that the worker has taken."""
        call = self.start(**fields)
        assert (await call.read()).HasField("accepted")
        return call

    async def refusal(self, call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        return caught.value.code(), caught.value.details() or ""

    async def stats(self) -> pb.Stats:
        return await self.stub.GetStats(pb.StatsRequest())

    async def stats_when(self, holds: Callable[[pb.Stats], bool]) -> pb.Stats:
        """The first Stats of which it holds; fails the test if none comes."""
        async with asyncio.timeout(TIMEOUT):
            async for stats in self.stub.WatchStats(pb.StatsRequest()):
                if holds(stats):
                    return stats
        raise AssertionError("the Stats stream ended")


@pytest.fixture(autouse=True)
def no_leaks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """After every test: free + cached + referenced blocks = all."""
    made = leak_check.watch(monkeypatch.setattr)
    yield
    made.check()


StartWorker = Callable[..., Awaitable[Worker]]


@pytest.fixture
async def start_worker() -> AsyncIterator[StartWorker]:
    """Starts workers; by default paced, quick, and without a model."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(loader: Loader | None = None, **options: Any) -> Worker:
            lifecycle = Lifecycle(loader or paced(), **options)
            server = WorkerServer(
                lifecycle, ServerOptions(listen="127.0.0.1:0", worker_id="worker-0")
            )
            await server.start()
            stack.push_async_callback(server.stop)
            channel = grpc.aio.insecure_channel(server.address)
            stack.push_async_callback(channel.close)
            return Worker(lifecycle, channel, server.address)

        yield start


def paced(**calibration: Any) -> Loader:
    quick = {"step_seconds": 0.001, "load_seconds": 0.0, "decode_sequence_seconds": 0.0}
    return paced_loader(Calibration(**(quick | calibration)))


@pytest.fixture(name="paced")
def paced_builder() -> Callable[..., Loader]:
    """Builds loaders of paced devices."""
    return paced


# The real model. Imports are inside of the fixtures: tests without it need no torch.
TEXTS = (
    "The capital of France is",
    "Once upon a time in a land far away there lived",
    "def fibonacci(n):\n",
    "One, two, three, four, five, six, seven,",
    "Q: Why is the sky blue?\nA:",
    "The sea was calm in the morning, and the fishermen had gone out early. " * 4,
)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """Its folder."""
    cache = Path(os.environ.get("MODELFLEET_CACHE", Path.home() / ".cache/modelfleet"))
    folder = cache / "models/HuggingFaceTB/SmolLM2-135M-Instruct"
    if not folder.is_dir():
        pytest.fail(f"{folder} is missing: run `make model` first")
    return folder


@pytest.fixture(scope="session")
def prompts(smollm2: Path) -> list[tuple[int, ...]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    return [tuple(tokenizer(text)["input_ids"]) for text in TEXTS]


def load_runner(folder: Path, dtype: str) -> Runner:
    from modelfleet_worker.loading.loader import load_model

    loaded = load_model(
        folder,
        dtype=dtype,
        kv_cache_bytes=256 << 20,
        max_sequences=32,
        max_batch_tokens=2048,
        progress=lambda *_: None,
    )
    return loaded.runner


@pytest.fixture(scope="session")
def runner(smollm2: Path) -> TorchRunner:
    """In float32, on torch's operations."""
    from modelfleet_worker.devices.torch.runner import TorchRunner

    runner = load_runner(smollm2, "Float32")
    assert isinstance(runner, TorchRunner)
    return runner


@pytest.fixture(scope="session")
def bf16_runner(smollm2: Path) -> Runner:
    """In bfloat16, on the compiled step where it can be."""
    return load_runner(smollm2, "BFloat16")


@pytest.fixture(scope="session")
def reference(smollm2: Path) -> PreTrainedModel:
    """transformers' own, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def bf16_reference(smollm2: Path) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.bfloat16).eval()
