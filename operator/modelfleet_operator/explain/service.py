"""Hands out snapshots over HTTP: at an operator's metrics port, at a port of `modelfleet up`."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Callable

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from .snapshot import Snapshot, dump_snapshot

# From `namespace/name` to its snapshot, or to a sentence that says why there is none.
SnapshotOf = Callable[[str], Snapshot | str]


KEEP_ALIVE = 75.0  # seconds


def runner_of(app: web.Application) -> web.AppRunner:
    """A server of this application, quiet about what strangers send."""
    logging.getLogger("aiohttp.server").addFilter(_is_no_malformed_request)
    return web.AppRunner(app, access_log=None, shutdown_timeout=1, keepalive_timeout=KEEP_ALIVE)


def _is_no_malformed_request(record: logging.LogRecord) -> bool:
    """Aiohttp logs a traceback for what is no HTTP, and for a request line of more than 8 KiB."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


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
    runner = runner_of(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield f"{host}:{port}"
    finally:
        await runner.cleanup()
