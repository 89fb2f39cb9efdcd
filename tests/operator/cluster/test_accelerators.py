"""What an AcceleratorClass lays under a worker's pod."""

from __future__ import annotations

from class_pods import known, pod
from modelfleet_operator.cluster.accelerators import placed, read_class

GPU = known(
    resource={"name": "nvidia.com/gpu", "count": 2},
    nodeSelector={"product": "h100"},
    tolerations=[{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
)


def test_the_worker_takes_the_resource_on_nodes_of_the_class():
    made = placed(pod(), GPU)
    sidecar, worker = made["spec"]["containers"]
    assert worker["resources"] == {
        "limits": {"nvidia.com/gpu": "2"},
        "requests": {"nvidia.com/gpu": "2"},
    }
    assert "resources" not in sidecar
    assert made["spec"]["nodeSelector"] == {"product": "h100"}
    assert made["spec"]["tolerations"] == [
        {"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}
    ]


def test_it_says_which_class_and_which_version_of_it():
    metadata = placed(pod(), GPU)["metadata"]
    assert metadata["labels"] == {"a": "b", "modelfleet.dev/accelerator": "h100"}
    assert metadata["annotations"] == {"modelfleet.dev/accelerator-generation": "3"}


def test_what_the_pod_asks_for_already_stays_beside_it():
    before = pod(nodeSelector={"zone": "a"}, tolerations=[{"key": "spot", "operator": "Exists"}])
    before["spec"]["containers"][1]["resources"] = {"limits": {"memory": "8Gi"}}
    spec = placed(before, GPU)["spec"]
    assert spec["nodeSelector"] == {"zone": "a", "product": "h100"}
    assert [t["key"] for t in spec["tolerations"]] == ["spot", "gpu"]
    resources = spec["containers"][1]["resources"]
    assert resources["limits"] == {"memory": "8Gi", "nvidia.com/gpu": "2"}
    assert resources["requests"] == {"nvidia.com/gpu": "2"}
    assert before["spec"]["nodeSelector"] == {"zone": "a"}, "the given pod is left alone"


def test_a_class_of_labels_alone_takes_no_resource():
    made = placed(pod(), known("cpu", nodeSelector={"arch": "arm64"}))
    assert "resources" not in made["spec"]["containers"][1]
    assert "tolerations" not in made["spec"]


def test_decisions_see_its_version_and_its_price():
    assert GPU.seen().generation == 3
    assert GPU.seen().price is None
    assert str(known(price={"onDemand": "2.50"}).seen().price) == "2.50"


def test_a_class_of_a_newer_crd_is_read_and_an_impossible_one_is_none():
    assert known(ofTomorrow={"x": 1}, nodeSelector={"a": "b"}).spec.node_selector == {"a": "b"}
    assert read_class({"metadata": {"name": "x"}, "spec": {"price": 3}}) is None
