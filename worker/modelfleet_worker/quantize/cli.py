"""The command line of `modelfleet quantize`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from modelfleet_process.command_line import STYLE, run_app

from ..errors import UsageError, WorkerError
from ..quantization.scheme import Method, Override

if TYPE_CHECKING:
    from .calibration import ShareReport
    from .evaluation import Cost

app = typer.Typer(add_completion=False, **STYLE)
REPORT = "quantization_report.json"


@app.command()
def quantize(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A Hugging Face folder.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="The folder to write.")],
    method: Annotated[
        Method, typer.Option(help="int8 and int4 round to nearest; awq and gptq calibrate int4.")
    ] = Method.INT4,
    group_size: Annotated[
        int, typer.Option(help="Inputs that share a scale in int4: 32, 64 or 128.")
    ] = 128,
    override: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN=FORMAT",
            help="none, int8 or int4 for modules, like '*.down_proj=int8'; first match decides.",
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Text for awq and gptq; default: the Python language reference."
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option(min=1, help="Pieces of 512 tokens to calibrate with.")
    ] = 64,
    evaluate_on: Annotated[
        Path | None,
        typer.Option(
            "--evaluate", metavar="FILE", help="Text to measure perplexity and KL on afterwards."
        ),
    ] = None,
) -> int:
    """Write a checkpoint with quantized weights (compressed-tensors, pack-quantized)."""
    # Here: what imports torch takes seconds, and --help needs none of it.
    from .calibration import windows
    from .checkpoints import QuantizeOptions, quantize_checkpoint
    from .evaluation import evaluate
    from .plain import load_plain

    options = QuantizeOptions(
        method=method,
        group_size=group_size,
        overrides=tuple(map(Override.parse, override or ())),
        text=None if calibration is None else _read(calibration),
        samples=samples,
    )
    if calibration is not None and not options.calibrates:
        raise UsageError(f"--calibration is for awq and gptq; {method} looks at no text")
    # Before minutes of work: a text that is too short.
    texts = None if evaluate_on is None else windows(source, _read(evaluate_on))
    with _progress(f"{method}: {source.name}") as report:
        quantize_checkpoint(source, target, options, report)
    _print(f"{target}: {_weight_of(target):.0f} MB of {_weight_of(source):.0f} MB")
    if texts is not None:
        with _progress("comparing with the original") as report:
            cost = evaluate(load_plain(source), load_plain(target), texts, report)
        (target / REPORT).write_text(json.dumps(asdict(cost), indent=2) + "\n")
        _print(_told(cost))
    return 0


def _told(cost: Cost) -> str:
    return (
        f"over {cost.tokens} tokens: perplexity {cost.perplexity}, {cost.perplexity_ratio} of the"
        f" original's; KL {cost.divergence} nats a token; same choice {cost.same_choice}"
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as UTF-8 text: {error}") from error


def _weight_of(folder: Path) -> float:
    """Megabytes of its safetensors."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 1e6


@contextmanager
def _progress(title: str) -> Iterator[ShareReport]:
    """A bar on a terminal; elsewhere a line for each tenth."""
    console = Console(stderr=True)
    if not console.is_terminal:
        told = -1

        def tell(share: float) -> None:
            nonlocal told
            if (tenth := int(share * 10 + 1e-6)) > told:
                told = tenth
                console.print(f"{title}: {tenth * 10} %", markup=False, highlight=False)

        yield tell
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(title, total=1.0)
        yield lambda share: bar.update(task, completed=share)


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def main() -> None:
    """Ends with the command's exit code; what the user must fix is one line and code 2."""
    sys.exit(run_app(app, "modelfleet quantize", (WorkerError,)))
