"""docs/batches.md and the code say the same about limits."""

from pathlib import Path

from modelfleet_gateway.batches import line_run, lines, runner, window
from modelfleet_gateway.batches.objects import ENDPOINTS, PURPOSES
from modelfleet_gateway.options import BatchLimits, ConnectionLimits

PAGE = " ".join((Path(__file__).parents[3] / "docs" / "batches.md").read_text().split())


def test_the_limits_are_those_described():
    limits = BatchLimits()
    for said in (
        f"{limits.file_bytes >> 20} MiB (`--batch-file-bytes`)",
        f"an upload has {ConnectionLimits().upload_time:g} s",
        f"{limits.uploads} at a time",
        f"{limits.lines:,} lines",
        f"as a body may be ({limits.line_bytes >> 20} MiB)",
        f"`custom_id` of {lines.MAX_CUSTOM_ID} characters",
        f"{limits.files_per_key:,} uploaded files",
        f"{limits.batches_per_key} unfinished batches",
        f"{limits.store_bytes >> 30} GiB of files and results",
        f"{runner.MOST_JOBS} batches and {limits.lines_at_once} lines in work",
        f"`--batch-lease`, {limits.lease:g} s",
        f"{lines.MAX_ERRORS} errors at most",
        f"({window.LINE:g} s each until one was measured",
        f"{window.START:g} s for a start",
        f"any from `1m` to `{window.LONGEST // 86_400}d`",
        f"kept for {limits.file_seconds // 86_400} days",
    ):
        assert said in PAGE, said
    assert window.MARGIN == 2, "twice the measured time"
    assert line_run.ATTEMPTS == 3, "three times in all"


def test_endpoints_and_purposes_are_those_described():
    for name in (*ENDPOINTS, *PURPOSES):
        assert f"`{name}`" in PAGE, name
