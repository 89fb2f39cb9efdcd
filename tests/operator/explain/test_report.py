"""What `modelfleet explain` prints."""

import pytest

from modelfleet_operator.decisions.autoscale import NOTHING_WANTED
from modelfleet_operator.decisions.memory import Failures, Memory
from modelfleet_operator.decisions.observed import Observed, PastRevision, Signals
from modelfleet_operator.decisions.reasons import Reason
from modelfleet_operator.explain.report import report
from modelfleet_operator.explain.snapshot import Snapshot
from simulated_fleet import deployment, worker
from simulated_fleet import report as gateway_report


def snapshot(**changes) -> Snapshot:
    defaults = {
        "modelfleet": "0.0.9",
        "now": 1_796_000_060.0,
        "observed": Observed(deployment=deployment(created=1_796_000_000.0)),
        "signals": Signals(gateways=(gateway_report(waiting=9),)),
        "memory": Memory(last_ready_revision="aaaa", revision="aaaa", last_active=1_796_000_055.0),
        "status": None,
    }
    return Snapshot(**(defaults | changes))


def test_shows_what_was_seen_and_what_follows():
    text = report(snapshot())
    assert text.startswith(
        "default/tiny at 2026-11-30T00:54:20Z, seen by Modelfleet 0.0.9, decided"
    )
    assert "created: 2026-11-30T00:53:20Z (60 s ago)" in text
    assert "waiting: 9" in text
    assert "last_active: 2026-11-30T00:54:15Z (5 s ago)" in text
    assert "  Create tiny-aaaa-0: " in text
    assert "  Create tiny-aaaa-1: " in text
    assert "Ready=False" in text


def test_shows_peaks_with_their_age():
    peaks = Memory(peaks=((1_796_000_050.0, 3),))
    assert "2026-11-30T00:54:10Z (10 s ago): 3" in report(snapshot(memory=peaks))
    assert "1970" not in report(snapshot(memory=Memory(peaks=NOTHING_WANTED)))


def test_shows_the_phases_of_a_load_with_their_age():
    phases = (("Starting", 1_796_000_000.0), ("Weights", 1_796_000_050.0))
    loading = Observed(deployment=deployment(), workers=(worker(),))
    text = report(snapshot(observed=loading, memory=Memory(loading={worker().uid: phases})))
    assert "Weights since 2026-11-30T00:54:10Z (10 s ago)" in text


@pytest.mark.parametrize("when", [float("inf"), 1e300])
def test_shows_a_time_that_is_no_date(when):
    assert f"last_active: {when:g} (in " in report(snapshot(memory=Memory(last_active=when)))


def test_shows_why_workers_failed():
    failures = Failures(count=2, error="no config.json", reason=Reason.LOAD_FAILED)
    assert "reason: LoadFailed" in report(snapshot(memory=Memory(failures=failures)))


def test_numbers_the_verdict_of_each_step():
    verdicts = snapshot().replay().verdicts
    text = report(snapshot())
    assert len(verdicts) >= 5
    for number, verdict in enumerate(verdicts, 1):
        assert f"  {number}. {verdict.step}: {verdict.words}" in text
    assert "9 waiting" in text[text.index("Decided") : text.index("Actions")]


def test_shows_the_defaults_that_decide():
    text = report(snapshot())
    assert "mode: Auto" in text
    assert "max_unavailable:" in text


def test_an_action_about_a_worker_names_it():
    exited = worker(failure="out of memory")
    text = report(snapshot(observed=Observed(deployment=deployment(), workers=(exited,))))
    assert "Remove tiny-aaaa-0: it exited: out of memory" in text


def test_a_message_of_a_worker_cannot_steer_the_terminal():
    dead = worker(failure="out of \x1b[2Jmemory")
    text = report(snapshot(observed=Observed(deployment=deployment(), workers=(dead,))))
    assert "it exited: out of \N{REPLACEMENT CHARACTER}[2Jmemory" in text
    assert "\x1b" not in text


def test_a_quiet_state_says_that_nothing_is_to_be_done():
    asleep = Observed(
        deployment=deployment(created=1_796_000_000.0),
        history=(PastRevision(revision="aaaa", number=1),),
    )
    memory = Memory(last_ready_revision="aaaa", revision="aaaa", target=0)
    quiet = Signals(gateways=(gateway_report(),))
    text = report(snapshot(observed=asleep, signals=quiet, memory=memory))
    assert "Actions\n  none: " in text
    assert "Ready=True (Asleep)" in text
