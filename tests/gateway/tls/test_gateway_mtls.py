"""A gateway, an operator and workers that show each other certificates."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from certificates import (
    GATEWAY,
    OPERATOR,
    WORKER,
    IssuerDouble,
    authority,
    certificate,
    credentials,
    issuer,
)
from gateway_doubles import (
    DEFAULTS,
    Fleet,
    ScriptedWorker,
    eventually,
    expected_text,
    model_view,
    running_fleet,
)
from modelfleet_gateway.metrics import Metrics
from modelfleet_gateway.operator_link.link import OperatorLink
from modelfleet_gateway.options import TlsOptions
from modelfleet_gateway.routing.dispatch import Dispatcher
from modelfleet_gateway.routing.stats_watch import tls_problem
from modelfleet_operator.fleet.authority import Authority
from modelfleet_proto.mtls.names import Identity
from operator_double import OperatorDouble

OTHER = replace(WORKER, namespace="team-b", uid="uid-b-0")


def options(double: IssuerDouble, folder: Path):
    authorities = folder / "ca.crt"
    authorities.write_bytes(double.issuing.bundle)
    return replace(
        DEFAULTS,
        tls=TlsOptions(
            issuer=double.address,
            token_file=double.token_file(folder, GATEWAY),
            authorities_file=authorities,
        ),
    )


def a_worker(signer, identity: Identity = WORKER, name: str = WORKER.server_name, **more):
    made = credentials(signer, identity, lifetime=more.pop("lifetime", 3600.0))
    return ScriptedWorker(credentials=made, tls_name=name, **more)


@contextlib.asynccontextmanager
async def started(double):
    await double.start()
    try:
        yield double
    finally:
        await (double.kill() if isinstance(double, ScriptedWorker) else double.stop())


@contextlib.asynccontextmanager
async def secured(
    signer: Authority, folder: Path, *workers: ScriptedWorker
) -> AsyncIterator[tuple[Fleet, IssuerDouble]]:
    """A fleet whose parts have certificates of this authority."""
    async with (
        issuer(signer) as double,
        running_fleet(
            *workers,
            options=options(double, folder),
            operator_credentials=credentials(signer, OPERATOR),
        ) as fleet,
    ):
        yield fleet, double


async def answer(fleet: Fleet, tokens: int = 8) -> str:
    done = await fleet.client.completions.create(model="tiny", prompt="p", seed=7)
    return done.choices[0].text


async def problem(fleet: Fleet) -> str:
    """Of the only worker, as the operator hears it."""

    def said() -> list[str]:
        return [w.tls_problem for s in fleet.operator.signals[-1:] for w in s.workers]

    await eventually(lambda: any(said()))
    return said()[0]


async def test_a_request_goes_from_certificate_to_certificate(tmp_path: Path):
    signer = authority()
    worker = a_worker(signer)
    async with secured(signer, tmp_path, worker) as (fleet, double):
        assert await answer(fleet) == expected_text("p", 8)
        assert fleet.operator.hellos == ["gw-1"]
    assert double.asked == [GATEWAY.uri]


@pytest.mark.parametrize(
    ("identity", "lifetime", "why"),
    [
        pytest.param(OTHER, 3600.0, "another pod", id="another namespace's worker"),
        pytest.param(replace(WORKER, uid="uid-x"), 3600.0, "another pod", id="an earlier pod"),
        pytest.param(GATEWAY, 3600.0, "another pod", id="a gateway"),
        pytest.param(WORKER, -1.0, "has expired", id="an expired certificate"),
    ],
)
async def test_a_gateway_takes_no_worker_but_the_one_of_the_view(
    tmp_path: Path, identity: Identity, lifetime: float, why: str
):
    signer = authority()
    right = a_worker(signer, worker_id="w-right")
    wrong = a_worker(signer, identity, lifetime=lifetime, worker_id="w-wrong")
    async with (
        contextlib.AsyncExitStack() as stack,
        secured(signer, tmp_path, right) as (fleet, _),
    ):
        await stack.enter_async_context(started(wrong))
        fleet.push(model_view(wrong))
        assert why in await problem(fleet)
        assert not fleet.operator.signals[-1].workers[0].reachable
        fleet.push(model_view(right, wrong))
        await fleet.ready(1)
        assert await answer(fleet) == expected_text("p", 8)
    assert wrong.requests == []


async def test_a_worker_of_another_authority_is_none(tmp_path: Path):
    signer, foreign = authority(), authority()
    async with (
        secured(signer, tmp_path) as (fleet, _),
        started(a_worker(foreign)) as worker,
    ):
        fleet.push(model_view(worker))
        assert "unknown authority" in await problem(fleet)


@pytest.mark.parametrize(
    "identity",
    [
        pytest.param(WORKER, id="a worker"),
        pytest.param(replace(GATEWAY, pod="gw-2"), id="another gateway"),
    ],
)
async def test_a_gateway_takes_no_view_but_an_operators(identity: Identity):
    signer = authority()
    false = OperatorDouble()
    false.credentials = credentials(signer, identity)
    async with started(false):
        dispatcher = Dispatcher(Metrics())
        link = OperatorLink(false.address, "gw-1", dispatcher, credentials(signer, GATEWAY))
        connecting = asyncio.create_task(link.run())
        await eventually(lambda: "Hostname Verification" in link._logged[1])
        connecting.cancel()
        await asyncio.gather(connecting, return_exceptions=True)
    assert dispatcher.view is None
    assert false.hellos == []


async def test_a_redirect_to_whom_the_authorities_do_not_know_leads_nowhere(tmp_path: Path):
    signer, foreign = authority(), authority()
    worker = a_worker(signer)
    async with secured(signer, tmp_path, worker) as (fleet, _):
        false = OperatorDouble()
        false.credentials = credentials(foreign, OPERATOR)
        async with started(false):
            fleet.operator.redirect = false.address
            await fleet.operator.stop()
            await fleet.operator.start()
            await eventually(lambda: not fleet.gateway.dispatcher.is_current.is_set())
            assert await answer(fleet) == expected_text("p", 8)  # with the last view
            fleet.operator.redirect = ""
            await eventually(fleet.gateway.dispatcher.is_current.is_set)
        assert false.hellos == []


async def test_certificates_and_authorities_are_replaced_while_a_stream_runs(tmp_path: Path):
    old, new = authority(), authority()
    gate = asyncio.Event()

    async def at_the_third(_context, _request, position: int) -> None:
        if position == 3:
            await gate.wait()

    worker = a_worker(old, before_token=at_the_third)
    assert worker.credentials is not None
    operator = credentials(old, OPERATOR)
    async with issuer(old) as double:
        settings = options(double, tmp_path)
        async with running_fleet(worker, options=settings, operator_credentials=operator) as fleet:
            running = asyncio.create_task(answer(fleet))
            await eventually(lambda: worker.running == 1)

            # Another authority, then nothing but it: as after weeks, all at once.
            bundle = old.certificate + new.certificate
            worker.credentials.put(certificate(new, WORKER, trusts=new.certificate))
            operator.put(certificate(new, OPERATOR, trusts=new.certificate))
            fleet_credentials = fleet.gateway.credentials
            assert fleet_credentials is not None
            fleet_credentials.put(certificate(new, GATEWAY, trusts=bundle))
            gate.set()
            assert await running == expected_text("p", 8)

            # What connects now shows the new ones.
            await fleet.operator.stop()
            await worker.kill()
            await worker.start()
            await fleet.operator.start()
            await fleet.ready(1)
            assert await answer(fleet) == expected_text("p", 8)
            await eventually(fleet.gateway.dispatcher.is_current.is_set)


async def test_an_expired_certificate_of_the_gateway_is_refused_until_it_is_renewed(
    tmp_path: Path,
):
    signer = authority()
    worker = a_worker(signer)
    async with secured(signer, tmp_path, worker) as (fleet, _):
        ours = fleet.gateway.credentials
        assert ours is not None
        ours.put(certificate(signer, GATEWAY, lifetime=-1.0))
        await worker.kill()
        await worker.start()
        assert await problem(fleet) == "the gateway's certificate has expired"
        ours.put(certificate(signer, GATEWAY))
        await fleet.ready(1)
        assert await answer(fleet) == expected_text("p", 8)


async def test_without_tls_of_its_own_a_worker_of_an_earlier_revision_serves_on(tmp_path: Path):
    signer = authority()
    async with secured(signer, tmp_path, ScriptedWorker()) as (fleet, _):
        assert await answer(fleet) == expected_text("p", 8)


def test_only_a_handshakes_failure_is_a_problem_of_certificates():
    assert tls_problem("failed to connect: Connection refused") == ""
    assert tls_problem("Tls handshake failed (TSI): ...: certificate has expired: OK")
