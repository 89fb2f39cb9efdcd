"""Workers of a part of a device close together, workers of whole devices far apart."""

from __future__ import annotations

from typing import Any

from class_pods import known, pod
from modelfleet_operator.cluster.accelerators import KnownClass, placed
from modelfleet_operator.cluster.packing import arranged

SLICE = known("slice", resource={"name": "nvidia.com/mig-1g.10gb"}, fraction="1/7")
WHOLE = known("whole", resource={"name": "nvidia.com/gpu"})


def worker(class_: KnownClass, **spec: Any) -> dict[str, Any]:
    made = placed(pod(**spec), class_)
    made["metadata"]["labels"]["modelfleet.dev/deployment"] = "smol"
    return made


def test_fractions_are_packed_onto_nodes_that_have_some_already():
    affinity = arranged(worker(SLICE), SLICE, spread=True)["spec"]["affinity"]
    (near,) = affinity["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    term = near["podAffinityTerm"]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    assert term["labelSelector"] == {"matchLabels": {"modelfleet.dev/accelerator": "slice"}}
    assert term["namespaceSelector"] == {}, "of any namespace: a device is shared by all"


def test_whole_devices_are_spread_over_zones_where_that_is_asked_for():
    (constraint,) = arranged(worker(WHOLE), WHOLE, spread=True)["spec"]["topologySpreadConstraints"]
    assert constraint["topologyKey"] == "topology.kubernetes.io/zone"
    assert constraint["whenUnsatisfiable"] == "ScheduleAnyway"
    assert constraint["labelSelector"] == {"matchLabels": {"modelfleet.dev/deployment": "smol"}}
    before = worker(WHOLE)
    assert arranged(before, WHOLE, spread=False) is before, "classes in order: as it was"


def test_what_a_pod_template_says_holds():
    own = {
        "topologyKey": "topology.kubernetes.io/zone",
        "whenUnsatisfiable": "ScheduleAnyway",
        "maxSkew": 3,
    }
    made = arranged(worker(WHOLE, topologySpreadConstraints=[own]), WHOLE, spread=True)
    assert made["spec"]["topologySpreadConstraints"] == [own], "the API server takes one of a kind"
    hostname = {**own, "topologyKey": "kubernetes.io/hostname"}
    made = arranged(worker(WHOLE, topologySpreadConstraints=[hostname]), WHOLE, spread=True)
    assert len(made["spec"]["topologySpreadConstraints"]) == 2


def test_a_fraction_has_its_part_of_memory_bandwidth_and_price():
    class_ = known(
        fraction="1/7",
        memory="70Gi",
        memoryBandwidth="3500G",
        price={
            "onDemand": "3.50",
            "spot": "1.40",
            "changes": [{"from": "2027-01-01T00:00:00Z", "onDemand": "7"}],
        },
    )
    seen = class_.seen()
    assert (str(seen.price), str(seen.spot_price)) == ("0.5", "0.2")
    assert seen.memory == 10 << 30
    assert seen.bandwidth == 500_000_000_000
    (change,) = seen.price_changes
    assert (str(change.price), change.spot_price) == ("1", None)


def test_a_whole_device_costs_what_it_says():
    seen = known(price={"onDemand": "2.50"}).seen()
    assert str(seen.price) == "2.50"
    assert (seen.memory, seen.bandwidth, seen.price_changes) == (0, 0, ())
