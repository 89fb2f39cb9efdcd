"""docs/worker-lifecycle.md names every state that the code knows."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from modelfleet_operator.decisions.observed import WorkerState
from modelfleet_operator.decisions.worker_groups import WorkerGroups
from modelfleet_proto import worker_pb2

PAGE = (Path(__file__).parents[3] / "docs" / "worker-lifecycle.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """The cells of the table that begins with this heading."""
    _, _, rest = PAGE.partition(f"\n| {heading} |")
    lines = rest.split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_names_every_group_of_workers():
    named = set(re.findall(r"`(\w+)`", " ".join(row[1] for row in rows("state"))))
    assert named == {field.name for field in dataclasses.fields(WorkerGroups)}


def test_the_diagram_has_every_state_of_the_table_and_no_other():
    diagram = PAGE.partition("```mermaid")[2].partition("```")[0]
    arrows = re.findall(r"(\S+) --> ([^\s:]+)", diagram)
    drawn = {state for arrow in arrows for state in arrow} - {"[*]", "serving"}
    assert drawn == {row[0] for row in rows("state")} - {"gone"}, "gone is the end"


def test_the_table_names_every_state_that_a_worker_says():
    named = {row[0].strip("`") for row in rows("WorkerState")}
    assert named == {
        name.removeprefix("WORKER_STATE_") for name, _ in worker_pb2.WorkerState.items()
    }
    assert {state.name for state in WorkerState} == named - {"UNSPECIFIED"}
