from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from modelfleet_operator.decisions.actions import Create
from modelfleet_operator.decisions.memory import Failures, Memory
from modelfleet_operator.decisions.names import owners, revision_hash
from modelfleet_operator.decisions.observed import (
    Deployment,
    Observed,
    PastRevision,
    Signals,
    WorkerState,
)
from modelfleet_operator.decisions.plan import make_plan
from modelfleet_operator.decisions.reasons import Reason
from modelfleet_operator.decisions.rendering import is_due, parse, render
from modelfleet_operator.decisions.startup_problem import StartupProblem
from modelfleet_operator.decisions.status import Status
from modelfleet_operator.decisions.view import ModelView
from simulated_fleet import SimulatedFleet, deployment, policy, report, stats, worker

PROVEN = Memory(revision="aaaa", last_ready_revision="aaaa", target=1, last_active=1000)
ONE, TWO = worker(0), worker(1)
UP = {ONE.id: stats(), TWO.id: stats()}


def status_of(
    *workers, signals: Signals, memory: Memory = PROVEN, now: float = 1000, previous=None, **spec
) -> Status:
    seen = Observed(
        deployment=deployment(**spec), workers=workers, owners=owners([deployment(**spec)])
    )
    return make_plan(seen, signals, now, memory, previous).status


@pytest.mark.parametrize(
    ("gateways", "expected"),
    [
        pytest.param((report("a", reachable=[ONE.id]),), ("True", "Serving"), id="one reaches it"),
        pytest.param(
            (report("a", reachable=[ONE.id]), report("b", reachable=[TWO.id])),
            ("True", "Serving"),
            id="each reaches one of its own",
        ),
        pytest.param(
            (report("a", reachable=[ONE.id]), report("b")),
            ("False", "Unreachable"),
            id="one reaches none",
        ),
        pytest.param(
            (report("a", reachable=[ONE.id]), report("b", heard=False)),
            ("False", "GatewayBehind"),
            id="one does not have the view yet",
        ),
        pytest.param((), ("Unknown", "NoGateway"), id="no gateway is connected"),
    ],
)
def test_ready_means_that_every_connected_gateway_can_route_to_it(gateways, expected):
    signals = Signals(gateways=gateways, stats=UP)
    status = status_of(ONE, TWO, signals=signals, scaling=policy(min_replicas=2))
    ready = status.condition("Ready")
    assert (ready.status, ready.reason) == expected


def test_says_that_a_certificate_is_refused():
    why = "certificate has expired"
    signals = Signals(gateways=(report("a", tls_problems={ONE.id: why}),), stats={})
    status = status_of(ONE, signals=signals)
    ready = status.condition("Ready")
    assert (ready.status, ready.reason) == ("False", "CertificateRefused")
    assert ready.message == f"{ONE.name}: no connection with TLS: {why}"
    other = Signals(
        gateways=(report("a", reachable=[TWO.id], tls_problems={ONE.id: why}),), stats=UP
    )
    served = status_of(ONE, TWO, signals=other, scaling=policy(min_replicas=2)).condition("Ready")
    assert served.status == "True"


def test_the_status_says_how_many_workers_are_wanted_though_none_exists():
    exited = worker(0, failure="exit code 1")
    signals = Signals(gateways=(report(),))
    status = status_of(exited, signals=signals, scaling=policy(min_replicas=2))
    assert (status.desired_replicas, status.replicas, status.ready_replicas) == (2, 0, 0)
    assert parse(render(status)).desired_replicas == 2
    older = {name: value for name, value in render(status).items() if name != "desiredReplicas"}
    assert parse(older) is not None, "a status of an older version"


def test_what_a_gateway_reaches_is_not_ready_unless_it_says_so():
    loading = {ONE.id: stats(WorkerState.LOADING, phase="Weights", percent=40, eta=1010)}
    status = status_of(ONE, signals=Signals(gateways=(report(reachable=[ONE.id]),), stats=loading))
    assert status.condition("Ready").status == "False"
    assert status.ready_replicas == 0
    assert (status.cold_start.phase, status.cold_start.percent, status.cold_start.eta) == (
        "Weights", 57, 1010,
    )  # fmt: skip


