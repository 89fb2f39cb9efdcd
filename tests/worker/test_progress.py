"""The percentage never falls, and the ETA follows what was seen."""

from hypothesis import given
from hypothesis import strategies as st

from modelfleet_worker.progress import LoadProgress, phase_seconds

PHASES = st.sampled_from(["Download", "Imports", "Weights", "Cache", "Warmup", "Unknown"])
T0 = 1000.0


def test_a_local_model_spends_its_time_on_imports_and_weights():
    progress = LoadProgress(started=T0).advance("Weights", 0.4, T0 + 4)
    assert (progress.phase, progress.percent, progress.eta) == ("Weights", 50, T0 + 8)


def after(*reports: tuple[str, float, float]) -> LoadProgress:
    """Reports of (phase, share, seconds since the start)."""
    progress = LoadProgress(started=T0)
    for phase, share, seconds in reports:
        progress = progress.advance(phase, share, T0 + seconds)
    return progress


def test_a_download_takes_most_of_the_way():
    progress = after(("Download", 0, 0), ("Download", 0.5, 30))
    assert (progress.percent, progress.eta) == (37.5, T0 + 80)
    progress = after(("Download", 0, 0), ("Download", 1, 60), ("Imports", 0, 60))
    assert (progress.percent, progress.eta) == (75, T0 + 80)


def test_a_download_that_goes_on_tells_its_own_pace():
    """Four fifths were there; the last fifth at one percent a second."""
    progress = after(("Download", 0.8, 0), ("Download", 0.9, 10))
    assert round(progress.eta) == T0 + 20 + 33  # and what follows a download of 100 s


def test_what_follows_a_download_has_a_pace_of_its_own():
    """60 s of download, then a tenth of the rest in a second."""
    fetched = (("Download", 0.0, 0.0), ("Download", 1.0, 60.0))
    progress = after(*fetched, ("Imports", 0, 60), ("Imports", 1 / 3, 61))
    assert (round(progress.percent, 6), round(progress.eta)) == (77.5, T0 + 70)


def test_no_eta_before_something_was_seen():
    assert after(("Imports", 0.001, 1)).eta == 0
    assert after(("Warmup", 1, 0)).eta == 0
    assert after(("Download", 0.9, 1)).eta == 0


@given(st.lists(st.tuples(PHASES, st.floats(-1, 2)), max_size=20))
def test_never_falls_and_never_passes_a_hundred(reports):
    progress = LoadProgress(started=T0)
    for second, (phase, share) in enumerate(reports):
        later = progress.advance(phase, share, T0 + second)
        assert progress.percent <= later.percent <= 100
        progress = later


def test_the_end_is_a_hundred():
    progress = LoadProgress(started=T0)
    for phase in ("Download", "Imports", "Weights", "Cache", "Warmup"):
        progress = progress.advance(phase, 1.0, T0 + 1)
    assert round(progress.percent, 6) == 100


def test_keeps_when_each_phase_began_and_when_all_was_done():
    progress = after(("Imports", 0, 1), ("Weights", 0.2, 2), ("Imports", 1, 3), ("Weights", 1, 4))
    assert progress.phases == (("Imports", T0 + 1), ("Weights", T0 + 2))
    assert progress.ready_at == 0
    assert progress.done(T0 + 5).ready_at == T0 + 5


def test_the_seconds_of_phases_end_where_the_next_begins():
    assert phase_seconds({"Imports": 10.0, "Weights": 10.5, "Cache": 12.25}, 12.5) == {
        "imports": 0.5,
        "weights": 1.75,
        "cache": 0.25,
    }


def test_a_load_that_reports_no_phase_has_none():
    assert phase_seconds({}, 12.5) == {}
