"""A worker that makes embeddings by the real protocol, of which a test knows what they are."""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import grpc

from modelfleet_proto import worker_pb2
from scripted_worker import ScriptedWorker, refuse_as_full

EmbedFault = Callable[[grpc.aio.ServicerContext, worker_pb2.EmbedRequest], Awaitable[None]]
DIMENSIONS = 4


def vector_of(text: str, dimensions: int = DIMENSIONS) -> list[float]:
    """A function of the text, of numbers that float32 holds exactly."""
    return [float(len(text)), float(sum(text.encode()) % 1000), 0.5, -0.25][:dimensions]


@dataclass
class EmbeddingWorker(ScriptedWorker):
    """What it is asked is in `embeds`; `before_embed` may refuse, wait or end it."""

    before_embed: EmbedFault | None = None
    embeds: list[worker_pb2.EmbedRequest] = field(default_factory=list)
    missing: int = 0  # vectors that its answers lack
    weights: str = "weights-1"

    def stats(self) -> worker_pb2.Stats:
        stats = super().stats()
        stats.task = "Embed"
        return stats

    async def Embed(self, request, context):  # noqa: N802 - the protocol's name
        self.embeds.append(request)
        if self.state != worker_pb2.WORKER_STATE_READY:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not ready")
        if self.running >= self.slots:
            await refuse_as_full(context)
        self.running += 1
        try:
            if self.before_embed:
                await self.before_embed(context, request)
            texts = [one.text or ",".join(map(str, one.token_ids.ids)) for one in request.inputs]
            dimensions = request.dimensions or DIMENSIONS
            return worker_pb2.EmbedResponse(
                weights_digest=self.weights,
                worker_id=self.worker_id,
                embeddings=[
                    worker_pb2.Embedding(
                        vector=struct.pack(f"<{dimensions}f", *vector_of(text, dimensions)),
                        tokens=len(text),
                    )
                    for text in texts[self.missing :]
                ],
            )
        finally:
            self.running -= 1
