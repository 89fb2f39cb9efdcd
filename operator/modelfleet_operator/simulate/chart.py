"""The chart of load against replicas, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import ScenarioError
from .variants import Result


def draw(results: Sequence[Result], path: Path) -> None:
    """One panel for each; the file's ending says the format. ScenarioError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ScenarioError(
            "--chart needs matplotlib: install modelfleet[simulate], or matplotlib itself"
        ) from error
    figure = Figure(figsize=(10, 2.6 * len(results)), layout="constrained")
    panels = figure.subplots(len(results), 1, sharex=True, squeeze=False)
    for (panel,), result in zip(panels, results, strict=True):
        samples = result.outcome.history.samples
        hours = [sample.at / 3600 for sample in samples]
        panel.set_title(result.variant.name, loc="left", fontsize=10)
        panel.fill_between(
            hours,
            [s.waiting + s.running for s in samples],
            step="post", color="#9ecae1", linewidth=0, label="in flight",
        )  # fmt: skip
        panel.fill_between(
            hours, [s.waiting for s in samples],
            step="post", color="#e6550d", linewidth=0, label="of these waiting",
        )  # fmt: skip
        panel.set_ylabel("requests")
        count = panel.twinx()
        count.step(hours, [s.existing for s in samples], where="post", color="#bdbdbd",
                   linewidth=1, label="replicas that exist")  # fmt: skip
        count.step(hours, [s.ready for s in samples], where="post", color="#31a354",
                   linewidth=1.2, label="ready")  # fmt: skip
        count.set_ylabel("replicas")
        count.set_ylim(bottom=0)
        panel.set_ylim(bottom=0)
        lines = panel.get_legend_handles_labels()
        more = count.get_legend_handles_labels()
        panel.legend(lines[0] + more[0], lines[1] + more[1], loc="upper right", fontsize=8)
    panels[-1][0].set_xlabel("hours")
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise ScenarioError(f"the chart {path} cannot be written: {error}") from error
