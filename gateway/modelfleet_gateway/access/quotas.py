"""What keys use of their limits in this gateway. Pure: times are passed in."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NoReturn

from ..errors import RateLimitError
from .caller import Limits
from .shares import Limit, LimitId, Shares
from .windows import Fading, MinuteWindow

FORGET: Final = 180.0  # seconds without a request after which a key's use of a model is forgotten
FIRST_COMPLETION: Final = 256  # tokens that an answer is taken to have, until some are known
SMOOTHING: Final = 1 / 8  # weight of the latest request in the means
SHARE_WAIT: Final = 1.0  # seconds until the operator has moved a share to where it is asked for
# Of its limit: what a key used below it, the operator is not told.
UNTOLD: Final = 25
MOST_TOLD: Final = 2_000  # uses in one message


@dataclass(frozen=True, slots=True)
class Use:
    """What the operator is told of one limit."""

    id: LimitId
    limit: int
    used: int  # in the last minute; concurrent: now
    wanted: int  # with what was refused lately
    share: int | None = None  # that it decided


@dataclass(slots=True, eq=False)
class Quota:
    """One key's use of one model."""

    key: str
    model: str
    limits: Limits
    requests: MinuteWindow = field(default_factory=MinuteWindow)
    tokens: MinuteWindow = field(default_factory=MinuteWindow)
    running: int = 0
    refused: dict[Limit, Fading] = field(default_factory=dict)
    completion: float = FIRST_COMPLETION  # tokens of an answer, a moving mean
    seconds: float = 0.0  # of a request, the same; 0: not known
    last_at: float = 0.0

    def limit(self, kind: Limit) -> int | None:
        """None: there is none."""
        match kind:
            case Limit.REQUESTS:
                return self.limits.requests_per_minute
            case Limit.TOKENS:
                return self.limits.tokens_per_minute
            case Limit.CONCURRENT:
                return self.limits.max_concurrent

    def used(self, kind: Limit, now: float) -> int:
        """In the last minute, or now."""
        match kind:
            case Limit.REQUESTS:
                return self.requests.used(now)
            case Limit.TOKENS:
                return self.tokens.used(now)
            case Limit.CONCURRENT:
                return self.running

    def wanted(self, kind: Limit, now: float) -> int:
        """With what was refused lately."""
        refused = self.refused.get(kind)
        return self.used(kind, now) + (round(refused.value(now)) if refused is not None else 0)

    def refuse(self, kind: Limit, now: float, amount: int) -> None:
        """So much was asked and refused."""
        self.refused.setdefault(kind, Fading()).add(now, amount)


class Admission:
    """One request within its key's limits; `end` it once."""

    def __init__(self, quotas: Quotas, quota: Quota, now: float, tokens: int) -> None:
        self._quotas = quotas
        self._quota = quota
        self._at = now
        self._tokens = tokens  # that were counted for it

    def headers(self, now: float) -> dict[str, str]:
        """OpenAI's, of what is left."""
        return self._quotas.headers(self._quota, now)

    def end(self, now: float, *, tokens: int | None, completion: int = 0) -> None:
        """It used so many tokens in all; None: no worker had it, and it counts for nothing."""
        quota = self._quota
        quota.running -= 1
        self._quotas.touch(quota)
        if tokens is None:
            quota.requests.correct(self._at, now, -1)
            quota.tokens.correct(self._at, now, -self._tokens)
            return
        quota.tokens.correct(self._at, now, tokens - self._tokens)
        quota.completion += SMOOTHING * (completion - quota.completion)
        seconds = now - self._at
        quota.seconds += SMOOTHING * (seconds - quota.seconds) if quota.seconds else seconds


