"""A Kubernetes API (kmock's), a kubelet of few words, and a gateway's Fleet client."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
import kmock
from aiohttp import web

from modelfleet_proto import fleet_pb2, fleet_pb2_grpc, worker_pb2
from modelfleet_proto.handshake import call_metadata

MODELS = "modelfleet.dev/v1alpha1/modeldeployments"
CLASSES = "modelfleet.dev/v1alpha1/acceleratorclasses"
POOLS = "modelfleet.dev/v1alpha1/warmpools"
PODS = "v1/pods"
REVISIONS = "apps/v1/controllerrevisions"
EVENTS = "events.k8s.io/v1/events"
NODES = "v1/nodes"
BUDGETS = "policy/v1/poddisruptionbudgets"
CLAIM_TEMPLATES = "resource.k8s.io/v1/resourceclaimtemplates"
EVICTIONS = "lifecycle.k8s.io/v1alpha1/evictions"
EVICTIONS_PATH = "/apis/lifecycle.k8s.io/v1alpha1/namespaces/default/evictions"
EVICTOR = "imperative-eviction.k8s.io/evictor"  # the API's own responder, the last one
POLICIES = "networking.k8s.io/v1/networkpolicies"
SECRETS = "v1/secrets"
LEASES = "coordination.k8s.io/v1/leases"
KUBELET = "test/kubelet"  # a finalizer: a running pod ends when the kubelet says so
TEST = "x-test"  # header of the requests that are not the operator's


T = TypeVar("T")


async def eventually(condition: Callable[[], T], *, within: float = 10.0) -> T:
    """The first true answer, looked for every 20 ms."""
    deadline = time.monotonic() + within
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {within} s: {condition()!r}"
        await asyncio.sleep(0.02)
    return found


class ApiServer(kmock.KubernetesEmulator):
    """kmock's emulator and what it leaves out.

    uids, generations, preconditions, resource versions of Leases and pods, and server-side apply of
    a status as a replacement.
    """

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.numbers = itertools.count(1)
        self.seen: list[kmock.Request] = []  # all that the operator asked
        self.refuse_pods = ""  # why no pod is taken, as an admission plugin says it
        self.refusal_status = 403
        self.refuse_revisions = ""  # why no history is taken
        self.refuse_claims = ""  # why no ResourceClaimTemplate is taken
        self.claims_status = 422  # of that refusal
        self.lose_answers = 0  # to so many changes of pods: they are made, and 503 is answered
        self.refuse_watching: frozenset[str] = frozenset()  # what the operator has no right to
        self.policies: dict[str, dict[str, Any]] = {}  # NetworkPolicies that were applied, by name
        self.refuse_leases = False  # an API server that is there for reading only

    async def _handle(self, request: kmock.Request) -> Any:
        if TEST not in {name.lower() for name in request.headers}:
            self.seen.append(request)
        if request.resource is not None and request.resource.plural in self.refuse_watching:
            raise kmock.KubernetesError(status=403, reason="Forbidden", message="no such right")
        if request.resource is not None and request.resource.plural == "networkpolicies":
            assert request.method.value == "PATCH"  # nothing else is asked of them
            self.policies[request.name] = request.data
            return web.json_response(request.data)
        if request.resource is not None and isinstance(request.data, dict):
            if request.resource.plural == "secrets":
                self._encode(request.data)
            self._complete(request)
        answer = await super()._handle(request)
        is_change = request.resource is not None and request.method.value == "PATCH"
        if self.lose_answers and is_change and request.resource.plural == "pods":
            self.lose_answers -= 1
            raise kmock.KubernetesError(status=503, reason="Unavailable", message="it was cut")
        return answer

    def _encode(self, secret: dict[str, Any]) -> None:
        """`stringData` is kept as `data`."""
        texts = secret.pop("stringData", {})
        encoded = {key: base64.b64encode(text.encode()).decode() for key, text in texts.items()}
        secret.setdefault("data", {}).update(encoded)

    def _complete(self, request: kmock.Request) -> None:
        data = request.data
        creates = request.action == kmock.action.CREATE
        if creates and request.resource.plural == "pods" and self.refuse_pods:
            reason = "Forbidden" if self.refusal_status == 403 else "Conflict"
            raise kmock.KubernetesError(
                status=self.refusal_status, reason=reason, message=self.refuse_pods
            )
        if creates and request.resource.plural == "controllerrevisions" and self.refuse_revisions:
            message = self.refuse_revisions
            raise kmock.KubernetesError(status=403, reason="Forbidden", message=message)
        if creates and request.resource.plural == "resourceclaimtemplates" and self.refuse_claims:
            raise kmock.KubernetesError(
                status=self.claims_status, reason="Refused", message=self.refuse_claims
            )
        if request.resource.plural == "leases":
            self._complete_lease(request)
        if request.resource.plural == "pods" and request.action in (
            kmock.action.CREATE,
            kmock.action.UPDATE,
            kmock.action.DELETE,
        ):
            self._complete_version(request)
        if request.action == kmock.action.CREATE:
            data["metadata"] |= {
                "uid": f"uid-{next(self.numbers)}",
                "namespace": request.namespace,
                "generation": 1,
                "creationTimestamp": datetime.datetime.now(datetime.UTC).strftime(
                    "%Y-%m-%dT%H:%M:%SZ"
                ),
            }
            return
        key = (request.resource, request.namespace, request.name)
        if request.name is None or key not in self.objects or self.objects[key].deleted:
            return  # the emulator says 404
        raw = self.objects[key].raw
        asked = data.get("preconditions", data.get("metadata", {})).get("uid")
        if asked not in (None, raw["metadata"]["uid"]):
            raise conflict(f"uid {asked} was asked for, uid is {raw['metadata']['uid']}")
        if request.action == kmock.action.UPDATE:
            _complete_update(request, raw)

    def _complete_version(self, request: kmock.Request) -> None:
        """A write that names another version than the pod's is refused."""
        fresh = str(next(self.numbers))
        if request.action == kmock.action.DELETE:
            asked = request.data.get("preconditions", {}).get("resourceVersion")
        else:
            asked = request.data.setdefault("metadata", {}).get("resourceVersion")
        key = (request.resource, request.namespace, request.name)
        if request.name is not None and key in self.objects and not self.objects[key].deleted:
            metadata = self.objects[key].raw["metadata"]
            if asked not in (None, metadata.get("resourceVersion")):
                raise conflict(f"version {asked} was asked for, it is another one")
            metadata["resourceVersion"] = fresh  # at once: of two writes one is late
        if request.action != kmock.action.DELETE:
            request.data["metadata"]["resourceVersion"] = fresh

    def _complete_lease(self, request: kmock.Request) -> None:
        if self.refuse_leases:
            raise kmock.KubernetesError(status=500, reason="Internal", message="no quorum")
        if request.action == kmock.action.DELETE:
            return
        metadata = request.data["metadata"]
        key = (request.resource, request.namespace, request.name)
        if request.name is not None and key in self.objects:
            if self.objects[key].deleted:
                return  # the emulator says 404
            found = self.objects[key].raw["metadata"]["resourceVersion"]
            asked = metadata.get("resourceVersion", found)
            if asked != found:
                raise conflict(f"version {asked} was asked for, it is {found}")
        metadata["resourceVersion"] = str(next(self.numbers))

    def lease(self) -> dict[str, Any]:
        return self.objects[LEASES, "default", "modelfleet-operator"].raw

    def holder(self) -> str:
        """The leader's identity; empty: there is no leader, or no Lease."""
        leases = [o for (resource, *_), o in self.objects.items() if resource.plural == "leases"]
        return next((o.raw["spec"]["holderIdentity"] for o in leases if not o.deleted), "")

    async def lose(self, plural: str, name: str) -> None:
        """Deletes it while no watch runs: every watch begins anew, as after a long gap."""
        (key,) = [k for k in self._objects if (k[0].plural, k[2]) == (plural, name)]
        del self._objects[key]
        for bus in self._buses.values():
            await bus.put({"type": "ERROR", "object": {"code": 410}})

    def pods(self) -> dict[str, dict[str, Any]]:
        """Those that exist, by name."""
        return {
            name: pod.raw
            for (resource, _, name), pod in self.objects.items()
            if resource.plural == "pods" and not pod.deleted
        }

    def claim_templates(self) -> dict[str, Any]:
        """ResourceClaimTemplates by name."""
        return {
            name: kept.raw
            for (resource, _, name), kept in self.objects.items()
            if resource.plural == "resourceclaimtemplates" and not kept.deleted
        }

    def revisions(self) -> dict[str, dict[str, Any]]:
        """The history that exists, by name."""
        return {
            name: kept.raw
            for (resource, _, name), kept in self.objects.items()
            if resource.plural == "controllerrevisions" and not kept.deleted
        }

    def budgets(self) -> dict[str, dict[str, Any]]:
        """PodDisruptionBudgets that exist, by name."""
        return {
            name: kept.raw
            for (resource, _, name), kept in self.objects.items()
            if resource.plural == "poddisruptionbudgets" and not kept.deleted
        }

    def eviction(self, pod: str) -> dict[str, Any]:
        """Of the pod."""
        return self.objects[EVICTIONS, "default", f"{pod}-eviction"].raw

    def events(self, reason: str) -> list[dict[str, Any]]:
        """The bodies of Events that were posted, oldest first."""
        bodies = [json.loads(request.body) for request in self.asked("POST", "events")]
        return [body for body in bodies if body["reason"] == reason]

    def running(self) -> dict[str, dict[str, Any]]:
        """Pods that are not being deleted."""
        return {n: p for n, p in self.pods().items() if "deletionTimestamp" not in p["metadata"]}

    def model(self, name: str = "smol", namespace: str = "default") -> dict[str, Any]:
        return self.objects[MODELS, namespace, name].raw

    def pool(self, name: str = "pool", namespace: str = "default") -> dict[str, Any]:
        return self.objects[POOLS, namespace, name].raw

    def condition(
        self, type_: str, name: str = "smol", namespace: str = "default"
    ) -> dict[str, Any]:
        found = self.model(name, namespace).get("status", {}).get("conditions", [])
        return next((c for c in found if c["type"] == type_), {})

    def asked(self, method: str, plural: str, subresource: str | None = None) -> list[Any]:
        """The operator's requests: method and resource, oldest first."""
        return [
            r
            for r in self.seen
            if r.method.value == method
            and r.resource is not None
            and (r.resource.plural, r.subresource) == (plural, subresource)
        ]


