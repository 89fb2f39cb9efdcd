"""What one machine cannot do, and what it passes over with a note."""

from __future__ import annotations

import pytest
import structlog

from local_fleet import manifest
from modelfleet_operator.api.accelerator_class import AcceleratorClass
from modelfleet_operator.api.manifests import Manifests
from modelfleet_operator.api.model_deployment import ModelDeployment
from modelfleet_operator.api.other_kinds import Reference, Values
from modelfleet_operator.errors import ManifestError
from modelfleet_operator.local.suitability import check_for_one_machine, tell_what_is_ignored

GATED = manifest(model={"tokenSecretRef": {"name": "hub", "key": "token"}})
HUB = Reference("Secret", "default", "hub")


def files(document: dict, *others: str, classes: tuple[str, ...] = (), **secret: str) -> Manifests:
    return Manifests(
        classes=tuple(map(priced, classes)),
        deployments=(ModelDeployment.model_validate(document),),
        others=others,
        values=Values({HUB: secret} if secret else {}),
    )


def priced(name: str) -> AcceleratorClass:
    return AcceleratorClass.model_validate(
        {
            "apiVersion": "modelfleet.dev/v1alpha1",
            "kind": "AcceleratorClass",
            "metadata": {"name": name},
            "spec": {"price": {"onDemand": "1"}},
        }
    )


def test_a_token_comes_from_a_secret_of_the_files_or_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    check_for_one_machine(files(GATED, token="hf_1"))
    for missing in (files(GATED), files(GATED, other="hf_1")):
        with pytest.raises(ManifestError) as caught:
            check_for_one_machine(missing)
        assert "the key token of Secret default/hub" in str(caught.value)
        assert "HF_TOKEN" in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", "hf_2")
    check_for_one_machine(files(GATED))


def test_a_claim_exists_only_in_a_cluster():
    with pytest.raises(ManifestError, match="file:///ABSOLUTE/PATH"):
        check_for_one_machine(files(manifest(source="pvc://claim/path")))


@pytest.mark.parametrize("secrets", ["login", [3]])
def test_a_template_of_another_shape_is_refused_before_it_is_applied(secrets: object):
    template = {"spec": {"imagePullSecrets": secrets}}
    document = manifest(source="oci://host/a:1", podTemplate=template)
    with pytest.raises(ManifestError, match="imagePullSecrets: expected a list of objects"):
        check_for_one_machine(files(document))


def test_what_is_passed_over_is_told_once_and_what_is_used_is_not():
    manifests = files(GATED, "Secret default/hub", "Secret default/other", "Job default/fill")
    told: set[str] = set()
    with structlog.testing.capture_logs() as lines:
        tell_what_is_ignored(manifests, told)
        tell_what_is_ignored(manifests, told)
    [line] = [line["event"] for line in lines]
    assert line.endswith(": Secret default/other, Job default/fill")


def test_where_there_is_one_machine_spot_is_ignored_with_one_note():
    manifests = files(manifest(placement={"spot": {"policy": "Only"}}))
    with structlog.testing.capture_logs() as lines:
        tell_what_is_ignored(manifests, set())
    assert [line["event"] for line in lines] == ["spec.placement is ignored: this is one machine"]


@pytest.mark.parametrize(
    ("classes", "note"),
    [
        (("a", "b"), "the choice of a class is made and shown, and every worker runs on this"),
        (("a",), "spec.placement is ignored: this is one machine"),
    ],
)
def test_a_choice_between_classes_of_the_files_is_shown(classes: tuple[str, ...], note: str):
    document = manifest(placement={"strategy": "Cheapest", "accelerators": ["a", "b"]})
    with structlog.testing.capture_logs() as lines:
        tell_what_is_ignored(files(document, classes=classes), set())
    assert lines[0]["event"].startswith(note)
