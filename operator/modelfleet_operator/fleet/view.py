"""The view as it is published: each part with the version that brought it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from modelfleet_proto import fleet_pb2

from ..decisions.view import ModelView, WorkerRoute

REMOVALS_KEPT = 1000  # removed models; a gateway that missed more gets the whole view


@dataclass(frozen=True, slots=True)
class _Published:
    view: ModelView
    message: fleet_pb2.ModelView
    since: dict[object, int]  # the model, its workers and their routability -> version


class FleetView:
    """One term's view. Work and messages grow with the number of changes, not of models."""

    def __init__(self, term: int = 0) -> None:
        self.term = term
        self.version = 0
        self._models: dict[str, _Published] = {}
        self._workers: set[str] = set()  # ids of all models' workers
        self._changed: dict[str, int] = {}  # model, removed ones too -> version, oldest first
        self._floor = 0  # of versions before this one the changes are not known any more
        self._keys: fleet_pb2.ApiKeys | None = None  # None: they are not known
        self._keys_since = 0  # version that brought them
        self._whole: fleet_pb2.View | None = None

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def model(self, model: str) -> ModelView | None:
        """The model as it was published last; None: it is not in the view."""
        published = self._models.get(model)
        return published.view if published else None

    def has_worker(self, worker_id: str) -> bool:
        """Whether a worker of any model has this id."""
        return worker_id in self._workers

    def put(self, view: ModelView) -> bool:
        """Publishes a model; returns whether that changed anything."""
        before = self._models.get(view.model)
        if before is not None and before.view == view:
            return False
        self._advance(view.model)
        known: set[object] = {view.model}
        for worker in view.workers:
            known |= {identity(worker), routability(worker)}
        old = before.since if before else {}
        self._workers.difference_update(w.id for w in (before.view.workers if before else ()))
        self._workers.update(worker.id for worker in view.workers)
        since = {what: old.get(what, self.version) for what in known}
        self._models[view.model] = _Published(view, _message(view), since)
        return True

    def drop(self, model: str) -> bool:
        """Removes a model; returns whether it was in the view."""
        published = self._models.pop(model, None)
        if published is None:
            return False
        self._workers.difference_update(worker.id for worker in published.view.workers)
        self._advance(model)
        if len(self._changed) > len(self._models) + REMOVALS_KEPT:
            removed = [name for name in self._changed if name not in self._models]
            for name in removed[: REMOVALS_KEPT // 2]:
                self._floor = self._changed.pop(name)
        return True

    def put_keys(self, keys: fleet_pb2.ApiKeys) -> None:
        """Publishes the API keys."""
        self.version += 1
        self._keys, self._keys_since = keys, self.version

    def since(self, model: str, what: object) -> int | None:
        """The version that brought it; None: it is not in the view."""
        published = self._models.get(model)
        return published.since.get(what) if published else None

    def changed_since(self, version: int) -> Iterator[str]:
        """Models that came, went or changed after that version, the latest first."""
        for model, changed in reversed(self._changed.items()):
            if changed <= version:
                return
            yield model

    def whole(self) -> fleet_pb2.View:
        """For a gateway that knows nothing of this term."""
        if self._whole is None or self._whole.version != self.version:
            self._whole = fleet_pb2.View(
                term=self.term,
                version=self.version,
                models=[self._models[model].message for model in sorted(self._models)],
                takes_partial=True,
                keys=self._keys,
            )
        return self._whole

    def change(self, version: int) -> fleet_pb2.ViewChange | None:
        """What differs from that version; None if only the whole view can say it."""
        if version < self._floor:
            return None
        models = list(self.changed_since(version))
        return fleet_pb2.ViewChange(
            version=self.version,
            models=[self._models[model].message for model in models if model in self._models],
            removed=[model for model in models if model not in self._models],
            keys=self._keys if self._keys_since > version else None,
        )

    def _advance(self, model: str) -> None:
        self.version += 1
        self._changed.pop(model, None)
        self._changed[model] = self.version


def identity(worker: WorkerRoute) -> object:
    """Key of one start of a worker: another start has another address."""
    return worker.id, worker.address


def routability(worker: WorkerRoute) -> object:
    """Key of that start being routable, or not: `since` says which version brought it."""
    return worker.id, worker.address, worker.routable


def _message(view: ModelView) -> fleet_pb2.ModelView:
    return fleet_pb2.ModelView(
        model=view.model,
        served_names=view.served_names,
        max_queue=view.max_queue,
        hold_timeout=view.hold_timeout,
        created=view.created,
        eta=view.eta,
        phase=view.phase,
        cause=view.cause,
        revisions=view.revisions,
        target_in_flight=view.target_in_flight,
        overload_target=view.overload_target,
        task=view.task,
        routing_policy=view.routing_policy,
        pack_in_flight=view.pack_in_flight,
        wake=[
            fleet_pb2.WakePhase(phase=wake.phase, began=wake.began, ended=wake.ended)
            for wake in view.wake
        ],
        ttft_target=view.ttft_target,
        tpot_target=view.tpot_target,
        workers=[
            fleet_pb2.WorkerRoute(
                worker_id=worker.id,
                address=worker.address,
                routable=worker.routable,
                revision=worker.revision,
                hand_over=worker.hand_over,
                tls_name=worker.tls_name,
                tls_address=worker.tls_address,
            )
            for worker in view.workers
        ],
    )
