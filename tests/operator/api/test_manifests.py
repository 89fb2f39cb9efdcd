"""Manifest files: what is read, and how what is wrong is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelfleet_operator.api.formats import (
    parse_duration,
    parse_quantity,
    show_duration,
    show_quantity,
)
from modelfleet_operator.api.manifests import load_manifests, observed_manifest
from modelfleet_operator.errors import ManifestError

HEAD = "apiVersion: modelfleet.dev/v1alpha1\nkind: ModelDeployment\n"
GOOD = HEAD + "metadata: {name: smol}\nspec: {model: {source: 'hf://owner/name'}}\n"


def written(folder: Path, text: str, name: str = "fleet.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_reads_every_document_of_every_file(tmp_path: Path):
    other = GOOD.replace("smol", "other")
    first = written(tmp_path, f"---\n{GOOD}---\n---\n{other}")
    second = written(tmp_path, GOOD.replace("name: smol", "name: smol, namespace: b"), "b.yaml")
    names = [d.full_name for d in load_manifests([first, second]).deployments]
    assert names == ["default/smol", "default/other", "b/smol"]


def test_units_become_seconds_and_bytes(tmp_path: Path):
    text = GOOD.replace(
        "spec: {",
        "spec: {scaling: {idleTimeout: 1h30m, scaleDownDelay: 250ms}, "
        "engine: {kvCacheMemory: 1.5Gi}, ",
    )
    (deployment,) = load_manifests([written(tmp_path, text)]).deployments
    assert deployment.spec.scaling.idle_timeout == 5400
    assert deployment.spec.scaling.scale_down_delay == 0.25
    assert deployment.spec.engine.kv_cache_memory == 3 * 2**29


CLASS = HEAD.replace("ModelDeployment", "AcceleratorClass") + "metadata: {name: a10}\n"


def test_accelerator_classes_may_stand_beside_deployments(tmp_path: Path):
    path = written(tmp_path, f"{CLASS}spec: {{price: {{onDemand: '0.75'}}}}\n---\n{GOOD}")
    assert [d.full_name for d in load_manifests([path]).deployments] == ["default/smol"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (CLASS + "spec: {prices: {}}\n---\n" + GOOD, "there is no such field; did you mean price"),
        (CLASS + "spec: {price: {}}\n---\n" + GOOD, "price says nothing: give onDemand, spot"),
        (
            CLASS
            + "spec: {price: {onDemand: '1', currency: USD}}\n---\n"
            + CLASS.replace("a10", "l4")
            + "spec: {price: {spot: '1', currency: EUR}}\n---\n"
            + GOOD.replace("spec: {", "spec: {placement: {accelerators: [a10, l4]}, "),
            "prices in two currencies cannot be added: a10 in USD and l4 in EUR",
        ),
        (
            GOOD.replace(
                "spec: {",
                "spec: {scaling: {maxReplicas: 3}, placement: {spot: {onDemandBase: 5}}, ",
            ),
            "placement.spot.onDemandBase must not be greater than scaling.maxReplicas, found 5 > 3",
        ),
        (CLASS + "spec: {price: {onDemand: 1}}\n---\n" + GOOD, 'an amount of money such as "2.50"'),
        (
            CLASS + "spec: {tolerations: [{key: a, seconds: 3}]}\n---\n" + GOOD,
            "spec.tolerations[0].seconds: there is no such field",
        ),
        (CLASS + "spec: {}\n", "expected a ModelDeployment in one of the files"),
    ],
)
def test_what_is_wrong_with_a_class_is_said_as_well(tmp_path: Path, text: str, said: str):
    with pytest.raises(ManifestError) as error:
        load_manifests([written(tmp_path, text)])
    assert said in str(error.value)


def test_what_kubectl_get_prints_can_be_read_again(tmp_path: Path):
    text = GOOD.replace(
        "metadata: {",
        "metadata: {creationTimestamp: 2026-11-21T17:00:00Z, generation: 3, uid: u, managedFields: "
        "[], annotations: {a: b}, ",
    )
    (deployment,) = load_manifests(
        [written(tmp_path, text + "status: {replicas: 1}\n")]
    ).deployments
    assert deployment.metadata.creation_timestamp == "2026-11-21T17:00:00Z"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param(
            GOOD.replace("spec: {", "spec: {scaling: {minReplica: 1}, "),
            "document 1: spec.scaling.minReplica: there is no such field; "
            "did you mean minReplicas?",
            id="a misspelled field",
        ),
        pytest.param(
            GOOD.replace("name: smol", "name: smol, namspace: b"),
            "metadata.namspace: there is no such field; did you mean namespace?",
            id="a misspelled namespace",
        ),
        pytest.param(
            GOOD.replace("spec: {", "spec: {scaling: {maxReplicas: two}, "),
            "spec.scaling.maxReplicas: expected a whole number, found 'two'",
            id="text for a number",
        ),
        pytest.param(
            GOOD.replace("spec: {", "spec: {scaling: {idleTimeout: 300}, "),
            "spec.scaling.idleTimeout: expected a duration such as 90s, 5m or 1h30m, as a string, "
            "found 300",
            id="a duration without its unit",
        ),
        pytest.param(
            GOOD.replace("hf://owner/name", "name"),
            "spec.model.source: expected hf://OWNER/NAME, pvc://CLAIM/PATH, "
            "file:///ABSOLUTE/PATH, s3://BUCKET/PREFIX or "
            "oci://REGISTRY/REPOSITORY:TAG (or @sha256:DIGEST), found 'name'",
            id="a source of no kind",
        ),
        pytest.param(
            GOOD.replace("{model:", "{models:"),
            "spec.model: this field is required and missing",
            id="no model",
        ),
        pytest.param(
            f"{GOOD}---\n{GOOD}", "document 2: default/smol stands in", id="the same name twice"
        ),
        pytest.param(
            "kind: Pod\napiVersion: v1\n", "expected a ModelDeployment", id="another kind"
        ),
        pytest.param(GOOD.replace("v1alpha1", "v1"), "found kind", id="another version"),
        pytest.param("", "expected a ModelDeployment, found an empty file", id="an empty file"),
        pytest.param("# only\n---\n", "found an empty file", id="nothing but comments"),
        pytest.param("a: [1, 2\n", "line 2, column 1: not valid YAML", id="not YAML"),
        pytest.param("- a\n- b\n", "expected an object of kind", id="a list"),
        pytest.param("just words", "found 'just words'", id="text"),
        pytest.param(GOOD + "kind: Pod\n", "the key 'kind' stands twice", id="a key twice"),
        pytest.param("a: !!python/object:os.system {}", "not valid YAML", id="code in YAML"),
        pytest.param("[" * 5000, "not", id="nested beyond reason"),
    ],
)
def test_says_what_is_wrong_and_where(tmp_path: Path, text: str, said: str):
    path = written(tmp_path, text)
    with pytest.raises(ManifestError) as caught:
        load_manifests([path])
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_lists_everything_that_is_wrong_at_once(tmp_path: Path):
    bad = written(tmp_path, GOOD.replace("spec: {", "spec: {engine: {maxSequences: 0, a: 1}, "))
    with pytest.raises(ManifestError) as caught:
        load_manifests([bad, tmp_path / "missing.yaml", tmp_path])
    assert len(str(caught.value).splitlines()) == 4
    assert "missing.yaml: no such file" in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path):
    (tmp_path / "model.bin").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ManifestError, match="UTF-8"):
        load_manifests([tmp_path / "model.bin"])


def test_metadata_that_only_a_newer_server_knows_is_no_error_on_a_cluster():
    body = {
        "apiVersion": "modelfleet.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "smol", "namespace": "b", "uid": "u", "ofTomorrow": True},
        "spec": {"model": {"source": "hf://owner/name"}},
    }
    problems, deployment = observed_manifest(body)
    assert problems == []
    assert deployment is not None
    assert deployment.full_name == "b/smol"


@pytest.mark.parametrize("text", ["90s", "1h30m", "5m", "250ms", "0s", "26h1m1s1ms"])
def test_durations_are_written_as_they_were_read(text: str):
    shown = show_duration(parse_duration(text))
    assert parse_duration(shown) == parse_duration(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [("1", 1), ("2k", 2000), ("512Mi", 2**29), ("1.5Gi", 3 * 2**29), ("1T", 1e12)],
)
def test_quantities_are_bytes(text: str, count: int):
    assert parse_quantity(text) == count
    assert parse_quantity(show_quantity(parse_quantity(text))) == count


def test_fields_of_a_newer_crd_are_passed_over_in_what_the_api_server_gives():
    body = {
        "apiVersion": "modelfleet.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "smol", "namespace": "default"},
        "spec": {
            "model": {"source": "hf://owner/name", "ofTomorrow": [1]},
            "scaling": {"minReplicas": 2},
            "sectionOfTomorrow": {"x": 1},
        },
    }
    problems, deployment = observed_manifest(body)
    assert problems == []
    assert deployment is not None
    assert deployment.spec.scaling.min_replicas == 2

    body["spec"]["scaling"]["minReplicas"] = "two"
    problems, deployment = observed_manifest(body)
    assert len(problems) == 1
    assert "spec.scaling.minReplicas" in problems[0]
