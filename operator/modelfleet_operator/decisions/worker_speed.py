"""How fast a worker is, learned from what workers count; and what it can take within its targets.

A busy second is spent on steps, on their decodes and on prompts. What a token of a prompt takes is
fitted by least squares; what a step takes is kept by the number of decodes in it, since it is flat
as long as memory is the limit and grows with them beyond.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FORGET_FIT, FORGET_POINT = 10_000.0, 2_000.0  # busy seconds, after which a sample counts for 1/e
FORGET_LENGTHS = 1_000.0  # requests
ENOUGH_BUSY_POINT = 1.0  # seconds, below which a point of the curve is left out
LEAST_DECODE = 0.05  # of the busy time, that is left for decodes whatever prompts seem to take
ENOUGH_BUSY, ENOUGH_REQUESTS = 10.0, 20.0  # seconds and requests, before which nothing is known
# Decodes of a step, as the upper ends of the ranges that points are kept for.
RANGES = (2, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64, 96, 128, 256, 1024)
TTFT, TPOT_FACTOR = 2.0, 2.0  # targets where none is set: seconds, and times that of one request
PREFILL_SHARE = 0.8  # of the prefill rate that is used at most: arrivals come in bursts
TAIL, MORE_VARIED = 2.33, 1.5  # standard deviations of 99 %; lengths vary, too
OWN_TAIL, QUEUE_TAIL = 1.65, 3.5  # deviations of the own prompt, and times the mean wait

Point = tuple[float, float, float, float]  # steps, completion tokens, prompt tokens, busy seconds
NO_POINT: Point = (0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Work:
    """What a worker did since its start, or the difference of two such counts."""

    busy_seconds: float = 0.0
    steps: int = 0
    prompt_tokens: int = 0  # computed ones: found in no cache
    completion_tokens: int = 0
    finished: int = 0  # requests
    prompt_squares: float = 0.0  # of each prompt's tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """Of latency; 0: not set. `most` requests a worker takes, of `max_batch_tokens` a step."""

    ttft: float = 0.0
    tpot: float = 0.0
    most: int = 64
    max_batch_tokens: int = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLimits:
    """What one worker can take within the targets."""

    in_flight: float  # requests
    rate: float  # requests of the mean length, a second


@dataclass(frozen=True, slots=True)
class WorkerSpeed:
    """Sums with exponential forgetting; a few hundred bytes."""

    fit: tuple[float, ...] = (0.0,) * 9  # of least squares: ss sc sp cc cp pp, sb cb pb
    points: tuple[tuple[int, Point], ...] = ()  # by index of RANGES, in order
    # Requests, their prompt and answer tokens, and the squares of prompt tokens.
    lengths: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)

    def learn(self, did: Work) -> WorkerSpeed:
        """Adds what the fleet's workers did in a few seconds, all together."""
        busy, s, c, p = did.busy_seconds, did.steps, did.completion_tokens, did.prompt_tokens
        if busy <= 0 or s <= 0:
            return self
        keep = math.exp(-busy / FORGET_FIT)
        new = (s * s, s * c, s * p, c * c, c * p, p * p, s * busy, c * busy, p * busy)
        fit = tuple(old * keep + more / busy for old, more in zip(self.fit, new, strict=True))
        place = _range_of(c / s)
        points = dict(self.points)
        keep = math.exp(-busy / FORGET_POINT)
        before = points.get(place, NO_POINT)
        points[place] = (
            before[0] * keep + s, before[1] * keep + c, before[2] * keep + p,
            before[3] * keep + busy,
        )  # fmt: skip
        keep = math.exp(-did.finished / FORGET_LENGTHS)
        n, prompts, answers, squares = self.lengths
        lengths = (
            n * keep + did.finished,
            prompts * keep + p,
            answers * keep + c,
            squares * keep + did.prompt_squares,
        )
        return WorkerSpeed(fit, tuple(sorted(points.items())), lengths)

    def limits(self, targets: Targets) -> WorkerLimits | None:
        """None: not enough was seen yet.

        The most requests in flight at which the time between two tokens and to the first one keep
        the targets for 99 % of requests of the mean length, in a closed loop.
        """
        n, prompts, answers, squares = self.lengths
        busy = sum(point[3] for _, point in self.points)
        if n < ENOUGH_REQUESTS or busy < ENOUGH_BUSY:
            return None
        request = _Request(
            prompt=prompts / n,
            answer=max(answers / n, 1.0),
            varied=max(squares * n / prompts**2 - 1, 0.0) if prompts else 0.0,
            token_seconds=self.prompt_token_seconds(),
        )
        curve = self.step_curve()
        best = _most_in_flight(request, curve, targets)
        decode = request.answer * step_seconds(curve, best) / best
        prefill = request.prompt * request.token_seconds / PREFILL_SHARE
        return WorkerLimits(in_flight=best, rate=1 / (decode + prefill))

    def scaled(self, factor: float) -> WorkerSpeed:
        """That of a worker that takes so many times as long for the same work.

        As if it had been seen for the same time, in which it did less.
        """
        points = tuple(
            (at, (s / factor, c / factor, p / factor, busy)) for at, (s, c, p, busy) in self.points
        )
        fit = (*self.fit[:6], *(number * factor for number in self.fit[6:]))
        return WorkerSpeed(fit, points, self.lengths)

    def keeps(self, targets: Targets) -> bool:
        """Whether a request that is alone on a worker gets the latency that was asked for."""
        n, prompts, _, _ = self.lengths
        first = prompts / n * self.prompt_token_seconds() if n else 0.0
        step = step_seconds(self.step_curve(), 1.0)
        return (not targets.ttft or first + step <= targets.ttft) and (
            not targets.tpot or step <= targets.tpot
        )

    def prompt_token_seconds(self) -> float:
        """Fitted; 0 where prompts make no difference."""
        return max(_solve(self.fit)[2], 0.0)

    def step_curve(self) -> list[tuple[float, float]]:
        """Decodes in a step and what it takes without prefill, in order of the decodes."""
        token = self.prompt_token_seconds()
        points = [point for _, point in self.points if point[3] >= ENOUGH_BUSY_POINT]
        return [
            (c / s, max(busy - token * p, busy * LEAST_DECODE) / s)
            for s, c, p, busy in points or [point for _, point in self.points]
        ]


