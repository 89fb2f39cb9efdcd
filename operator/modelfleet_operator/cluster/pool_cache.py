"""What the operator knows of warm pools: kopf's indices, and its own writes laid over them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from ..decisions.standby import Standby
from .cache import ClusterCache
from .known_pod import KnownPod, is_pool, pool_key, pool_of_key
from .nodes import of_node
from .overlay import ObjectOverlay
from .pods import PodSettings
from .pool_pods import KnownPool, MadePool, make_pool, revisions_of


class PoolCache:
    """Pools and the pods that were started for them. Reading it waits for nothing."""

    def __init__(
        self, settings: PodSettings, clock: Callable[[], float], cluster: ClusterCache
    ) -> None:
        self._settings = settings
        self._clock = clock
        self.cluster = cluster
        # kopf's indices, `namespace/name` of the pool -> values; that of pods has
        # those of deployments, too.
        self._pools: Mapping[str, Collection[KnownPool]] = {}
        self._pods: Mapping[str, Collection[KnownPod]] = {}
        self._deleted: set[str] = set()  # uids that the indices hold and the API server has not
        self._made: dict[str, MadePool] = {}
        self._writes: ObjectOverlay[Standby] = ObjectOverlay(lambda standby: standby.uid, _agrees)

    def attach(
        self,
        pools: Mapping[str, Collection[KnownPool]],
        pods: Mapping[str, Collection[KnownPod]],
    ) -> None:
        """The live indices, once kopf has made them."""
        self._pools, self._pods = pools, pods

    def uids(self) -> dict[str, str]:
        """All that the indices hold and no deployment has: uid -> what it is, for the log."""
        found = {known.uid: pool_key(key) for key, there in self._pools.items() for known in there}
        found |= {
            pod.uid: key for key, there in self._pods.items() if is_pool(key) for pod in there
        }
        return {uid: key for uid, key in found.items() if uid not in self._deleted}

    def deletion_missed(self, uid: str) -> None:
        """It was deleted and no watch has said so."""
        self._deleted.add(uid)

    def known(self, key: str) -> KnownPool | None:
        """None: it is gone, or being deleted."""
        for known in self._pools.get(key, ()):
            if not known.is_deleting and known.uid not in self._deleted:
                return known
        return None

    def made(self, key: str) -> MadePool | None:
        """With what its standbys are made of; None: it is gone, or being deleted."""
        known = self.known(key)
        if known is None:
            return None
        namespace = known.body["metadata"]["namespace"]
        names = known.manifest.spec.named_models if known.manifest is not None else ()
        models = {name: self.cluster.known(f"{namespace}/{name}") for name in names}
        before = self._made.get(key)
        if before is None or before.known is not known or before.revisions != revisions_of(models):
            before = self._made[key] = make_pool(known, models, self._settings)
        return before

    def keys(self) -> Collection[str]:
        """Every pool that is not being deleted."""
        return [key for key in self._pools if self.known(key) is not None]

    def keys_in(self, namespace: str) -> list[str]:
        """The same of one namespace, those that are being deleted among them."""
        return [key for key in self._pools if key.startswith(f"{namespace}/")]

    def standbys(self, key: str) -> list[Standby]:
        """Its pods, claimed ones too, as they are after our own writes."""
        cached = [
            pod.standby
            for pod in self._pods.get(pool_key(key), ())
            if pod.standby is not None and pod.uid not in self._deleted
        ]
        there = self._writes.apply(key, cached, self._clock())
        return [of_node(standby, self.cluster.node(standby.node)) for standby in there]

    def wrote(self, standby: Standby) -> None:
        """The standby as it is since our own write, which the watch may not show yet."""
        self._writes.put(standby.pool, standby.uid, standby, self._clock())

    def pod_gone(self, key: str, uid: str) -> None:
        """The watch said that a pod was deleted; `key` is the index's, with `pool_key`."""
        self._writes.gone(pool_of_key(key), uid)

    def forget(self, key: str) -> None:
        """The pool is gone."""
        self._made.pop(key, None)
        self._writes.forget(key)


def _agrees(cached: Standby, made: Standby) -> bool:
    """Whether the watch shows what we did."""
    return cached.claimed_by == made.claimed_by and cached.stopping >= made.stopping
