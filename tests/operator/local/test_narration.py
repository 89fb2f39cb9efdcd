from __future__ import annotations

from dataclasses import dataclass, field, replace

from modelfleet_operator.decisions.memory import Memory
from modelfleet_operator.decisions.names import owners
from modelfleet_operator.decisions.observed import Observed, Signals
from modelfleet_operator.decisions.plan import make_plan
from modelfleet_operator.decisions.status import Status
from modelfleet_operator.local.narration import narrate
from simulated_fleet import SimulatedFleet, deployment, policy


@dataclass
class Story(SimulatedFleet):
    """A simulated fleet that keeps what a person would have read."""

    told: list[str] = field(default_factory=list)
    before: Status | None = None
    tells_progress: bool = True

    def reconcile(self):
        seen = self.observe()
        plan = super().reconcile()
        self.told += narrate(
            self.deployment,
            seen.workers,
            self.before,
            plan,
            self.now,
            tells_progress=self.tells_progress,
        )
        self.before = plan.status
        return plan

    def tell(self) -> list[str]:
        told, self.told = self.told, []
        return told


def test_a_model_starts_sleeps_and_wakes_in_plain_words():
    story = Story(deployment())
    story.run(5)
    assert story.tell() == [
        "starting 1 worker (a new revision starts one worker to prove itself)",
        "loading 57 % (weights)",
        "ready in 3.0 s",
    ]
    story.run(100)
    assert story.tell() == ["asleep after 60 s idle"]
    story.waiting = 1
    story.run(5)
    # By what the first load took: 0.5 s until its worker spoke, and 2.5 s for the weights.
    assert story.tell() == [
        "waking (1 request waits)",
        "loading 16 % (weights)",
        "loading 33 % (weights)",
        "loading 50 % (weights)",
        "loading 83 % (weights)",
        "ready in 3.0 s",
    ]


def test_growing_and_shrinking_say_why():
    story = Story(deployment(scaling=policy(min_replicas=1)))
    story.run(5)
    story.tell()
    story.waiting, story.running = 3, 8
    story.run(0.5)
    assert story.tell()[0] == (
        "growing from 1 to 2 workers (3 waiting and 8 running need 2 replicas)"
    )
    story.waiting = story.running = 0
    story.run(60)
    assert [line for line in story.tell() if line.startswith("shrinking from 2 to 1 worker")]


def test_deaths_are_told_with_their_reason_and_the_next_try():
    story = Story(deployment())
    story.run(5)
    story.tell()
    story.kill("tiny-aaaa-0")
    story.reconcile()
    assert story.tell()[0] == "worker exited (ended by SIGKILL): replaced"


def test_failures_in_a_row_are_one_line_each_and_say_why_once_until_it_stalls():
    broken = Story(deployment(), broken={"aaaa"})
    broken.run(20)
    why = "exit code 1: error: no safetensors in /model"
    told = [line for line in broken.tell() if "worker exited" in line or "stalled" in line]
    assert told == [
        f"worker exited ({why}): replaced",
        "worker exited again, 2 in a row: next try in 1 s",
        f"stalled: workers failed 3 times in a row: {why}; next try in 2 s",
        "worker exited again, 4 in a row: next try in 4 s",
        "worker exited again, 5 in a row: next try in 8 s",
    ]


def test_another_failure_says_its_own_reason():
    broken = Story(deployment(), broken={"aaaa"})
    broken.run(12)
    broken.tell()
    broken.broken.clear()
    broken.run(2)
    [name] = broken.alive()
    broken.kill(name, "ended by SIGKILL")
    broken.reconcile()
    assert any("ended by SIGKILL" in line for line in broken.tell())


def test_where_a_bar_shows_it_no_line_tells_the_progress():
    story = Story(deployment(), tells_progress=False)
    story.run(5)
    assert not [line for line in story.tell() if line.startswith("loading")]


def test_a_rollout_is_told_when_it_begins_and_when_it_is_done():
    story = Story(deployment(scaling=policy(min_replicas=1)), tells_progress=False)
    story.run(10)
    story.tell()
    story.change(revision="bbbb")
    story.run(30)
    assert story.tell() == [
        "revision bbbb follows aaaa",
        "every worker is of revision bbbb",
    ]


def test_a_name_that_another_deployment_has_is_told_whenever_it_is_asked_for():
    told = []
    before = None
    rival = deployment(namespace="other", name="rival", served_names=("rival",))
    for names in (("rival",), ("rival", "tiny"), ("rival", "tiny")):
        asking = replace(rival, served_names=names)
        seen = Observed(deployment=asking, workers=(), owners=owners([deployment(), asking]))
        plan = make_plan(seen, Signals(), 0, Memory(), before)
        told.append([line for line in narrate(asking, (), before, plan, 0) if "belongs to" in line])
        before = plan.status
    assert [len(lines) for lines in told] == [0, 1, 0]
    assert told[1][0].startswith("'tiny' belongs to default/tiny")


def test_nothing_new_is_told_when_nothing_happens():
    story = Story(deployment(scaling=policy(min_replicas=1)))
    story.run(10)
    story.tell()
    story.run(100)
    assert story.tell() == []
