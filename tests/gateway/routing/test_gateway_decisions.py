"""The gateway's pure parts, as tables."""

import asyncio

import grpc
import pytest

from modelfleet_gateway.errors import (
    ContextLengthExceededError,
    InvalidRequestError,
    QueueFullError,
    StartupError,
    UnknownModelError,
    UpstreamLostError,
    retry_after,
)
from modelfleet_gateway.options import Options
from modelfleet_gateway.routing.failover import (
    MAX_FAILURES,
    MAX_LOSSES,
    MAX_REFUSALS,
    Attempts,
    Blame,
    End,
    Failure,
    LostCall,
    Retry,
    after_failure,
    may_be_cause,
)
from modelfleet_gateway.routing.merge import interleave
from modelfleet_gateway.routing.queue import choose_worker
from modelfleet_gateway.routing.request_queue import RequestQueue
from modelfleet_gateway.routing.view import (
    ModelView,
    WakePhase,
    WorkerRoute,
    describe_eta,
    is_outdated,
    make_view,
    not_ready,
)
from modelfleet_gateway.routing.workers import Worker
from modelfleet_process.overload import OverloadPolicy
from modelfleet_proto import worker_pb2
from modelfleet_proto.refusals import FULL, HANDED_OVER

Code = grpc.StatusCode
MODEL = "default/tiny"
READY = worker_pb2.WORKER_STATE_READY


def worker(name="w-0", *, digest="d", slots=8, taken=0) -> Worker:
    """A ready worker with so many of its slots taken."""
    route = WorkerRoute(worker_id=name, address="127.0.0.1:1")
    made = Worker(route, MODEL, on_change=lambda: None)
    made.on_stats(worker_pb2.Stats(state=READY, model=MODEL, model_digest=digest, slots=slots))
    for _ in range(taken):
        made.take_slot()
    return made


def chosen_of(*workers: Worker, **how) -> Worker | None:
    chosen = choose_worker(workers, now=0.0, **how)
    return chosen and chosen.worker


@pytest.mark.parametrize(
    ("workers", "how", "chosen"),
    [
        pytest.param([], {}, None, id="without workers, none"),
        pytest.param([{"slots": 0}], {}, None, id="none without a free slot"),
        pytest.param(
            [{"name": "a", "taken": 3}, {"name": "b", "taken": 2}],
            {},
            "b",
            id="the least outstanding work",
        ),
        pytest.param([{"name": "a"}, {"name": "b"}], {}, "a", id="ties go to the first"),
        pytest.param(
            [{"name": "a", "digest": "other"}, {"name": "b", "taken": 5}],
            {"digest": "d"},
            "b",
            id="a stream is resumed only where its digest is",
        ),
        pytest.param([{"name": "a", "digest": "other"}], {"digest": "d"}, None, id="or waits"),
        pytest.param(
            [{"name": "a"}, {"name": "b", "taken": 5}],
            {"avoid": "a"},
            "b",
            id="not where it failed last",
        ),
        pytest.param(
            [{"name": "a", "taken": 3}, {"name": "b", "taken": 4}],
            {"most": 3},
            None,
            id="no more than keep its latency",
        ),
        pytest.param([{"name": "a", "taken": 2}], {"most": 3}, "a", id="but as many"),
        pytest.param([{"name": "a"}], {"avoid": "a"}, "a", id="unless there is no other"),
    ],
)
async def test_chooses_a_worker(workers, how, chosen):
    made = [worker(**fields) for fields in workers]
    found = chosen_of(*made, **how)
    assert (found.worker_id if found else None) == chosen
    await asyncio.gather(*(one.close() for one in made))


