"""The CRD and the pydantic models are one API: the same manifests pass, with the same defaults."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import celpy
import jsonschema
import pytest
import yaml
from pydantic import ValidationError

from modelfleet_operator.api.accelerator_class import AcceleratorClass
from modelfleet_operator.api.crd import (
    ACCELERATOR_CLASS,
    MODEL_DEPLOYMENT,
    OBJECTS,
    REFERENCE_FILE,
    WARM_POOL,
    ApiObject,
    crd_text,
    object_schema,
    reference,
)
from modelfleet_operator.api.manifests import check_manifest
from modelfleet_operator.api.model_deployment import ModelDeployment
from modelfleet_operator.api.warm_pool import WarmPool
from modelfleet_operator.decisions.cold_start import PHASES, WakePhase
from modelfleet_operator.decisions.memory import Memory
from modelfleet_operator.decisions.model_memory import REPORTED, ModelNeeds
from modelfleet_operator.decisions.placement_figures import PlaceFigures, PlacementStatus
from modelfleet_operator.decisions.pool_status import PoolCondition, PoolStatus, render_pool
from modelfleet_operator.decisions.rendering import render
from modelfleet_operator.decisions.status import (
    ColdStartProgress,
    Condition,
    Interruption,
    LearnedColdStart,
    Queue,
    ScalingEvent,
    Status,
)
from modelfleet_operator.decisions.throughput import Basis

SCHEMA = object_schema(MODEL_DEPLOYMENT)
CLASS_SCHEMA = object_schema(ACCELERATOR_CLASS)
POOL_SCHEMA = object_schema(WARM_POOL)
each_object = pytest.mark.parametrize("of", OBJECTS, ids=lambda of: of.kind)


def manifest(name: str = "smol", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "modelfleet.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name},
        "spec": {"model": {"source": "hf://owner/name"}, **spec},
    }


def model(**fields: Any) -> dict[str, Any]:
    return manifest(model={"source": "hf://owner/name", **fields})


def admitted(
    document: dict[str, Any], schema: dict[str, Any] = SCHEMA
) -> tuple[dict[str, Any], list[str]]:
    """As an API server does it: nulls pruned, defaults set, schema, list types, CEL."""
    document = _with_defaults(_without_nulls(copy.deepcopy(document)), schema)
    errors = [e.message for e in jsonschema.Draft202012Validator(schema).iter_errors(document)]
    errors += _list_errors(document, schema) or []
    # Strict field validation (kubectl's default) refuses what the schema does not know.
    errors += _unknown_fields(document["spec"], schema["properties"]["spec"])
    return document, errors or list(_rule_errors(document, schema))


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return value


def _with_defaults(value: Any, schema: dict[str, Any]) -> Any:
    if isinstance(value, list):
        return [_with_defaults(entry, schema.get("items", {})) for entry in value]
    if not isinstance(value, dict):
        return value
    for name, field in schema.get("properties", {}).items():
        if name not in value and "default" in field:
            value[name] = copy.deepcopy(field["default"])
        if name in value:
            value[name] = _with_defaults(value[name], field)
    return value


def _list_errors(value: Any, schema: dict[str, Any]) -> list[str]:
    errors = []
    if isinstance(value, list) and schema.get("x-kubernetes-list-type") == "set":
        errors += ["duplicate"] if len({str(v) for v in value}) < len(value) else []
    if isinstance(value, list) and (keys := schema.get("x-kubernetes-list-map-keys")):
        found = {tuple(str(v.get(key)) for key in keys) for v in value}
        errors += ["duplicate"] if len(found) < len(value) else []
    if isinstance(value, dict):
        for name, field in schema.get("properties", {}).items():
            errors += _list_errors(value.get(name), field)
    return errors


def figures(accelerator: str, basis: Basis) -> PlaceFigures:
    return PlaceFigures(
        accelerator=accelerator, capacity="Spot", cost=0.781, tokens=1240, basis=basis, why="dearer"
    )


def _unknown_fields(value: Any, schema: dict[str, Any]) -> list[str]:
    if not isinstance(value, dict) or "properties" not in schema:
        return []
    errors = [name for name in value if name not in schema["properties"]]
    for name, field in schema["properties"].items():
        errors += _unknown_fields(value.get(name), field)
    return errors


def _rule_errors(value: Any, schema: dict[str, Any]) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", ()):
        environment = celpy.Environment()
        program = environment.program(environment.compile(rule["rule"]))
        if not program.evaluate({"self": celpy.json_to_cel(value)}):
            yield rule["message"]
    if isinstance(value, list):
        for entry in value:
            yield from _rule_errors(entry, schema["items"])
    if isinstance(value, dict):
        for name, field in schema.get("properties", {}).items():
            if name in value:
                yield from _rule_errors(value[name], field)


VALID = [
    pytest.param(manifest(), id="only what is required"),
    pytest.param(manifest(scaling={"minReplicas": 0, "maxReplicas": 8}), id="the design's example"),
    pytest.param(manifest(scaling=None, engine={"kvCacheMemory": None}), id="nulls are absent"),
    pytest.param(manifest(scaling={"minReplicas": 5}), id="a minimum alone raises the maximum"),
    pytest.param(manifest(scaling={"mode": "External", "replicas": 0}), id="scaled from outside"),
    pytest.param(manifest(scaling={"idleTimeout": "1h30m", "scaleDownDelay": "0s"}), id="times"),
    pytest.param(manifest(engine={"kvCacheMemory": "1.5Gi"}), id="memory"),
    pytest.param(manifest(coldStart={"warmPool": "gpus"}), id="a warm pool"),
    pytest.param(manifest(coldStart={"warmPool": "None"}), id="no warm pool"),
    pytest.param(
        manifest(
            quantization={
                "weights": "Int4",
                "groupSize": 32,
                "overrides": [{"modules": "*.down_proj", "weights": "Int8"}],
                "kvCache": "Int8",
            }
        ),
        id="quantization",
    ),
    pytest.param(model(revision="v1.0", contextLength=4096), id="a revision"),
    pytest.param(model(generationDefaults="None"), id="no generation defaults"),
    pytest.param(model(toolParser="Harmony", reasoningParser="None"), id="parsers"),
    pytest.param(model(task="Embed"), id="a task"),
    pytest.param(model(tokenSecretRef={"name": "hub", "key": "token"}), id="a token"),
    pytest.param(model(servedNames=["gpt-4o", "smol:latest", "Qwen2.5"]), id="served names"),
    pytest.param(model(servedNames=[]), id="no short name at all"),
    pytest.param(model(source="file:///models/smol lm"), id="a folder with a space"),
    pytest.param(model(source="pvc://models"), id="a whole claim"),
    pytest.param(model(source="pvc://models/llama/8b"), id="a folder in a claim"),
    pytest.param(model(source="s3://my.bucket/llama/8b/"), id="a folder in a bucket"),
    pytest.param(model(source="oci://localhost:5000/smol:v1.0"), id="a registry with a port"),
    pytest.param(
        model(source=f"oci://registry.example/team/smol_lm@sha256:{'0a' * 32}"), id="a digest"
    ),
    pytest.param(manifest(name="n" * 63), id="the longest name"),
    pytest.param(manifest(coldStart={"holdTimeout": "0s", "maxQueue": 1}), id="hold nothing"),
    pytest.param(manifest(placement={"accelerators": ["h100", "a10"]}), id="two classes"),
    pytest.param(
        manifest(
            placement={
                "accelerators": ["h100", "a10"],
                "strategy": "Cheapest",
                "minSaving": "30%",
            }
        ),
        id="the cheaper of two classes",
    ),
    pytest.param(manifest(placement={"fallbackAfter": "10m"}), id="a time alone"),
    pytest.param(manifest(placement={"spot": {}}), id="spot where there is some"),
    pytest.param(manifest(placement={"spot": {"policy": "Only"}}), id="spot only"),
    pytest.param(
        manifest(
            placement={"spot": {"policy": "Prefer", "onDemandBase": 4, "maxSpotShare": "50%"}},
            scaling={"maxReplicas": 4},
        ),
        id="spot in part",
    ),
    pytest.param(
        manifest(placement={"spot": {"onDemandBase": 9}}, scaling={"mode": "External"}),
        id="a base that another controller may reach",
    ),
    pytest.param(manifest(routing={"policy": "LeastOutstanding"}), id="routing"),
    pytest.param(manifest(rollout={"maxSurge": "25%", "maxUnavailable": "10%"}), id="percent"),
    pytest.param(manifest(rollout={"maxSurge": 0, "maxUnavailable": 1}), id="without surge"),
    pytest.param(manifest(rollout={"revisionHistoryLimit": 0}), id="no history"),
    pytest.param(
        manifest(
            podTemplate={
                "metadata": {"labels": {"team": "a"}, "annotations": {"note": "a b"}},
                "spec": {"nodeSelector": {"zone": "a"}, "containers": [{"name": "worker"}]},
            }
        ),
        id="a pod template",
    ),
]
INVALID = [
    pytest.param(manifest(coldStart={"warmPool": "Gpus"}), id="no name of a warm pool"),
    pytest.param(manifest(routing={"policy": "RoundRobin"}), id="no policy of ours"),
    pytest.param({**manifest(), "spec": {}}, id="no model"),
    pytest.param(manifest(model={}), id="no source"),
    pytest.param(manifest(model="hf://owner/name"), id="text for an object"),
    pytest.param(model(source="owner/name"), id="no scheme"),
    pytest.param(model(source="hf://name"), id="no owner"),
    pytest.param(model(source="hf://owner/name/more"), id="too deep"),
    pytest.param(model(source="file://relative"), id="a relative folder"),
    pytest.param(model(source="gs://bucket/key"), id="a scheme that does not exist"),
    pytest.param(model(source="pvc:///path"), id="a path without its claim"),
    pytest.param(model(source="s3://Bucket/key"), id="no name of a bucket"),
    pytest.param(model(source="oci://registry.example/models/smol"), id="neither tag nor digest"),
    pytest.param(model(source="oci://registry.example:v1"), id="a registry without a repository"),
    pytest.param(model(source="oci://r.example/smol@sha256:abc"), id="half a digest"),
    pytest.param(model(source="file:///x", revision="v1"), id="a revision of a folder"),
    pytest.param(
        model(source="file:///x", tokenSecretRef={"name": "a", "key": "b"}),
        id="a token for a folder",
    ),
    pytest.param(model(tokenSecretRef={"name": "a"}), id="half a reference"),
    pytest.param(model(servedNames=["a/b"]), id="a name that may be another's full name"),
    pytest.param(model(servedNames=["a", "a"]), id="a name twice"),
    pytest.param(model(servedNames=["-a"]), id="a name like a flag"),
    pytest.param(model(servedNames=[f"n{i}" for i in range(17)]), id="too many names"),
    pytest.param(model(servedNames="a"), id="text for a list"),
    pytest.param(model(dtype="float16"), id="an unknown dtype"),
    pytest.param(model(generationDefaults="none"), id="unknown generation defaults"),
    pytest.param(model(toolParser="hermes"), id="unknown tool parser"),
    pytest.param(model(task="embed"), id="an unknown task"),
    pytest.param(model(contextLength=0), id="no context"),
    pytest.param(model(contextLength="4096"), id="a number in quotes"),
    pytest.param(manifest(engine={"maxSequences": 0}), id="no slot"),
    pytest.param(manifest(engine={"maxSequences": 1.5}), id="a broken number"),
    pytest.param(manifest(engine={"prefixCaching": "true"}), id="a boolean in quotes"),
    pytest.param(manifest(engine={"kvCacheMemory": "2GB"}), id="an unknown unit"),
    pytest.param(manifest(quantization={"groupSize": 48}), id="a group of another size"),
    pytest.param(manifest(quantization={"weights": "int8"}), id="a format in small letters"),
    pytest.param(manifest(engine={"kvCacheMemory": "0"}), id="no memory"),
    pytest.param(manifest(engine={"kvCacheMemory": 1024}), id="a number for a quantity"),
    pytest.param(manifest(scaling={"minReplicas": -1}), id="less than none"),
    pytest.param(manifest(scaling={"minReplicas": True}), id="a boolean for a number"),
    pytest.param(manifest(scaling={"minReplicas": 3, "maxReplicas": 2}), id="a minimum too high"),
    pytest.param(manifest(scaling={"maxReplicas": 0}), id="never a worker"),
    pytest.param(manifest(scaling={"replicas": 1}), id="replicas in mode Auto"),
    pytest.param(manifest(scaling={"mode": "auto"}), id="an unknown mode"),
    pytest.param(manifest(scaling={"minReplica": 1}), id="a misspelled field"),
    pytest.param(manifest(scaling={"idleTimeout": 300}), id="a number for a duration"),
    pytest.param(manifest(scaling={"idleTimeout": "5 m"}), id="a space in a duration"),
    pytest.param(manifest(scaling={"idleTimeout": "-5m"}), id="a negative duration"),
    pytest.param(manifest(coldStart={"holdTimeout": ""}), id="an empty duration"),
    pytest.param(manifest(coldStart={"maxQueue": 0}), id="no queue"),
    pytest.param(manifest(placement={"accelerators": ["h100", "h100"]}), id="a class twice"),
    pytest.param(manifest(placement={"strategy": "Cheapest"}), id="the cheapest of none"),
    pytest.param(manifest(placement={"strategy": "Best"}), id="no strategy"),
    pytest.param(
        manifest(placement={"accelerators": ["h100"], "minSaving": "30%"}), id="a saving in order"
    ),
    pytest.param(manifest(placement={"accelerators": ["H100"]}), id="a class in capitals"),
    pytest.param(
        manifest(placement={"accelerators": [f"c{n}" for n in range(9)]}), id="too many classes"
    ),
    pytest.param(manifest(rollout={"maxSurge": 0}), id="nothing could be replaced"),
    pytest.param(manifest(rollout={"maxSurge": "0%"}), id="nor with no percent"),
    pytest.param(manifest(rollout={"maxSurge": -1}), id="less than no surge"),
    pytest.param(manifest(rollout={"maxSurge": "101%"}), id="more than all of them"),
    pytest.param(manifest(rollout={"maxSurge": "1"}), id="a count in quotes"),
    pytest.param(manifest(rollout={"maxSurge": True}), id="a boolean for a count"),
    pytest.param(manifest(rollout={"canary": {}}), id="a canary, a future field"),
    pytest.param(manifest(podTemplate={"spec": []}), id="a list for a pod"),
    pytest.param(manifest(podTemplate={"metadata": {"name": "x"}}), id="a name for all pods"),
    pytest.param(manifest(podTemplate={"metadata": {"labels": {"a": 1}}}), id="a number, a label"),
    pytest.param(manifest(placement={"spot": {"policy": "Always"}}), id="an unknown spot policy"),
    pytest.param(manifest(placement={"spot": {"maxSpotShare": "101%"}}), id="more than all"),
    pytest.param(
        manifest(placement={"spot": {"policy": "Only", "maxSpotShare": "50%"}}),
        id="a share that Only cannot keep",
    ),
    pytest.param(
        manifest(placement={"spot": {"onDemandBase": 5}}, scaling={"maxReplicas": 4}),
        id="a base above the maximum",
    ),
    pytest.param(
        manifest(placement={"spot": {"onDemandBase": 2}}), id="a base above the usual maximum"
    ),
    pytest.param(manifest(quantization={"experts": "Int8"}), id="a field of the future"),
    pytest.param(manifest(name="n" * 64), id="a name too long for a label"),
    pytest.param(manifest(name="a.b"), id="a name with a dot"),
]


def accelerator(name: str = "h100", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "modelfleet.dev/v1alpha1",
        "kind": "AcceleratorClass",
        "metadata": {"name": name},
        "spec": spec,
    }


def tolerating(**toleration: Any) -> dict[str, Any]:
    return accelerator(tolerations=[toleration])


def changing(*changes: dict[str, str]) -> dict[str, Any]:
    return accelerator(price={"onDemand": "4", "changes": list(changes)})


VALID_CLASSES = [
    pytest.param(
        accelerator(memory="80Gi", memoryBandwidth="3350G", fraction="1/7"), id="a seventh"
    ),
    pytest.param(accelerator(fraction="0.25"), id="a quarter"),
    pytest.param(accelerator(fraction="1"), id="a whole device"),
    pytest.param(
        accelerator(
            deviceClaim={
                "deviceClassName": "gpu.example.com",
                "count": 2,
                "selectors": [{"expression": 'device.driver == "x"\n&& true'}],
            }
        ),
        id="a claim",
    ),
    pytest.param(
        changing(
            {"from": "2027-01-01T00:00:00Z", "onDemand": "3"},
            {"from": "2028-02-29T12:30:00Z", "onDemand": "3", "spot": "1"},
        ),
        id="prices to come",
    ),
    pytest.param(accelerator(), id="any node"),
    pytest.param(
        accelerator(price={"onDemand": "4", "spot": "1.20", "currency": "EUR"}), id="all prices"
    ),
    pytest.param(accelerator(price={"spot": "1.20"}), id="a price of spot alone"),
    pytest.param(
        accelerator(
            resource={"name": "nvidia.com/gpu", "count": 2},
            nodeSelector={"node.kubernetes.io/instance-type": "a3", "zone": ""},
            tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            price={"onDemand": "2.50"},
        ),
        id="everything",
    ),
    pytest.param(tolerating(operator="Exists"), id="every taint"),
    pytest.param(tolerating(key="a", value="b"), id="one taint with a value"),
    pytest.param(
        tolerating(key="a", operator="Exists", effect="NoExecute", tolerationSeconds=60),
        id="a time",
    ),
]
INVALID_CLASSES = [
    pytest.param(accelerator(name="a.b"), id="a name with a dot"),
    pytest.param(accelerator(resource={"name": "gpu"}), id="a resource without its domain"),
    pytest.param(accelerator(resource={"name": "x.io/gpu", "count": 0}), id="none of it"),
    pytest.param(accelerator(resource={"count": 1}), id="a count of no resource"),
    pytest.param(accelerator(nodeSelector={"a b": "c"}), id="a key with a space"),
    pytest.param(accelerator(nodeSelector={"a": "c d"}), id="a value with a space"),
    pytest.param(accelerator(nodeSelector={"a": 1}), id="a number for a label"),
    pytest.param(accelerator(nodeSelector={f"k{n}": "v" for n in range(17)}), id="too many labels"),
    pytest.param(tolerating(), id="a toleration of nothing"),
    pytest.param(tolerating(operator="Exists", value="x"), id="a value that is not asked for"),
    pytest.param(tolerating(key="a", tolerationSeconds=1), id="a time without NoExecute"),
    pytest.param(accelerator(price={"onDemand": 2.5}), id="money as a number"),
    pytest.param(accelerator(price={"onDemand": "-1"}), id="money to earn"),
    pytest.param(accelerator(price={}), id="a price of nothing"),
    pytest.param(accelerator(price={"currency": "EUR"}), id="a currency of nothing"),
    pytest.param(accelerator(price={"onDemand": "1", "currency": "Euro"}), id="no currency"),
    pytest.param(accelerator(memory=80), id="memory as a number"),
    pytest.param(accelerator(memoryBandwidth="fast"), id="no bandwidth"),
    pytest.param(accelerator(fraction="1.5"), id="more than a device"),
    pytest.param(accelerator(fraction="8/7"), id="more sevenths than a device has"),
    pytest.param(accelerator(fraction="0"), id="nothing of a device"),
    pytest.param(accelerator(fraction="0.0"), id="nothing of a device, with a point"),
    pytest.param(accelerator(fraction="1/0"), id="a division by zero"),
    pytest.param(
        accelerator(resource={"name": "x.io/gpu"}, deviceClaim={"deviceClassName": "gpu.x.io"}),
        id="two ways to get a device",
    ),
    pytest.param(accelerator(deviceClaim={"count": 1}), id="a claim of no class"),
    pytest.param(
        accelerator(deviceClaim={"deviceClassName": "gpu", "selectors": [{"expression": ""}]}),
        id="an empty selector",
    ),
    pytest.param(changing({"from": "2027-01-01T00:00:00Z"}), id="a change to nothing"),
    pytest.param(changing({"onDemand": "4"}), id="a change at no time"),
    pytest.param(changing({"from": "2027-02-29T00:00:00Z", "spot": "1"}), id="no such day"),
    pytest.param(changing({"from": "2027-01-01", "spot": "1"}), id="a day without a time"),
    pytest.param(
        changing(*[{"from": "2027-01-01T00:00:00Z", "spot": str(n)} for n in (1, 2)]),
        id="two prices at once",
    ),
]


@pytest.mark.parametrize(
    ("document", "schema", "sentence"),
    [
        pytest.param(
            accelerator(fraction="1.5"),
            CLASS_SCHEMA,
            "fraction is a part of one device: above 0, and at most 1",
            id="a fraction above 1",
        ),
        pytest.param(
            accelerator(price={}), CLASS_SCHEMA, "give onDemand, spot, or both", id="no price"
        ),
        pytest.param(
            manifest(placement={"strategy": "Cheapest"}),
            SCHEMA,
            "strategy Cheapest chooses among accelerators: name the classes",
            id="nothing to choose from",
        ),
    ],
)
def test_refusals_are_one_clear_sentence(
    document: dict[str, Any], schema: dict[str, Any], sentence: str
):
    assert any(sentence in str(error) for error in admitted(document, schema)[1])


def warm_pool(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "modelfleet.dev/v1alpha1",
        "kind": "WarmPool",
        "metadata": {"name": "gpus"},
        "spec": spec,
    }


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(warm_pool(), id="every default"),
        pytest.param(
            warm_pool(accelerator="h100", size=3, memory="24Gi", maxHourlyCost="4"), id="all fields"
        ),
        pytest.param(warm_pool(size=0, memory=None), id="empty, and nulls are absent"),
    ],
)
def test_accepts_alike_what_a_warm_pool_says(document: dict[str, Any]):
    with_defaults, errors = admitted(document, POOL_SCHEMA)
    assert errors == []
    read = WarmPool.model_validate(document)
    assert WarmPool.model_validate(with_defaults).spec == read.spec


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(warm_pool(size=-1), id="a negative size"),
        pytest.param(warm_pool(size="3"), id="a number in quotes"),
        pytest.param(warm_pool(accelerator="H100"), id="no class's name"),
        pytest.param(warm_pool(maxHourlyCost=4), id="money without quotes"),
        pytest.param(warm_pool(maxHourlyCost="-4"), id="a negative budget"),
        pytest.param(warm_pool(memory="much"), id="no amount of memory"),
        pytest.param(warm_pool(siez=1), id="a misspelt field"),
    ],
)
def test_refuses_alike_what_no_warm_pool_says(document: dict[str, Any]):
    assert admitted(document, POOL_SCHEMA)[1]
    with pytest.raises(ValidationError):
        WarmPool.model_validate(document)


@pytest.mark.parametrize("document", VALID_CLASSES)
def test_accepts_accelerator_classes_alike(document: dict[str, Any]):
    with_defaults, errors = admitted(document, CLASS_SCHEMA)
    assert errors == []
    read = AcceleratorClass.model_validate(document)
    assert AcceleratorClass.model_validate(with_defaults) == read


@pytest.mark.parametrize("document", INVALID_CLASSES)
def test_refuses_accelerator_classes_alike(document: dict[str, Any]):
    assert admitted(document, CLASS_SCHEMA)[1]
    with pytest.raises(ValidationError):
        AcceleratorClass.model_validate(document)


@pytest.mark.parametrize("document", VALID)
def test_accepts_alike(document: dict[str, Any]):
    assert admitted(document)[1] == []
    assert check_manifest(document)[0] == []


@pytest.mark.parametrize("document", INVALID)
def test_refuses_alike(document: dict[str, Any]):
    assert admitted(document)[1]
    assert check_manifest(document)[0]


@pytest.mark.parametrize("document", VALID)
def test_the_schemas_defaults_change_nothing_that_is_read(document: dict[str, Any]):
    with_defaults, _ = admitted(document)
    del with_defaults["status"]  # the API server's own; nothing is read from it but by `parse`
    assert check_manifest(with_defaults)[1] == check_manifest(document)[1]


def test_the_api_server_fills_in_no_section_that_was_left_out():
    document = manifest()
    assert admitted(document)[0]["spec"].keys() == {"model"}, "an older operator may read it, too"


def test_the_schemas_defaults_are_the_models():
    document = manifest()
    for section in SCHEMA["properties"]["spec"]["properties"]:
        document["spec"].setdefault(section, {})
    with_defaults, _ = admitted(document)
    read = ModelDeployment.model_validate(manifest()).spec.model_dump(mode="json")
    assert _without_empty(read) == _without_empty(with_defaults["spec"])


def _without_empty(value: Any) -> Any:
    """What is left out, as the API server keeps it."""
    if not isinstance(value, dict):
        return value
    fields = {name: _without_empty(field) for name, field in value.items()}
    return {name: field for name, field in fields.items() if field not in (None, {}, [])}


@each_object
def test_the_files_are_what_the_models_say(of: ApiObject):
    assert of.file.read_text() == crd_text(of), "run python -m modelfleet_operator.api.crd"
    assert REFERENCE_FILE.read_text() == reference(), "run python -m modelfleet_operator.api.crd"


def fields(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Path, schema and whether it is required, of every field below."""
    inner = schema.get("items", schema)
    for name, field in inner.get("properties", {}).items():
        yield f"{path}.{name}", field, name in inner.get("required", ())
        yield from fields(field, f"{path}.{name}")


