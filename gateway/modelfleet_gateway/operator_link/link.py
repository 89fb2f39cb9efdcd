"""The stream to the operator: views come in, signals go out."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from typing import Final

import grpc
import structlog

from modelfleet_proto import fleet_pb2, fleet_pb2_grpc
from modelfleet_proto.mtls.credentials import Credentials
from modelfleet_proto.mtls.names import OPERATOR_NAME

from ..routing.channels import METADATA, open_channel
from ..routing.dispatch import Dispatcher
from ..routing.view import apply_change, parse_view
from .limits import all_limits_said, take_shares
from .signals import Reporter

SIGNAL_PAUSE: Final = 0.5  # seconds between signals when nothing is urgent
URGENT_PAUSE: Final = 0.02  # seconds between signals at least
FIRST_PAUSE: Final = 0.1  # seconds of the back-off, doubled up to the longest
LONGEST_PAUSE: Final = 1.0

HEARTBEAT_TIMEOUT: Final = 6.0  # seconds without a message after which it connects anew

log = structlog.get_logger()


class OperatorLink:
    """Keeps a gateway connected to the operator that leads."""

    def __init__(
        self,
        address: str,
        gateway_id: str,
        dispatcher: Dispatcher,
        credentials: Credentials | None = None,
    ) -> None:
        """With credentials, an operator without a certificate of its own is none."""
        self._address = address  # of any replica; it knows the leader
        self._credentials = credentials
        self._gateway_id = gateway_id
        self._instance_id = uuid.uuid4().hex
        self._dispatcher = dispatcher
        self._connected = False  # whether this session's operator has sent a view
        self._in_force = False  # whether that view was put in force: changes refer to it
        self._logged = ("", "")  # the last warning's address and reason, to log each one once

    async def run(self) -> None:
        """Connects, follows redirects and reconnects, until it is cancelled."""
        address, pause = self._address, FIRST_PAUSE
        while True:
            self._connected = self._in_force = False
            leader = None
            try:
                leader = await self._session(address)
                reason = f"redirected to {leader}" if leader else "the operator ended the stream"
            except grpc.aio.AioRpcError as error:
                reason = f"{error.code().name}: {error.details()}"
            except TimeoutError:
                reason = f"no message for {HEARTBEAT_TIMEOUT:g} s"
            self._dispatcher.is_current.clear()
            self._dispatcher.make_room({})
            if self._connected and not leader:
                pause = FIRST_PAUSE
            if self._connected or self._logged != (address, reason):
                log.warning(
                    "not connected to the operator; the last view stays in force",
                    operator=address,
                    reason=reason,
                )
            self._logged = address, reason
            address = leader or self._address
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _session(self, address: str) -> str | None:
        """One stream, until it ends; the leader's address if it is elsewhere.

        TimeoutError when no message comes for HEARTBEAT_TIMEOUT: a stopped process (SIGSTOP) keeps
        its connection until a keepalive ping fails after 10 s, and gRPC answers pings for a process
        whose event loop hangs.
        """
        reporter = Reporter(self._dispatcher)
        timeout: float | None = HEARTBEAT_TIMEOUT
        if self._credentials is not None:
            await self._credentials.wait()
        async with open_channel(address, self._credentials, OPERATOR_NAME) as channel:
            stub = fleet_pb2_grpc.FleetStub(channel)
            call = stub.Connect(self._messages(reporter), metadata=METADATA)
            while True:
                async with asyncio.timeout(timeout):
                    message = await call.read()
                if not isinstance(message, fleet_pb2.OperatorMessage):
                    break
                match message.WhichOneof("message"):
                    case None:  # a heartbeat
                        timeout = HEARTBEAT_TIMEOUT
                    case "redirect":
                        return message.redirect.address
                    case "shares":
                        take_shares(self._dispatcher.quotas, message.shares)
                        self._dispatcher.urgent.set()  # what others get depends on it
                    case "make_room":
                        self._dispatcher.make_room(
                            {m.model: m.requests for m in message.make_room.models}
                        )
                    case "view":
                        if not self._connected:
                            timeout = None  # until its first heartbeat: older versions send none
                        self._take_view(address, message.view, reporter)
                    case "change":
                        self._take_change(message.change, reporter)
        return None

    def _take_view(self, address: str, message: fleet_pb2.View, reporter: Reporter) -> None:
        view = parse_view(message)
        if not self._connected:
            log.info("connected to the operator", operator=address, term=view.term)
        self._connected = True
        self._in_force = self._dispatcher.apply(view)
        if self._in_force:
            if message.HasField("keys"):
                self._dispatcher.keys.take(message.keys)
            self._dispatcher.is_current.set()
        reporter.begin_again(takes_partial=message.takes_partial)

    def _take_change(self, message: fleet_pb2.ViewChange, reporter: Reporter) -> None:
        if self._in_force and self._dispatcher.view is not None:
            if message.HasField("keys"):
                self._dispatcher.keys.take(message.keys)
            view = apply_change(self._dispatcher.view, message)
            changed = {*message.removed, *(m.model for m in message.models)}
            self._dispatcher.apply(view, changed)
            reporter.say_again(changed)

    async def _messages(self, reporter: Reporter) -> AsyncIterator[fleet_pb2.GatewayMessage]:
        hello = fleet_pb2.GatewayHello(
            gateway_id=self._gateway_id, takes_changes=True, instance_id=self._instance_id
        )
        loop = asyncio.get_running_loop()
        hello.limits.CopyFrom(all_limits_said(self._dispatcher.quotas, loop.time()))
        yield fleet_pb2.GatewayMessage(hello=hello)
        while True:
            self._dispatcher.urgent.clear()
            yield fleet_pb2.GatewayMessage(signals=reporter.signals(loop.time()))
            await asyncio.sleep(URGENT_PAUSE)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SIGNAL_PAUSE - URGENT_PAUSE):
                    await self._dispatcher.urgent.wait()