def _complete_update(request: kmock.Request, raw: dict[str, Any]) -> None:
    data = request.data
    if request.resource.plural == "evictions" and request.subresource == "status":
        # Server-side apply of a list that is a map by name: others' entries stay.
        _merge_responders(data["status"], raw.get("status", {}))
    elif request.subresource == "status":
        status = replacing(raw.get("status", {}), data["status"])
        data.clear()
        data["status"] = status
    elif "spec" in data:
        data.setdefault("metadata", {})["generation"] = raw["metadata"]["generation"] + 1


def _merge_responders(applied: dict[str, Any], before: dict[str, Any]) -> None:
    ours = {responder["name"]: responder for responder in applied["responders"]}
    theirs = before.get("responders", [])
    applied["responders"] = [{**r, **ours.get(r["name"], {})} for r in theirs]


def conflict(message: str) -> kmock.KubernetesError:
    return kmock.KubernetesError(status=409, reason="Conflict", message=message)


def replacing(old: Any, new: Any) -> Any:
    """A merge patch that makes `new` of `old`."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    gone = {name: None for name in old if name not in new}
    return {**gone, **{name: replacing(old.get(name), value) for name, value in new.items()}}


@dataclass
class Cluster:
    """What the test does to the cluster, as a person or a kubelet would."""

    api: ApiServer
    fleet_address: str = ""
    has_ended: Callable[[], bool] = lambda: False  # whether the operator did, by itself
    numbers: Any = field(default_factory=lambda: itertools.count(1))

    async def _send(self, method: str, path: str, body: Any = None) -> None:
        response = await self.api.request(method, path, json=body or {}, headers={TEST: "1"})
        async with response as answer:
            assert answer.status < 300, await answer.text()

    async def apply(self, name: str = "smol", namespace: str = "default", **spec: Any) -> None:
        spec = {"model": {"source": "hf://owner/name"}, **spec}
        manifest = {
            "apiVersion": "modelfleet.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": name},
            "spec": spec,
        }
        await self._send("POST", self._models(namespace), manifest)

    async def change(self, spec: dict[str, Any], name: str = "smol") -> None:
        await self._send("PATCH", f"{self._models()}/{name}", {"spec": spec})

    async def annotate(self, annotations: dict[str, str], name: str = "smol") -> None:
        metadata = {"annotations": annotations}
        await self._send("PATCH", f"{self._models()}/{name}", {"metadata": metadata})

    async def delete(self, name: str = "smol") -> None:
        await self._send("DELETE", f"{self._models()}/{name}")

    async def apply_class(self, name: str, **spec: Any) -> None:
        await self._send(
            "POST",
            "/apis/modelfleet.dev/v1alpha1/acceleratorclasses",
            {
                "apiVersion": "modelfleet.dev/v1alpha1",
                "kind": "AcceleratorClass",
                "metadata": {"name": name},
                "spec": spec,
            },
        )

    async def apply_pool(self, name: str = "pool", namespace: str = "default", **spec: Any) -> None:
        manifest = {
            "apiVersion": "modelfleet.dev/v1alpha1",
            "kind": "WarmPool",
            "metadata": {"name": name},
            "spec": spec,
        }
        await self._send("POST", self._pools(namespace), manifest)

    async def change_pool(self, spec: dict[str, Any], name: str = "pool") -> None:
        await self._send("PATCH", f"{self._pools()}/{name}", {"spec": spec})

    async def delete_pool(self, name: str = "pool") -> None:
        """And what the garbage collector does then: pods whose controller it is go, too."""
        uid = self.api.pool(name)["metadata"]["uid"]
        await self._send("DELETE", f"{self._pools()}/{name}")
        for pod, found in self.api.pods().items():
            if uid in [owner["uid"] for owner in found["metadata"].get("ownerReferences", ())]:
                await self.delete_pod(pod)

    async def stand_by(self, pod: str, address: str = "") -> str:
        """Its process takes calls; returns its address: the given one's IP, or one of its own."""
        ip = address.rpartition(":")[0] or f"10.0.0.{next(self.numbers)}"
        started = [{"name": "worker", "started": True, "state": {"running": {}}}]
        await self._patch_pod(
            pod,
            {
                "metadata": {"finalizers": [KUBELET]},
                "status": {"phase": "Running", "podIP": ip, "containerStatuses": started},
            },
        )
        return f"{ip}:9000"

    async def apply_node(self, name: str, labels: dict[str, str] | None = None) -> None:
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": labels or {}},
            "spec": {},
        }
        await self._send("POST", "/api/v1/nodes", node)

    async def change_node(self, name: str, patch: dict[str, Any]) -> None:
        await self._send("PATCH", f"/api/v1/nodes/{name}", patch)

    async def ask_to_go(self, pod: str, state: str = "Active") -> None:
        """The controller of EvictionRequests makes it the operator's turn; else another `state`."""
        mine = "modelfleet.dev/operator"
        (named,) = self.api.pods()[pod]["spec"]["evictionResponders"]
        assert named == {"name": mine, "priority": 10_000}
        eviction = {
            "apiVersion": "lifecycle.k8s.io/v1alpha1",
            "kind": "Eviction",
            "metadata": {"name": f"{pod}-eviction"},
            "spec": {
                "target": {"pod": {"name": pod, "uid": self.api.pods()[pod]["metadata"]["uid"]}}
            },
            "status": {
                "targetResponders": [
                    {"name": mine, "priority": 10_000, "state": state},
                    {"name": EVICTOR, "priority": 100, "state": "Inactive"},
                ],
                "responders": [{"name": mine}, {"name": EVICTOR}],
            },
        }
        await self._send("POST", EVICTIONS_PATH, eviction)

    async def withdraw(self, pod: str) -> None:
        """Nobody asks any more that it goes."""
        responders = self.api.eviction(pod)["status"]["targetResponders"]
        canceled = [{**r, "state": "Canceled"} for r in responders]
        path = f"{EVICTIONS_PATH}/{pod}-eviction"
        await self._send("PATCH", path, {"status": {"targetResponders": canceled}})

    async def delete_budget(self, name: str) -> None:
        path = f"/apis/policy/v1/namespaces/default/poddisruptionbudgets/{name}"
        await self._send("DELETE", path)

    async def delete_claim_template(self, name: str) -> None:
        path = f"/apis/resource.k8s.io/v1/namespaces/default/resourceclaimtemplates/{name}"
        await self._send("DELETE", path)

    async def place(self, pod: str, node: str) -> None:
        """The scheduler has given it its node."""
        await self._patch_pod(pod, {"spec": {"nodeName": node}})

    async def start(self, pod: str) -> str:
        """The kubelet has started it; returns its address."""
        ip = f"10.0.0.{next(self.numbers)}"
        await self._patch_pod(
            pod,
            {
                "metadata": {"finalizers": [KUBELET]},
                "status": {"phase": "Running", "podIP": ip},
            },
        )
        return f"{ip}:9000"

    async def report(self, pod: str, status: dict[str, Any]) -> None:
        await self._patch_pod(pod, {"status": status})

    async def finish(self, pod: str) -> None:
        """The kubelet has ended a pod that was deleted."""
        await self._patch_pod(pod, {"metadata": {"finalizers": []}})

    async def label(self, pod: str, labels: dict[str, str | None]) -> None:
        await self._patch_pod(pod, {"metadata": {"labels": labels}})

    async def own(self, pod: str, kind: str, name: str, uid: str) -> None:
        owner = {"kind": kind, "name": name, "uid": uid, "controller": True}
        owner["apiVersion"] = "modelfleet.dev/v1alpha1"
        await self._patch_pod(pod, {"metadata": {"ownerReferences": [owner]}})

    async def annotate_pod(self, pod: str, annotations: dict[str, str]) -> None:
        await self._patch_pod(pod, {"metadata": {"annotations": annotations}})

    async def delete_pod(self, pod: str) -> None:
        await self._send("DELETE", f"/api/v1/namespaces/default/pods/{pod}")

    async def delete_lease(self) -> None:
        await self._send(
            "DELETE",
            "/apis/coordination.k8s.io/v1/namespaces/default/leases/modelfleet-operator",
        )

    async def annotate_lease(self, annotations: dict[str, str]) -> None:
        await self._send(
            "PATCH",
            "/apis/coordination.k8s.io/v1/namespaces/default/leases/modelfleet-operator",
            {"metadata": {"annotations": annotations}},
        )

    async def apply_secret(self, secret: dict[str, Any]) -> None:
        namespace = secret["metadata"]["namespace"]
        await self._send("POST", f"/api/v1/namespaces/{namespace}/secrets", secret)

    async def delete_secret(self, name: str, namespace: str = "default") -> None:
        await self._send("DELETE", f"/api/v1/namespaces/{namespace}/secrets/{name}")

    async def create_pod(self, pod: dict[str, Any]) -> None:
        await self._send("POST", "/api/v1/namespaces/default/pods", pod)

    async def _patch_pod(self, pod: str, patch: dict[str, Any]) -> None:
        await self._send("PATCH", f"/api/v1/namespaces/default/pods/{pod}", patch)

    def _models(self, namespace: str = "default") -> str:
        return f"/apis/modelfleet.dev/v1alpha1/namespaces/{namespace}/modeldeployments"

    def _pools(self, namespace: str = "default") -> str:
        return f"/apis/modelfleet.dev/v1alpha1/namespaces/{namespace}/warmpools"