@pytest.mark.parametrize(
    ("failure", "blame"),
    [
        (Failure(Code.RESOURCE_EXHAUSTED, "", mark=FULL), Blame.FULL),
        (Failure(Code.RESOURCE_EXHAUSTED, "all 8 slots are taken"), Blame.FULL),
        (Failure(Code.UNAVAILABLE, ""), Blame.SUSPECT),
        (Failure(Code.NOT_FOUND, ""), Blame.SUSPECT),
        (Failure(Code.FAILED_PRECONDITION, ""), Blame.SUSPECT),
        (Failure(Code.INTERNAL, ""), Blame.NONE),
        (Failure(Code.UNAVAILABLE, "", accepted=True), Blame.SUSPECT),
        (Failure(Code.CANCELLED, "", accepted=True), Blame.SUSPECT),
        (Failure(Code.INTERNAL, "", accepted=True), Blame.NONE),
        (Failure(Code.INVALID_ARGUMENT, "", accepted=True), Blame.SUSPECT),
    ],
)
def test_retries_after_a_failure_that_another_worker_may_not_have(failure, blame):
    verdict = after_failure(failure, Attempts())
    assert isinstance(verdict, Retry)
    assert verdict.blame is blame


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (Code.INVALID_ARGUMENT, InvalidRequestError),
        (Code.OUT_OF_RANGE, ContextLengthExceededError),
    ],
)
def test_ends_a_request_that_is_wrong_for_every_worker(code, error):
    verdict = after_failure(Failure(code, "why"), Attempts())
    assert isinstance(verdict, End)
    assert type(verdict.error) is error
    assert verdict.error.message == "why"


@pytest.mark.parametrize(
    ("failure", "tries"),
    [
        (Failure(Code.INTERNAL, "", accepted=True), MAX_FAILURES),
        (Failure(Code.UNAVAILABLE, "", accepted=True), MAX_FAILURES),
        (Failure(Code.UNKNOWN, ""), MAX_FAILURES),
        (Failure(Code.UNAVAILABLE, ""), MAX_REFUSALS),
        (Failure(Code.FAILED_PRECONDITION, ""), MAX_REFUSALS),
        (Failure(Code.RESOURCE_EXHAUSTED, "", mark=FULL), None),
        (Failure(Code.UNAVAILABLE, "", accepted=True, draining=True), None),
        (Failure(Code.UNAVAILABLE, "", accepted=True, mark=HANDED_OVER), None),
        (Failure(Code.UNAVAILABLE, "", lost=True, losses=MAX_LOSSES), 1),
        (Failure(Code.UNAVAILABLE, "", accepted=True, lost=True, losses=MAX_LOSSES), 1),
        (Failure(Code.UNAVAILABLE, "", lost=True, losses=MAX_LOSSES - 1), MAX_REFUSALS),
        (Failure(Code.UNAVAILABLE, "", accepted=True, lost=True), MAX_REFUSALS),
    ],
)
def test_gives_up_after_failures_without_a_token_but_not_for_full_or_draining_workers(
    failure, tries
):
    attempts = Attempts()
    for count in range(1, 200):
        verdict = after_failure(failure, attempts)
        if isinstance(verdict, End):
            assert isinstance(verdict.error, UpstreamLostError)
            assert count == tries
            return
        attempts = verdict.attempts
    assert tries is None


def test_an_exhaustion_that_no_worker_marked_is_not_full_and_ends_at_once():
    """gRPC says so of a refusal that its metadata cannot hold: it was retried 657 times."""
    too_long = "received trailing metadata size exceeds hard limit" + "x" * 20_000
    verdict = after_failure(Failure(Code.RESOURCE_EXHAUSTED, too_long), Attempts())
    assert isinstance(verdict, End)
    assert isinstance(verdict.error, InvalidRequestError)
    assert "exceeds hard limit" in verdict.error.message
    assert len(verdict.error.message) < 2_000


def assign(queue: RequestQueue, take_slot, *, now=0.0, pace=(0, 0.0)) -> None:
    """`pace`: slots, and the seconds that a request has one."""
    queue.assign_slots(take_slot, now=now, pace=lambda: pace)


FRESH, SERVED, CHARGED = LostCall(), LostCall(served=True), LostCall(losses=1)


