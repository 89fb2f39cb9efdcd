"""For every test, before anything is imported that looks at these: as a worker sets them."""

import os
from pathlib import Path

import grpc
import pytest
from hypothesis import settings

os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # torch here and workers beside it share the cores
settings.register_profile("without deadlines", deadline=None)  # a busy machine must not fail a test
settings.load_profile("without deadlines")

# Never given back: grpc 1.85 joins its poller when the last server or channel of a process goes,
# and where another event loop's call is still open then, as between tests, it joins for ever.
grpc.aio.init_grpc_aio()

# The longest files, in seconds of two cores (2026-11-30): begun at the end, one would run alone.
FIRST = (
    "integration/test_story.py",
    "integration/test_scaling.py",
    "worker/models/test_smollm2.py",
    "worker/test_memory_limit.py",
    "operator/local/test_notices_processes.py",
    "operator/explain/test_snapshot.py",
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

# Folders and files of tests that only compute: nobody waits for them with a clock, so that none is
# late when it gets what processors have left. `.ci/run` runs them beside all others.
UNTIMED = (
    "gateway/batches/test_batch_lines.py",
    "gateway/batches/test_batch_window.py",
    "gateway/openai_api",
    "operator/api",
    "operator/decisions",
    "operator/explain/test_snapshot.py",
    "operator/simulate",
    "worker/devices",
    "worker/engine/test_scheduler.py",
    "worker/engine/test_scheduler_fuzz.py",
    "worker/loading/test_generic_loading.py",
    "worker/loading/test_loader.py",
    "worker/loading/test_loading_rules.py",
    "worker/loading/test_quantized_loading.py",
    "worker/loading/test_tied_head.py",
    "worker/models",
    "worker/quantization",
    "worker/quantize",
    "worker/text",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; within a file, and among all others, the order stays."""
    tests = Path(__file__).parent
    place = {tests / name: number for number, name in enumerate(FIRST)}
    items.sort(key=lambda item: place.get(item.path, len(FIRST)))
    for item in items:
        if any(item.path.is_relative_to(tests / name) for name in UNTIMED):
            item.add_marker(pytest.mark.untimed)
