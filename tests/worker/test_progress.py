"""The percentage never falls, and the ETA follows what was seen."""

from hypothesis import given
from hypothesis import strategies as st

from modelfleet_worker.progress import Progress

PHASES = st.sampled_from(["Download", "Imports", "Weights", "Cache", "Warmup", "Unknown"])
T0 = 1000.0


def test_a_local_model_spends_its_time_on_imports_and_weights():
    progress = Progress(started=T0).advance("Weights", 0.4, T0 + 4)
    assert (progress.phase, progress.percent, progress.eta) == ("Weights", 50, T0 + 8)


def test_a_download_takes_most_of_the_way():
    progress = Progress(started=T0).advance("Download", 1, T0 + 60).advance("Imports", 0, T0 + 60)
    assert (progress.percent, progress.eta) == (75, T0 + 80)


def test_no_eta_before_something_was_seen():
    assert Progress(started=T0).advance("Imports", 0.001, T0 + 1).eta == 0
    assert Progress(started=T0).advance("Warmup", 1, T0).eta == 0


@given(st.lists(st.tuples(PHASES, st.floats(-1, 2)), max_size=20))
def test_never_falls_and_never_passes_a_hundred(reports):
    progress = Progress(started=T0)
    for second, (phase, share) in enumerate(reports):
        later = progress.advance(phase, share, T0 + second)
        assert progress.percent <= later.percent <= 100
        progress = later


def test_the_end_is_a_hundred():
    progress = Progress(started=T0)
    for phase in ("Download", "Imports", "Weights", "Cache", "Warmup"):
        progress = progress.advance(phase, 1.0, T0 + 1)
    assert round(progress.percent, 6) == 100