class Quotas:
    """Of all keys that have limits, as far as they were used lately."""

    def __init__(self) -> None:
        self.shares = Shares()
        self._quotas: OrderedDict[tuple[str, str], Quota] = OrderedDict()  # last used last
        self._touched: dict[tuple[str, str], Quota] = {}  # since they were told
        self._told: dict[LimitId, Use] = {}

    def admit(
        self,
        key: str,
        limits: Limits,
        model: str,
        now: float,
        *,
        prompt: int,
        completion: int | None,
    ) -> Admission:
        """Counts a request, or raises RateLimitError and counts nothing.

        `prompt`, `completion`: tokens, as far as is known; None: as many as the last answers had.
        """
        quota = self._quota(key, model, limits, now)
        tokens = prompt + (round(quota.completion) if completion is None else completion)
        if limits.tokens_per_minute is not None:
            tokens = min(tokens, limits.tokens_per_minute)  # larger ones wait for an empty minute
        for kind, amount in (
            (Limit.CONCURRENT, 1),
            (Limit.REQUESTS, 1),
            (Limit.TOKENS, tokens),
        ):
            limit = quota.limit(kind)
            if limit is None:
                continue
            excess = quota.used(kind, now) + amount - self.shares.of((key, model, kind), limit)
            if excess > 0:
                self._refuse(quota, kind, limit, amount, excess, now)
        quota.running += 1
        quota.requests.add(now, 1)
        quota.tokens.add(now, tokens)
        return Admission(self, quota, now, tokens)

    def headers(self, quota: Quota, now: float) -> dict[str, str]:
        """OpenAI's `x-ratelimit-*`: what is left here, and when all of it is free again."""
        headers: dict[str, str] = {}
        for kind, window in ((Limit.REQUESTS, quota.requests), (Limit.TOKENS, quota.tokens)):
            limit = quota.limit(kind)
            if limit is None:
                continue
            used = window.used(now)
            left = max(self.shares.of((quota.key, quota.model, kind), limit) - used, 0)
            headers |= {
                f"x-ratelimit-limit-{kind}": str(limit),
                f"x-ratelimit-remaining-{kind}": str(left),
                f"x-ratelimit-reset-{kind}": duration(window.wait(now, used) if used else 0.0),
            }
        return headers

    def touch(self, quota: Quota) -> None:
        """The operator is told of it with the next signals."""
        if not self._is_alone:
            self._touched[quota.key, quota.model] = quota

    def touch_all(self) -> None:
        """The operator knows nothing: of what was used all is told."""
        self._told.clear()
        self._touched.update(self._quotas)

    def report(self, now: float) -> list[Use]:
        """What the operator is not told yet, MOST_TOLD at once. Nothing where this is the only one.

        A key that uses little is not told, so that messages grow with busy keys only.
        """
        touched, self._touched = self._touched, {}
        if self._is_alone:
            return []
        ids = dict.fromkeys([*self._told, *self.shares.decided])
        ids |= dict.fromkeys(
            (key, model, kind)
            for (key, model), quota in touched.items()
            for kind in Limit
            if quota.limit(kind) is not None
        )
        uses: list[Use] = []
        for limit_id in ids:
            use = self._use(limit_id, now)
            if self._is_news(use):
                if len(uses) == MOST_TOLD:
                    if (quota := touched.get(limit_id[:2])) is not None:
                        self._touched[limit_id[:2]] = quota
                    continue
                uses.append(use)
                if use.used or use.wanted or use.share is not None:
                    self._told[limit_id] = use
                else:
                    self._told.pop(limit_id, None)
        return uses

    @property
    def _is_alone(self) -> bool:
        """No other gateway has a part of any limit."""
        return self.shares.gateways == 1 and not self.shares.decided

    def _use(self, limit_id: LimitId, now: float) -> Use:
        key, model, kind = limit_id
        share = self.shares.decided.get(limit_id)
        quota = self._quotas.get((key, model))
        limit = quota.limit(kind) if quota is not None else None
        if quota is None or limit is None:
            told = self._told.get(limit_id)
            return Use(limit_id, told.limit if told is not None else 0, 0, 0, share)
        used, wanted = quota.used(kind, now), quota.wanted(kind, now)
        if share is None and wanted * UNTOLD <= limit and used * UNTOLD <= limit:
            used = wanted = 0
        return Use(limit_id, limit, used, wanted, share)

    def _is_news(self, use: Use) -> bool:
        told = self._told.get(use.id)
        if told is None:
            return bool(use.used or use.wanted or use.share is not None)
        if (told.limit, told.share) != (use.limit, use.share):
            return True
        step = max(use.limit // 100, 1)
        return (
            abs(told.used - use.used) >= step
            or abs(told.wanted - use.wanted) >= step
            or (not use.used and bool(told.used))
            or (not use.wanted and bool(told.wanted))
        )

    def _quota(self, key: str, model: str, limits: Limits, now: float) -> Quota:
        quota = self._quotas.get((key, model))
        if quota is None:
            for oldest in list(self._oldest()):
                if oldest.running:
                    oldest.last_at = now
                    self._quotas.move_to_end((oldest.key, oldest.model))
                elif now - oldest.last_at >= FORGET:
                    del self._quotas[oldest.key, oldest.model]
            quota = self._quotas[key, model] = Quota(key, model, limits)
        self._quotas.move_to_end((key, model))
        quota.limits, quota.last_at = limits, now
        self.touch(quota)
        return quota

    def _oldest(self) -> Iterator[Quota]:
        """Two of them for each new one: so there are never more than were used lately."""
        for quota, _ in zip(self._quotas.values(), range(2), strict=False):
            yield quota

    def _refuse(
        self, quota: Quota, kind: Limit, limit: int, amount: int, excess: int, now: float
    ) -> NoReturn:
        quota.refuse(kind, now, amount)
        unit = "requests at once" if kind is Limit.CONCURRENT else f"{kind} a minute"
        used = quota.used(kind, now)
        wait = self._wait(quota, kind, limit, excess, now)
        raise RateLimitError(
            f"This key may use {limit} {unit} of {quota.model}; it has used {used} here, and "
            f"{amount} more were asked. There is room in about {wait:.1f} s.",
            limit=kind,
            retry_after=wait,
            headers=self.headers(quota, now),
        )

    def _wait(self, quota: Quota, kind: Limit, limit: int, excess: int, now: float) -> float:
        """Seconds until there should be room."""
        if kind is Limit.CONCURRENT:
            wait = quota.seconds / max(quota.running, 1) or SHARE_WAIT
        else:
            window = quota.requests if kind is Limit.REQUESTS else quota.tokens
            wait = window.wait(now, excess)
        limit_id = (quota.key, quota.model, kind)
        if limit_id not in self.shares.decided and self.shares.of(limit_id, limit) < limit:
            return min(wait, SHARE_WAIT)  # others may have what is missing here
        return wait


def duration(seconds: float) -> str:
    """As OpenAI's headers have it: 0.25 -> "250ms", 12.5 -> "12.5s", 75 -> "1m15s"."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    if seconds < 60:
        return f"{round(seconds, 1):g}s"
    return f"{int(seconds // 60)}m{round(seconds % 60):g}s"
