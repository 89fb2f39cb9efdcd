"""The states of a worker, and what each allows."""

import pytest

from modelfleet_worker.errors import (
    ModelNotServedError,
    PreconditionError,
    RefusalError,
    UnavailableError,
)
from modelfleet_worker.serving.state import State, Status
from modelfleet_worker.spec import ModelSpec


def spec(model: str = "default/a", **options) -> ModelSpec:
    return ModelSpec(model=model, source="hf://a/b", **options)


STANDBY = Status()
LOADING = STANDBY.load(spec())
READY = LOADING.loaded()
FAILED = LOADING.failed("no safetensors")


def test_the_way_of_a_worker():
    states = [STANDBY, LOADING, READY, READY.drain()]
    assert [status.state for status in states] == [
        State.STANDBY,
        State.LOADING,
        State.READY,
        State.DRAINING,
    ]


@pytest.mark.parametrize("status", [LOADING, READY])
def test_loading_the_same_again_changes_nothing(status: Status):
    assert status.load(spec()) is status


@pytest.mark.parametrize("status", [LOADING, READY, READY.drain(), STANDBY.drain()])
@pytest.mark.parametrize("other", [spec("default/b"), spec(context_length=5)])
def test_another_model_needs_an_unload_first(status: Status, other: ModelSpec):
    with pytest.raises(PreconditionError, match="unload"):
        status.load(other)


def test_a_failed_load_may_be_tried_again():
    assert FAILED.load(spec()).state is State.LOADING
    assert FAILED.load(spec("default/b")).message == ""


def test_a_failure_stays_visible_while_draining():
    assert FAILED.drain() is FAILED


@pytest.mark.parametrize(
    ("status", "model", "error"),
    [
        pytest.param(STANDBY, "default/a", ModelNotServedError, id="none is held"),
        pytest.param(READY, "default/b", ModelNotServedError, id="another is held"),
        pytest.param(LOADING, "default/a", UnavailableError, id="still loading"),
        pytest.param(READY.drain(), "default/a", UnavailableError, id="draining"),
        pytest.param(FAILED, "default/a", UnavailableError, id="failed"),
        pytest.param(READY.stalled("stalled"), "default/a", UnavailableError, id="stalled"),
    ],
)
def test_refuses_with_the_right_status(status: Status, model: str, error: type[RefusalError]):
    assert isinstance(status.refusal(model), error)


def test_is_ready_again_after_a_stall():
    assert READY.stalled(None) is READY


def test_a_drain_does_not_hide_behind_a_stall():
    assert READY.drain().stalled("engine stalled").state is State.DRAINING


ASLEEP = STANDBY.sleep(spec()).loaded()


def test_a_model_that_sleeps_serves_as_soon_as_it_is_asked_for():
    assert (ASLEEP.state, ASLEEP.load(spec()).state) == (State.STANDBY, State.READY)
    assert isinstance(ASLEEP.refusal("default/a"), ModelNotServedError)


def test_a_load_ahead_goes_on_when_it_is_asked_for():
    assert STANDBY.sleep(spec()).load(spec()) == LOADING


@pytest.mark.parametrize("other", [spec("default/b"), spec(context_length=5)])
def test_another_model_than_the_one_that_sleeps_is_loaded(other: ModelSpec):
    assert ASLEEP.load(other) == STANDBY.load(other)


@pytest.mark.parametrize("ended", [ASLEEP.drain(), ASLEEP.failed("engine failed")])
def test_a_model_sleeps_no_more_after_a_drain_or_a_failure(ended: Status):
    assert (ended.asleep, ended.is_loaded) == (None, False)