def test_says_what_computes_the_model():
    up = {ONE.id: stats(computed_by="torch"), TWO.id: stats(computed_by="the compiled step")}
    signals = Signals(gateways=(report(reachable=[ONE.id, TWO.id]),), stats=up)
    status = status_of(ONE, TWO, signals=signals, scaling=policy(min_replicas=2))
    assert status.condition("Ready").message.endswith(
        "ready at every gateway (the compiled step; torch)"
    )
    plain = status_of(ONE, signals=replace(signals, stats=UP))
    assert plain.condition("Ready").message.endswith("ready at every gateway")


def test_asleep_needs_a_gateway_that_would_wake_it():
    memory = replace(PROVEN, target=0)
    assert status_of(signals=Signals(gateways=(report(),)), memory=memory).condition(
        "Ready"
    ).reason == ("Asleep")
    behind = Signals(gateways=(report(heard=False),))
    assert status_of(signals=behind, memory=memory).condition("Ready").status == "False"


@pytest.mark.parametrize("minimum", [0, 1, 2])
def test_a_fleet_without_requests_has_nothing_new_to_write(minimum: int):
    """A thousand of them cost nothing: what the cluster keeps of each stays as it is."""
    spec = deployment(scaling=policy(min_replicas=minimum, max_replicas=4))
    workers = (ONE, TWO)[:minimum]
    seen = Observed(deployment=spec, workers=workers, owners=owners([spec]))
    reports = (report(reachable=[w.id for w in workers]),)
    signals = Signals(gateways=reports, stats={w.id: stats() for w in workers})
    memory, status, now = replace(PROVEN, target=minimum), None, 1000.0
    kept = set()
    for pause in (0, 1, 10, 300, 300, 300, 300, 3000, 80000):
        now += pause
        plan = make_plan(seen, signals, now, memory, status)
        memory, status = plan.memory, plan.status
        if now > 1500:
            kept.add(repr((render(status), memory.dump())))
    assert len(kept) == 1


OFF = policy(mode="External", min_replicas=1, replicas=0)  # a person decided it
WOKEN = policy(mode="External", min_replicas=0, replicas=0)  # KEDA, say, raises it


def test_nothing_wanted_in_mode_external_is_not_asleep():
    status = status_of(signals=Signals(gateways=(report(),)), scaling=OFF)
    ready = status.condition("Ready")
    assert (ready.status, ready.reason) == ("False", "ScaledToZero")


@pytest.mark.parametrize("deployed", ["served before", "never ready"])
def test_requests_wait_for_what_scales_it_from_zero(deployed: str):
    """Refused, they would not be counted, and nothing would ever wake it."""
    memory = replace(PROVEN, target=0) if deployed == "served before" else Memory()
    seen = Observed(deployment=deployment(scaling=WOKEN))
    plan = make_plan(seen, Signals(gateways=(report(),)), 1000, memory, None)
    started = [action for action in plan.actions if isinstance(action, Create)]
    assert not started, "only a raised count starts a worker"
    assert plan.view.cause == ""
    ready = plan.status.condition("Ready")
    reason = "Asleep" if deployed == "served before" else "ScaledToZero"
    assert (ready.reason, plan.view.phase) == (reason, reason)
    assert "requests wait until" in ready.message


def test_conditions_keep_their_time_until_they_change():
    signals = Signals(gateways=(report(reachable=[ONE.id]),), stats=UP)
    first = status_of(ONE, signals=signals, now=1000)
    later = status_of(ONE, signals=signals, now=1030, previous=first)
    assert later.condition("Ready").changed == 1000
    lost = status_of(ONE, signals=Signals(gateways=(report(),)), now=1040, previous=later)
    assert lost.condition("Ready").changed == 1040
    assert lost.condition("NameConflict").changed == 1000


