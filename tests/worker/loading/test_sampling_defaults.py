"""What generation_config.json says reaches the requests that do not, and the digest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from modelfleet_proto import worker_pb2 as pb
from modelfleet_worker.errors import ModelError
from modelfleet_worker.loading.device_loaders import Loaded, cpu_loader
from modelfleet_worker.models.generation_config import NO_DEFAULTS, SamplingDefaults
from modelfleet_worker.spec import GenerationDefaults, ModelSpec
from modelfleet_worker.storage.cache import Cache
from tiny_model import write_tiny_model


def load(folder: Path, use: GenerationDefaults = GenerationDefaults.CHECKPOINT) -> Loaded:
    spec = ModelSpec(model="a/b", source=f"file://{folder}", generation_defaults=use)
    return cpu_loader(folder, Cache(folder.parent / "remote"))(spec, lambda *_: None)


@pytest.fixture
def folder(tmp_path: Path, smollm2: Path) -> Path:
    write_tiny_model(tmp_path / "model", smollm2)
    return tmp_path / "model"


def say(folder: Path, **content: object) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, **content}))


def test_the_deployment_decides_whether_they_are_in_force(folder: Path):
    say(folder)
    without = load(folder)
    say(folder, repetition_penalty=1.25)
    with_them = load(folder)
    assert with_them.sampling_defaults == SamplingDefaults(repetition_penalty=1.25)
    assert with_them.digest != without.digest, "a stream must not go on under other rules"
    off = load(folder, GenerationDefaults.NONE)
    assert (off.sampling_defaults, off.digest) == (NO_DEFAULTS, without.digest)
    assert off.eos_ids == with_them.eos_ids


def test_a_value_that_cannot_be_fails_the_load_unless_it_is_not_asked_for(folder: Path):
    say(folder, top_p=7)
    with pytest.raises(
        ModelError, match=r"top_p is 7.*set spec\.model\.generationDefaults to None"
    ):
        load(folder)
    assert load(folder, GenerationDefaults.NONE)


async def test_requests_draw_by_them_and_a_request_that_says_otherwise_does_not(
    start_worker, paced
):
    def load(spec, report):
        return replace(paced()(spec, report), sampling_defaults=SamplingDefaults(temperature=0.0))

    worker = await (await start_worker(load)).ready()
    unstated = pb.Sampling(temperature=1, top_p=1, unstated=pb.Unstated(temperature=True))
    stated = pb.Sampling(temperature=1, top_p=1)
    greedy = [(await worker.generate(sampling=unstated, seed=seed)).ids for seed in (1, 2)]
    drawn = [(await worker.generate(sampling=stated, seed=seed)).ids for seed in (1, 2)]
    assert greedy[0] == greedy[1]
    assert drawn[0] != drawn[1]


async def test_a_stream_is_not_resumed_under_other_defaults(start_worker, paced):
    def load(spec, report):
        return replace(paced()(spec, report), sampling_defaults=SamplingDefaults(top_k=20))

    first = await (await start_worker()).ready()
    second = await (await start_worker(load)).ready()
    resume = pb.Resume(token_ids=[5], model_digest=(await first.stats()).model_digest)
    code, _ = await second.refusal(second.generate(resume=resume))
    assert code.name == "FAILED_PRECONDITION"
