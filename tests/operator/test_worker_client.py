"""LoadModel says what the flags of a worker of its own would say: a real worker compares them."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from modelfleet_operator.api.manifests import check_manifest
from modelfleet_operator.errors import PassingError, RejectedError
from modelfleet_operator.local.processes import Child
from modelfleet_operator.views import model_flags
from modelfleet_operator.worker_client import load_model, model_spec

pytestmark = pytest.mark.integration

Start = Callable[..., Awaitable[str]]
EVERYTHING: dict[str, Any] = {
    "model": {
        "source": "hf://owner/name",
        "revision": "v1",
        "dtype": "Float32",
        "contextLength": 512,
        "generationDefaults": "None",
        "toolParser": "Hermes",
        "reasoningParser": "Think",
        "task": "Generate",
    },
    "engine": {
        "maxSequences": 3,
        "maxBatchTokens": 99,
        "kvCacheMemory": "1.5Gi",
        "prefixCaching": False,
        "deterministic": True,
    },
    "quantization": {
        "weights": "Int4",
        "groupSize": 32,
        "overrides": [{"modules": "*.down_proj", "weights": "Int8"}],
        "kvCache": "Int8",
    },
}


def flags_of(**spec: Any) -> list[str]:
    problems, manifest = check_manifest(
        {
            "apiVersion": "modelfleet.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "smol"},
            "spec": {"model": {"source": "hf://owner/name"}, **spec},
        }
    )
    assert manifest is not None, problems
    return model_flags(manifest)


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """A worker that loads for ever: `await start(*flags)` is its address."""
    children: list[Child] = []
    calibration = tmp_path / "slow.json"
    calibration.write_text(json.dumps({"load_seconds": 600}))

    async def begin(*flags: str) -> str:
        paced = ["--device", "paced", "--calibration", str(calibration)]
        child = await Child.start(
            [sys.executable, "-m", "modelfleet_worker", "--listen", "127.0.0.1:0", *paced, *flags],
            address_file=tmp_path / f"address-{len(children)}",
            log_file=tmp_path / "log",
            show=lambda line: None,
        )
        children.append(child)
        address = await child.address()
        assert address is not None, (tmp_path / "log").read_text()
        return address

    yield begin
    for child in children:
        child.send(signal.SIGKILL)
        await child.wait()


async def test_a_claimed_worker_is_told_what_its_own_flags_would_say(start: Start):
    for flags in (flags_of(), flags_of(**EVERYTHING)):
        address = await start(*flags)
        await load_model(address, flags)  # the same: it goes on
        with pytest.raises(RejectedError, match="with other settings"):
            await load_model(address, [*flags, "--context-length=7"])
        with pytest.raises(RejectedError, match="another model"):
            await load_model(address, ["--model=default/other", *flags[1:]])


async def test_a_standby_begins_to_load_and_a_worker_that_is_gone_is_a_passing_error(start: Start):
    address = await start("--preload")
    await load_model(address, flags_of())
    await load_model(address, flags_of())
    with pytest.raises(PassingError, match="to load default/smol"):
        await load_model("127.0.0.1:1", flags_of())


def test_a_flag_that_is_none_of_the_models_is_an_error():
    with pytest.raises(ValueError, match="--listen"):
        model_spec(["--listen=1:2"])
