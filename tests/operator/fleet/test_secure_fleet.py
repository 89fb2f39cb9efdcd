"""The operator's ports with TLS: who gets a view, and who gets which certificate."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import grpc
import pytest
from cryptography import x509

from certificates import GATEWAY, LIFETIMES, OPERATOR, WORKER, authority, credentials, issuer
from fleet_streams import MODEL, GatewayDouble, a_model, at
from modelfleet_operator.fleet.authority import (
    Authorities,
    BadRequestError,
    new_authority,
    read_authorities,
    requested_key,
)
from modelfleet_operator.fleet.service import FleetService, serve
from modelfleet_proto import certificates_pb2 as pb
from modelfleet_proto import certificates_pb2_grpc, fleet_pb2, fleet_pb2_grpc
from modelfleet_proto.handshake import call_metadata
from modelfleet_proto.mtls.credentials import Credentials, target
from modelfleet_proto.mtls.keys import new_key, signing_request
from modelfleet_proto.mtls.names import OPERATOR_NAME, parse_identity

SIGNER = authority()


@contextlib.asynccontextmanager
async def secure_fleet() -> AsyncIterator[tuple[FleetService, str]]:
    fleet = FleetService(time.time, wake=lambda _: None, wake_all=lambda: None)
    fleet.lead(1, ())
    fleet.publish(a_model(at("10.0.0.7:9000")))
    server, port = await serve(fleet, "127.0.0.1:0", credentials(SIGNER, OPERATOR))
    fleet.secure_port = port
    yield fleet, f"127.0.0.1:{port}"
    await server.stop(0)


@contextlib.asynccontextmanager
async def hello(address: str, own: Credentials | None, name: str) -> AsyncIterator[GatewayDouble]:
    """A gateway's stream; without credentials of its own it knows the authority only."""
    shown = own.channel if own else grpc.ssl_channel_credentials(SIGNER.certificate)
    async with grpc.aio.secure_channel(address, shown, [target(OPERATOR_NAME)]) as channel:
        call = fleet_pb2_grpc.FleetStub(channel).Connect(metadata=call_metadata("gateway"))
        said = fleet_pb2.GatewayHello(gateway_id=name, takes_changes=True, instance_id="i")
        with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
            await call.write(fleet_pb2.GatewayMessage(hello=said))
        yield GatewayDouble(call)
        call.cancel()


async def refusal(address: str, own: Credentials | None, name: str) -> grpc.StatusCode:
    async with hello(address, own, name) as gateway:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await gateway.message()
    return caught.value.code()


async def test_a_gateway_gets_the_view():
    async with (
        secure_fleet() as (fleet, address),
        hello(address, credentials(SIGNER, GATEWAY), "gw-1") as gateway,
    ):
        assert [m.model for m in (await gateway.view()).models] == [MODEL]
        assert len(fleet.signals(MODEL).gateways) == 1


@pytest.mark.parametrize(
    ("own", "name", "code"),
    [
        pytest.param(None, "gw-1", grpc.StatusCode.UNAVAILABLE, id="without a certificate"),
        pytest.param(
            credentials(SIGNER, GATEWAY),
            "gw-2",
            grpc.StatusCode.PERMISSION_DENIED,
            id="with another gateway's",
        ),
        pytest.param(
            credentials(SIGNER, WORKER),
            "tiny-a-0",
            grpc.StatusCode.PERMISSION_DENIED,
            id="with a worker's",
        ),
        pytest.param(
            credentials(authority(), GATEWAY, trusts=SIGNER.certificate),
            "gw-1",
            grpc.StatusCode.UNAVAILABLE,
            id="with one of another authority",
        ),
        pytest.param(
            credentials(SIGNER, GATEWAY, lifetime=-1.0),
            "gw-1",
            grpc.StatusCode.UNAVAILABLE,
            id="with an expired one",
        ),
    ],
)
async def test_no_one_else_gets_a_view(own: Credentials | None, name: str, code: grpc.StatusCode):
    async with secure_fleet() as (fleet, address):
        assert await refusal(address, own, name) is code
        assert fleet.signals(MODEL).gateways == ()


async def test_a_port_without_tls_says_nothing_about_certificates():
    """And to whom asks for plaintext at the port with TLS nothing is said at all."""
    async with secure_fleet() as (_, address), grpc.aio.insecure_channel(address) as channel:
        call = fleet_pb2_grpc.FleetStub(channel).Connect(metadata=call_metadata("gateway"))
        with pytest.raises(grpc.aio.AioRpcError):
            await asyncio.wait_for(call.read(), 10)


