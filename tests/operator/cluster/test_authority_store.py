"""Authorities in a Secret, what is trusted in a ConfigMap, and whose a token is."""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio import client

from certificates import LIFETIMES, OPERATOR
from modelfleet_operator.cluster.authority_store import AUTHORITIES, BUNDLE, AuthorityStore
from modelfleet_operator.cluster.token_review import TokenReviews
from modelfleet_operator.errors import PassingError, RejectedError
from modelfleet_operator.fleet.issuing import Issuing
from modelfleet_proto.mtls.names import Role

POD = "authentication.kubernetes.io/pod-"


class Api:
    """Secrets and ConfigMaps with their versions, and tokens with their pods."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.writes: list[str] = []
        self.tokens: dict[str, dict[str, Any]] = {}
        self.client: Any = None

    def create(self, kind: str) -> None:
        self.objects[f"{kind}/modelfleet-tls"] = {"metadata": {"resourceVersion": "1"}}

    def put(self, path: str, body: dict[str, Any]) -> None:
        version = int(self.objects[path]["metadata"]["resourceVersion"])
        self.objects[path] = {**body, "metadata": {"resourceVersion": str(version + 1)}}

    @property
    def bundle(self) -> str:
        return self.objects["configmaps/modelfleet-tls"].get("data", {}).get(BUNDLE, "")

    async def answer(self, request: web.Request) -> web.Response:
        if request.path.endswith("/tokenreviews"):
            spec = (await request.json())["spec"]
            status = self.tokens.get(spec["token"], {"authenticated": False, "error": "no such"})
            return web.json_response({"status": status})
        path = request.path.partition("/namespaces/default/")[2]
        if path not in self.objects:
            return web.json_response({"message": "not found"}, status=404)
        if request.method == "PUT":
            body = await request.json()
            if body["metadata"] != self.objects[path]["metadata"]:
                return web.json_response({"message": "another version"}, status=409)
            self.writes.append(path)
            self.put(path, body)
        return web.json_response(self.objects[path])


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    found = Api()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", found.answer)
    async with TestServer(app) as server, contextlib.AsyncExitStack() as stack:
        configuration = client.Configuration(host=str(server.make_url("")).rstrip("/"))
        found.client = await stack.enter_async_context(client.ApiClient(configuration))
        found.create("secrets")
        found.create("configmaps")
        yield found


class Replica:
    def __init__(self, api: Api, *, leads: bool) -> None:
        self.now = [time.time()]
        self.leads = leads
        self.issuing = Issuing(LIFETIMES, lambda: self.now[0])
        self.store = AuthorityStore(
            api.client,
            self.issuing,
            LIFETIMES,
            namespace="default",
            name="modelfleet-tls",
            itself=OPERATOR,
            leads=lambda: self.leads,
            clock=lambda: self.now[0],
        )


async def test_the_leader_makes_them_once_and_every_replica_signs(api: Api):
    leader, other = Replica(api, leads=True), Replica(api, leads=False)
    await other.store.look()
    assert other.issuing.bundle == b""
    await leader.store.look()
    await other.store.look()
    assert leader.issuing.bundle == other.issuing.bundle != b""
    assert api.bundle.encode() == leader.issuing.bundle
    assert "PRIVATE" not in api.bundle
    assert leader.issuing.credentials.version == other.issuing.credentials.version == 1

    before = list(api.writes)
    await leader.store.look()
    successor = Replica(api, leads=True)
    await successor.store.look()
    assert successor.issuing.bundle == leader.issuing.bundle
    assert api.writes == before == ["secrets/modelfleet-tls", "configmaps/modelfleet-tls"]


async def test_a_year_later_there_are_two_for_a_while(api: Api):
    leader = Replica(api, leads=True)
    await leader.store.look()
    first, version = leader.issuing.bundle, leader.issuing.credentials.version
    leader.now[0] += LIFETIMES.authority - 2 * LIFETIMES.overlap
    await leader.store.look()
    both = leader.issuing.bundle
    assert both.startswith(first)
    assert both != first
    assert api.bundle.encode() == both
    assert leader.issuing.credentials.version == version + 1
    leader.now[0] += LIFETIMES.overlap
    await leader.store.look()
    assert both.endswith(leader.issuing.bundle)
    assert first not in leader.issuing.bundle


async def test_of_two_that_believe_to_lead_one_is_refused(api: Api):
    leader, late = Replica(api, leads=True), Replica(api, leads=True)
    read = await late.store._read("secret", late.store._secrets)
    await leader.store.look()
    with pytest.raises(PassingError, match="409"):
        await late.store._write("secret", late.store._secrets, {**read, "data": {}})
    await late.store.look()
    assert late.issuing.bundle == leader.issuing.bundle


async def test_the_operators_own_certificate_is_renewed_after_a_third_of_its_life(api: Api):
    leader = Replica(api, leads=True)
    await leader.store.look()
    version = leader.issuing.credentials.version
    await leader.store.look()
    assert leader.issuing.credentials.version == version
    leader.now[0] += LIFETIMES.renew_after
    await leader.store.look()
    assert leader.issuing.credentials.version == version + 1


async def test_without_the_charts_objects_it_says_so(api: Api):
    del api.objects["secrets/modelfleet-tls"]
    with pytest.raises(RejectedError, match="the chart creates it"):
        await Replica(api, leads=True).store.look()


async def test_what_cannot_be_read_is_left_alone_and_said(api: Api):
    broken = base64.b64encode(b"{}").decode()
    api.objects["secrets/modelfleet-tls"]["data"] = {AUTHORITIES: broken}
    with pytest.raises(ValueError, match="remove its key"):
        await Replica(api, leads=True).store.look()
    assert api.writes == []


def pods_token(account: str, pod: str, uid: str = "u", **more: Any) -> dict[str, Any]:
    extra = {f"{POD}name": [pod], f"{POD}uid": [uid]}
    user = {"username": f"system:serviceaccount:{account}", "extra": extra}
    return {"authenticated": True, "audiences": ["modelfleet"], "user": user, **more}


async def test_a_gateway_is_who_has_its_account_and_a_worker_is_any_other_pod(api: Api):
    api.tokens["g"] = pods_token("mf:mf-gateway", "mf-gateway-x")
    api.tokens["w"] = pods_token("team-a:default", "tiny-a-0")
    reviews = TokenReviews(api.client, "mf/mf-gateway", ())
    gateway, worker = await reviews.whose("g"), await reviews.whose("w")
    assert (gateway.role, gateway.namespace, gateway.pod) == (Role.GATEWAY, "mf", "mf-gateway-x")
    assert (worker.role, worker.namespace, worker.uid) == (Role.WORKER, "team-a", "u")


@pytest.mark.parametrize(
    "status",
    [
        pytest.param({"authenticated": False}, id="of nobody"),
        pytest.param(pods_token("a:b", "p", audiences=["api"]), id="for somebody else"),
        pytest.param(pods_token("a:b", "p", authenticated=False), id="of a pod that is gone"),
        pytest.param(pods_token("a:b", "p", user={"username": "admin"}), id="of a person"),
        pytest.param(
            pods_token("a:b", "p", user={"username": "system:serviceaccount:a:b"}),
            id="of no pod",
        ),
        pytest.param(pods_token("elsewhere:default", "p"), id="of a foreign namespace"),
    ],
)
async def test_no_other_token_is_anybodys(api: Api, status: dict[str, Any]):
    api.tokens["t"] = status
    with pytest.raises(RejectedError):
        await TokenReviews(api.client, "mf/mf-gateway", ["mf", "a"]).whose("t")