def test_a_status_of_an_older_version_may_lack_a_condition():
    signals = Signals(gateways=(report(reachable=[ONE.id]),), stats=UP)
    before = status_of(ONE, signals=signals)
    older = replace(before, conditions=before.conditions[:1])
    after = status_of(ONE, signals=signals, now=2000, previous=older)
    assert [c.changed for c in after.conditions] == [1000, *[2000] * 5]


def test_counts_say_what_exists_what_is_ready_and_what_waits():
    signals = Signals(
        gateways=(report("a", reachable=[ONE.id], waiting=3), report("b", reachable=[ONE.id])),
        stats={ONE.id: stats(running=2)},
    )
    status = status_of(
        ONE, TWO, worker(2, stopping=True), worker(3, failure="x"), signals=signals,
    )  # fmt: skip
    assert (status.replicas, status.ready_replicas) == (2, 1)
    assert (status.queue.waiting, status.queue.running) == (3, 2)
    assert status.selector == "modelfleet.dev/deployment=tiny"


def test_a_learned_cold_start_time_gives_the_first_estimate():
    memory = replace(PROVEN, cold_start_seconds=30, target=0)
    signals = Signals(gateways=(report(waiting=1),))
    status = status_of(signals=signals, memory=memory)
    assert (status.cold_start.phase, status.cold_start.eta) == ("Starting", 1030)


def test_a_pod_that_cannot_start_says_why():
    problem = StartupProblem(reason=Reason.UNSCHEDULABLE, message="0/3 nodes have a GPU", since=990)
    stuck = replace(ONE, problem=problem, address="")
    status = status_of(stuck, signals=Signals(gateways=(report(),)))
    for kind, truth in [("Ready", "False"), ("Reconciling", "True")]:
        condition = status.condition(kind)
        assert (condition.status, condition.reason) == (truth, "Unschedulable")
        assert "tiny-aaaa-0: 0/3 nodes" in condition.message
    assert status.condition("Stalled").status == "False", "it may pass"
    assert status.cold_start.phase == "Pending"


def test_the_older_deployment_keeps_the_short_name():
    old = deployment("old", served_names=("chat", "old"), created=1)
    young = deployment("young", served_names=("chat", "young"), created=2)
    names = owners([young, old])
    assert names == {"chat": "default/old", "old": "default/old", "young": "default/young"}
    plans = [
        make_plan(Observed(deployment=d, owners=names), Signals(), 1000, Memory(), None)
        for d in (old, young)
    ]
    assert [plan.view.served_names for plan in plans] == [("chat", "old"), ("young",)]
    assert plans[0].status.condition("NameConflict").status == "False"
    conflict = plans[1].status.condition("NameConflict")
    assert conflict.status == "True"
    assert "default/old" in conflict.message
    assert "default/young" in conflict.message


def claim(namespace: str, created: float, **fields) -> Deployment:
    return deployment("m", namespace=namespace, created=created, **fields)


@pytest.mark.parametrize(
    ("claims", "owner"),
    [
        pytest.param([claim("a", 1), claim("b", 2)], "a/m", id="the oldest, if none has it"),
        pytest.param(
            [claim("a", 2, claimed=frozenset({"m"})), claim("b", 1)],
            "a/m",
            id="not an older one that asks for it later",
        ),
        pytest.param(
            [claim("b", 1, yielded={"m": "a/m"})], "a/m", id="of who is gone: not who waited for it"
        ),
        pytest.param(
            [claim("a", 3), claim("b", 1, yielded={"m": "a/m"})],
            "a/m",
            id="who is created again has it again",
        ),
        pytest.param(
            [claim("b", 1, yielded={"m": "a/m"}), deployment("n", namespace="a", created=4,
                                                             served_names=("m",))],
            "a/n",
            id="or another one of its namespace",
        ),
        pytest.param([claim("b", 5)], "b/m", id="who asks anew when nobody has it"),
    ],
)  # fmt: skip
def test_a_short_name_never_moves_to_another_namespace_by_re_applying(claims, owner):
    assert owners(claims)["m"] == owner
    assert owners(reversed(claims))["m"] == owner


