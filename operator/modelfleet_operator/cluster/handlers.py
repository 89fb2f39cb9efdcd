"""kopf's handlers: indices hold what is there, events wake the reconciler of what they concern.

There are no timers, daemons or change handlers: those leave finalizers and annotations on objects.
All handlers are asynchronous: a thread for each call would cost more than the handler.
"""

from __future__ import annotations

import copy
import time
from typing import Any

import kopf

from ..api import accelerator_class, warm_pool
from ..api.model_deployment import GROUP, PLURAL, VERSION
from . import evictions as evictions_api
from .accelerators import KnownClass, read_class
from .connection import connection_info
from .disruption import KnownBudget, read_budget
from .evictions import KnownEviction, read_eviction
from .known import Known
from .known_pod import KnownPod, is_pool, keys_of, read_pod
from .memo import OperatorMemo
from .nodes import KnownNode, read_node
from .observing import Object, deployment_of
from .pool_pods import KnownPool, read_pool
from .revisions import KnownRevision, read_revision
from .tuning import tune

REGISTRY = kopf.OperatorRegistry()


@kopf.on.login(registry=REGISTRY)
async def login(memo: OperatorMemo, **_: Any) -> kopf.ConnectionInfo:
    """Called at the start, and whenever the API server refuses the last token."""
    return await connection_info(memo.kubeconfig)


@kopf.on.startup(registry=REGISTRY)
async def prepare(settings: kopf.OperatorSettings, memo: OperatorMemo, **indices: Any) -> None:
    """Before the first watch."""
    tune(settings)
    memo.body.attach(
        indices["deployments"],
        indices["pods"],
        indices["classes"],
        indices["revisions"],
        indices.get("nodes"),
        indices.get("budgets"),
        indices.get("evictions"),
    )
    memo.body.pools.cache.attach(indices["pools"], indices["pods"])


@kopf.index(GROUP, VERSION, PLURAL, id="deployments", registry=REGISTRY)
async def index_deployment(body: kopf.Body, memo: OperatorMemo, **_: Any) -> dict[str, Known]:
    """By `namespace/name`, and by each short name that it asks for, which has no slash."""
    known = memo.body.cache.read(dict(body))
    return dict.fromkeys((f"{body.meta.namespace}/{body.meta.name}", *known.served_names), known)


@kopf.index("v1", "pods", id="pods", registry=REGISTRY)
async def index_pod(body: kopf.Body, **_: Any) -> dict[str, KnownPod]:
    """By `known_pod.keys_of`; what has none is none of ours."""
    raw = dict(body)
    keys = keys_of(raw)
    return dict.fromkeys(keys, read_pod(raw)) if keys else {}


@kopf.index("apps", "v1", "controllerrevisions", id="revisions", registry=REGISTRY)
async def index_revision(body: kopf.Body, **_: Any) -> dict[str, KnownRevision]:
    """By `namespace/name` of the deployment."""
    raw = dict(body)
    key = _deployment_of(raw)
    known = read_revision(raw) if key else None
    return {key: known} if known else {}


@kopf.index(GROUP, VERSION, accelerator_class.PLURAL, id="classes", registry=REGISTRY)
async def index_class(body: kopf.Body, **_: Any) -> dict[str, KnownClass]:
    """By name; an unusable one is left out, as if it did not exist."""
    known = read_class(dict(body))
    return {known.name: known} if known else {}


@kopf.index(GROUP, VERSION, warm_pool.PLURAL, id="pools", registry=REGISTRY)
async def index_pool(body: kopf.Body, **_: Any) -> dict[str, KnownPool]:
    """By `namespace/name`."""
    return {f"{body.meta.namespace}/{body.meta.name}": read_pool(dict(body))}


@kopf.on.event(GROUP, VERSION, accelerator_class.PLURAL, registry=REGISTRY)
async def class_changed(memo: OperatorMemo, **_: Any) -> None:
    """Any deployment may name it. A class has no status, so each event is a change of its spec."""
    memo.body.cache.classes_changed()
    memo.reconcilers.wake_all()
    memo.keeper.wake()


@kopf.on.event(GROUP, VERSION, warm_pool.PLURAL, registry=REGISTRY)
async def pool_changed(body: kopf.Body, memo: OperatorMemo, **_: Any) -> None:
    """Of our own writes to its status, too: what differs from them is written again."""
    memo.keeper.wake()


@kopf.on.event(GROUP, VERSION, PLURAL, registry=REGISTRY)
async def deployment_changed(
    event: kopf.RawEvent, body: kopf.Body, memo: OperatorMemo, **_: Any
) -> None:
    """Wakes its reconciler; our own writes to its status change no generation and wake none."""
    memo.first_event.set()
    if event["type"] is None:
        memo.listed_anew()
    key = f"{body.meta.namespace}/{body.meta.name}"
    seen = (body.meta["uid"], body.meta.get("generation"), "deletionTimestamp" in body.meta)
    if event["type"] == "DELETED":
        memo.seen.pop(key, None)
    elif memo.seen.get(key) == seen:
        return
    else:
        memo.seen[key] = seen
    memo.reconcilers.wake(key)
    memo.keeper.wake()  # a pool may fetch its files ahead


