"""/metrics, /healthz, /readyz and /explain of an operator."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from modelfleet_process.addresses import split_address

from ..errors import StartError
from ..explain.service import SnapshotOf, add_explain, new_runner


@contextlib.asynccontextmanager
async def probes(
    listen: str,
    registry: CollectorRegistry,
    is_ready: Callable[[], bool],
    snapshot_of: SnapshotOf,
) -> AsyncIterator[None]:
    """Answers until the block ends; empty `listen`: nowhere. StartError if it cannot listen.

    A replica that stands by is ready as well: it has seen the whole cluster and could lead.
    """
    if not listen:
        yield
        return

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return web.Response(body=encode(registry), headers={"content-type": content_type})

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        if is_ready():
            return web.Response(text="ready\n")
        return web.Response(text="the cluster is not known yet\n", status=503)

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    add_explain(app, snapshot_of)
    runner = new_runner(app)
    host, port = split_address(listen)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise StartError(f"--metrics-listen: cannot listen on {listen}: {error}") from error
        yield
    finally:
        await runner.cleanup()