def test_a_deployment_remembers_which_names_it_has_and_which_it_yielded():
    first, second = claim("a", 1), claim("b", 2)

    def after(d: Deployment, *claims: Deployment, memory: Memory) -> tuple[Memory, ModelView]:
        plan = make_plan(
            Observed(deployment=d, owners=owners(claims)), Signals(), 1000, memory, None
        )
        return Memory.load(plan.memory.dump()), plan.view

    one, view = after(first, first, second, memory=Memory())
    assert (one.claimed, one.yielded, view.served_names) == ({"m"}, {}, ("m",))
    two, view = after(second, first, second, memory=Memory())
    assert (two.claimed, two.yielded, view.served_names) == (frozenset(), {"m": "a/m"}, ())
    alone, view = after(second, second, memory=two)
    assert (alone.yielded, view.served_names) == ({"m": "a/m"}, ()), "caches may be behind"
    gave_up, _ = after(replace(second, served_names=()), second, memory=alone)
    assert gave_up.yielded == {}
    anew, view = after(second, second, memory=gave_up)
    assert (anew.claimed, view.served_names) == ({"m"}, ("m",))


def test_names_move_within_a_namespace_at_once():
    seen = Observed(deployment=deployment("n", served_names=("m",)), owners={"m": "default/m"})
    memory = make_plan(seen, Signals(), 1000, Memory(), None).memory
    assert memory.yielded == {}


@pytest.mark.parametrize(
    ("spec", "phase"),
    [
        pytest.param({}, "Asleep", id="a request would wake it"),
        pytest.param({"error": "spec.model.source: ..."}, "InvalidSpec", id="an invalid spec"),
        pytest.param(
            {"accelerators": ("h100",)}, "AcceleratorClassMissing", id="its class does not exist"
        ),
        pytest.param({"scaling": OFF}, "ScaledToZero", id="wanted at zero"),
        pytest.param({"scaling": WOKEN}, "Asleep", id="at zero, and woken from outside"),
    ],
)
def test_gateways_are_told_the_reason_that_the_status_gives(spec, phase):
    seen = Observed(deployment=deployment(**spec))
    plan = make_plan(seen, Signals(gateways=(report(),)), 1000, replace(PROVEN, target=0), None)
    assert plan.status.condition("Ready").reason == plan.view.phase == phase
    assert plan.view.cause.partition(":")[0] == ("" if phase == "Asleep" else phase)


def load_failed(times: int, **spec) -> ModelView:
    error = "no config.json"
    failures = Failures(count=times, last_at=999, error=error, reason=Reason.LOAD_FAILED)
    memory = Memory(revision="aaaa", target=1, failures=failures, cold_start_seconds=3)
    loading = Signals(gateways=(report(),), stats={ONE.id: stats(WorkerState.LOADING)})
    seen = Observed(deployment=deployment(**spec), workers=(ONE,))
    return make_plan(seen, loading, 1000, memory, None).view


def test_a_model_that_fails_to_load_three_times_is_not_waited_for():
    once = load_failed(1)
    assert once.cause == "", "the next one may load"
    assert once.phase == "Starting (LoadFailed: a worker failed once: no config.json)"
    assert once.eta == 0, "it was never ready, so nobody knows when it will be"
    view = load_failed(3)
    assert view.cause == "LoadFailed: workers failed 3 times in a row: no config.json"
    assert view.eta == 0