@each_object
def test_every_field_of_the_spec_says_its_default_or_that_it_is_required(of: ApiObject):
    for path, field, required in fields(object_schema(of)["properties"]["spec"], "spec"):
        description = field["description"]
        assert ("Required." in description) == required, path
        assert ("Default" in description) != required, path
        if isinstance(default := field.get("default"), str | int) and default != {}:
            assert f"Default: {str(default).lower()}." in description.lower().replace(
                "default:", "Default:"
            ), path


@each_object
def test_every_field_is_described_and_bounded_and_every_list_has_its_type(of: ApiObject):
    properties = object_schema(of)["properties"]
    for part in {"spec", "status"} & properties.keys():
        for path, field, _ in fields(properties[part], part):
            assert field["description"], path
            assert "\n" not in field["description"], path
            kind = field.get("type")
            if kind is None:
                assert field["x-kubernetes-int-or-string"] is True, path
                assert {"maxLength", "pattern", "minimum", "maximum"} <= field.keys(), path
            if kind == "string":
                assert {"maxLength", "enum", "format"} & field.keys(), path
            if kind == "array":
                assert "maxItems" in field, path
                assert field["x-kubernetes-list-type"] in {"set", "map", "atomic"}, path
            if "additionalProperties" in field:
                assert "maxProperties" in field, path
            if kind == "integer" and part == "spec" and "enum" not in field:
                assert {"minimum", "maximum"} <= field.keys(), path


