from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelfleet_operator.errors import StartError
from modelfleet_operator.local.state import StateDirectory


def test_one_holder_at_a_time_and_everybody_sees_who(tmp_path: Path):
    first, second = StateDirectory(tmp_path / "state"), StateDirectory(tmp_path / "state")
    assert second.holder() is None
    with first.held():
        assert second.holder() == os.getpid()
        with pytest.raises(StartError, match="--state-dir"), second.held():
            pass
        assert second.holder() == os.getpid(), "the refused one did not touch it"
    assert second.holder() is None
    with second.held():
        pass


def test_statuses_go_with_the_holder_and_logs_stay(tmp_path: Path):
    state = StateDirectory(tmp_path)
    with state.held():
        state.write_status("b", "x", {"n": 1})
        state.write_status("a", "y", {"n": 2})
        state.write_status("b", "x", {"n": 3})
        (state.logs / "gateway.log").write_text("hello")
        assert state.read_statuses() == [{"n": 2}, {"n": 3}]
    assert state.read_statuses() == []
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]


def test_what_a_killed_fleet_left_is_cleared(tmp_path: Path):
    (tmp_path / "status" / "default").mkdir(parents=True)
    (tmp_path / "status" / "default" / "ghost.yaml").write_text("status: {}")
    (tmp_path / "lock").write_text("1\n")
    state = StateDirectory(tmp_path)
    assert state.holder() is None
    with state.held():
        assert state.read_statuses() == []


def test_a_folder_that_cannot_be_written_is_an_error_with_a_way_out(tmp_path: Path):
    (tmp_path / "file").touch()
    state = StateDirectory(tmp_path / "file" / "state")
    with pytest.raises(StartError, match="--state-dir"), state.held():
        pass