def step_seconds(curve: Sequence[tuple[float, float]], count: float) -> float:
    """Between two points on their line; above all of them in proportion, which is pessimistic.

    (8, 0.04), (16, 0.06), 12 -> 0.05; 32 -> 0.12.
    """
    first, last = curve[0], curve[-1]
    if count >= last[0]:
        return last[1] * max(count / last[0], 1.0)
    if count <= first[0]:
        if len(curve) == 1:
            return first[1]
        slope = (curve[1][1] - first[1]) / max(curve[1][0] - first[0], 1e-9)
        return min(max(first[1] - slope * (first[0] - count), first[1] / 2), first[1])
    for (low, below), (high, above) in itertools.pairwise(curve):
        if count <= high:
            return below + (above - below) * (count - low) / max(high - low, 1e-9)
    return last[1]


@dataclass(frozen=True, slots=True)
class _Request:
    """The mean one."""

    prompt: float  # tokens
    answer: float
    varied: float  # squared coefficient of variation of the prompts
    token_seconds: float  # of a prompt's token


def _most_in_flight(
    request: _Request, curve: Sequence[tuple[float, float]], targets: Targets
) -> int:
    """In a closed loop of so many: prompts queue for the prefill, then the answers are decoded.

    Mean value analysis, one request more at a time: who comes finds the queue of one request less.
    """
    ttft = targets.ttft or TTFT
    tpot = targets.tpot or TPOT_FACTOR * step_seconds(curve, 1.0)
    queue = rate = 0.0  # prompts at the prefill, and requests a second
    own = 1 + OWN_TAIL * math.sqrt(request.varied)
    for count in range(1, targets.most + 1):
        step = step_seconds(curve, count)
        chunk = max(targets.max_batch_tokens - count, 1)
        each = request.prompt * (step / chunk + request.token_seconds)
        # Each of the others' prompts in the time of an answer adds its prefill to it.
        others = rate * request.answer * step
        prefill = request.prompt * request.token_seconds
        added = (others + TAIL * MORE_VARIED * math.sqrt(others)) * prefill / request.answer
        slowest = step + min(added, chunk * request.token_seconds)
        first = each * (own + QUEUE_TAIL * queue)
        if count > 1 and (slowest > tpot or first > ttft):
            return count - 1
        time = each * (1 + (1 + request.varied) / 2 * queue)
        decode = request.answer * (step + min(rate * each, 1.0) * chunk * request.token_seconds)
        rate = count / (time + decode)
        queue = rate * time
    return targets.most


def _range_of(decodes: float) -> int:
    for place, end in enumerate(RANGES):
        if decodes <= end:
            return place
    return len(RANGES) - 1


def _solve(fit: tuple[float, ...]) -> tuple[float, float, float]:
    """Seconds of a step, a decode and a prompt's token; a little ridge where they are alike."""
    ss, sc, sp, cc, cp, pp, sb, cb, pb = fit
    ss, cc, pp = ss * 1.0001 + 1e-9, cc * 1.0001 + 1e-9, pp * 1.0001 + 1e-9
    det = ss * (cc * pp - cp * cp) - sc * (sc * pp - cp * sp) + sp * (sc * cp - cc * sp)
    if det <= 0:
        return 0.0, 0.0, 0.0
    a = sb * (cc * pp - cp * cp) - sc * (cb * pp - cp * pb) + sp * (cb * cp - cc * pb)
    b = ss * (cb * pp - pb * cp) - sb * (sc * pp - cp * sp) + sp * (sc * pb - cb * sp)
    p = ss * (cc * pb - cp * cb) - sc * (sc * pb - cb * sp) + sb * (sc * cp - cc * sp)
    return a / det, b / det, p / det


def dump_speed(speed: WorkerSpeed) -> dict[str, Any]:
    """JSON types, a few hundred bytes."""
    return {
        "fit": [shortened(number) for number in speed.fit],
        "points": [[place, *map(shortened, point)] for place, point in speed.points],
        "lengths": [shortened(number) for number in speed.lengths],
    }


def load_speed(dumped: Mapping[str, Any]) -> WorkerSpeed:
    """What `dump_speed` wrote; TypeError, ValueError or KeyError for anything else."""
    fit = tuple(float(number) for number in dumped["fit"])
    points = tuple(
        (int(place), (float(s), float(c), float(p), float(busy)))
        for place, s, c, p, busy in dumped["points"]
        if 0 <= int(place) < len(RANGES)
    )
    requests, prompts, answers, squares = (float(number) for number in dumped["lengths"])
    if len(fit) != 9:
        raise ValueError
    return WorkerSpeed(fit, points, (requests, prompts, answers, squares))


def shortened(number: float) -> float:
    """Three to five digits: what is learned is no more exact."""
    return float(f"{number:.5g}")
