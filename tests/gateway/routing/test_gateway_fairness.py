"""Which key's request gets the next slot: fairness by tokens served, priorities, a shared queue."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfleet_gateway.errors import QueueFullError, QueueShareError
from modelfleet_gateway.routing.fairness import MOST_ACCOUNTS, Accounts, Share
from modelfleet_gateway.routing.request_queue import RequestQueue
from modelfleet_gateway.routing.yielding import Reserve

HEAVY, LIGHT, BATCH = Share(key="heavy"), Share(key="light"), Share(key="bulk", is_batch=True)


class Slots:
    """So many free slots, and who got them."""

    def __init__(self, queue: RequestQueue) -> None:
        self.queue = queue
        self.given: list[str] = []

    def give(self, count: int = 1) -> None:
        """Each of them is given anew: the last one has ended."""
        for _ in range(count):
            self._free = 1
            self.queue.assign_slots(self._take, now=0.0, pace=lambda: (1, 1.0))

    def _take(self, choice):
        if not self._free:
            return None
        self._free = 0
        choice.account.served += 100  # what it is served until the next slot frees
        self.given.append(choice.key)
        return "slot"


def add(queue: RequestQueue, share: Share, count: int = 1, limit: int = 1000):
    return [queue.add_request(1, limit=limit, now=0.0, share=share)[0] for _ in range(count)]


async def test_a_light_keys_request_has_the_first_slot_that_frees():
    queue = RequestQueue()
    slots = Slots(queue)
    add(queue, HEAVY, 50)
    slots.give(8)
    add(queue, LIGHT)
    slots.give(2)
    assert slots.given == [*["heavy"] * 8, "light", "heavy"]


async def test_two_busy_keys_take_turns_by_tokens():
    queue = RequestQueue()
    slots = Slots(queue)
    add(queue, HEAVY, 20)
    add(queue, LIGHT, 20)
    slots.give(20)
    assert slots.given.count("heavy") == slots.given.count("light") == 10


async def test_who_asked_nothing_for_a_while_has_saved_nothing_up():
    queue = RequestQueue()
    slots = Slots(queue)
    add(queue, HEAVY, 40)
    slots.give(20)
    add(queue, LIGHT, 40)
    slots.give(10)
    assert slots.given[20:].count("heavy") >= 4, "the newcomer does not catch up 20 requests"


@given(st.lists(st.sampled_from("abc"), min_size=10, max_size=45), st.data())
async def test_no_key_that_waits_is_served_much_less_than_another_one(order, data):
    """The bound of the paper: two keys that both wait differ by a request each at most."""
    queue = RequestQueue()
    slots = Slots(queue)
    for key in "abc":
        add(queue, Share(key=key), 20)
    for key in order:
        if data.draw(st.booleans()):
            add(queue, Share(key=key))
        slots.give()
    counts = [slots.given.count(key) for key in "abc"]
    if all(queue.interactive.num_new_of(key) for key in "abc"):
        assert max(counts) - min(counts) <= 1


async def test_without_keys_the_order_is_that_of_arrival():
    queue = RequestQueue()
    choices = add(queue, Share(), 5)
    order: list[int] = []
    queue.assign_slots(
        lambda choice: order.append(choice.arrival) or "slot", now=0.0, pace=lambda: (0, 0.0)
    )
    assert order == [choice.arrival for choice in choices]


async def test_batch_waits_behind_everything_interactive():
    queue = RequestQueue()
    slots = Slots(queue)
    add(queue, BATCH, 2)
    (stream,) = add(queue, BATCH)
    queue.remove(stream)
    stream.digest = "d"
    queue.enqueue(stream)
    add(queue, LIGHT, 2)
    slots.give(5)
    assert slots.given == ["light", "light", "bulk", "bulk", "bulk"]
    assert stream.slot_future.done()


async def test_a_full_queue_makes_room_for_a_key_with_less_in_it():
    queue = RequestQueue()
    heavy = add(queue, HEAVY, 10, limit=10)
    (light,) = add(queue, LIGHT, limit=10)
    assert len(queue) == 10
    assert light in list(queue)
    with pytest.raises(QueueFullError):
        await heavy[-1].slot_future
    assert not heavy[0].slot_future.done()
    with pytest.raises(QueueFullError, match="10 of at most 10"):
        add(queue, HEAVY, limit=10)
    add(queue, LIGHT, 4, limit=10)
    with pytest.raises(QueueFullError):
        add(queue, LIGHT, limit=10)
    for choice in heavy[5:9]:
        assert isinstance(choice.slot_future.exception(), QueueFullError)


async def test_batch_does_not_fill_the_queue_of_others():
    queue = RequestQueue()
    add(queue, BATCH, 10, limit=10)
    with pytest.raises(QueueFullError):
        add(queue, BATCH, limit=10)
    add(queue, LIGHT, 10, limit=10)


async def test_a_key_has_no_more_of_the_queue_than_its_share():
    queue = RequestQueue()
    share = Share(key="heavy", queue_share=0.2)
    add(queue, share, 2, limit=10)
    with pytest.raises(QueueShareError, match="2 requests of this key wait, of at most 2") as full:
        queue.add_request(1, limit=10, now=0.0, share=share, pace=lambda: (4, 8.0))
    assert full.value.retry_after == 4.0
    add(queue, LIGHT, 8, limit=10)


async def test_a_full_queue_says_when_what_the_key_has_in_it_will_be_served():
    queue = RequestQueue()
    add(queue, HEAVY, 10, limit=10)
    with pytest.raises(QueueFullError, match="room in about 20 s") as full:
        queue.add_request(1, limit=10, now=1.0, share=HEAVY, pace=lambda: (4, 8.0))
    assert full.value.retry_after == 20.0


async def test_empty_lines_leave_nothing_behind():
    queue = RequestQueue()
    slots = Slots(queue)
    for number in range(50):
        (choice,) = add(queue, Share(key=f"k{number}"))
        if number % 2:
            queue.remove(choice)
    slots.give(50)
    assert len(queue) == queue.interactive.num_keys == 0


def test_only_so_many_accounts_are_kept():
    accounts = Accounts()
    for number in range(MOST_ACCOUNTS + 100):
        accounts.open(f"k{number}", ())
    assert len(accounts._accounts) == MOST_ACCOUNTS


def test_a_slot_that_was_handed_back_is_kept_for_a_while():
    reserve = Reserve(2.0)
    reserve.note(0.0)
    reserve.note(1.0)
    assert [reserve.count(now) for now in (1.0, 2.0, 2.9, 3.0)] == [2, 1, 1, 0]
