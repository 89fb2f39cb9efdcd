"""`modelfleet simulate`: what a manifest would cost and how it would serve, on a recorded trace."""

from __future__ import annotations

import enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.progress import Progress, TaskID

    from ..simulate.scenario import ColdStart, Scenario, Spot
    from ..simulate.summary import Slo
    from ..simulate.trace import Cut, Trace
    from ..simulate.variants import Result, Variant

_UNITS = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0}


class Output(enum.StrEnum):
    """What is printed."""

    TABLE = "table"
    JSON = "json"


def simulate(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="YAML files with ModelDeployments and WarmPools; each is one fleet.",
        ),
    ],
    trace: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="Requests: CSV or JSON lines with arrival, prompt and answer tokens, also .gz; "
            "the gateway's access log is one.",
        ),
    ],
    start: Annotated[
        str, typer.Option("--from", metavar="DURATION", help="Leave out the trace before this.")
    ] = "0s",
    length: Annotated[
        str,
        typer.Option(
            "--for",
            metavar="DURATION",
            help="Simulate so much of it; default: all.",
            show_default=False,
        ),
    ] = "",
    load: Annotated[
        float, typer.Option(min=0.0001, max=10_000, help="Multiply the load by this.")
    ] = 1.0,
    client: Annotated[str, typer.Option(help="Of a trace of rates (ServeGen): which client.")] = "",
    service: Annotated[
        str, typer.Option(help="Only the trace's requests for this model or service.")
    ] = "",
    model: Annotated[str, typer.Option(help="Only this ModelDeployment of the files.")] = "",
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            "--baseline",
            "--baselines",
            metavar="NAME[:target=N]",
            help="Compare with another autoscaler: hpa-utilization, hpa-inflight, keda-waiting, "
            "keda-inflight, kpa, kubeai, fixed, clairvoyant, or all.",
            show_default=False,
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="Service times (benchmarks/calibrate.py measures them); default: shipped ones, "
            "which the output names.",
            show_default=False,
        ),
    ] = None,
    scenario: Annotated[
        Path | None,
        typer.Option(
            help="YAML: phases of cold starts and claims, drains, the spot market.",
            show_default=False,
        ),
    ] = None,
    cold_start: Annotated[
        str,
        typer.Option(metavar="DURATION", help="Instead of the scenario's.", show_default=False),
    ] = "",
    claim: Annotated[
        str,
        typer.Option(
            metavar="DURATION",
            help="From the claim of a WarmPool's standby to a ready worker, instead of the "
            "scenario's.",
            show_default=False,
        ),
    ] = "",
    price: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="An hour of a worker whose AcceleratorClass is not in the files.",
            show_default=False,
        ),
    ] = None,
    ttft: Annotated[
        float, typer.Option(min=0.001, help="Seconds to the first token that count as kept.")
    ] = 2.0,
    tpot: Annotated[
        str,
        typer.Option(help="Seconds a token that count as kept, or times those without load (2x)."),
    ] = "2x",
    seed: Annotated[int, typer.Option(help="The same seed gives the same result.")] = 0,
    chart: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw load against replicas.", show_default=False),
    ] = None,
    output: Annotated[
        Output, typer.Option("--output", "-o", help="json is for programs.")
    ] = Output.TABLE,
) -> None:
    """Simulate manifests on a trace: cost, latency and cold starts before anything runs.

    The operator's own decisions run on a simulated clock and fleet. Several files are compared.
    """
    import json

    from rich.console import Console

    from ..errors import ScenarioError
    from ..simulate.baselines import ALL, parse_baseline
    from ..simulate.chart import draw
    from ..simulate.report import Setting, as_document, print_report
    from ..simulate.scenario import ClaimStart, ColdStart, Scenario, Spread
    from ..simulate.summary import Slo
    from ..simulate.trace import Cut
    from ..simulate.variants import make_variants, read_calibration, read_files, with_baselines

    read = read_files(files)
    times, told = read_calibration(calibration)
    part = Cut(
        start=_seconds(start, "--from"),
        length=_seconds(length, "--for") if length else float("inf"),
        factor=load,
        seed=seed,
        client=client,
    )
    world = Scenario.read(scenario) if scenario is not None else Scenario()
    if cold_start:
        seconds = Spread(median=_seconds(cold_start, "--cold-start"))
        world = world.model_copy(update={"cold_start": ColdStart(load=seconds)})
    if claim:
        seconds = Spread(median=_seconds(claim, "--claim"))
        pool = world.pool.model_copy(update={"claim": ClaimStart(load=seconds)})
        world = world.model_copy(update={"pool": pool})
    slo = Slo(ttft, _tpot(tpot, times.step_time(1, 0)))
    asked = [
        (name, {}) if text == "all" else parse_baseline(text)
        for text in baseline or ()
        for name in (ALL if text == "all" else ("",))
    ]
    requests = _requests(trace, service, part)
    variants = make_variants(
        read,
        requests,
        model=model,
        calibration=times,
        is_own_calibration=calibration is not None,
        scenario=world,
        price=price,
        seed=seed,
    )
    if not any(len(variant.trace) for variant in variants):
        raise ScenarioError(f"{trace}: there are no requests to simulate")
    results = _simulate(with_baselines(variants, asked), slo)
    setting = Setting(
        trace=requests.source,
        calibration=told,
        cold_start=_phases(world.starting(times.load_seconds)),
        slo=slo,
        seed=seed,
        claim=_pools(world, times.load_seconds) if any(v.options.pools for v in variants) else "",
        spot=_market(world.spot) if any(v.options.deployment.spot for v in variants) else "",
    )
    if chart is not None:
        draw(results, chart)
    if output is Output.JSON:
        typer.echo(json.dumps(as_document(setting, results), indent=2, ensure_ascii=False))
    else:
        print_report(Console(highlight=False), setting, results)


