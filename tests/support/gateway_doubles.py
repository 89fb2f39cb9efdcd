"""A gateway with an operator and workers that speak the real protocols and do what a test says."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

import httpx
import openai

from clients import openai_client, tls
from modelfleet_gateway.http.server import Gateway, address_of, listen
from modelfleet_gateway.options import Options
from modelfleet_proto import fleet_pb2, worker_pb2
from modelfleet_proto.mtls.credentials import Credentials
from operator_double import OperatorDouble
from scripted_worker import (  # noqa: F401 - tests take what they need from here
    MODEL,
    EndEarlyError,
    ScriptedWorker,
    expected_text,
    prompt_of,
    refuse_as_full,
    token_id,
)

DEFAULTS = Options(operator="")


async def eventually(condition: Callable[[], object], within: float = 10.0) -> None:
    """Returns when the condition holds; fails after `within` seconds."""
    deadline = asyncio.get_running_loop().time() + within
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)


def model_view(
    *workers: ScriptedWorker,
    model: str = MODEL,
    served: tuple[str, ...] = ("tiny",),
    max_queue: int = 100,
    hold_timeout: float = 20.0,
    eta: float = 0.0,
    phase: str = "",
    cause: str = "",
    revisions: tuple[str, ...] = (),
    **more: object,
) -> fleet_pb2.ModelView:
    return fleet_pb2.ModelView(
        model=model,
        served_names=served,
        max_queue=max_queue,
        hold_timeout=hold_timeout,
        created=1_700_000_000,
        eta=eta,
        phase=phase,
        cause=cause,
        revisions=revisions,
        workers=[
            fleet_pb2.WorkerRoute(
                worker_id=w.worker_id,
                address=w.address,
                routable=w.routable,
                revision=w.revision,
                hand_over=w.hand_over,
                tls_name=w.tls_name,
                tls_address=w.address if w.tls_name else "",
            )
            for w in workers
        ],
        **more,
    )


def api_key(*keys: str, name: str = "default/alice", **grants: object) -> fleet_pb2.ApiKey:
    """As the operator tells it: all models, unless `models` says which."""
    hashes = [hashlib.sha256(key.encode()).digest() for key in keys]
    more = {"any_model": "models" not in grants, "tenant": name, **grants}
    return fleet_pb2.ApiKey(id=name, name=name, hashes=hashes, **more)


@dataclass
class Fleet:
    """A gateway with its operator, its workers and clients."""

    operator: OperatorDouble
    gateway: Gateway
    url: str
    client: openai.AsyncOpenAI
    http: httpx.AsyncClient

    def push(self, *models: fleet_pb2.ModelView, term: int = 1) -> None:
        version = self.operator.view.version + 1
        self.operator.push(fleet_pb2.View(term=term, version=version, models=models))

    async def push_keys(self, *keys: fleet_pb2.ApiKey) -> None:
        """These are the keys from now on; returns when the gateway knows."""
        change = fleet_pb2.ViewChange(
            version=self.operator.view.version + 1, keys=fleet_pb2.ApiKeys(keys=keys)
        )
        before = self.gateway.dispatcher.keys.callers
        self.operator.change(change)
        await eventually(lambda: self.gateway.dispatcher.keys.callers is not before)

    async def ready(self, workers: int, model: str = MODEL) -> None:
        """Waits until the gateway would route to so many workers."""
        queues = self.gateway.dispatcher.queues
        await eventually(lambda: model in queues and queues[model].ready_workers == workers)

    @property
    def queued(self):
        """The choices that wait for a slot."""
        return self.gateway.dispatcher.queues[MODEL].requests

    async def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = [line for line in self.metrics().splitlines() if line.startswith(name)]
        return sum(float(line.split()[-1]) for line in lines)

    def metrics(self) -> str:
        """What Prometheus would read."""
        return self.gateway.app.exposition()[0].decode()


@contextlib.asynccontextmanager
async def running_fleet(
    *workers: ScriptedWorker,
    options: Options = DEFAULTS,
    operator_credentials: Credentials | None = None,
    keys: fleet_pb2.ApiKeys | None = None,
    **limits,
) -> AsyncIterator[Fleet]:
    """Starts everything, waits until all READY workers are routable, and ends everything.

    `limits` are the model's; `options` the gateway's, but for its operator; `keys` of the view.
    """
    for worker in workers:
        await worker.start()
    operator = OperatorDouble()
    operator.credentials = operator_credentials
    await operator.start()
    operator.view.models.append(model_view(*workers, **limits))
    if keys is not None:
        operator.view.keys.CopyFrom(keys)
    listener = listen("127.0.0.1:0")
    gateway = Gateway(replace(options, operator=operator.address, gateway_id="gw-1"), listener)
    url = f"http://{address_of(listener)}"
    running = asyncio.create_task(gateway.run())
    try:
        async with (
            openai_client(url) as client,
            httpx.AsyncClient(base_url=url, timeout=30, verify=tls()) as http,
        ):
            fleet = Fleet(operator, gateway, url, client, http)
            await fleet.ready(sum(w.state == worker_pb2.WORKER_STATE_READY for w in workers))
            yield fleet
    finally:
        gateway.drain()
        gateway.drain()
        await running
        await operator.stop()
        for worker in workers:
            await worker.kill()
