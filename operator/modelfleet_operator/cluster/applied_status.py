"""Statuses as the API server has them from us: applied when they differ, with Events about that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import structlog

from ..errors import PassingError, RejectedError
from .api import ClusterApi
from .observing import Object

Value = TypeVar("Value")
EventKind = Literal["Normal", "Warning"]

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Applied(Generic[Value]):
    """The last status of one object."""

    uid: str
    status: Mapping[str, Any]
    at: float  # Unix seconds; 0: before this process began
    value: Value  # what it was rendered from


class AppliedStatuses(Generic[Value]):
    """Of all objects of one kind."""

    def __init__(
        self, api: ClusterApi, clock: Callable[[], float], *, kind: str, plural: str
    ) -> None:
        self._api = api
        self._clock = clock
        self._kind, self._plural = kind, plural
        self._last: dict[str, Applied[Value]] = {}

    def last(self, key: str, uid: str) -> Applied[Value] | None:
        """Of this very object; None: nothing was applied."""
        last = self._last.get(key)
        return last if last is not None and last.uid == uid else None

    def recalled(self, key: str, uid: str, status: Mapping[str, Any], value: Value) -> None:
        """An earlier process applied it."""
        self._last[key] = Applied(uid, status, 0.0, value)

    def forget(self, key: str) -> None:
        """The object is gone."""
        self._last.pop(key, None)

    async def apply(self, key: str, uid: str, status: dict[str, Any], value: Value) -> None:
        """Server-side apply of the whole of it; `key` is `namespace/name`. PassingError."""
        namespace, _, name = key.partition("/")
        now = self._clock()
        try:
            await self._api.apply_status(
                namespace, name, uid, status, kind=self._kind, plural=self._plural
            )
        except RejectedError as error:
            raise PassingError(str(error)) from error
        self._last[key] = Applied(uid, status, now, value)

    async def post_event(self, regarding: Object, kind: EventKind, reason: str, note: str) -> None:
        """An Event on the object; best effort."""
        try:
            await self._api.post_event(
                regarding, kind=kind, reason=reason, note=note, object_kind=self._kind
            )
        except (PassingError, RejectedError) as error:
            # Events are for people and best effort everywhere; what they tell was done.
            log.warning("event not posted", reason=reason, error=str(error))
