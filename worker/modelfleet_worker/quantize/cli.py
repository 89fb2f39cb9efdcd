"""The command line of `modelfleet quantize`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from modelfleet_process import logs
from modelfleet_process.command_line import STYLE, run_app
from modelfleet_process.options import LogLevel

from ..errors import UsageError, WorkerError
from ..options import (
    GroupSizeOption,
    ModelDirOption,
    OverrideOption,
    RevisionOption,
    cache_dir,
    cache_limit,
    model_copies,
)
from ..quantization.scheme import Method, Override
from ..storage.cache import Cache
from ..storage.entry import LocalModel
from ..storage.sources import check_folder, find_model

if TYPE_CHECKING:
    from .calibration import ShareReport
    from .evaluation import Cost

app = typer.Typer(add_completion=False, **STYLE)


@app.command()
def quantize(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="A folder with Hugging Face files, or hf://, s3://, oci:// or file://...",
        ),
    ],
    target: Annotated[Path, typer.Argument(metavar="DST", help="The folder to write.")],
    revision: RevisionOption = "main",
    method: Annotated[
        Method, typer.Option(help="int8 and int4 round to nearest; awq and gptq calibrate int4.")
    ] = Method.INT4,
    group_size: GroupSizeOption = 128,
    override: OverrideOption = None,
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
    model_dir: ModelDirOption = None,
) -> int:
    """Write a checkpoint with weights of 4 or 8 bits (compressed-tensors, pack-quantized)."""
    logs.configure(None, LogLevel.WARNING, logs.console_style(utc=False))
    # Here: what imports torch takes seconds, and --help needs none of it.
    from .calibration import windows
    from .checkpoints import QuantizeOptions, quantize_checkpoint
    from .evaluation import evaluate, evaluate_routing, load_to_compare
    from .report import Evaluation, NamedText, loss_warning, write_report
    from .writing import refuse_existing

    text = None if calibration is None else NamedText(calibration.name, _read(calibration))
    options = QuantizeOptions(
        method=method,
        group_size=group_size,
        overrides=tuple(map(Override.parse, override or ())),
        text=None if text is None else text.text,
        samples=samples,
    )
    if text is not None and not options.calibrates:
        raise UsageError(f"--calibration is for awq and gptq; {method} looks at no text")
    # Before minutes of work: a folder that is there, a text that is too short.
    refuse_existing(target)
    against = None if evaluate_on is None else NamedText(evaluate_on.name, _read(evaluate_on))
    found = _find(source, revision, model_copies(model_dir))
    folder = found.folder
    texts = None if against is None else windows(folder, against.text)
    with _progress(f"{method}: {source}") as report:
        quantize_checkpoint(folder, target, options, report)
    _print(f"{target}: {_weight_of(target):.0f} MB of {_weight_of(folder):.0f} MB")

    def write(evaluation: Evaluation | None) -> None:
        write_report(
            target,
            source=source,
            revision=revision if source.startswith("hf://") else None,
            options=options,
            calibration=text,
            evaluation=evaluation,
        )

    write(None)
    if against is not None and texts is not None:
        original, smaller = load_to_compare(folder), load_to_compare(target)
        with _progress("comparing with the original") as report:
            cost = evaluate(original, smaller, texts, report)
        routing = evaluate_routing(original, smaller, texts)
        write(Evaluation(text=against, cost=cost, routing=routing))
        _print(_told(cost))
        if routing is not None:
            _print(str(routing))
        if (warning := loss_warning(cost)) is not None:
            sys.stderr.write(f"warning: {warning}\n")
    return 0


def _find(source: str, revision: str, copies: Path) -> LocalModel:
    """The folder of a model, or a copy of what is elsewhere. Raises ModelError and UsageError."""
    if revision != "main" and not source.startswith("hf://"):
        raise UsageError("--revision belongs to an hf:// source")
    if "://" not in source:
        return LocalModel(check_folder(Path(source)))
    cache = Cache(cache_dir() / "remote", cache_limit())
    with _progress(f"fetching {source}") as tell:
        return find_model(
            source,
            revision=revision,
            model_dir=copies,
            cache=cache,
            report=lambda _, share: tell(share),
        )


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
