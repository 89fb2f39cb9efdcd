"""The URLs that make embeddings: from a request's body to its vectors."""

from __future__ import annotations

import secrets
import time

from typing_extensions import override

from modelfleet_proto import worker_pb2

from ..openai_api.embeddings import AskedEmbeddings
from ..routing.claim import SlotClaim
from ..routing.embed_request import EmbedPart
from ..routing.embedding import Embedding
from ..routing.tasks import Task
from .body import Hold, Read
from .dialects import Dialect
from .exchange import Exchange
from .generation import QueuedEndpoint, Surroundings


class EmbeddingEndpoint(QueuedEndpoint):
    """For one kind of request for embeddings."""

    def __init__(
        self, read: Read[AskedEmbeddings], dialect: Dialect, gateway: Surroundings
    ) -> None:
        super().__init__(dialect, gateway)
        self.read = read

    @override
    async def _serve(self, body: bytearray, hold: Hold, exchange: Exchange) -> bytes:
        began = time.monotonic()
        asked = await self.bodies.understand(self.read, body, time.time())
        body.clear()
        hold.resize(asked.size)
        model = await self.dispatcher.find(asked.model, exchange.caller)
        queue = self.dispatcher.queues[model.model]
        exchange.begin(queue, asked=asked.model)
        queue.check_task(Task.EMBED)
        request_id = f"{exchange.request_id}-{secrets.token_hex(3)}"
        parts = asked.question.parts(model.model, request_id)
        written: dict[int, list[str]] = {}
        tokens: dict[int, int] = {}

        def on_response(part: EmbedPart, response: worker_pb2.EmbedResponse) -> None:
            """Written as they come: of many inputs at once it would hold up all other requests."""
            exchange.reply.headers["x-modelfleet-worker"] = response.worker_id
            vectors = [one.vector for one in response.embeddings]
            hold.grow(sum(map(len, vectors)))
            written[part.first] = [
                asked.fields.one(part.first + i, vector) for i, vector in enumerate(vectors)
            ]
            tokens[part.first] = sum(one.tokens for one in response.embeddings)

        share = exchange.share(None, asked.size, max(len(parts), 1))
        with (
            exchange.admit(self.dispatcher.quotas, size=asked.size, completion=0) as admitted,
            SlotClaim(queue, len(parts), share=share) as claim,
        ):
            exchange.debug("queued", calls=len(parts), waiting=len(queue.requests))
            embedding = Embedding(
                parts, claim, queue.meter, model=model.model, request_id=request_id
            )
            await embedding.run(on_response)
            exchange.embedded = sum(tokens.values())
            if admitted is not None:
                admitted.count_prompt(exchange.embedded)
        queue.meter.count_prompt(exchange.embedded)
        ones = [one for part in parts for one in written[part.first]]
        seconds = time.monotonic() - began
        return asked.fields.whole(asked.model, ones, exchange.embedded, seconds).encode()
