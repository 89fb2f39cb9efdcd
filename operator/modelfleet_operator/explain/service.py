"""Hands out snapshots over HTTP: at an operator's metrics port, at a port of `modelfleet up`."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Callable

from aiohttp import web
from aiohttp.http import HttpProcessingError

from .snapshot import Snapshot, dump_snapshot

# From `namespace/name` to its snapshot, or to a sentence that says why there is none.
SnapshotOf = Callable[[str], Snapshot | str]
KEEP_ALIVE = 75.0  # seconds


def add_explain(app: web.Application, snapshot_of: SnapshotOf) -> None:
    """`GET /explain/NAMESPACE/NAME`: the snapshot as JSON, or 404 and a sentence."""

    async def explain(request: web.Request) -> web.Response:
        info = request.match_info
        found = snapshot_of(f"{info['namespace']}/{info['name']}")
        if isinstance(found, str):
            return web.Response(text=f"{found}\n", status=404)
        return web.Response(text=dump_snapshot(found), content_type="application/json")

    app.router.add_get("/explain/{namespace}/{name}", explain)


def new_runner(app: web.Application) -> web.AppRunner:
    """Answers what is no HTTP, or too long a line of it, with a 400, and without a word.

    aiohttp logs a traceback for each such request: all who reach the port could fill the log.
    """
    logging.getLogger("aiohttp.server").addFilter(_is_our_fault)  # added twice, it is one filter
    return web.AppRunner(app, access_log=None, shutdown_timeout=1, keepalive_timeout=KEEP_ALIVE)


def _is_our_fault(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError)


@contextlib.asynccontextmanager
async def serve_explain(snapshot_of: SnapshotOf) -> AsyncIterator[str]:
    """The same alone, on a free port of this machine; yields HOST:PORT."""
    app = web.Application()
    add_explain(app, snapshot_of)
    runner = new_runner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield f"{host}:{port}"
    finally:
        await runner.cleanup()
