"""Leads by a `coordination.k8s.io` Lease: one replica acts, the others stand by.

The client's own `leaderelection` neither counts transitions (our terms) nor releases it at the end.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import time
from collections.abc import Callable
from typing import Any, NoReturn

import structlog
from kubernetes.aio import client

from ..decisions.leadership import (
    LeaseRecord,
    Pace,
    Sighting,
    Take,
    candidacy,
    first_term,
    sight,
)
from ..errors import LeadershipLostError, PassingError, RejectedError
from .requests import answer, status_of, translated

log = structlog.get_logger()

NOTE = "modelfleet.dev/names-of-deleted"  # annotation: what a leader leaves to the next one


def clock() -> float:
    """Seconds that never step back and count while the machine sleeps or the process is stopped."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Fence:
    """Whether this replica may act. Asked before each request that changes the cluster."""

    def __init__(self, lost: Callable[[str], NoReturn]) -> None:
        """`lost` ends the process, so that it never acts beside another leader."""
        self._lost = lost
        self._until: float | None = None

    @property
    def leads(self) -> bool:
        """Whether the Lease is surely still ours."""
        return self._until is not None and clock() < self._until

    def open(self, until: float) -> None:
        """Acting is allowed until then, on `clock`."""
        self._until = until

    def close(self) -> None:
        """The Lease was released."""
        self._until = None

    def check(self) -> None:
        """Ends the process when the time to renew has passed, RejectedError if it never led."""
        if self._until is None:
            raise RejectedError("another replica leads")
        if clock() >= self._until:
            self.lose("the Lease was not renewed in time")

    def lose(self, why: str) -> NoReturn:
        """Ends the process."""
        self._until = 0.0
        self._lost(f"{why}: another replica may lead now, so this one ends")

    def resumed(self) -> None:
        """After SIGCONT, before anything else runs: a leader that was stopped for too long ends."""
        if self._until is not None:
            self.check()


def raise_lost(message: str) -> NoReturn:
    """For an operator that is one task of a larger process: raises instead of ending it."""
    raise LeadershipLostError(message)


class Elector:
    """One candidate. `acquire`, then `keep` beside the work, then `release`."""

    def __init__(
        self,
        api_client: client.ApiClient,
        *,
        namespace: str,
        name: str,
        identity: str,
        fence: Fence,
        seen: Callable[[str], None],
        pace: Pace,
        note: Callable[[], str] = str,
    ) -> None:
        """`seen` is told of the holder's identity at each read while another one leads.

        `note` is what the next leader finds as `inherited`; it is written with each renewal.
        """
        self._leases = client.CoordinationV1Api(api_client)
        self._namespace, self._name = namespace, name
        self._identity = identity
        self._fence = fence
        self._seen = seen
        self._pace = pace
        self._note = note
        self.inherited = ""  # the note of the leader before, once this replica leads
        self._noted = ""  # as the Lease has it
        self._version = ""  # of the Lease as it was seen last; empty: there is none
        self._term = 0

    async def acquire(self) -> int:
        """Waits until this replica leads; the term."""
        sighting: Sighting | None = None
        while True:
            pause = self._pace.retry
            try:
                record = await self._read()
                fresh = first_term(sighting, time.time())
                sighting = sight(sighting, record, clock())
                decision = candidacy(
                    sighting, self._identity, clock(), first_term=fresh, poll=self._pace.poll
                )
                if isinstance(decision, Take):
                    self._term = decision.term
                    await self._renew(acquireTime=_now())
                    self.inherited = self._noted
                    return self._term
                self._seen(record.holder if record else "")
                pause = decision.seconds
            except (PassingError, RejectedError) as error:
                if status_of(error) != 409:  # another candidate was faster
                    log.warning("the Lease cannot be had", error=str(error))
            await asyncio.sleep(pause)

    async def keep(self) -> NoReturn:
        """Renews until the Lease is lost, which ends the process (see Fence)."""
        pause = self._pace.renew
        while True:
            await asyncio.sleep(pause)
            self._fence.check()
            pause = self._pace.renew
            try:
                await self._renew()
            except (PassingError, RejectedError) as error:
                pause = self._pace.retry
                if status_of(error) in {404, 409}:  # edited, deleted or taken by another candidate
                    await self._read_again()
                else:
                    log.warning("the Lease is not renewed", error=str(error))

    async def release(self) -> None:
        """Lets the next one lead at once. Call it when nothing acts any more."""
        if not self._fence.leads:
            return
        note = self._note()
        self._fence.close()
        try:
            await self._write(note, holderIdentity="", leaseDurationSeconds=1)
        except (PassingError, RejectedError) as error:
            log.warning("the Lease is not released and expires", error=str(error))

    async def _renew(self, **spec: str) -> None:
        asked_at = clock()
        await self._write(
            self._note() if self._fence.leads else self._noted,
            holderIdentity=self._identity,
            leaseDurationSeconds=int(self._pace.duration),
            **spec,
        )
        self._fence.open(asked_at + self._pace.leads_for)

    async def _read_again(self) -> None:
        try:
            record = await self._read()
        except (PassingError, RejectedError) as error:
            log.warning("the Lease cannot be read", error=str(error))
            return
        if record and (record.holder, record.term) != (self._identity, self._term):
            self._fence.lose(f"{record.holder or 'no replica'} holds the Lease")

    async def _read(self) -> LeaseRecord | None:
        """None: there is no Lease."""
        try:
            with translated(f"reading lease {self._namespace}/{self._name}"):
                text = await answer(
                    self._leases.read_namespaced_lease_without_preload_content(
                        self._name, self._namespace, _request_timeout=self._pace.request
                    )
                )
        except RejectedError as error:
            if status_of(error) != 404:
                raise
            self._version = self._noted = ""
            return None
        return self._read_record(text)

    async def _write(self, note: str, **spec: Any) -> None:
        """Only over the version that was seen last; PassingError with status 409 otherwise."""
        lease: Any = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self._name, "namespace": self._namespace},
            "spec": {"leaseTransitions": self._term, "renewTime": _now(), **spec},
        }
        if note != self._noted:
            lease["metadata"]["annotations"] = {NOTE: note or None}
        if self._version:
            lease["metadata"]["resourceVersion"] = self._version
            request = self._leases.patch_namespaced_lease_without_preload_content(
                self._name,
                self._namespace,
                lease,
                _content_type="application/merge-patch+json",
                _request_timeout=self._pace.request,
            )
        else:
            new: Any = client.V1Lease.from_dict(lease)
            request = self._leases.create_namespaced_lease_without_preload_content(
                self._namespace, new, _request_timeout=self._pace.request
            )
        with translated(f"writing lease {self._namespace}/{self._name}"):
            self._read_record(await answer(request))

    def _read_record(self, text: str) -> LeaseRecord:
        lease = json.loads(text)
        spec = lease.get("spec", {})
        self._version = lease["metadata"]["resourceVersion"]
        self._noted = (lease["metadata"].get("annotations") or {}).get(NOTE) or ""
        return LeaseRecord(
            holder=spec.get("holderIdentity") or "",
            term=spec.get("leaseTransitions") or 0,
            duration=float(spec.get("leaseDurationSeconds") or 1),
            renewed=spec.get("renewTime") or "",
        )


def _now() -> str:
    """As the API server wants it: always with microseconds."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
