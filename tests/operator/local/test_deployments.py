"""What an edit of the files changes: as `kubectl apply` would on a cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from local_fleet import manifest
from modelfleet_operator.api.accelerator_class import AcceleratorClass
from modelfleet_operator.api.manifests import Manifests
from modelfleet_operator.api.model_deployment import ModelDeployment
from modelfleet_operator.api.other_kinds import Reference, Values
from modelfleet_operator.decisions.actions import Create, Record
from modelfleet_operator.decisions.memory import Memory
from modelfleet_operator.decisions.model_memory import BY_CONFIG, BY_NAME
from modelfleet_operator.decisions.observed import Observed, Signals
from modelfleet_operator.decisions.plan import make_plan
from modelfleet_operator.local.deployments import Change, LocalDeployments

KEY = "default/smollm2"


def files(*manifests: dict[str, Any], secret: str = "", **prices: str) -> Manifests:
    values = {Reference("Secret", "default", "s"): {"key": secret}} if secret else {}
    return Manifests(
        deployments=tuple(map(ModelDeployment.model_validate, manifests)),
        classes=tuple(accelerator(name, price) for name, price in prices.items()),
        values=Values(values),
    )


def accelerator(name: str, price: str) -> AcceleratorClass:
    return AcceleratorClass.model_validate(
        {
            "apiVersion": "modelfleet.dev/v1alpha1",
            "kind": "AcceleratorClass",
            "metadata": {"name": name},
            "spec": {"price": {"onDemand": price}, "memory": "8Gi", "memoryBandwidth": "100G"},
        }
    )


def applied(*manifests: dict[str, Any]) -> LocalDeployments:
    deployments = LocalDeployments(["--device", "paced"], 30.0)
    deployments.apply(files(*manifests), 1000.0)
    return deployments


def test_the_first_reading_creates_in_the_order_of_the_files():
    deployments = LocalDeployments([], 30.0)
    change = deployments.apply(files(manifest("b"), manifest("a")), 1000.0)
    assert change == Change(created=("default/b", "default/a"))
    first, second = (deployments.view(key) for key in change.created)
    assert first is not None
    assert second is not None
    assert first.created < second.created, "of two with one short name the first has it"


def test_what_did_not_change_stays_untouched():
    deployments = applied(manifest(), manifest("other"))
    before = deployments.view(KEY)
    change = deployments.apply(files(manifest("other"), manifest()), 2000.0)
    assert not change
    assert deployments.view(KEY) == before


def test_another_count_is_the_same_revision_and_the_next_generation():
    deployments = applied(manifest())
    before = deployments.view(KEY)
    assert before is not None
    edited = manifest(scaling={"minReplicas": 2, "maxReplicas": 2})
    assert deployments.apply(files(edited), 2000.0) == Change(changed=(KEY,))
    after = deployments.view(KEY)
    assert after is not None
    assert (after.revision, after.created) == (before.revision, before.created)
    assert after.generation == before.generation + 1
    assert after.scaling.min_replicas == 2


def test_another_engine_is_another_revision_and_the_old_one_can_still_be_started():
    deployments = applied(manifest())
    before = deployments.view(KEY)
    assert before is not None
    deployments.record(KEY, before.revision, 1)
    deployments.apply(files(manifest(engine={"maxSequences": 8})), 2000.0)
    after = deployments.view(KEY)
    assert after is not None
    assert after.revision != before.revision
    new, old = (deployments.template(KEY, view.revision) for view in (after, before))
    assert new is not None
    assert old is not None
    assert "--max-sequences=8" in new.flags
    assert "--max-sequences=64" in old.flags
    assert deployments.template(KEY, "00000000") is None


def test_an_edit_is_rolled_out_by_the_same_decisions_as_on_a_cluster():
    deployments = applied(manifest())
    memory = Memory(last_ready_revision=view(deployments).revision)
    deployments.record(KEY, view(deployments).revision, 1)
    deployments.apply(files(manifest(engine={"maxSequences": 8})), 2000.0)
    plan = make_plan(seen(deployments), Signals(), 2000.0, memory, None)
    record, create = plan.actions[:2]
    assert isinstance(record, Record)
    assert record.number == 2
    assert isinstance(create, Create)
    assert any(isinstance(a, Create) and a.revision == record.revision for a in plan.actions)


def test_a_document_that_is_gone_is_deleted_and_a_new_one_begins_anew():
    deployments = applied(manifest(), manifest("other"))
    assert deployments.apply(files(manifest("other")), 2000.0) == Change(deleted=(KEY,))
    assert list(deployments.keys()) == ["default/other"]
    assert deployments.view(KEY) is None
    assert deployments.apply(files(manifest("other"), manifest()), 3000.0) == Change(created=(KEY,))
    assert view(deployments).created >= 3000.0
    assert deployments.history(KEY) == ()


def test_another_value_of_a_secret_is_no_other_revision():
    variable = {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "key"}}}
    template = {"spec": {"containers": [{"name": "worker", "env": [variable]}]}}
    deployments = LocalDeployments([], 30.0)
    deployments.apply(files(manifest(podTemplate=template), secret="one"), 1000.0)
    before = view(deployments).revision
    assert not deployments.apply(files(manifest(podTemplate=template), secret="two"), 2000.0)
    assert view(deployments).revision == before
    assert deployments.values.of(Reference("Secret", "default", "s")) == {"key": "two"}
    deployments.apply(files(manifest()), 3000.0)
    assert view(deployments).revision != before, "another reference is"


def view(deployments: LocalDeployments):
    found = deployments.view(KEY)
    assert found is not None
    return found


def seen(deployments: LocalDeployments) -> Observed:
    return Observed(
        deployment=view(deployments),
        owners=deployments.owners,
        history=deployments.history(KEY),
    )


CHEAPEST = manifest(placement={"strategy": "Cheapest", "accelerators": ["a", "b"]})


def test_a_choice_is_made_among_the_classes_of_the_files():
    deployments = LocalDeployments([], 30.0)
    deployments.apply(files(CHEAPEST, a="1", b="2"), 1000.0)
    view = deployments.view(KEY)
    assert view is not None
    assert (view.cheapest, view.accelerators) == (True, ("a", "b"))
    assert view.needs.basis == BY_NAME
    seen = Observed(deployment=view, accelerators=deployments.classes)
    plan = make_plan(seen, Signals(), 1001.0, Memory(), None)
    (create,) = [a for a in plan.actions if isinstance(a, Create)]
    assert create.accelerator == "a"
    assert plan.status.placement is not None


def test_an_edit_of_a_price_chooses_anew_and_starts_no_worker_anew():
    deployments = LocalDeployments([], 30.0)
    deployments.apply(files(CHEAPEST, a="1", b="2"), 1000.0)
    before = deployments.view(KEY)
    assert before is not None
    assert deployments.apply(files(CHEAPEST, a="3", b="2"), 2000.0) == Change(changed=(KEY,))
    assert deployments.view(KEY) == before, "what it is did not change"
    assert not deployments.apply(files(CHEAPEST, a="3", b="2"), 3000.0)


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(CHEAPEST, id="a class is in no file"),
        pytest.param(manifest(placement={"accelerators": ["a"]}), id="classes in order"),
    ],
)
def test_else_there_is_one_machine_and_no_class(document: dict[str, Any]):
    deployments = LocalDeployments([], 30.0)
    deployments.apply(files(document, a="1"), 1000.0)
    view = deployments.view(KEY)
    assert view is not None
    assert (view.cheapest, view.accelerators) == (False, ())


def test_a_checkpoint_that_lies_here_tells_its_memory_by_its_config(tmp_path: Path):
    config = {
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "intermediate_size": 1536,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    document = manifest(source=f"file://{tmp_path}", placement=CHEAPEST["spec"]["placement"])
    deployments = LocalDeployments([], 30.0)
    deployments.apply(files(document, a="1", b="2"), 1000.0)
    view = deployments.view(KEY)
    assert view is not None
    assert view.needs.basis == BY_CONFIG
    assert view.needs.weights == pytest.approx(134.5e6 * 4, rel=0.01), "in float32, as asked for"
