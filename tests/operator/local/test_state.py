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


def test_logins_are_for_this_user_only_and_go_with_the_fleet(tmp_path: Path):
    state = StateDirectory(tmp_path)
    with state.held():
        folder = Path(state.write_logins("default/smol", ['{"auths": {}}', "{}"]))
        files = sorted(folder.glob("*.json"))
        assert [file.read_text() for file in files] == ['{"auths": {}}', "{}"]
        assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()


def test_the_endpoint_is_known_once_the_gateway_is_ready(tmp_path: Path):
    state = StateDirectory(tmp_path)
    with state.held():
        assert state.endpoint() == ""
        state.write_endpoint("http://127.0.0.1:8080")
        assert StateDirectory(tmp_path).endpoint() == "http://127.0.0.1:8080"
    assert state.endpoint() == ""
