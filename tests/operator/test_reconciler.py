"""Reconcilers over a body in memory, on a clock that looptime moves."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator

import pytest

from modelfleet_operator.decisions.actions import Create, Record, Remove, Stop, Unroute
from modelfleet_operator.decisions.memory import Memory
from modelfleet_operator.decisions.names import owners
from modelfleet_operator.decisions.observed import (
    Deployment,
    Observed,
    PastRevision,
    Signals,
    Worker,
)
from modelfleet_operator.decisions.view import ModelView
from modelfleet_operator.decisions.wake import LONGEST_TICK, TICK
from modelfleet_operator.errors import PassingError
from modelfleet_operator.reconciler import RESTART_DELAY, Reconcilers
from simulated_fleet import deployment, policy, report, stats, worker

pytestmark = [pytest.mark.looptime]


class BodyInMemory:
    """Workers are there and listening as soon as they are created."""

    def __init__(self, *deployments: Deployment) -> None:
        self.deployments = {d.key: d for d in deployments}
        self.workers: dict[str, Worker] = {}
        self.statuses: dict[str, list] = {}
        self.errors: list[Exception] = []  # raised by the next calls, one each
        self.remembered: Memory = Memory()
        self.reconciles: list[float] = []
        self.held_back: float | None = None
        self.history: dict[str, tuple[PastRevision, ...]] = {}

    def keys(self):
        return self.deployments.keys()

    def observe(self, key: str) -> Observed | None:
        if key not in self.deployments:
            return None
        self.reconciles.append(asyncio.get_running_loop().time())
        mine = tuple(w for w in self.workers.values() if key == f"default/{w.name.split('-')[0]}")
        return Observed(
            deployment=self.deployments[key],
            workers=mine,
            owners=owners(self.deployments.values()),
            history=self.history.get(key, ()),
        )

    async def recall(self, key: str):
        return self.remembered, None

    async def carry_out(self, action, seen: Observed) -> None:
        if self.errors:
            raise self.errors.pop(0)
        now = asyncio.get_running_loop().time()
        match action:
            case Create(name=name, ordinal=ordinal, revision=revision):
                self.workers.setdefault(
                    name, worker(ordinal, revision=revision, name=name, created=now)
                )
            case Record(revision=revision, number=number):
                past = PastRevision(revision=revision, number=number)
                self.history[seen.deployment.key] = (past,)
            case Unroute():
                raise AssertionError("nothing reaches these workers, so they are stopped at once")
            case Stop(worker=gone) | Remove(worker=gone):
                self.workers.pop(gone.name, None)

    async def write_status(self, seen: Observed, status, memory) -> float | None:
        self.statuses.setdefault(seen.deployment.key, []).append(status)
        held_back, self.held_back = self.held_back, None
        return held_back


class GatewaysInMemory:
    """One gateway that reaches what it is told to."""

    def __init__(self) -> None:
        self.waiting = 0
        self.views: dict[str, ModelView] = {}
        self.reachable: set[str] = set()

    def signals(self, model: str) -> Signals:
        ready = {worker_id: stats() for worker_id in self.reachable}
        return Signals(
            gateways=(report(waiting=self.waiting, reachable=self.reachable),), stats=ready
        )

    def publish(self, view: ModelView) -> None:
        self.views[view.model] = view

    def withdraw(self, model: str) -> None:
        self.views.pop(model, None)


@contextlib.asynccontextmanager
async def running(body: BodyInMemory, gateways: GatewaysInMemory) -> AsyncIterator[Reconcilers]:
    loop = asyncio.get_running_loop()
    reconcilers = Reconcilers(body, gateways, loop.time)
    task = asyncio.create_task(reconcilers.run())
    await asyncio.sleep(0.01)
    try:
        yield reconcilers
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert not [t for t in asyncio.all_tasks() if t.get_name().startswith("reconcile")]


async def test_reads_decides_writes():
    body, gateways = BodyInMemory(deployment()), GatewaysInMemory()
    async with running(body, gateways):
        assert list(body.workers) == ["tiny-aaaa-0"]
        assert body.statuses["default/tiny"][-1].condition("Ready").reason == "Starting"
        assert gateways.views["default/tiny"].served_names == ("tiny",)


async def test_an_event_is_acted_on_at_once():
    body, gateways = BodyInMemory(deployment()), GatewaysInMemory()
    async with running(body, gateways) as reconcilers:
        gateways.reachable = {"default/tiny-aaaa-0"}
        gateways.waiting = 30
        reconcilers.wake("default/tiny")
        await asyncio.sleep(0.01)
        assert len(body.workers) == 4


async def test_a_missed_event_heals_with_the_tick():
    body, gateways = BodyInMemory(deployment()), GatewaysInMemory()
    async with running(body, gateways):
        gateways.waiting = 30
        await asyncio.sleep(TICK + 0.1)
        assert len(body.workers) == 4


async def test_what_nothing_happens_to_is_reconciled_ever_more_rarely():
    body = BodyInMemory(deployment())
    async with running(body, GatewaysInMemory()) as reconcilers:
        await asyncio.sleep(3600)
        quiet = [b - a for a, b in itertools.pairwise(body.reconciles)]
        assert quiet[-1] > LONGEST_TICK / 2
        assert len(body.reconciles) < 25
        reconcilers.wake("default/tiny")
        await asyncio.sleep(TICK + 0.1)
        woken, ticked = body.reconciles[-2:]
        assert ticked - woken <= TICK, "soon after an event a missed one heals soon, too"


async def test_while_requests_run_it_is_reconciled_often():
    """Memory of the last request and of the recent peak is as fresh as the last reconcile."""
    body, gateways = BodyInMemory(deployment()), GatewaysInMemory()
    gateways.waiting = 1
    async with running(body, gateways):
        await asyncio.sleep(600)
    assert max(b - a for a, b in itertools.pairwise(body.reconciles)) <= TICK


async def test_a_status_that_was_held_back_is_written_when_it_is_due():
    body = BodyInMemory(deployment())
    body.held_back = asyncio.get_running_loop().time() + 3
    async with running(body, GatewaysInMemory()):
        await asyncio.sleep(3.1)
        assert [round(time) for time in body.reconciles[-1:]] == [3]


async def test_a_change_of_names_wakes_only_those_that_it_concerns():
    body = BodyInMemory(
        deployment("old", created=1, served_names=("chat",)),
        *(deployment(f"other{n}", created=2, served_names=(f"n{n}",)) for n in range(50)),
    )
    async with running(body, GatewaysInMemory()) as reconcilers:
        body.reconciles.clear()
        body.deployments["default/young"] = deployment("young", created=3, served_names=("chat",))
        reconcilers.wake("default/young")
        await asyncio.sleep(0.1)
        assert len(body.reconciles) <= 4, "young and old"


async def test_it_wakes_when_the_plan_said():
    body, gateways = BodyInMemory(deployment(scaling=policy(idle_timeout=3))), GatewaysInMemory()
    async with running(body, gateways) as reconcilers:
        gateways.reachable = {"default/tiny-aaaa-0"}
        reconcilers.wake("default/tiny")
        await asyncio.sleep(2.9)
        assert body.workers
        gateways.reachable = set()  # so that it is stopped without draining first
        await asyncio.sleep(0.2)
        assert not body.workers


async def test_a_passing_error_is_tried_again_ever_more_slowly():
    body = BodyInMemory(deployment())
    body.errors = [PassingError("503")] * 4
    async with running(body, GatewaysInMemory()):
        await asyncio.sleep(60)
    first = body.reconciles[:5]
    assert [round(b - a, 2) for a, b in itertools.pairwise(first)] == [0.5, 1, 2, 4]
    assert list(body.workers) == ["tiny-aaaa-0"]


async def test_a_task_that_fails_is_started_again_by_its_owner_and_harms_no_other():
    body = BodyInMemory(deployment(), deployment("other"))
    body.errors = [ZeroDivisionError("a bug")]
    async with running(body, GatewaysInMemory()):
        assert list(body.workers) == ["tiny-aaaa-0"], "the other one goes on"
        await asyncio.sleep(RESTART_DELAY + 0.1)
        assert sorted(body.workers) == ["other-aaaa-0", "tiny-aaaa-0"]


async def test_what_is_deleted_leaves_the_view_and_gives_its_name_back():
    old = deployment("old", created=1, served_names=("chat",))
    young = deployment("young", created=2, served_names=("chat",))
    body, gateways = BodyInMemory(old, young), GatewaysInMemory()
    async with running(body, gateways) as reconcilers:
        assert gateways.views["default/young"].served_names == ()
        del body.deployments["default/old"]
        reconcilers.wake("default/old")
        await asyncio.sleep(0.1)
        assert list(gateways.views) == ["default/young"]
        assert gateways.views["default/young"].served_names == ("chat",)


async def test_a_name_does_not_move_to_another_namespace_while_its_owner_is_created_again():
    old = deployment("old", created=1, served_names=("chat",))
    rival = deployment("rival", namespace="other", created=2, served_names=("chat",))
    body, gateways = BodyInMemory(old, rival), GatewaysInMemory()
    async with running(body, gateways) as reconcilers:
        assert gateways.views["default/old"].served_names == ("chat",)
        del body.deployments["default/old"]
        reconcilers.wake("default/old")
        await asyncio.sleep(0.1)
        late = deployment("late", namespace="third", created=3, served_names=("chat",))
        body.deployments["third/late"] = late
        reconcilers.wake("third/late")
        await asyncio.sleep(TICK + 0.1)
        assert [v.served_names for v in gateways.views.values()] == [(), ()]
        body.deployments["default/old"] = deployment("old", created=9, served_names=("chat",))
        reconcilers.wake("default/old")
        await asyncio.sleep(TICK + 0.1)
        served = {key: view.served_names for key, view in gateways.views.items()}
    assert served == {"default/old": ("chat",), "other/rival": (), "third/late": ()}


async def test_what_appears_later_is_reconciled_too():
    body, gateways = BodyInMemory(), GatewaysInMemory()
    async with running(body, gateways) as reconcilers:
        body.deployments["default/tiny"] = deployment()
        reconcilers.wake("default/tiny")
        await asyncio.sleep(0.1)
        assert list(gateways.views) == ["default/tiny"]


async def test_memory_of_the_last_leader_is_used():
    body, gateways = BodyInMemory(deployment()), GatewaysInMemory()
    body.remembered = Memory(revision="aaaa", last_ready_revision="aaaa", target=0)
    async with running(body, gateways):
        assert not body.workers
        assert body.statuses["default/tiny"][-1].condition("Ready").reason == "Asleep"
