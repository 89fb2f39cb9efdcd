"""What the operator knows of the cluster: kopf's indices, and its own writes laid over them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from ..decisions.names import owners
from ..decisions.observed import Accelerator, Worker
from .accelerators import KnownClass
from .known import Known, read_deployment
from .known_pod import KnownPod, is_pool
from .nodes import KnownNode, on_node
from .observing import Object
from .overlay import ObjectOverlay, WriteOverlay
from .pods import PodSettings


class ClusterCache:
    """Deployments, worker pods and accelerator classes. Reading it waits for nothing."""

    def __init__(self, settings: PodSettings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        # kopf's indices, key -> values; their content follows the watches. That of pods has those
        # of warm pools, too.
        self._deployments: Mapping[str, Collection[Known]] = {}
        self._pods: Mapping[str, Collection[KnownPod]] = {}
        self._classes: Mapping[str, Collection[KnownClass]] = {}
        self._nodes: Mapping[str, Collection[KnownNode]] = {}
        self._seen_classes: dict[str, Accelerator] | None = None  # None: to be read anew
        self._deleted: set[str] = set()  # uids that the indices hold and the API server has not
        self.writes = WriteOverlay()
        self.created: ObjectOverlay[KnownPod] = ObjectOverlay(
            lambda pod: pod.uid, lambda cached, created: True
        )

    def attach(
        self,
        deployments: Mapping[str, Collection[Known]],
        pods: Mapping[str, Collection[KnownPod]],
        classes: Mapping[str, Collection[KnownClass]],
        nodes: Mapping[str, Collection[KnownNode]],
    ) -> None:
        """The live indices, once kopf has made them; empty ones: what may not be watched."""
        self._deployments, self._pods, self._classes = deployments, pods, classes
        self._nodes = nodes
        self._seen_classes = None

    def read(self, body: Object) -> Known:
        """Validates a ModelDeployment for the index, unless it was already and has not changed."""
        metadata = {name: v for name, v in body["metadata"].items() if name != "managedFields"}
        body = {**body, "metadata": metadata}
        before: Known | None = None
        for known in self._deployments.get(f"{metadata['namespace']}/{metadata['name']}", ()):
            if known.still_reads(body):
                return replace(known, body=body)
            before = known
        return read_deployment(body, self._settings, before)

    def keys(self) -> Collection[str]:
        """`namespace/name` of every deployment that is not being deleted."""
        return [key for key in self._deployments if "/" in key and self.known(key) is not None]

    def known(self, key: str) -> Known | None:
        """None: it is gone, or being deleted."""
        for known in self._deployments.get(key, ()):
            if not known.is_deleting and known.uid not in self._deleted:
                return known
        return None

    def workers(self, key: str, owner_uid: str) -> tuple[Worker, ...]:
        """The worker pods of a deployment, as they are after our own writes."""
        cached = [pod for pod in self._pods.get(key, ()) if pod.uid not in self._deleted]
        pods = self.created.apply(key, cached, self._clock())
        return tuple(w for pod in pods if (w := self._worker(pod, owner_uid)))

    def broken(self, key: str, owner_uid: str) -> list[KnownPod]:
        """Of the worker pods those with a label or annotation of ours that was broken by hand."""
        return [
            pod
            for pod in self.created.apply(key, self._pods.get(key, ()), self._clock())
            if pod.owner_uid == owner_uid and (pod.broken or pod.unreadable)
        ]

    def variables(self, key: str) -> dict[str, tuple[tuple[str, str], ...]]:
        """Names and values under `env`, by the id of the worker that has them."""
        pods = self.created.apply(key, self._pods.get(key, ()), self._clock())
        return {pod.worker.id: pod.env for pod in pods if pod.worker}

    def accelerators(self) -> dict[str, Accelerator]:
        """Every AcceleratorClass, by name."""
        if self._seen_classes is None:
            known = (c for found in self._classes.values() for c in found)
            self._seen_classes = {c.name: c.seen() for c in known}
        return self._seen_classes

    def classes_changed(self) -> None:
        """The watch said so."""
        self._seen_classes = None

    def accelerator_class(self, name: str) -> KnownClass | None:
        """None: there is none of this name."""
        return next(iter(self._classes.get(name, ())), None)

    def node(self, name: str) -> KnownNode | None:
        """None: it is not known, or may not be watched."""
        return next(iter(self._nodes.get(name, ())), None) if name else None

    def keys_on(self, node: str) -> set[str]:
        """Of the deployments that have a worker there: all pods are looked through."""
        return {
            key
            for key, pods in self._pods.items()
            for pod in pods
            if pod.worker is not None and pod.worker.node == node and not is_pool(key)
        }

    def keys_with(self, uid: str) -> set[str]:
        """Of the deployments that have this pod: all are looked through."""
        return {key for key in self._pods if not is_pool(key) and self.pod(key, uid) is not None}

    def pod(self, key: str, uid: str) -> KnownPod | None:
        """What the index holds of this pod; None: nothing."""
        return next((pod for pod in self._pods.get(key, ()) if pod.uid == uid), None)

    def owners(self, known: Known) -> Mapping[str, str]:
        """Which deployments have the short names that it asks for, of all that claim them."""
        rivals = [r for name in known.served_names for r in self._deployments.get(name, ())]
        there = (r for r in rivals if not r.is_deleting and r.uid not in self._deleted)
        return owners(rival.deployment(0) for rival in there)

    def uids(self) -> dict[str, str]:
        """All that the indices hold: uid -> key of the deployment."""
        found = {
            known.uid: key
            for key, there in self._deployments.items()
            for known in there
            if "/" in key  # else it is a short name
        }
        found |= {
            pod.uid: key for key, pods in self._pods.items() if not is_pool(key) for pod in pods
        }
        return {uid: key for uid, key in found.items() if uid not in self._deleted}

    def pod_gone(self, key: str, uid: str) -> None:
        """What we wrote to this pod does not matter any more."""
        self.writes.gone(uid)
        self.created.gone(key, uid)

    def deletion_missed(self, key: str, uid: str) -> None:
        """It was deleted and no watch has said so: it does not count any more."""
        self._deleted.add(uid)
        self.pod_gone(key, uid)

    def _worker(self, pod: KnownPod, owner_uid: str) -> Worker | None:
        if pod.worker is None:
            return None
        if pod.owner_uid != owner_uid:
            # Of an earlier object of this name: the garbage collector ends it, its name is taken.
            return replace(pod.worker, stopping=True, failure=None)
        worker = self.writes.apply(pod.worker)
        return on_node(worker, self.node(worker.node), self._clock())
