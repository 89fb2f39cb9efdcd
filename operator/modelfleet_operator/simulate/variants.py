"""What is compared: the deployments of each file, and each baseline, with the same requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path

from modelfleet_process.calibration import Calibration, CalibrationError

from ..api.accelerator_class import AcceleratorClass
from ..api.manifests import Manifests, read_manifests
from ..api.model_deployment import ModelDeployment
from ..decisions.names import revision_hash
from ..errors import ManifestError, ScenarioError, TraceError
from ..views import class_view, decision_view
from .baselines import BASELINES, CLAIRVOYANT, Bounds
from .capacity import find_capacity
from .clairvoyant import Clairvoyant, in_flight, schedule, search
from .files import check_sharing, make_pools
from .options import FleetOptions
from .scaler import Scaler
from .scenario import Scenario
from .simulation import Outcome, Simulation
from .summary import Slo, Summary, summarize
from .trace import Trace, of_model
from .worker import START

LONG_AGO = START - 86_400.0  # when deployments were made
USUAL_TARGET = 16  # requests of a replica that a baseline has, where nobody set one
DEFAULT_CALIBRATION = "default-calibration.json"

Progress = Callable[[str, float], None]  # the variant, and the share of it that is done


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One fleet, to be simulated with one trace."""

    name: str
    trace: Trace
    options: FleetOptions
    baseline: str = ""  # empty: the deployment's own policy
    settings: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of one."""

    variant: Variant
    outcome: Outcome
    summary: Summary


def read_calibration(path: Path | None) -> tuple[Calibration, str]:
    """The file's, else the shipped one; and its name for a person. ScenarioError."""
    try:
        if path is not None:
            return Calibration.read(path), str(path)
        with as_file(files("modelfleet_operator.simulate") / DEFAULT_CALIBRATION) as shipped:
            calibration = Calibration.read(shipped)
    except CalibrationError as error:
        raise ScenarioError(str(error)) from error
    return calibration, (
        f"the shipped calibration ({calibration.model}, {calibration.measured_on}): "
        "give your own with --calibration"
    )


def read_files(paths: Sequence[Path]) -> list[tuple[Path, Manifests]]:
    """Each file with ModelDeployments and its WarmPools; AcceleratorClasses count in all of them.

    ManifestError.
    """
    read = [(path, read_manifests([path])) for path in paths]
    only_classes = {
        path for path, found in read if found.classes and not found.deployments and not found.pools
    }
    problems = [
        problem
        for path, found in read
        for problem in found.problems
        if path not in only_classes or len(found.problems) > 1
    ]
    if problems:
        raise ManifestError("\n".join(problems))
    if len(only_classes) == len(read):
        raise ManifestError("\n".join(problem for _, found in read for problem in found.problems))
    classes: tuple[AcceleratorClass, ...] = ()
    for _, found in read:
        classes += found.classes
    return [
        (path, replace(found, classes=classes)) for path, found in read if path not in only_classes
    ]


def make_variants(
    read: Sequence[tuple[Path, Manifests]],
    trace: Trace,
    *,
    model: str,
    calibration: Calibration,
    is_own_calibration: bool,
    scenario: Scenario,
    price: float | None,
    seed: int,
) -> list[Variant]:
    """One for each deployment of each file. ScenarioError if calibration and model do not fit."""
    variants = []
    for path, manifests in read:
        deployments = [m for m in manifests.deployments if not model or _answers(m, model)]
        if not deployments:
            names = ", ".join(m.full_name for m in manifests.deployments)
            raise ScenarioError(f"{path}: there is no {model}; ModelDeployments here are {names}")
        check_sharing(manifests.pools, deployments, path)
        for manifest in deployments:
            if is_own_calibration:
                _check_model(manifest, calibration, path)
            own = _own_requests(trace, manifest, deployments, path)
            options = _options(manifest, manifests, path, calibration, scenario, price, seed)
            name = path.name if len(deployments) == 1 else f"{path.name} {manifest.metadata.name}"
            variants.append(Variant(name=name, trace=own, options=options))
    return variants


def with_baselines(
    variants: Sequence[Variant], asked: Iterable[tuple[str, dict[str, float]]]
) -> list[Variant]:
    """The variants, then each baseline with the first one's bounds, classes and requests."""
    first = variants[0]
    return [
        *variants,
        *(
            replace(first, name=_title(name, settings), baseline=name, settings=settings)
            for name, settings in asked
        ),
    ]


def simulate(variant: Variant, slo: Slo, progress: Progress) -> Result:
    """Runs it; the clairvoyant several times, since it is a search."""
    if variant.baseline == CLAIRVOYANT:
        return _search(variant, slo, progress)
    return run(variant, slo, make_scaler(variant), progress)


