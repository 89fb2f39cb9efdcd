"""Gateways come, go, use and report in any order: a limit holds for all of them together."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelfleet_operator.fleet.limits import GONE, GRACE, REMEMBERED, LimitShares
from modelfleet_process.limit_shares import default_share
from modelfleet_proto import fleet_pb2

ID = ("key-1", "default/tiny", fleet_pb2.LIMIT_KIND_REQUESTS)
OTHER = ("key-2", "default/tiny", fleet_pb2.LIMIT_KIND_REQUESTS)


@dataclass
class Gateway:
    """What a gateway does with one limit, as modelfleet_gateway.access has it."""

    name: str
    limit: int
    stream: object = field(default_factory=object)
    number: int = 0
    gateways: int = 1
    place: int = 0
    share: int | None = None
    used: int = 0
    refused: int = 0
    told: bool = False  # it had a message, and so a view
    up: deque = field(default_factory=deque)
    down: deque = field(default_factory=deque)

    @property
    def allowed(self) -> int:
        if self.share is None:
            return default_share(self.limit, self.gateways, self.place)
        return self.share

    def ask(self, count: int) -> int:
        """How many of them it admits."""
        admitted = max(min(count, self.allowed - self.used), 0) if self.told else 0
        self.used += admitted
        self.refused = min(self.refused + count - admitted, 1000)
        return admitted

    def said(self) -> fleet_pb2.LimitsSaid:
        said = fleet_pb2.LimitsSaid(number=self.number, gateways=self.gateways, place=self.place)
        key, model, kind = ID
        said.uses.add(
            key=key,
            model=model,
            kind=kind,
            limit=self.limit,
            used=self.used,
            wanted=self.used + self.refused,
            share=self.share,
        )
        return said

    def hear(self, message: fleet_pb2.LimitShares) -> None:
        self.told = True
        self.number, self.gateways, self.place = message.number, message.gateways, message.place
        for one in message.shares:
            if (one.key, one.model, one.kind) == ID:
                self.share = one.share if one.HasField("share") else None


class World:
    """Gateways, messages on their way, and an operator."""

    def __init__(self, limit: int) -> None:
        self.limit, self.now = limit, 1000.0
        self.shares = LimitShares()
        self.shares.begin(self.now - GRACE)
        self.gateways: list[Gateway] = []
        self.dead: list[tuple[float, int]] = []  # when, and what was used
        self._names = 0

    def join(self) -> Gateway:
        self._names += 1
        gateway = Gateway(f"gw-{self._names}", self.limit)
        self.gateways.append(gateway)
        self.shares.join(gateway.name, gateway.stream, gateway.said(), self.now)
        self.send()
        gateway.hear(gateway.down.popleft())  # before its first view
        return gateway

    def reconnect(self, gateway: Gateway) -> None:
        self.shares.leave(gateway.name, gateway.stream, self.now)
        gateway.stream, gateway.number = object(), 0
        gateway.up.clear()
        gateway.down.clear()
        self.shares.join(gateway.name, gateway.stream, gateway.said(), self.now)
        self.send()

    def die(self, gateway: Gateway) -> None:
        """Right after a report."""
        self.report(gateway)
        while gateway.up:
            self.deliver_up(gateway)
        self.gateways.remove(gateway)
        self.shares.leave(gateway.name, gateway.stream, self.now)
        self.dead.append((self.now, gateway.used))

    def report(self, gateway: Gateway) -> None:
        gateway.up.append(gateway.said())

    def deliver_up(self, gateway: Gateway) -> None:
        if gateway.up:
            self.shares.take(gateway.name, gateway.stream, gateway.up.popleft(), self.now)
            self.send()

    def deliver_down(self, gateway: Gateway) -> None:
        if gateway.down:
            gateway.hear(gateway.down.popleft())

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.shares.mind(self.now)
        self.send()

    def send(self) -> None:
        for gateway in self.gateways:
            while (message := self.shares.message(gateway.name, gateway.stream)) is not None:
                gateway.down.append(message)

    def settle(self, rounds: int = 6) -> None:
        """All messages arrive, some seconds pass."""
        for _ in range(rounds):
            self.pass_time(0.5)
            for gateway in self.gateways:
                self.report(gateway)
                while gateway.up or gateway.down:
                    self.deliver_up(gateway)
                    self.deliver_down(gateway)

    @property
    def used(self) -> int:
        """In the last minute."""
        dead = sum(used for died, used in self.dead if self.now - died < 60)
        return dead + sum(gateway.used for gateway in self.gateways)


@settings(max_examples=300)
@given(st.integers(0, 200), st.data())
def test_the_limit_holds_whatever_comes_in_whatever_order(limit, data):
    world = World(limit)
    world.join()
    for _ in range(data.draw(st.integers(1, 60))):
        steps = ["ask", "ask", "ask", "end", "report", "up", "down", "join", "die", "wait", "again"]
        step = data.draw(st.sampled_from(steps))
        if step == "join" and len(world.gateways) < 5:
            world.join()
        if step == "wait":
            world.pass_time(data.draw(st.sampled_from([0.5, 4.0])))
        if not world.gateways:
            continue
        gateway = data.draw(st.sampled_from(world.gateways))
        match step:
            case "ask":
                gateway.ask(data.draw(st.integers(1, 100)))
            case "end":
                gateway.used -= data.draw(st.integers(0, gateway.used))
            case "report":
                world.report(gateway)
            case "up":
                world.deliver_up(gateway)
            case "down":
                world.deliver_down(gateway)
            case "die":
                world.die(gateway)
            case "again":
                world.reconnect(gateway)
        assert world.used <= limit


def test_the_few_that_a_dead_gateway_used_count():
    world = World(52)
    first = world.join()
    first.ask(1)
    world.die(first)
    world.pass_time(4.0)
    world.join().ask(52)
    assert world.used == 52


@pytest.mark.parametrize("limit", [1, 10, 1000])
def test_the_gateway_that_is_asked_gets_the_limit_of_the_idle_one(limit):
    world = World(limit)
    busy, idle = world.join(), world.join()
    world.settle()
    assert busy.allowed + idle.allowed == limit
    for _ in range(8):
        busy.ask(limit)
        world.settle(1)
    assert busy.used == limit
    busy.used, busy.refused = 0, 0  # a minute later
    for _ in range(8):
        idle.ask(limit)
        world.settle(1)
    assert idle.used == limit, "and back"


def test_one_place_goes_round_among_two_that_want_it():
    world = World(1)
    gateways = world.join(), world.join()
    world.settle()
    served = [0, 0]
    for _ in range(20):
        for number, gateway in enumerate(gateways):
            served[number] += gateway.ask(1)
        world.settle(1)
        for gateway in gateways:
            gateway.used = 0
        world.settle(1)
    assert min(served) >= 5


def test_the_share_of_a_dead_gateway_goes_to_the_other_within_seconds():
    world = World(100)
    first, second = world.join(), world.join()
    world.settle()
    second.ask(30)
    world.die(second)
    world.pass_time(GONE - 0.5)
    first.ask(100)
    assert first.used <= 50
    world.pass_time(1.0)
    for _ in range(4):
        first.ask(100)
        world.settle(1)
    assert first.used == 70, "what the dead one used counts"
    world.pass_time(REMEMBERED)
    first.ask(100)
    world.settle()
    first.ask(100)
    assert first.used == 100


def test_a_new_operator_takes_the_shares_as_they_are():
    world = World(100)
    first, second = world.join(), world.join()
    world.settle()
    for _ in range(6):
        first.ask(100)
        world.settle(1)
    assert (first.used, second.allowed) == (100, 0)
    world.shares = LimitShares()
    world.shares.begin(world.now)
    for gateway in (second, first):  # the one that may have nothing is there first
        world.reconnect(gateway)
        while gateway.down:
            world.deliver_down(gateway)
        second.ask(100)
    world.settle()
    second.ask(100)
    assert world.used == 100


def test_what_is_used_no_more_is_forgotten_and_parts_are_equal_again():
    world = World(100)
    first, second = world.join(), world.join()
    for _ in range(4):
        first.ask(90)
        world.settle(1)
    assert first.share is not None
    first.used = first.refused = 0
    world.settle(20)
    assert (first.share, second.share) == (None, None)
    assert (first.allowed, second.allowed) == (50, 50)
    assert not world.shares._limits
    assert not world.shares._open


def test_long_names_and_too_many_of_them_leave_no_memory(monkeypatch):
    monkeypatch.setattr("modelfleet_operator.fleet.limit_member.MOST_IDS", 10)
    world = World(100)
    gateway = world.join()
    said = gateway.said()
    for number in range(50):
        said.uses.add(key=f"k{number}", model="m", kind=1, limit=10, used=5, wanted=5)
    said.uses.add(key="k" * 1000, model="m", kind=1, limit=10, used=5, wanted=5)
    world.shares.take(gateway.name, gateway.stream, said, world.now)
    assert len(world.shares._limits) <= 10