@each_object
def test_the_schema_is_structural(of: ApiObject):
    text = yaml.safe_dump(yaml.safe_load(crd_text(of)))
    # The one form of it that a structural schema may have.
    text = re.sub(r"anyOf:\n\s+- type: integer\n\s+- type: string\n", "", text)
    for forbidden in (
        *("$ref", "anyOf", "additionalProperties: false", "title:", "uniqueItems", "const:"),
        *("patternProperties", "propertyNames"),
    ):
        assert forbidden not in text


def test_scale_and_status_are_subresources_and_the_columns_answer_the_first_questions():
    (version,) = yaml.safe_load(crd_text(MODEL_DEPLOYMENT))["spec"]["versions"]
    assert version["subresources"]["scale"]["specReplicasPath"] == ".spec.scaling.replicas"
    assert "status" in version["subresources"]
    columns = version["additionalPrinterColumns"]
    shown = [column["name"] for column in columns if not column.get("priority")]
    assert shown == ["Ready", "Reason", "Workers", "Wanted", "Load%", "Queue", "$/h", "URL", "Age"]
    wide = [column["name"] for column in columns if column.get("priority")]
    assert wide == [
        *("Start", "Step", "Class", "$/Mtok", "Spot", "Interrupted"),
        *("Model", "Revision", "Message"),
    ]