def test_what_may_come_is_waited_for():
    """Another revision than the one in trouble, or a worker that loads although others do not."""
    old = worker(0, revision="0000")
    failures = Failures(count=3, last_at=999, error="x", reason=Reason.LOAD_FAILED)
    memory = Memory(revision="aaaa", last_ready_revision="0000", target=1, failures=failures)
    history = (PastRevision(revision="0000", number=1),)
    seen = Observed(deployment=deployment(), workers=(old, ONE), history=history)
    quiet = Signals(gateways=(report(waiting=1),))
    assert make_plan(seen, quiet, 1000, memory, None).view.cause == ""

    problem = StartupProblem(reason=Reason.UNSCHEDULABLE, message="no node", since=100)
    stuck = replace(TWO, problem=problem, address="")
    for workers, reason in (((stuck,), "Unschedulable"), ((stuck, ONE), "")):
        seen = Observed(deployment=deployment(scaling=policy(min_replicas=2)), workers=workers)
        cause = make_plan(seen, quiet, 1000, Memory(revision="aaaa"), None).view.cause
        assert cause.partition(":")[0] == reason


def test_a_request_for_a_sleeping_model_that_failed_before_tries_it_again():
    failures = Failures(count=5, last_at=100, error="x", reason=Reason.LOAD_FAILED)
    memory = replace(PROVEN, target=0, failures=failures)
    seen, asked = Observed(deployment=deployment()), Signals(gateways=(report(waiting=1),))
    assert make_plan(seen, Signals(gateways=(report(),)), 1000, memory, None).view.cause == ""
    plan = make_plan(seen, asked, 1000, memory, None)
    assert [type(a).__name__ for a in plan.actions if isinstance(a, Create)] == ["Create"]


def test_history_keeps_the_last_ten_steps():
    fleet = SimulatedFleet(deployment(scaling=policy(idle_timeout=1, scale_down_delay=1)))
    for _ in range(12):
        fleet.waiting = 30
        fleet.run(1)
        fleet.waiting = 0
        fleet.run(10)
    history = fleet.status.scaling_history
    assert len(history) == 10
    assert [event.time for event in history] == sorted(event.time for event in history)
    for earlier, later in itertools.pairwise(history):
        assert earlier.after == later.before != later.after


def test_a_status_survives_its_yaml():
    fleet = SimulatedFleet(deployment())
    fleet.waiting = 12
    for _ in range(20):
        fleet.run(1.0, step=1)
        status = fleet.status
        if status.cold_start is not None:  # its phases are rendered for people only
            status = replace(status, cold_start=replace(status.cold_start, phases=()))
        assert parse(render(fleet.status)) == status
    assert parse({}) is None


def test_a_memory_survives_its_dump_and_changes_seldom():
    memory = replace(
        PROVEN,
        peaks=((990.0, 3),),
        failures=Failures(count=2, last_at=5.0, error="x", counted=frozenset({"u"})),
        unhealthy={"u": 3.0},
        was_ready=frozenset({"u", "v"}),
    )
    assert Memory.load(memory.dump()) == memory
    assert Memory.load({}) == Memory()
    assert Memory.load({**memory.dump(), "of a newer version": 1}) == memory
    assert replace(memory, last_active=1003).dump() == memory.dump()


def test_numbers_wait_ten_seconds_and_conditions_do_not():
    fleet = SimulatedFleet(deployment())
    fleet.run(1)
    before = render(fleet.status)
    queue = {**before, "queue": {"waiting": 9, "running": 0}}
    assert is_due(None, 0, before, 1000)
    assert not is_due(before, 1000, before, 2000)
    assert not is_due(before, 1000, queue, 1009)
    assert is_due(before, 1000, queue, 1010)
    assert is_due(before, 1000, queue, 900), "a clock that stepped back does not silence it"
    assert is_due(before, 1000, {**before, "readyReplicas": 7}, 1001)


def test_another_value_is_another_revision():
    assert revision_hash({"a": 1, "b": 2}) == revision_hash({"b": 2, "a": 1})
    assert revision_hash({"a": 1}) != revision_hash({"a": 2})