async def test_a_redirect_leads_to_the_leaders_port_with_tls():
    async with secure_fleet() as (fleet, address):
        fleet.follow("10.0.0.9:9090")
        async with hello(address, credentials(SIGNER, GATEWAY), "gw-1") as gateway:
            leader = (await gateway.receive()).redirect.address
        assert leader == f"10.0.0.9:{fleet.secure_port}"


async def issue(address: str, token: str, request: bytes) -> pb.IssueResponse:
    trusted = grpc.ssl_channel_credentials(SIGNER.certificate)
    async with grpc.aio.secure_channel(address, trusted, [target(OPERATOR_NAME)]) as channel:
        stub = certificates_pb2_grpc.CertificatesStub(channel)
        return await stub.Issue(pb.IssueRequest(token=token, request=request), timeout=10)


@pytest.mark.parametrize("identity", [GATEWAY, WORKER], ids=["a gateway", "a worker"])
async def test_a_certificate_names_whom_the_token_names(identity):
    async with issuer(SIGNER) as double:
        double.tokens["t"] = identity
        key = new_key()
        issued = await issue(double.address, "t", signing_request(key))
    found = x509.load_pem_x509_certificate(issued.chain)
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    assert parse_identity(uri) == identity
    assert names.get_values_for_type(x509.DNSName) == [identity.server_name]
    assert found.public_key() == key.public_key()
    found.verify_directly_issued_by(x509.load_pem_x509_certificate(SIGNER.certificate))
    assert issued.authorities == SIGNER.certificate
    assert issued.renew_after == LIFETIMES.leaf / 3


@pytest.mark.parametrize(
    ("token", "request_", "code"),
    [
        pytest.param("x", None, grpc.StatusCode.PERMISSION_DENIED, id="a token of nobody"),
        pytest.param("t", b"no request", grpc.StatusCode.INVALID_ARGUMENT, id="no request"),
        pytest.param("t", b"x" * 20_000, grpc.StatusCode.INVALID_ARGUMENT, id="a long one"),
        pytest.param("t" * 20_000, None, grpc.StatusCode.INVALID_ARGUMENT, id="a long token"),
    ],
)
async def test_nobody_else_gets_a_certificate(token: str, request_, code: grpc.StatusCode):
    async with issuer(SIGNER) as double:
        double.tokens["t"] = WORKER
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await issue(double.address, token, request_ or signing_request(new_key()))
    assert caught.value.code() is code


async def test_while_plaintext_is_accepted_everybody_asks_again_soon():
    async with issuer(SIGNER, accepts_plaintext=True) as double:
        double.tokens["t"] = WORKER
        issued = await issue(double.address, "t", signing_request(new_key()))
    assert issued.accepts_plaintext
    assert issued.renew_after <= 60


def test_a_request_by_another_key_is_refused():
    forged = bytearray(signing_request(new_key()))
    forged[-60] = ord("A") if forged[-60] != ord("A") else ord("B")
    with pytest.raises(BadRequestError):
        requested_key(bytes(forged))


def test_authorities_are_read_as_they_were_written():
    now = time.time()
    kept = Authorities((new_authority(now, LIFETIMES),))
    assert read_authorities(kept.to_json()) == kept
    assert kept.kept_up(now, LIFETIMES) == kept
    assert kept.signer(now, LIFETIMES) == kept.each[0]
    for broken in ("{}", "[1]", '[{"certificate": "x", "key": "y"}]', "null"):
        with pytest.raises(ValueError):  # noqa: PT011  of several libraries
            read_authorities(broken)


def test_late_in_its_life_an_authority_gets_a_successor_that_signs_later():
    now = time.time()
    old = new_authority(now - LIFETIMES.authority + 2 * LIFETIMES.overlap, LIFETIMES)
    both = Authorities((old,)).kept_up(now, LIFETIMES)
    assert (len(both.each), both.signer(now, LIFETIMES)) == (2, old)
    later = now + LIFETIMES.settle
    assert both.signer(later, LIFETIMES) == both.each[1]
    assert both.kept_up(now + LIFETIMES.overlap, LIFETIMES).each == both.each[1:]


def test_names_that_are_none_of_ours_are_nobody():
    assert parse_identity(WORKER.uri) == WORKER
    assert parse_identity(OPERATOR.uri) == OPERATOR
    assert parse_identity("spiffe://elsewhere/worker/ns/a/pod/b/c") is None
    assert parse_identity("spiffe://modelfleet/king/ns/a/pod/b/c") is None
    assert parse_identity(replace(WORKER, pod="a/b").uri) is None
