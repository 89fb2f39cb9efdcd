"""The flags of `modelfleet operator`: what they become, and which are refused."""

from __future__ import annotations

import subprocess

import pytest

from modelfleet_operator.cluster.options import advertised_address
from modelfleet_operator.cluster.pods import PodSettings


@pytest.mark.parametrize(
    ("listen", "pod_ip", "advertised"),
    [
        pytest.param("0.0.0.0:9090", "10.1.2.3", "10.1.2.3:9090", id="a pod says its own address"),
        pytest.param("[::]:9090", "fd00::7", "[fd00::7]:9090", id="IPv6 comes in brackets"),
        pytest.param("0.0.0.0:9090", "", "127.0.0.1:9090", id="without a pod it is this machine"),
        pytest.param("192.0.2.1:9090", "", "192.0.2.1:9090", id="one address is that address"),
    ],
)
def test_a_replica_knows_where_gateways_reach_it(listen: str, pod_ip: str, advertised: str):
    assert advertised_address(listen, pod_ip) == advertised


@pytest.mark.parametrize(
    ("folder", "allowed"),
    [
        ("/models", True),
        ("/models/smol", True),
        ("/models/../etc", False),
        ("/models-of-others", False),
        ("/", False),
    ],
)
def test_only_folders_under_a_host_path_are_mounted(folder: str, allowed: bool):
    settings = PodSettings(image="worker:1", host_paths=("/data/a", "/models/"))
    assert settings.allows_host_path(folder) is allowed
    assert not PodSettings(image="worker:1").allows_host_path(folder)


def test_a_node_cache_outside_the_host_paths_is_refused():
    done = subprocess.run(
        ["modelfleet", "operator", "--worker-image=w", "--node-cache=/cache", "--host-path=/data"],
        check=False, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--host-path" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("flag", ["--fleet-listen", "--advertise", "--metrics-listen"])
def test_an_address_that_is_none_is_refused_by_the_flags_name(flag: str):
    done = subprocess.run(
        ["modelfleet", "operator", "--worker-image=w", f"{flag}=fd00::7:9090"],
        check=False, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 2
    assert f"'{flag}': expected HOST:PORT" in done.stderr
