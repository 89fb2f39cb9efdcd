"""What a device does before its first request. Imports no torch."""

from __future__ import annotations

from ..engine.device import Runner
from ..engine.request import Request, Sequence
from ..engine.scheduler import BLOCK_SIZE, Chunk


def warm_up(runner: Runner, tokens: int) -> None:
    """One dummy prefill and decode, so that no first request waits for memory and kernels.

    Of one token it is one step.
    """
    tokens = min(tokens, runner.num_blocks * BLOCK_SIZE - 1)
    dummy = Sequence(Request(request_id="warm-up", prompt_ids=(0,) * max(tokens, 1), max_tokens=1))
    dummy.block_table = list(range(runner.num_blocks))[: tokens // BLOCK_SIZE + 1]
    runner.execute([Chunk.of(dummy, tokens)])
    if tokens <= 1:
        return
    dummy.num_computed = max(tokens - 1, 0)
    runner.execute([Chunk.of(dummy, 1)])
