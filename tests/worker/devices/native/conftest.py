"""Tests of the compiled step on every set of instructions that this machine has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from modelfleet_worker.devices.native import library
from native_sets import HERE, ONE_OF_EACH_ARITHMETIC


def forced(name: str | None) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODELFLEET_ISA", name or "off")
        chosen = library.instruction_set()
        if chosen is None:
            pytest.skip("needs a compiler, and a processor with AVX2 or ARM's dot products")
        assert chosen.name == name
        yield chosen.name


@pytest.fixture(scope="module", params=HERE or [None])
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """One after another, all in this process."""
    yield from forced(request.param)


@pytest.fixture(scope="module", params=ONE_OF_EACH_ARITHMETIC or [None])
def arithmetic(request: pytest.FixtureRequest) -> Iterator[str]:
    """A set of each."""
    yield from forced(request.param)
