"""The history of each ModelDeployment: kept in ControllerRevisions, read for old pods."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Literal

import structlog

from ..decisions.actions import Forget, Record
from ..errors import RejectedError
from .api import ClusterApi
from .known import Known
from .observing import Object
from .overlay import ObjectOverlay
from .pods import PodSettings, pod_template
from .revisions import KnownRevision, controller_revision, read_revision

PAUSE = 60.0  # seconds until a history that the API server refused is tried again

log = structlog.get_logger()


class History:
    """The histories of all deployments. Only a rollout that fails needs them."""

    def __init__(
        self,
        api: ClusterApi,
        settings: PodSettings,
        clock: Callable[[], float],
        post_event: Callable[[Known, Literal["Warning"], str, str], Awaitable[None]],
    ) -> None:
        """`post_event` gets an object, the kind, the reason and the sentence."""
        self._api = api
        self._settings = settings
        self._clock = clock
        self._post_event = post_event
        self._index: Mapping[str, Collection[KnownRevision]] = {}
        self._overlay: ObjectOverlay[KnownRevision] = ObjectOverlay(
            lambda kept: kept.uid, lambda cached, made: cached.number >= made.number
        )
        self._refused_until: dict[str, float] = {}
        self._deleted: set[str] = set()  # uids that the index may still hold

    def attach(self, index: Mapping[str, Collection[KnownRevision]]) -> None:
        """The live index, once kopf has made it."""
        self._index = index

    def of(self, key: str, known: Known) -> list[KnownRevision]:
        """Every revision that is kept of this very object."""
        cached = [past for past in self._index.get(key, ()) if past.uid not in self._deleted]
        kept = self._overlay.apply(key, cached, self._clock())
        return [past for past in kept if past.owner_uid == known.uid]

    def template(self, wanted: str, key: str, known: Known) -> Object | None:
        """What a worker of this revision is made of; None: it is in no history."""
        if known.manifest is not None and not known.error and known.revision == wanted:
            return pod_template(known.manifest, self._settings)
        kept = (past for past in self.of(key, known) if past.revision == wanted)
        return next((past.template for past in kept), None)

    def gone(self, key: str, uid: str) -> None:
        """The watch said that one was deleted."""
        self._overlay.gone(key, uid)

    def deletion_missed(self, key: str, uid: str) -> None:
        """One was deleted and no watch has said so."""
        self._deleted.add(uid)
        self.gone(key, uid)

    def uids(self) -> dict[str, str]:
        """All that the index holds: uid -> key of the deployment."""
        return {
            past.uid: key
            for key, kept in self._index.items()
            for past in kept
            if past.uid not in self._deleted
        }

    def forget_all(self, key: str) -> None:
        """The deployment is gone; the garbage collector has the rest."""
        self._overlay.forget(key)
        self._refused_until.pop(key, None)

    async def keep(self, action: Record | Forget, key: str, known: Known) -> str:
        """What was done; empty: nothing."""
        if self._clock() < self._refused_until.get(key, 0.0):
            return ""
        try:
            if isinstance(action, Forget):
                return await self._forget(action, key, known)
            return await self._record(action, key, known)
        except RejectedError as error:
            self._refused_until[key] = self._clock() + PAUSE
            log.warning("the history is not kept", model=key, error=str(error))
            await self._post_event(known, "Warning", "HistoryNotKept", str(error))
            return ""

    async def _forget(self, action: Forget, key: str, known: Known) -> str:
        for past in self.of(key, known):
            if past.revision == action.revision:
                await self._delete(past, key, known)
        return "revision forgotten"

    async def _record(self, action: Record, key: str, known: Known) -> str:
        past = next((p for p in self.of(key, known) if p.revision == action.revision), None)
        template = past.template if past else self.template(action.revision, key, known)
        if template is None:
            return ""
        body = controller_revision(
            known.metadata, template, revision=action.revision, number=action.number
        )
        if past is not None:
            # Its number could be patched, but the API server compares `data` byte by byte with what
            # Go would write, so that most patches of what Python wrote seem to change it.
            await self._delete(past, key, known)
        made = read_revision(await self._api.create_revision(body, known.uid))
        if made is not None:
            self._overlay.put(key, made.uid, made, self._clock())
        return "revision recorded"

    async def _delete(self, past: KnownRevision, key: str, known: Known) -> None:
        await self._api.delete_revision(known.metadata["namespace"], past.name, past.uid)
        self._overlay.put(key, past.uid, None, self._clock())
