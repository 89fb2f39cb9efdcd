#!/usr/bin/env bash
# An index of kopf keeps what was deleted while the watch was expired, until the operator restarts.
#
# Versions: kopf 1.45.2 (KOPF=... tries another).
# Input:    four objects of a custom resource, an index and an event handler without finalizers, and an API server
#           that does what the API's conventions say: after a gap it ends the watch with 410 Expired, and the client
#           lists again. In the gap one object is deleted, another is deleted and made anew under the same name.
# Expected: the second list is the truth: what is not in it leaves the index.
# Instead:  the list only adds. The missed object stays, no handler hears of its end, and the namesake is there
#           twice (told apart by its uids). Only a new process forgets them.
# Matters:  an operator that keeps replicas or nodes in an index (kopf's way to join two kinds) counts and routes to
#           what is long gone. Watches expire with an API server's restart, etcd's compaction, the operator's pause.
# Seen:
#   kopf 1.45.2
#   listed               index: kept missed replaced watched       DELETED seen:
#   deleted in the watch index: kept missed replaced               DELETED seen: watched
#   deleted in the gap   index: kept missed replaced replaced-anew DELETED seen: watched
#   the API lists               kept replaced-anew
#   a new operator       index: kept replaced-anew                 DELETED seen:
#   AS DESCRIBED
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
export VIRTUAL_ENV=$work/venv PATH=$work/venv/bin:$PATH
${PIP:-pip} install --quiet "kopf==${KOPF:-1.45.2}" || { echo "INSTALLATION FAILED"; exit 2; }

cat >"$work/probe.py" <<'PY'
import asyncio
import json
import os
from importlib.metadata import version

import kopf
from aiohttp import web

GROUP = {"name": "probe.example", "versions": [{"version": "v1"}], "preferredVersion": {"version": "v1"}}
REPLICAS = {"name": "replicas", "singularName": "replica", "kind": "Replica", "namespaced": True}
REPLICAS["verbs"] = ["list", "watch"]
NAMESPACES = {"name": "namespaces", "singularName": "namespace", "kind": "Namespace", "namespaced": False, "verbs": []}
DISCOVERY = {"/api": {"versions": ["v1"]}, "/api/v1": {"resources": [NAMESPACES]}}
DISCOVERY |= {"/apis": {"groups": [GROUP]}, "/apis/probe.example/v1": {"resources": [REPLICAS]}}
EXPIRED = {"type": "ERROR", "object": {"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired"}}


def replica(uid):
    return {"metadata": {"name": uid.split("-")[0], "namespace": "default", "uid": uid, "resourceVersion": "1"}}


class Api:
    def __init__(self, *uids):
        self.uids, self.watches = list(uids), []

    async def answer(self, request):
        if request.path in DISCOVERY:
            return web.json_response(DISCOVERY[request.path])
        if "watch" not in request.query:
            return web.json_response({"metadata": {"resourceVersion": "1"}, "items": [*map(replica, self.uids)]})
        stream, events, event = web.StreamResponse(), asyncio.Queue(), {}
        await stream.prepare(request)
        self.watches.append(events)
        while event is not EXPIRED:
            event = await events.get()
            await stream.write(json.dumps(event).encode() + b"\n")
        return stream


class Operator:
    def __init__(self, url):
        self.index, self.deleted, self.stop, registry = {}, [], asyncio.Event(), kopf.OperatorRegistry()
        kopf.on.login(registry=registry)(lambda **_: kopf.ConnectionInfo(server=url))
        kopf.index("replicas", registry=registry, id="fleet")(lambda uid, **_: {"uids": uid})
        kopf.on.event("replicas", registry=registry)(self.hear)
        run = kopf.operator(registry=registry, standalone=True, clusterwide=True, stop_flag=self.stop)
        self.running = asyncio.create_task(run)

    async def hear(self, event, name, fleet, **_):
        self.index = fleet  # a live view
        self.deleted += [name] * (event["type"] == "DELETED")

    async def report(self, when, true):
        async with asyncio.timeout(30):
            while not true():
                await asyncio.sleep(0.05)
        await asyncio.sleep(2)  # whatever else would follow
        print(f"{when:<20} index: {' '.join(self.uids()):<34} DELETED seen: {' '.join(self.deleted)}".strip())

    def uids(self):
        return sorted(self.index["uids"]) if "uids" in self.index else []


async def main():
    print("kopf", version("kopf"))
    api = Api("kept", "missed", "replaced", "watched")
    served = web.AppRunner(web.Application())
    served.app.router.add_get("/{path:.*}", api.answer)
    await served.setup()
    await web.TCPSite(served, "127.0.0.1", 0).start()
    first = Operator(url := "http://127.0.0.1:%d" % served.addresses[0][1])
    await first.report("listed", lambda: len(first.uids()) == 4 and api.watches)
    api.uids.remove("watched")
    await api.watches[-1].put({"type": "DELETED", "object": replica("watched")})
    await first.report("deleted in the watch", lambda: first.deleted)
    api.uids = ["kept", "replaced-anew"]
    await api.watches[-1].put(EXPIRED)
    await first.report("deleted in the gap", lambda: len(api.watches) == 2 and "replaced-anew" in first.uids())
    print(f"{'the API lists':<27} {' '.join(api.uids)}")
    first.stop.set()
    await first.running
    second = Operator(url)
    await second.report("a new operator", lambda: len(second.uids()) >= 2)
    holds = (first.uids(), first.deleted) == (["kept", "missed", "replaced", "replaced-anew"], ["watched"])
    print("AS DESCRIBED" if holds else "CHANGED", flush=True)
    os._exit(0 if holds else 1)  # the second operator and the watches need no goodbye


asyncio.run(main())
PY
python "$work/probe.py"
