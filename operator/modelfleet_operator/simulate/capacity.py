"""What one worker can do with a trace's requests: how many in flight keep the SLO."""

from __future__ import annotations

import math

from modelfleet_process.calibration import Calibration

from .engine import Engine
from .summary import Slo
from .trace import Trace

SAMPLE = 1500  # requests, evenly from the trace
KEPT = 0.99  # share of requests that must keep the SLO


def find_capacity(
    trace: Trace, calibration: Calibration, slo: Slo, *, max_sequences: int, max_batch_tokens: int
) -> int:
    """Most requests in flight on one worker at which 99 % of this trace's keep the SLO.

    Each that ends makes room for the next. 1 at least; long prompts alone may miss the TTFT, so
    the share asked for is at most what one request at a time reaches.
    """
    step = max(len(trace) // SAMPLE, 1)
    lengths = list(zip(trace.prompts[::step], trace.answers[::step], strict=True))

    def kept(in_flight: int) -> float:
        engine = Engine(calibration, max_sequences=max_sequences, max_batch_tokens=max_batch_tokens)
        return _share_kept(engine, lengths, in_flight, slo)

    enough = min(KEPT, kept(1) - 0.01)
    low, high = 1, max_sequences
    while low < high:
        middle = (low + high + 1) // 2
        if kept(middle) >= enough:
            low = middle
        else:
            high = middle - 1
    return low


def _share_kept(engine: Engine, lengths: list[tuple[int, int]], in_flight: int, slo: Slo) -> float:
    begun, first = [math.nan] * len(lengths), [math.nan] * len(lengths)
    kept = ended = 0
    place = min(in_flight, len(lengths))
    # They begin one after another: all at once is what a drained queue looks like.
    pause = _first_pause(lengths, in_flight)
    starts = [pause * n for n in range(place)]
    waiting = list(range(place))
    now = 0.0
    while ended < len(lengths):
        if waiting and starts[waiting[0]] <= engine.next_event:
            request = waiting.pop(0)
            now = starts[request]
            begun[request] = now
            engine.submit(now, request, *lengths[request])
            continue
        now = engine.next_event
        had_first, are_done = engine.advance()
        for request in had_first:
            first[request] = now
        for request in are_done:
            ended += 1
            answer = lengths[request][1]
            tpot = (now - first[request]) / (answer - 1) if answer > 1 else math.nan
            kept += slo.is_kept(first[request] - begun[request], tpot)
            if place < len(lengths):
                begun[place] = now
                engine.submit(now, place, *lengths[place])
                place += 1
    return kept / len(lengths)


def _first_pause(lengths: list[tuple[int, int]], in_flight: int) -> float:
    """Seconds between the first requests, so that they spread over what one takes."""
    return 0.05 * sum(answer for _, answer in lengths) / len(lengths) / max(in_flight, 1)
