"""What a worker is told to load, checked before anything is read."""

from typing import Any, get_args

import pytest

from modelfleet_operator.api.model_spec import Model as DeploymentModel
from modelfleet_proto import worker_pb2 as pb
from modelfleet_worker.errors import InvalidRequestError, UsageError
from modelfleet_worker.quantities import parse_bytes
from modelfleet_worker.quantization.scheme import KVFormat, Override, Quantization, Weights
from modelfleet_worker.spec import Dtype, GenerationDefaults, ModelSpec
from modelfleet_worker.task import Task
from modelfleet_worker.text.output.styles import REASONING_PARSERS, TOOL_PARSERS


def test_empty_fields_are_the_defaults():
    told = pb.ModelSpec(model="default/smollm2", source="hf://a/b")
    assert ModelSpec.from_proto(told) == ModelSpec(model="default/smollm2", source="hf://a/b")


def test_every_field_arrives():
    told = pb.ModelSpec(
        model="ns/name",
        source="file:///m",
        revision="v2",
        dtype="Float32",
        context_length=512,
        max_sequences=3,
        max_batch_tokens=64,
        kv_cache_bytes=2**20,
        disable_prefix_caching=True,
        deterministic=True,
        generation_defaults="None",
        tool_parser="Hermes",
        reasoning_parser="None",
        task="Embed",
        quantization=pb.Quantization(
            weights="int4",
            group_size=32,
            overrides=[pb.QuantizationOverride(modules="*.down_proj", weights="int8")],
            kv_cache="int8",
        ),
    )
    assert ModelSpec.from_proto(told) == ModelSpec(
        model="ns/name",
        source="file:///m",
        revision="v2",
        dtype=Dtype.FLOAT32,
        context_length=512,
        max_sequences=3,
        max_batch_tokens=64,
        kv_cache_bytes=2**20,
        prefix_caching=False,
        deterministic=True,
        generation_defaults=GenerationDefaults.NONE,
        tool_parser="Hermes",
        reasoning_parser="None",
        task=Task.EMBED,
        quantization=Quantization(
            weights=Weights.INT4,
            group_size=32,
            overrides=(Override("*.down_proj", Weights.INT8),),
            kv_cache=KVFormat.INT8,
        ),
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        pytest.param({"model": "smollm2"}, "namespace/name", id="a short name"),
        pytest.param({"source": ""}, "no source", id="no source"),
        pytest.param(
            {"quantization": {"weights": "int3"}}, "none, int8, int4, found 'int3'", id="int3"
        ),
        pytest.param(
            {"quantization": {"group_size": 48}}, "32, 64, 128, found 48", id="an odd group"
        ),
        pytest.param({"quantization": {"kv_cache": "fp8"}}, "auto, int8, found 'fp8'", id="fp8"),
        pytest.param({"dtype": "float32"}, "Auto, Float32", id="another spelling of a dtype"),
        pytest.param({"tool_parser": "hermes"}, "Auto, None, Gemma.*'hermes'", id="a parser"),
        pytest.param({"reasoning_parser": "Llama"}, "Think.*'Llama'", id="a reasoning parser"),
        pytest.param({"task": "embed"}, "Auto, Generate, Embed, found 'embed'", id="another task"),
        pytest.param(
            {"generation_defaults": "vllm"}, "Checkpoint, None, found 'vllm'", id="other defaults"
        ),
    ],
)
def test_says_what_it_expected(wrong: dict[str, Any], message: str):
    told = pb.ModelSpec(**({"model": "a/b", "source": "hf://a/b"} | wrong))
    with pytest.raises(InvalidRequestError, match=message):
        ModelSpec.from_proto(told)


@pytest.mark.parametrize(
    ("quantity", "size"),
    [("1", 1), ("512Mi", 2**29), ("2Gi", 2**31), ("1.5Ki", 1536), ("3k", 3000), ("2G", 2 * 10**9)],
)
def test_reads_quantities_as_kubernetes_does(quantity: str, size: int):
    assert parse_bytes(quantity) == size


@pytest.mark.parametrize("quantity", ["", "0", "-1Gi", "2gb", "Gi", "1 Gi", "0.1", "nan"])
def test_refuses_what_is_no_size(quantity: str):
    with pytest.raises(UsageError, match="expected a size like"):
        parse_bytes(quantity)


def test_a_deployment_may_name_the_parsers_that_there_are():
    fields = DeploymentModel.model_fields
    assert get_args(fields["tool_parser"].annotation) == TOOL_PARSERS
    assert get_args(fields["reasoning_parser"].annotation) == REASONING_PARSERS
