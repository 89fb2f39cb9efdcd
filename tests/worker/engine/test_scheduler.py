"""Which tokens are computed next: stories on tiny pools."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from array import array

from modelfleet_worker.engine.block_manager import BlockManager
from modelfleet_worker.engine.request import ContextVariants, FinishReason, Request, Sequence
from modelfleet_worker.engine.scheduler import Scheduler, StepPlan


def sequence(
    name: str,
    prompt: int | tuple[int, ...] = 4,
    *,
    max_tokens: int = 8,
    resumed: int = 0,
    salt: bytes = b"",
) -> Sequence:
    ids = tuple(range(prompt)) if isinstance(prompt, int) else prompt
    return Sequence(
        Request(
            request_id=name,
            prompt_ids=ids,
            resumed_ids=(9,) * resumed,
            max_tokens=max_tokens,
            stop_token_ids=frozenset({99}),
            cache_salt=salt,
        )
    )


def scheduler(
    *added: Sequence,
    blocks: int = 64,
    sequences: int = 8,
    budget: int = 64,
    caching: bool = True,
    variants: ContextVariants | None = None,
) -> Scheduler:
    made = Scheduler(
        BlockManager(blocks, caching=caching),
        max_sequences=sequences,
        max_batch_tokens=budget,
        variants=variants,
    )
    for one in added:
        made.add(one)
    return made


def shape(plan: StepPlan) -> list[tuple[str, int, int]]:
    return [(c.sequence.request.request_id, c.start, c.end) for c in plan.chunks]


def step(made: Scheduler, token: int = 7) -> list[tuple[str, int, int]]:
    plan = made.schedule()
    made.complete(plan, [token] * sum(c.samples for c in plan.chunks))
    made.blocks.check([s.block_table for s in made])
    return shape(plan)


def names(sequences) -> list[str]:
    return [s.request.request_id for s in sequences]


def test_a_prompt_is_prefilled_and_then_decoded():
    made = scheduler(sequence("a", 5))
    assert [step(made) for _ in range(3)] == [[("a", 0, 5)], [("a", 5, 6)], [("a", 6, 7)]]


def test_a_long_prompt_goes_in_chunks_beside_decodes():
    made = scheduler(sequence("a", 2), budget=8)
    step(made)
    made.add(sequence("b", 20))
    assert step(made) == [("a", 2, 3), ("b", 0, 7)]
    assert step(made) == [("a", 3, 4), ("b", 7, 14)]
    assert step(made) == [("a", 4, 5), ("b", 14, 20)]
    assert step(made) == [("a", 5, 6), ("b", 20, 21)]


def test_decodes_come_before_the_older_prefill():
    made = scheduler(sequence("old", 30), sequence("young", 2), budget=16)
    assert step(made) == [("old", 0, 16)]
    assert step(made) == [("old", 16, 30), ("young", 0, 2)]


def test_no_more_run_than_there_are_places():
    made = scheduler(*(sequence(n) for n in "abc"), sequences=2)
    step(made)
    assert (names(made.running), names(made.waiting)) == (["a", "b"], ["c"])


def test_a_stop_token_and_the_limit_end_a_sequence():
    a, b = sequence("a", max_tokens=2), sequence("b", max_tokens=5)
    made = scheduler(a, b)
    step(made)
    plan = made.schedule()
    ended = made.complete(plan, [7, 99])
    assert [new.finished for new in ended] == [FinishReason.LENGTH, FinishReason.STOP]
    assert len(made) == 0
    assert made.blocks.used == 0


def test_a_resumed_stream_counts_from_its_first_token():
    a = sequence("a", 4, resumed=3, max_tokens=5)
    made = scheduler(a)
    assert step(made) == [("a", 0, 7)]
    assert a.num_output_tokens == 4
    step(made)
    assert len(made) == 0


def test_the_youngest_gives_way_and_is_computed_again():
    a, b = sequence("a", 16, max_tokens=30), sequence("b", (5,) * 16, max_tokens=30)
    made = scheduler(a, b, blocks=2)
    step(made)
    assert (names(made.running), names(made.waiting)) == (["a", "b"], [])
    plan = made.schedule()  # both need a second block and there is none
    assert names(plan.preempted) == ["b"]
    assert shape(plan) == [("a", 16, 17)]
    assert names(made.waiting) == ["b"]
    made.complete(plan, [7])
    assert b.token_ids == [*b.request.prompt_ids, 7]  # what it had generated is kept


def test_a_step_that_preempts_admits_none():
    a, b = sequence("a", 16, max_tokens=16), sequence("b", (5,) * 16, max_tokens=16)
    made = scheduler(a, b, blocks=3)
    step(made)
    taken = made.blocks.allocate(1) or []  # the last one is taken
    made.add(sequence("small", 1))
    plan = made.schedule()
    assert names(plan.preempted) == ["b"]
    assert names(made.waiting) == ["b", "small"]
    made.blocks.release(taken)


def test_a_newcomer_finds_the_blocks_of_a_shared_prefix():
    a, b = sequence("a", 40), sequence("b", 40)
    made = scheduler(a)
    step(made)
    made.add(b)
    assert step(made) == [("a", 40, 41), ("b", 32, 40)]
    assert b.num_cached_tokens == 32
    assert a.block_table[:2] == b.block_table[:2]


def test_a_newcomer_with_another_salt_finds_nothing_and_waits_for_nobody():
    a, b, c = (sequence(n, 40, salt=s) for n, s in (("a", b"x"), ("b", b"y"), ("c", b"x")))
    made = scheduler(a, b, budget=128)
    assert step(made) == [("a", 0, 40), ("b", 0, 40)]
    made.add(c)
    assert step(made) == [("a", 40, 41), ("b", 40, 41), ("c", 32, 40)]


def test_without_a_salt_hashes_are_those_of_the_tokens_alone():
    first, second = sequence("a", 32).block_hashes(2, 16)
    tokens = [array("I", range(start, start + 16)).tobytes() for start in (0, 16)]
    assert first == hashlib.sha256(tokens[0]).digest()
    assert second == hashlib.sha256(first + tokens[1]).digest()
    assert sequence("a", 32, salt=b"x").block_hashes(2, 16)[0] not in (first, second)


def test_one_computes_a_shared_prefix_for_all_who_came_with_it():
    shared = tuple(range(40))
    made = scheduler(*(sequence(n, (*shared, i)) for i, n in enumerate("abc")))
    assert step(made) == [("a", 0, 41)]
    assert step(made) == [("a", 41, 42), ("b", 32, 41), ("c", 32, 41)]


def test_a_shared_prefix_is_waited_for_until_it_is_computed_as_far_as_it_goes():
    a, b = sequence("a", 60), sequence("b", (*range(40), 99))
    made = scheduler(a, b, budget=24)
    assert step(made) == [("a", 0, 24)]  # one block of two that they share
    assert step(made) == [("a", 24, 48)]
    assert step(made) == [("a", 48, 60), ("b", 32, 41)]


def test_a_shared_prefix_whose_request_was_aborted_is_computed_by_the_next_one():
    a, b = sequence("a", 40), sequence("b", 40)
    made = scheduler(a, b)
    plan = made.schedule()
    assert shape(plan) == [("a", 0, 40)]
    made.abort("a")
    assert made.schedule().chunks == ()  # a step ahead: the step in flight still counts
    made.complete(plan, [7])
    assert step(made) == [("b", 0, 40)]


def test_no_request_waits_for_a_prefix_without_a_cache():
    made = scheduler(sequence("a", 40), sequence("b", 40), budget=128, caching=False)
    assert step(made) == [("a", 0, 40), ("b", 0, 40)]


def test_the_last_token_is_computed_even_if_all_is_cached():
    made = scheduler(sequence("a", 32, max_tokens=1))
    step(made)
    b = sequence("b", 32)
    made.add(b)
    assert step(made) == [("b", 16, 32)]


def test_a_preempted_sequence_finds_its_own_blocks_again():
    a, b = sequence("a", 16, max_tokens=3), sequence("b", tuple(range(100, 131)))
    made = scheduler(a, b, blocks=4)
    assert step(made) == [("a", 0, 16), ("b", 0, 31)]
    assert step(made) == [("a", 16, 17), ("b", 31, 32)]
    assert step(made) == [("a", 17, 18)]  # b lacked a block
    assert step(made) == [("b", 32, 33)]
    assert b.num_cached_tokens == 0  # of its prompt, when it came


def test_without_caching_nothing_is_found():
    a, b = sequence("a", 40), sequence("b", 40)
    made = scheduler(a, b, caching=False, budget=40)
    assert [step(made), step(made)] == [[("a", 0, 40)], [("a", 40, 41), ("b", 0, 39)]]
    assert b.num_cached_tokens == 0


def test_a_big_request_is_not_overtaken_by_small_ones_behind_it():
    made = scheduler(sequence("a", 16, max_tokens=2), blocks=4)
    step(made)
    made.add(sequence("big", 60, max_tokens=4))
    made.add(sequence("small", 1))
    step(made)
    assert names(made.waiting) == ["big", "small"]
    step(made)
    assert names(made.running) == ["big"]


def test_abort_works_in_every_state():
    running, half, waiting = sequence("running", 4), sequence("half", 100), sequence("waiting", 4)
    made = scheduler(running, half, waiting, budget=32, sequences=2)
    step(made)
    assert (half.num_computed, names(made.waiting)) == (28, ["waiting"])
    assert all(made.abort(name) for name in ("waiting", "half", "running"))
    assert not made.abort("running")
    assert (len(made), made.blocks.used) == (0, 0)


def test_imports_no_torch():
    code = (
        "import sys; import modelfleet_worker.engine.engine, modelfleet_worker.devices.paced;"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_sequence_that_outgrows_its_variant_is_computed_anew():
    variants = ContextVariants(original_context=6, by_length=False, recomputes=True)
    made = scheduler(sequence("a", 4), sequence("b", 3), variants=variants)
    assert step(made) == [("a", 0, 4), ("b", 0, 3)]
    assert step(made) == [("a", 4, 5), ("b", 3, 4)]
    assert step(made) == [("a", 5, 6), ("b", 4, 5)]
    assert step(made) == [("b", 5, 6), ("a", 0, 7)]
    assert step(made) == [("a", 7, 8), ("b", 0, 7)]


def test_sequences_of_different_variants_share_no_blocks():
    variants = ContextVariants(original_context=40, by_length=True)
    long = tuple(range(60))
    made = scheduler(variants=variants, sequences=1)
    cached = []
    for name, prompt in (("a", long), ("b", long[:50]), ("c", long), ("d", long[:35])):
        one = sequence(name, prompt, max_tokens=1)
        made.add(one)
        step(made)
        cached.append(one.num_cached_tokens)
    assert cached == [0, 0, 48, 0]


def test_the_length_by_which_tokens_are_computed():
    one = sequence("a", 4, resumed=3)
    alone = ContextVariants(original_context=2, by_length=True)
    assert alone.reaches(one, 1, 7) == [4, 4, 4, 5, 6, 7]
    anew = ContextVariants(original_context=2, by_length=False, recomputes=True)
    assert anew.reaches(one, 1, 3) == [7, 7]
