"""Hands out snapshots over HTTP: at an operator's metrics port, at a port of `modelfleet up`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

from aiohttp import web

from .snapshot import Snapshot, dump_snapshot

# From `namespace/name` to its snapshot, or to a sentence that says why there is none.
SnapshotOf = Callable[[str], Snapshot | str]


def add_explain(app: web.Application, snapshot_of: SnapshotOf) -> None:
    """`GET /explain/NAMESPACE/NAME`: the snapshot as JSON, or 404 and a sentence."""

    async def explain(request: web.Request) -> web.Response:
        info = request.match_info
        found = snapshot_of(f"{info['namespace']}/{info['name']}")
        if isinstance(found, str):
            return web.Response(text=f"{found}\n", status=404)
        return web.Response(text=dump_snapshot(found), content_type="application/json")

    app.router.add_get("/explain/{namespace}/{name}", explain)


@contextlib.asynccontextmanager
async def serve_explain(snapshot_of: SnapshotOf) -> AsyncIterator[str]:
    """The same alone, on a free port of this machine; yields HOST:PORT."""
    app = web.Application()
    add_explain(app, snapshot_of)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield f"{host}:{port}"
    finally:
        await runner.cleanup()