@pytest.mark.parametrize(
    ("call", "others", "charged"),
    [
        pytest.param(FRESH, [], True, id="alone and without a token"),
        pytest.param(FRESH, [FRESH, SERVED], True, id="each of several is, the first time"),
        pytest.param(SERVED, [FRESH], False, id="not one that had a token"),
        pytest.param(FRESH, [CHARGED], False, id="not beside one that was charged before"),
        pytest.param(CHARGED, [FRESH, SERVED], True, id="that one is"),
        pytest.param(
            FRESH, [LostCall(losses=1, served=True)], True, id="but not once it had a token"
        ),
        pytest.param(LostCall(late=True), [], False, id="the worker was silent before it came"),
        pytest.param(
            FRESH, [LostCall(losses=1, late=True)], True, id="which excuses no other, either"
        ),
    ],
)
def test_charges_a_lost_worker_to_what_may_have_broken_it(call, others, charged):
    assert may_be_cause(call, others) is charged


async def test_what_may_have_broken_a_worker_is_tried_alone():
    first, second = worker("a", slots=4), worker("b", slots=4, taken=3)
    tried = first.take_slot(losses=1)
    assert chosen_of(first, second, on_trial=True) is second
    assert chosen_of(first, second) is first, "others go where they like"
    second.take_slot(losses=1)
    assert chosen_of(first, second, on_trial=True) is None
    tried.mark_served()
    assert chosen_of(first, second, on_trial=True) is first
    await asyncio.gather(first.close(), second.close())


async def test_a_worker_that_changes_its_model_gets_nothing_more():
    made = worker(digest="one")
    other = worker_pb2.Stats(state=READY, model=MODEL, model_digest="two", slots=8)
    for _ in range(2):
        made.on_stats(other)
        assert not made.ready
        assert chosen_of(made) is None
    made.on_stats(worker_pb2.Stats(state=READY, model=MODEL, model_digest="one", slots=8))
    assert made.ready
    await made.close()


@pytest.mark.parametrize(
    ("seconds", "least", "most"), [(0.1, 1, 2), (8, 8, 10), (119, 96, 120), (9000, 96, 120)]
)
def test_tells_clients_different_times_to_come_back_and_never_more_than_two_minutes(
    seconds, least, most
):
    told = {retry_after(seconds, chance / 1000) for chance in range(1000)}
    assert (min(told), max(told)) == (least, most)


def test_full_names_always_answer_and_the_first_claim_on_a_short_name_wins():
    view = make_view(
        (
            ModelView(model="a/m", served_names=("m", "b/m")),
            ModelView(model="b/m", served_names=("m", "second")),
        )
    )
    assert view.resolve("m").model == "a/m"
    assert view.resolve("b/m").model == "b/m"
    assert view.resolve("second").model == "b/m"
    with pytest.raises(UnknownModelError, match=r"'x' does not exist here. Models: m, second, a/m"):
        view.resolve("x")


@pytest.mark.parametrize(
    ("current", "new", "outdated"), [(None, 0, False), (3, 2, True), (3, 3, False), (3, 4, False)]
)
def test_only_a_lower_term_is_outdated(current, new, outdated):
    in_force = None if current is None else make_view((), term=current, version=9)
    assert is_outdated(make_view((), term=new, version=1), in_force) is outdated


def test_describes_when_a_sleeping_model_will_be_ready():
    assert describe_eta(ModelView(model="a/m"), 100) == "phase unknown, ready at an unknown time"
    model = ModelView(model="a/m", phase="Download", eta=142)
    assert describe_eta(model, 100) == "phase Download, ready in about 42 s"
    waking = ModelView(
        model="a/m",
        phase="Download",
        eta=142,
        wake=(
            WakePhase(phase="node", began=37, ended=68),
            WakePhase(phase="image", began=68, ended=68.2),
            WakePhase(phase="weights", began=68.2),
        ),
    )
    said = "phase Download, ready in about 42 s; node 31 s, weights 32 s so far"
    assert describe_eta(waking, 100) == said
    error = not_ready(model, waited=30, ready_workers=0, now=100)
    assert 42 <= int(error.headers()["retry-after"]) <= 53
    assert "a/m" in error.message