def test_a_columns_path_is_a_field_of_the_schema():
    columns = [c.path for c in MODEL_DEPLOYMENT.columns if c.path.startswith(".status.")]
    for path in (path for path in columns if "conditions" not in path):
        node = SCHEMA
        for field in path.strip(".").split("."):
            name, bracket, _ = field.partition("[")
            node = node["properties"][name]
            node = node["items"] if bracket else node
        assert node["description"]


def test_the_short_name_is_no_one_elses():
    # `md` is Cluster API's MachineDeployment, on many clusters.
    assert MODEL_DEPLOYMENT.short_name == "mdep"


def test_what_no_operator_has_reconciled_yet_is_in_progress_to_kstatus():
    assert SCHEMA["properties"]["status"]["default"] == {"observedGeneration": -1}


def test_a_status_that_we_write_fits_the_schema_with_every_field():
    status = Status(
        observed_generation=3,
        conditions=(
            Condition(
                type="Ready",
                status="True",
                reason="Serving",
                message="all is well",
                changed=1.0,
                generation=3,
            ),
        ),
        replicas=2,
        ready_replicas=1,
        selector="a=b",
        revision="0123abcd",
        queue=Queue(waiting=1, running=2),
        scaling_history=(ScalingEvent(time=1.0, before=1, after=2, reason="demand"),),
        cold_start=ColdStartProgress(
            phase="Weights",
            percent=40,
            eta=9.0,
            since=1.0,
            deadline=1801.0,
            phases=(
                WakePhase(phase="node", began=1.0, ended=2.5),
                WakePhase(phase="image", began=2.5),
            ),
        ),
        cold_starts=(
            LearnedColdStart(
                accelerator="", wakes=1, seconds=dict.fromkeys((*PHASES, "total"), 1.5)
            ),
        ),
        weights_on=("node-a",),
        cost_per_hour=Decimal("2.50"),
        currency="EUR",
        interruptions=(
            Interruption(worker="w", node="n", kind="Cordon", source="spec", deadline=1.0),
        ),
        spot_replicas=1,
        placement=PlacementStatus(
            chosen=figures("l4", Basis.MEASURED),
            currency="EUR",
            needs=ModelNeeds(total=20 << 30, weights=16 << 30, basis=REPORTED),
            runner_up=figures("h100", Basis.ESTIMATED),
            excluded=(("a10", "too small"),),
        ),
    )
    written = {**render(status, "http://gateway"), "memory": Memory(target=2).dump()}
    schema = SCHEMA["properties"]["status"]
    jsonschema.Draft202012Validator(schema).validate(written)
    assert written.keys() == schema["properties"].keys()
    assert not _unknown_fields(written, schema)
    learned = schema["properties"]["coldStarts"]["items"]["properties"]["seconds"]["properties"]
    assert written["coldStarts"][0]["seconds"].keys() == learned.keys()
    cold = schema["properties"]["coldStart"]["properties"]
    assert written["coldStart"].keys() == cold.keys()
    for name in ("conditions", "scalingHistory"):
        assert written[name][0].keys() == schema["properties"][name]["items"]["properties"].keys()


def test_a_warm_pools_status_fits_the_schema_with_every_field():
    condition = PoolCondition(
        type="Ready", holds=True, reason="Full", message="", changed=1.0, generation=1
    )
    status = PoolStatus(
        observed_generation=1, conditions=(condition,), hourly_cost=Decimal("2.50"), hits=1
    )
    written, schema = render_pool(status), POOL_SCHEMA["properties"]["status"]
    jsonschema.Draft202012Validator(schema).validate(written)
    assert written.keys() == schema["properties"].keys()


def test_a_warm_pools_column_is_a_field_of_its_schema():
    for column in WARM_POOL.columns:
        part, _, name = column.path.lstrip(".").partition(".")
        if part in ("spec", "status") and "conditions" not in name:
            assert name in POOL_SCHEMA["properties"][part]["properties"], column.name


def test_rules_stand_at_objects_only():
    """A field that is spelled like a model (spot, price) has none of that model's rules."""

    def check(schema: dict[str, Any]) -> None:
        if "x-kubernetes-validations" in schema:
            assert "properties" in schema or schema.get("additionalProperties"), schema
        for field in schema.get("properties", {}).values():
            check(field.get("items", field))

    for of in OBJECTS:
        check(object_schema(of))
