"""Fleets that end with their test."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from local_fleet import Fleet, Manifest, StartFleet, eventually, free_port, manifest


class Starter:
    """Starts fleets in one folder, and ends them all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fleets: list[Fleet] = []

    def start(self, *manifests_and_flags: Manifest | str) -> Fleet:
        """Returns when the gateway is ready."""
        number = len(self._fleets)
        file, state, log = (self._folder / f"{kind}-{number}" for kind in ("yaml", "state", "log"))
        file.write_text(
            yaml.safe_dump_all([m for m in manifests_and_flags if not isinstance(m, str)])
        )
        flags = [flag for flag in manifests_and_flags if isinstance(flag, str)]
        port = free_port()
        with log.open("wb") as output:
            place = ["--port", str(port), "--state-dir", str(state)]
            up = psutil.Popen(
                ["modelfleet", "up", str(file), *place, *flags],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        fleet = Fleet(up=up, endpoint=f"http://127.0.0.1:{port}", state=state, log=log)
        self._fleets.append(fleet)
        eventually("the gateway is ready", fleet.gateway_is_ready)
        return fleet

    def end(self) -> None:
        """SIGTERM for each fleet, and SIGKILL for what a failed test left."""
        for fleet in self._fleets:
            if fleet.up.poll() is None:
                fleet.stop()
            fleet.end_for_good()


@pytest.fixture
def start_fleet(tmp_path: Path) -> Iterator[StartFleet]:
    """`start_fleet(manifest(...), "--device", "paced")`; the fleets end with the test."""
    starter = Starter(tmp_path)
    yield starter.start
    starter.end()


@pytest.fixture(scope="package")
def served_smollm2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One ready fleet with the real model, shared by tests that change nothing about it."""
    starter = Starter(tmp_path_factory.mktemp("fleet"))
    fleet = starter.start(manifest())
    eventually("it is ready", fleet.is_ready)
    yield fleet
    starter.end()