async def test_slots_go_to_streams_to_resume_first_and_then_in_order_of_arrival():
    queue = RequestQueue()
    first, second = queue.add_request(2, limit=10, now=0)
    (third,) = queue.add_request(1, limit=10, now=1)
    queue.remove(second)
    second.digest = "d"
    queue.enqueue(second)
    served: list[int] = []

    def take_slot(choice):
        if choice.digest or len(served) == 2:
            return None
        served.append(choice.arrival)
        return "slot"

    assign(queue, take_slot)
    assert served == [first.arrival, third.arrival], "a stream without a slot blocks no new request"
    assert len(queue) == 1
    (again,) = queue.add_request(1, limit=10, now=2)
    order: list[int] = []
    assign(queue, lambda choice: order.append(choice.arrival) or "slot")
    assert order == [second.arrival, again.arrival]


async def test_newest_first_is_for_new_requests_only():
    queue = RequestQueue()
    queue.policy = OverloadPolicy(order="NewestFirst", target=1.2, hold_timeout=60)
    stream, returned, begun, *new = (
        queue.add_request(1, limit=10, now=n / 10)[0] for n in range(6)
    )
    queue.remove(stream)
    stream.digest = "d"
    queue.enqueue(stream)
    queue.remove(returned)
    queue.enqueue(returned)
    queue.hold(begun)
    order: list[int] = []

    def take_slot(choice):
        order.append(choice.arrival)
        return "slot"

    assign(queue, take_slot, now=10, pace=(4, 1.0))
    first = [stream.arrival, returned.arrival, begun.arrival]
    assert order == [*first, *(choice.arrival for choice in reversed(new))]


async def test_who_was_passed_over_has_had_his_turn():
    queue = RequestQueue()
    queue.policy = OverloadPolicy(order="NewestFirst", target=1.2, hold_timeout=60)
    oldest, middle, newest = (queue.add_request(1, limit=10, now=n)[0] for n in range(3))
    slots = iter(["slot"])
    assign(queue, lambda _: next(slots, None), now=10, pace=(4, 1.0))
    assert newest.slot_future.done()
    assert queue.had_turn(oldest)
    assert not queue.had_turn(middle)


async def test_a_choice_that_is_queued_again_returns_to_its_old_place():
    queue = RequestQueue()
    first, second = queue.add_request(2, limit=10, now=0)
    queue.remove(first)
    first.slot_future = asyncio.get_running_loop().create_future()
    queue.enqueue(first)
    order: list[int] = []
    assign(queue, lambda choice: order.append(choice.arrival) or "slot")
    assert order == [first.arrival, second.arrival]


async def test_the_queue_is_bounded_for_new_requests_only():
    queue = RequestQueue()
    many = queue.add_request(5, limit=3, now=0)
    with pytest.raises(QueueFullError, match="5 of at most 3") as full:
        queue.add_request(1, limit=3, now=2.5)
    assert 3 <= int(full.value.headers()["retry-after"]) <= 4
    for choice in many:
        queue.remove(choice)
        choice.digest = "d"
        queue.enqueue(choice)
    assert len(queue.add_request(3, limit=3, now=0)) == 3
    assert queue.oldest_wait(now=4) == 4


async def test_a_client_that_has_disconnected_gets_no_slot():
    queue = RequestQueue()
    gone, connected = queue.add_request(2, limit=10, now=0)
    gone.slot_future.cancel()
    assign(queue, lambda _: "slot")
    assert connected.slot_future.result() == "slot"
    assert len(queue) == 0


async def test_interleaved_streams_end_together_at_the_first_error():
    closed: list = []

    async def good():
        try:
            for number in range(100):
                yield number
                await asyncio.sleep(0)
        finally:
            closed.append("good")

    async def bad():
        yield 0
        raise KeyError("bad")

    with pytest.raises(KeyError):
        [item async for item in interleave([good(), bad()])]
    assert closed == ["good"]
    both = [item async for item in interleave([good(), good()])]
    assert sorted(both) == sorted([*range(100), *range(100)])


def test_a_budget_of_less_than_two_bodies_is_refused_by_its_flag():
    with pytest.raises(StartupError, match=r"--max-held-bytes: expected .* \(2000\), found 1999"):
        Options(operator="", max_body_bytes=1000, max_held_bytes=1999)
    assert Options(operator="", max_body_bytes=1000, max_held_bytes=2000)