def _requests(path: Path, service: str, part: Cut) -> Trace:
    from ..simulate.rates import draw, is_rates, read_client
    from ..simulate.trace import columns, cut, read_trace

    if is_rates(columns(path)):
        source = f"{path} (ServeGen rates, client {part.client}, seed {part.seed})"
        return draw(read_client(path, part.client), part, source)
    return cut(read_trace(path, model=service), part)


def _simulate(variants: Sequence[Variant], slo: Slo) -> list[Result]:
    """One after another, with a line of progress where a person watches."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from ..simulate.variants import simulate as run
    from ..terminal import ERRORS

    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TimeRemainingColumn(),
        console=ERRORS,
        transient=True,
        disable=not ERRORS.is_interactive,
    ) as bars:
        results = []
        for variant in variants:
            task = bars.add_task(variant.name, total=1.0)
            results.append(run(variant, slo, partial(_show, bars, task)))
            bars.remove_task(task)
    return results


def _show(bars: Progress, task: TaskID, _: str, share: float) -> None:
    bars.update(task, completed=share)


def _seconds(text: str, option: str) -> float:
    """`90s`, `1h30m`, `7d`, or a number of seconds."""
    import re

    parts = re.findall(r"(\d+(?:\.\d+)?)([dhms]|$)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise typer.BadParameter(
            f"expected a duration like 90s, 1h30m or 7d, found {text!r}", param_hint=option
        )
    return sum(float(number) * _UNITS[unit or "s"] for number, unit in parts)


def _tpot(text: str, unloaded: float) -> float:
    try:
        value = float(text.removesuffix("x")) * (unloaded if text.endswith("x") else 1.0)
    except ValueError:
        value = -1.0
    if value <= 0:
        raise typer.BadParameter(
            f"expected seconds or times the unloaded ones (2x), found {text!r}",
            param_hint="--tpot",
        )
    return value


def _phases(start: ColdStart) -> str:
    parts = [
        f"{name} {spread.median:g} s" + (f" (p95 {spread.p95:g} s)" if spread.p95 else "")
        for name, spread in (
            ("node", start.node),
            ("image", start.image),
            ("weights", start.weights),
            ("load", start.load),
            ("first token", start.first_token),
        )
        if spread.median
    ]
    return ", ".join(parts) or "none"


def _pools(world: Scenario, load_seconds: float) -> str:
    claim, standby = world.claiming(load_seconds), world.standing_by(load_seconds)
    told = f"{_phases(claim)}; another standby takes {_phases(standby)}"
    if world.pool.price_share < 1:
        told += f", and costs {world.pool.price_share:.0%} of a worker"
    return told


def _market(spot: Spot) -> str:
    """As a person reads it: `3 zones; 30 s notice; 0.05 an hour of each worker`."""
    burst, shortage = spot.burst, spot.shortage
    parts = [f"{spot.zones} zones", f"{spot.notice:g} s notice" if spot.notice else "no notice"]
    if spot.per_hour:
        parts.append(f"{spot.per_hour:g} interruptions an hour of each worker")
    if spot.fleet_per_hour:
        parts.append(f"{spot.fleet_per_hour:g} an hour of one worker of all")
    if burst.per_hour:
        parts.append(f"{burst.per_hour:.3g} an hour of {burst.share:.0%} of each zone's workers")
    if shortage.per_hour:
        parts.append(f"{shortage.per_hour:.3g} shortages an hour in each zone")
    return "; ".join(parts)