@dataclass
class Gateway:
    """A gateway that reaches every worker in its view and says what the test tells it."""

    address: str
    view: fleet_pb2.View = field(default_factory=fleet_pb2.View)
    waiting: int = 0
    running: int = 0
    last_request: float = 0.0
    taken: dict[str, int] = field(default_factory=dict)  # requests that a worker has, by its id
    standing_by: set[str] = field(default_factory=set)  # ids of workers that hold no model
    _views: int = 0

    def route(self, model: str = "default/smol") -> fleet_pb2.ModelView | None:
        return next((m for m in self.view.models if m.model == model), None)

    def addresses(self) -> set[str]:
        route = self.route()
        return {w.address for w in route.workers if w.routable} if route else set()

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[Gateway]:
        async with grpc.aio.insecure_channel(self.address) as channel:
            stub = fleet_pb2_grpc.FleetStub(channel)
            stream = stub.Connect(metadata=call_metadata("gateway"))
            hello = fleet_pb2.GatewayHello(gateway_id="gateway-1")
            await stream.write(fleet_pb2.GatewayMessage(hello=hello))
            tasks = [
                asyncio.create_task(self._read(stream)),
                asyncio.create_task(self._speak(stream)),
            ]
            try:
                yield self
            finally:
                stream.cancel()
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, stream: Any) -> None:
        async for message in stream:
            self.view = message.view
            self._views += 1

    async def _speak(self, stream: Any) -> None:
        while True:
            if self._views:
                await stream.write(fleet_pb2.GatewayMessage(signals=self._signals()))
            await asyncio.sleep(0.05)

    def _signals(self) -> fleet_pb2.Signals:
        return fleet_pb2.Signals(
            term=self.view.term,
            version=self.view.version,
            models=[
                fleet_pb2.ModelSignals(
                    model=route.model,
                    waiting=self.waiting,
                    running=self.running,
                    last_request=self.last_request,
                )
                for route in self.view.models
            ],
            workers=[
                fleet_pb2.WorkerSignals(
                    worker_id=worker.worker_id,
                    # As a gateway's: whether it hears the worker, routable or not.
                    reachable=True,
                    running=self.taken.get(worker.worker_id, 0),
                    stats=worker_pb2.Stats(
                        worker_id=worker.worker_id,
                        state=worker_pb2.WORKER_STATE_STANDBY
                        if worker.worker_id in self.standing_by
                        else worker_pb2.WORKER_STATE_READY,
                        slots=8,
                    ),
                )
                for route in self.view.models
                for worker in route.workers
            ],
        )