@kopf.on.event("v1", "pods", registry=REGISTRY)
async def pod_changed(event: kopf.RawEvent, body: kopf.Body, memo: OperatorMemo, **_: Any) -> None:
    """Wakes whom it concerns, and only by what we read of it: kubelets write its status often."""
    keys, uid = keys_of(dict(body)), body.meta["uid"]
    if not keys:
        return
    if event["type"] is None:
        memo.listed_anew()
    if event["type"] == "DELETED":
        memo.pods.pop(uid, None)
        memo.body.pod_gone(keys, uid)
    else:
        known = memo.body.cache.pod(keys[0], uid)
        if known is not None and memo.pods.get(uid) == known:
            return
        if known is not None:
            memo.pods[uid] = known
    for key in keys:
        if is_pool(key):
            memo.keeper.wake()  # one may be full now, or lack one
        else:
            memo.reconcilers.wake(key)


@kopf.on.event("apps", "v1", "controllerrevisions", registry=REGISTRY)
async def revision_changed(
    event: kopf.RawEvent, body: kopf.Body, memo: OperatorMemo, **_: Any
) -> None:
    """Only a deletion matters: the revision may have to be written again."""
    if event["type"] == "DELETED" and (key := _deployment_of(dict(body))):
        memo.body.history.gone(key, body.meta["uid"])
        memo.reconcilers.wake(key)


def registry(*, nodes: bool, budgets: bool, evictions: bool) -> kopf.OperatorRegistry:
    """All handlers, and those of what there is and the operator has the right to watch.

    kopf ends an operator that watches what it may not.
    """
    chosen = copy.deepcopy(REGISTRY)
    if nodes:
        kopf.index("v1", "nodes", id="nodes", registry=chosen)(index_node)
        kopf.on.event("v1", "nodes", registry=chosen)(node_changed)
    if budgets:
        where = ("policy", "v1", "poddisruptionbudgets")
        kopf.index(*where, id="budgets", registry=chosen)(index_budget)
        kopf.on.event(*where, registry=chosen)(budget_changed)
    if evictions:
        where = (evictions_api.GROUP, evictions_api.VERSION, evictions_api.PLURAL)
        kopf.index(*where, id="evictions", registry=chosen)(index_eviction)
        kopf.on.event(*where, registry=chosen)(eviction_changed)
    return chosen


async def index_node(body: kopf.Body, **_: Any) -> dict[str, KnownNode]:
    """By name."""
    known = read_node(dict(body), time.time())
    return {known.name: known}


async def node_changed(event: kopf.RawEvent, body: kopf.Body, memo: OperatorMemo, **_: Any) -> None:
    """Wakes whom it concerns, and only by what we read of it: its status changes all the time."""
    name = body.meta.name or ""
    known = memo.body.cache.node(name)
    if event["type"] == "DELETED" or known is None:
        memo.nodes.pop(name, None)
    elif memo.nodes.get(name) == known:
        return
    else:
        memo.nodes[name] = known
    for key in memo.body.cache.keys_on(name):
        memo.reconcilers.wake(key)
    memo.keeper.wake()  # a standby may be on it


async def index_budget(body: kopf.Body, **_: Any) -> dict[str, KnownBudget]:
    """By `namespace/name` of the deployment."""
    raw = dict(body)
    key = _deployment_of(raw)
    return {key: read_budget(raw)} if key else {}


async def budget_changed(
    event: kopf.RawEvent, body: kopf.Body, memo: OperatorMemo, **_: Any
) -> None:
    """Another hand may have changed or deleted it; its status changes with each of our pods."""
    key = _deployment_of(dict(body))
    if not key:
        return
    budgets = memo.body.budgets
    known = budgets.known(key, body.meta["uid"])
    if event["type"] == "DELETED" or known is None:
        memo.budgets.pop(key, None)
        budgets.gone(key)
    elif memo.budgets.get(key) == known:
        return
    else:
        memo.budgets[key] = known
        if budgets.is_as_written(key, known):
            return
    memo.reconcilers.wake(key)


async def index_eviction(body: kopf.Body, **_: Any) -> dict[str, KnownEviction]:
    """By the uid of the pod that is asked to go."""
    known = read_eviction(dict(body))
    return {known.pod_uid: known} if known else {}


async def eviction_changed(
    event: kopf.RawEvent, body: kopf.Body, memo: OperatorMemo, **_: Any
) -> None:
    """Wakes the deployment whose worker is asked to go, or is not any more."""
    known = read_eviction(dict(body))
    if known is None:
        return
    is_gone = event["type"] == "DELETED"
    if is_gone:
        memo.body.evictions.gone(known.pod_uid)
    if is_gone or memo.evictions.get(known.pod_uid) != known:
        memo.evictions[known.pod_uid] = known
        for key in memo.body.cache.keys_with(known.pod_uid):
            memo.reconcilers.wake(key)
    if is_gone:
        del memo.evictions[known.pod_uid]


def _deployment_of(found: Object) -> str:
    """Empty: it is none of ours. Its label may have been removed by hand, so its owner counts."""
    name = deployment_of(found)
    return f"{found['metadata']['namespace']}/{name}" if name else ""
