"""Files that hold more than ModelDeployments, as those for a cluster do."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelfleet_operator.api.manifests import load_manifests, read_manifests
from modelfleet_operator.api.other_kinds import Reference
from modelfleet_operator.errors import ManifestError

MODEL = """\
apiVersion: modelfleet.dev/v1alpha1
kind: ModelDeployment
metadata: {name: smol}
spec: {model: {source: "hf://owner/name"}}
---
"""
SECRET = """\
apiVersion: v1
kind: Secret
metadata: {name: hub, namespace: b}
data: {token: aGZfMTIz, certificate: /v8=}
stringData: {plain: "a b"}
---
"""
JOB = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: fill}\nspec: {}\n---\n"
CLAIM = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: weights}\n---\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "fleet.yaml"
    path.write_text(text)
    return path


def test_other_kinds_are_passed_over_by_name(tmp_path: Path):
    read = load_manifests([written(tmp_path, SECRET + JOB + MODEL + CLAIM)])
    assert [d.full_name for d in read.deployments] == ["default/smol"]
    assert read.others == (
        "Secret b/hub",
        "Job default/fill",
        "PersistentVolumeClaim default/weights",
    )


def test_the_text_of_secrets_and_config_maps_is_read(tmp_path: Path):
    config = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {level: debug}\n---\n"
    read = load_manifests([written(tmp_path, SECRET + config + MODEL)])
    # The certificate is no text, so it can be no variable.
    secret = {"token": "hf_123", "plain": "a b"}
    assert read.values.of(Reference("Secret", "b", "hub")) == secret
    assert read.values.of(Reference("ConfigMap", "default", "c")) == {"level": "debug"}
    assert read.values.of(Reference("Secret", "default", "hub")) == {}
    assert "hf_123" not in repr(read)


def test_a_list_is_its_items(tmp_path: Path):
    items = "\n".join(f"  {line}" for line in MODEL.removesuffix("---\n").splitlines())
    text = f"apiVersion: v1\nkind: List\nitems:\n- {items.strip()}\n"
    read = load_manifests([written(tmp_path, text)])
    assert read.homes == {"default/smol": f"{tmp_path}/fleet.yaml, document 1, item 1"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param(
            SECRET.replace("aGZfMTIz", "hf_123!") + MODEL,
            "document 1: Secret b/hub: data.token: expected base64; plain text goes into",
            id="plain text where base64 belongs",
        ),
        pytest.param(
            SECRET.replace("aGZfMTIz", "7") + MODEL, "data.token: expected a string", id="a number"
        ),
        pytest.param(
            MODEL.replace("ModelDeployment", "ModelDeploymnt"),
            "expected kind ModelDeployment",
            id="a misspelled kind of ours is no other kind",
        ),
        pytest.param(
            MODEL.replace("modelfleet.dev", "modelflet.dev"),
            "apiVersion modelfleet.dev/v1alpha1",
            id="nor is a misspelled group",
        ),
        pytest.param(
            SECRET + JOB,
            "expected a ModelDeployment in one of the files, found Secret, Job only",
            id="nothing of ours",
        ),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, said: str):
    with pytest.raises(ManifestError) as caught:
        load_manifests([written(tmp_path, text)])
    assert said in str(caught.value)
    assert "hf_123" not in str(caught.value)


def test_problems_come_as_values_beside_what_is_valid(tmp_path: Path):
    wrong = MODEL.replace("smol", "other").replace("model:", "modle:")
    read = read_manifests([written(tmp_path, MODEL + wrong), tmp_path / "absent.yaml"])
    assert [d.full_name for d in read.deployments] == ["default/smol"]
    assert len(read.problems) == 3, "the misspelled field, the missing one, the missing file"
