"""One request while it lives in the engine: its tokens and how far the cache has caught up."""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass, field

from .messages import FinishReason, Request


@dataclass(eq=False, slots=True, weakref_slot=True)
class Sequence:
    """Tokens known so far, and the cache blocks that hold the first `num_computed` of them."""

    request: Request
    token_ids: list[int] = field(init=False)  # prompt, resumed and generated
    num_pending: int = 0  # tokens after these that launched steps draw
    num_computed: int = 0  # by steps that were launched
    block_table: list[int] = field(default_factory=list)
    block_epoch: int = 0  # times that it gave up its blocks: what was computed for them is void
    num_cached_tokens: int | None = None  # prompt tokens found in the cache when first admitted
    _block_hashes: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.token_ids = [*self.request.prompt_ids, *self.request.resumed_ids]

    @property
    def num_output_tokens(self) -> int:
        """Tokens of the answer so far, resumed ones included."""
        return len(self.token_ids) - len(self.request.prompt_ids)

    @property
    def num_tokens(self) -> int:
        """Tokens, the pending ones included."""
        return len(self.token_ids) + self.num_pending

    @property
    def num_uncomputed(self) -> int:
        """Known tokens that no step computes yet: 1 while decoding, more while prefilling.

        The last token of an answer is never computed: nothing follows it.
        """
        computable = len(self.request.prompt_ids) + self.request.max_tokens - 1
        return min(self.num_tokens, computable) - self.num_computed

    def append(self, token_id: int) -> FinishReason | None:
        """Takes a sampled token; says why the request ends with it, or None."""
        self.num_pending = max(0, self.num_pending - 1)
        self.token_ids.append(token_id)
        if token_id in self.request.stop_token_ids:
            return FinishReason.STOP
        return FinishReason.LENGTH if self.num_output_tokens >= self.request.max_tokens else None

    def block_hashes(self, count: int, block_size: int) -> list[bytes]:
        """The content hashes of the first `count` full blocks, each chained to those before it.

        SHA-256, since prompts come from strangers: whoever could craft a collision would have his
        request answered with another's context.
        """
        while len(self._block_hashes) < count:
            start = len(self._block_hashes) * block_size
            block = array("I", self.token_ids[start : start + block_size])
            parent = self._block_hashes[-1] if self._block_hashes else b""
            self._block_hashes.append(hashlib.sha256(parent + block.tobytes()).digest())
        return self._block_hashes[:count]
