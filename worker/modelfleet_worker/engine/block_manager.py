"""The pool of KV cache blocks: reference counts, lookup by content, eviction of the oldest."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence


class BlockManager:
    """Hands out block numbers; knows no tokens and no tensors.

    A block is held (by the tables that list it), cached (by no table: found again by its hash, and
    evicted oldest first) or free. Every operation is O(1) per block.
    """

    def __init__(self, num_blocks: int, *, caching: bool = True) -> None:
        self.num_blocks = num_blocks
        self.caching = caching
        self._references = [0] * num_blocks
        self._hash_of: list[bytes | None] = [None] * num_blocks
        self._block_of: dict[bytes, int] = {}
        self._free = list(reversed(range(num_blocks)))
        self._cached: OrderedDict[int, None] = OrderedDict()  # least recently held first

    @property
    def available(self) -> int:
        """Blocks that `allocate` can hand out."""
        return len(self._free) + len(self._cached)

    @property
    def used(self) -> int:
        """Blocks that some table holds."""
        return self.num_blocks - self.available

    @property
    def cached(self) -> int:
        """Blocks that no table holds and that can be found again."""
        return len(self._cached)

    def hold_cached(self, block_hashes: Iterable[bytes]) -> list[int]:
        """Takes a reference on each block of the longest known prefix of `block_hashes`."""
        found: list[int] = []
        for block_hash in block_hashes:
            block = self._block_of.get(block_hash)
            if block is None:
                break
            if self._references[block] == 0:
                del self._cached[block]
            self._references[block] += 1
            found.append(block)
        return found

    def allocate(self, count: int) -> list[int] | None:
        """Takes `count` blocks of unknown content, or none at all if there are not enough."""
        if count > self.available:
            return None
        return [self._take() for _ in range(count)]

    def _take(self) -> int:
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._cached.popitem(last=False)
            self._forget(block)
        self._references[block] = 1
        return block

    def _forget(self, block: int) -> None:
        block_hash = self._hash_of[block]
        if block_hash is not None:
            del self._block_of[block_hash]
            self._hash_of[block] = None

    def publish(self, block: int, block_hash: bytes) -> None:
        """Makes a held, full and computed block known by its content.

        If another block has the same content, that one stays the known one: tables only grow, a
        number in them is never exchanged.
        """
        if self._hash_of[block] is None and block_hash not in self._block_of:
            self._hash_of[block] = block_hash
            self._block_of[block_hash] = block

    def release(self, table: Sequence[int]) -> None:
        """Drops one reference on each block; of one chain the tail is evicted before the head."""
        for block in reversed(table):
            self._references[block] -= 1
            if self._references[block] > 0:
                continue
            if self._hash_of[block] is None:
                self._free.append(block)
            else:
                self._cached[block] = None

    def check(self, tables: Iterable[Sequence[int]]) -> None:
        """Raises AssertionError unless every block is exactly what the living tables say."""
        held = Counter(block for table in tables for block in table)
        for block, references in enumerate(self._references):
            if references != held[block]:
                raise AssertionError(
                    f"block {block}: {references} references, in {held[block]} tables"
                )
        everything = [*self._free, *self._cached, *held]
        if sorted(everything) != list(range(self.num_blocks)):
            raise AssertionError(
                f"{len(self._free)} free + {len(self._cached)} cached + {len(held)} held"
                f" are not the {self.num_blocks} blocks"
            )
        known = {block: block_hash for block_hash, block in self._block_of.items()}
        if known != {b: h for b, h in enumerate(self._hash_of) if h is not None}:
            raise AssertionError("the two directions of the hash table differ")
        if any(self._hash_of[b] is not None for b in self._free) or not all(
            block in known for block in self._cached
        ):
            raise AssertionError("a free block has a hash, or a cached one has none")
