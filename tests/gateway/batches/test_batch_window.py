"""When a batch runs, waits, or wakes its model."""

import pytest

from modelfleet_gateway.batches.window import (
    Pace,
    Work,
    decide_pace,
    lines_allowed,
    read_window,
)

NOON = 1_800_000_000.0
HOUR = 3600.0


def work(**changes) -> Work:
    fields = {"now": NOON, "expires_at": NOON + 24 * HOUR, "lines": 100}
    return Work(**(fields | changes))


@pytest.mark.parametrize(
    ("seen", "pace"),
    [
        pytest.param(work(), Pace.WAIT, id="a sleeping model is left asleep while there is time"),
        pytest.param(work(ready_workers=1, slots=4), Pace.IDLE, id="an awake one has idle slots"),
        pytest.param(
            work(expires_at=NOON + 840), Pace.URGENT, id="woken when a start may just be in time"
        ),
        pytest.param(work(expires_at=NOON + 860), Pace.WAIT, id="and not before"),
        pytest.param(
            work(lines=50_000, slots=4), Pace.URGENT, id="much work wakes at once: 125,000 s of it"
        ),
        pytest.param(
            work(lines=50_000, slots=4, seconds_per_line=0.1),
            Pace.WAIT,
            id="unless lines were measured to be short",
        ),
        pytest.param(
            work(expires_at=NOON + 240, ready_workers=1, slots=4),
            Pace.URGENT,
            id="an awake model is shared as usual when time gets short",
        ),
        pytest.param(
            work(expires_at=NOON + 260, ready_workers=1, slots=4),
            Pace.IDLE,
            id="and not while idle slots will do",
        ),
        pytest.param(work(expires_at=NOON - 1), Pace.URGENT, id="too late is urgent, too"),
    ],
)
def test_the_window_decides_the_pace(seen: Work, pace: Pace):
    assert decide_pace(seen).pace is pace


def test_a_batch_waits_through_the_day_and_wakes_its_model_in_time():
    story = [
        decide_pace(work(now=NOON + hours * HOUR, lines=1000, seconds_per_line=6.0)).pace
        for hours in (0, 12, 22, 23, 23.9)
    ]
    assert story == [Pace.WAIT, Pace.WAIT, Pace.WAIT, Pace.URGENT, Pace.URGENT]


def test_the_reason_says_until_when_it_waits_and_what_wakes_the_model():
    waits = decide_pace(work(now=NOON, expires_at=NOON + 24 * HOUR)).reason
    assert waits == (
        "its model sleeps: waits until another request wakes it, and wakes it at "
        "2027-01-16 07:45 UTC at the latest"
    )
    wakes = decide_pace(work(expires_at=NOON + 600)).reason
    assert wakes == (
        "wakes its model: a start and 100 lines may take the 10 min left of the window"
    )


@pytest.mark.parametrize(
    ("case", "allowed"),
    [
        pytest.param({"pace": Pace.WAIT}, 0, id="none while it waits"),
        pytest.param({}, 6, id="a quarter of the slots stays free"),
        pytest.param({"free": 6}, 4, id="others' requests count"),
        pytest.param({"free": 2, "running": 6}, 6, id="its own are what it has"),
        pytest.param({"free": 0, "running": 6}, 6, id="none is begun where no slot is free"),
        pytest.param({"batches": 2}, 3, id="two batches share"),
        pytest.param({"waiting": 1, "running": 5}, 0, id="none is begun while a request waits"),
        pytest.param({"slots": 1, "free": 1}, 1, id="the only slot is used"),
        pytest.param({"pace": Pace.URGENT, "waiting": 3}, 8, id="urgent: as others, all slots"),
        pytest.param({"pace": Pace.URGENT, "slots": 0, "free": 0}, 4, id="urgent: some wake it"),
    ],
)
def test_lines_take_what_is_idle(case: dict, allowed: int):
    usual = {"pace": Pace.IDLE, "slots": 8, "free": 8, "waiting": 0, "running": 0, "batches": 1}
    pace = (usual | case).pop("pace")
    rest = {name: value for name, value in (usual | case).items() if name != "pace"}
    assert lines_allowed(pace, **rest) == allowed


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("24h", 86_400),
        ("1m", 60),
        ("90m", 5400),
        ("7d", 604_800),
        ("14d", 1_209_600),
        ("15d", None),
        ("30s", None),
        ("0h", None),
        ("24 h", None),
        ("24h\n", None),
        ("٢h", None),
        ("", None),
    ],
)
def test_windows_are_minutes_hours_or_days(text: str, seconds: int | None):
    assert read_window(text) == seconds
