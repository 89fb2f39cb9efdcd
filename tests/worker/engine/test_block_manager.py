"""The pool of cache blocks."""

from __future__ import annotations

import pytest

from modelfleet_worker.engine.block_manager import BlockManager


def test_hands_out_every_block_once_and_then_none():
    blocks = BlockManager(4)
    table = blocks.allocate(4)
    assert table is not None
    assert sorted(table) == [0, 1, 2, 3]
    assert blocks.allocate(1) is None
    blocks.check([table])


def test_takes_all_or_nothing():
    blocks = BlockManager(4)
    assert blocks.allocate(5) is None
    assert blocks.available == 4


def test_finds_a_released_block_again_by_its_content():
    blocks = BlockManager(4)
    table = blocks.allocate(2) or []
    blocks.publish(table[0], b"a")
    blocks.release(table)
    assert (blocks.cached, blocks.used) == (1, 0)
    found = blocks.hold_cached([b"a", b"b"])
    assert found == table[:1]
    assert (blocks.cached, blocks.used) == (0, 1)
    blocks.check([found])


def test_shares_a_block_between_its_holders():
    blocks = BlockManager(4)
    first = blocks.allocate(1) or []
    blocks.publish(first[0], b"a")
    second = blocks.hold_cached([b"a"])
    blocks.release(first)
    blocks.check([second])
    assert blocks.used == 1


def test_a_prefix_ends_at_the_first_unknown_block():
    blocks = BlockManager(4)
    table = blocks.allocate(3) or []
    for block, block_hash in zip(table, [b"a", b"b", b"c"], strict=True):
        blocks.publish(block, block_hash)
    assert blocks.hold_cached([b"a", b"x", b"c"]) == table[:1]


def test_evicts_what_was_held_longest_ago_and_tails_before_heads():
    blocks = BlockManager(4)
    old, young = blocks.allocate(2) or [], blocks.allocate(2) or []
    for block, block_hash in zip(old + young, [b"o1", b"o2", b"y1", b"y2"], strict=True):
        blocks.publish(block, block_hash)
    blocks.release(old)
    blocks.release(young)
    assert blocks.allocate(3) == [old[1], old[0], young[1]]
    assert blocks.hold_cached([b"y1", b"y2"]) == young[:1]


def test_the_second_of_two_equal_blocks_stays_unknown():
    blocks = BlockManager(4)
    first, second = blocks.allocate(1) or [], blocks.allocate(1) or []
    blocks.publish(first[0], b"a")
    blocks.publish(second[0], b"a")
    blocks.release(second)
    assert blocks.cached == 0
    assert blocks.hold_cached([b"a"]) == first
    blocks.check([first, first])


def test_check_notices_a_leak():
    blocks = BlockManager(4)
    blocks.allocate(1)
    with pytest.raises(AssertionError, match=r"block 0: 1 references, in 0 tables"):
        blocks.check([])