def run(variant: Variant, slo: Slo, scaler: Scaler | None, progress: Progress) -> Result:
    """One simulation."""
    simulation = Simulation(variant.trace, variant.options, scaler)
    outcome = simulation.run(lambda share: progress(variant.name, share))
    has_price = (
        any(a.price is not None for a in variant.options.accelerators.values())
        or variant.options.price is not None
    )
    summary = summarize(variant.trace, outcome, slo, has_price=has_price)
    return Result(variant=variant, outcome=outcome, summary=summary)


def without_pool_and_spot(variant: Variant) -> Variant:
    """The same fleet on demand, which starts all of its workers."""
    options = variant.options
    deployment = replace(options.deployment, spot=None)
    return replace(variant, options=replace(options, deployment=deployment, pools=()))


def make_scaler(variant: Variant) -> Scaler | None:
    """A fresh one; None: the deployment's own policy."""
    if not variant.baseline:
        return None
    settings = {"slots": float(variant.options.max_sequences), **(variant.settings or {})}
    return BASELINES[variant.baseline](bounds(variant), settings)


def bounds(variant: Variant) -> Bounds:
    """Those of spec.scaling."""
    scaling = variant.options.deployment.scaling
    return Bounds(
        least=scaling.min_replicas,
        most=scaling.max_replicas,
        target=scaling.target_queue_depth or USUAL_TARGET,
    )


def capacity(variant: Variant, slo: Slo) -> int:
    """Requests in flight at which one worker keeps the SLO with this trace's requests."""
    options = variant.options
    return find_capacity(
        variant.trace,
        options.calibration,
        slo,
        max_sequences=options.max_sequences,
        max_batch_tokens=options.max_batch_tokens,
    )


def _search(variant: Variant, slo: Slo, progress: Progress) -> Result:
    variant = without_pool_and_spot(variant)  # it knows when to start, and nothing is taken from it
    options, trace = variant.options, variant.trace
    keeps = capacity(variant, slo)
    demand = in_flight(trace, options.calibration, keeps)
    start = options.scenario.starting(options.calibration.load_seconds).median
    found: dict[float, Result] = {}

    def attainment(each: float) -> float:
        counts, begins = schedule(demand, each, start, bounds(variant).most)
        scaler = Clairvoyant(counts, begins)
        found[each] = run(variant, slo, scaler, progress)
        return found[each].summary.attainment

    best = search(keeps * 0.4, keeps * 1.6, attainment)
    return found[best]


def _options(
    manifest: ModelDeployment,
    manifests: Manifests,
    path: Path,
    calibration: Calibration,
    scenario: Scenario,
    price: float | None,
    seed: int,
) -> FleetOptions:
    view = decision_view(
        manifest,
        revision=revision_hash(manifest.spec.model_dump(mode="json")),
        drain_timeout=scenario.drain_timeout,
        created=LONG_AGO,
    )
    known = {
        c.metadata.name: class_view(c.spec, c.metadata.generation)
        for c in manifests.classes
        if c.metadata.name in view.accelerators
    }
    # Classes that are in no file are those of the cluster: nothing is known of them here.
    view = replace(view, accelerators=tuple(n for n in view.accelerators if n in known))
    if (context := manifest.spec.model.context_length) is not None:
        calibration = calibration.model_copy(
            update={"context_length": min(context, calibration.context_length)}
        )
    options = FleetOptions(
        deployment=view,
        calibration=calibration,
        scenario=scenario,
        max_sequences=manifest.spec.engine.max_sequences,
        max_batch_tokens=manifest.spec.engine.max_batch_tokens,
        accelerators=known,
        price=price,
        seed=seed,
    )
    return replace(options, pools=make_pools(manifest, manifests, path, options))


def _check_model(manifest: ModelDeployment, calibration: Calibration, path: Path) -> None:
    source = manifest.spec.model.source
    if calibration.model and calibration.model != source:
        raise ScenarioError(
            f"{path}: {manifest.full_name} serves {source}, but the calibration was measured with "
            f"{calibration.model}: measure this model (benchmarks/calibrate.py)"
        )


def _own_requests(
    trace: Trace, manifest: ModelDeployment, deployments: Sequence[ModelDeployment], path: Path
) -> Trace:
    """All of them, where there is one deployment; else those that ask for it."""
    if len(deployments) == 1:
        return trace
    names = frozenset({manifest.full_name, *manifest.served_names})
    if not trace.models:
        raise ScenarioError(
            f"{path}: the trace does not say which of its {len(deployments)} ModelDeployments a "
            "request is for: choose one with --model"
        )
    own = of_model(trace, names)
    if not own.arrivals:
        found = ", ".join(sorted(set(trace.models))[:10])
        raise TraceError(
            f"{trace.source}: there are no requests for {manifest.full_name}; it names {found}"
        )
    return own


def _answers(manifest: ModelDeployment, model: str) -> bool:
    return model in (manifest.full_name, manifest.metadata.name, *manifest.served_names)


def _title(name: str, settings: Mapping[str, float]) -> str:
    said = ", ".join(f"{key} {value:g}" for key, value in settings.items())
    return f"{name} ({said})" if said else name
