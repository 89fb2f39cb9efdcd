"""For every test, before anything is imported that looks at these: as a worker sets them."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # torch here and workers beside it share the cores

# The longest files, in seconds of two cores (2026-11-30): begun at the end, one would run alone.
FIRST = (
    "integration/test_story.py",
    "worker/models/test_smollm2.py",
    "worker/test_memory_limit.py",
    "worker/engine/test_scheduler_fuzz.py",
    "worker/models/test_generic.py",
    "worker/serving/test_service_smollm2.py",
    "worker/models/test_long_contexts.py",
    "worker/storage/test_storage_processes.py",
    "gateway/test_gateway_paced_fleet.py",
    "gateway/test_gateway_process.py",
    "operator/local/test_up_processes.py",
    "worker/serving/test_process.py",
    "operator/cluster/test_operator_process.py",
    "worker/quantize/test_quantize_command.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; within a file, and among all others, the order stays."""
    tests = Path(__file__).parent
    place = {tests / name: number for number, name in enumerate(FIRST)}
    items.sort(key=lambda item: place.get(item.path, len(FIRST)))
