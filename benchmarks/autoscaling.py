"""Scores autoscalers on ServeGen's clients and Azure's hour, as issue 17's bars are defined.

Each trace is cut to its liveliest 6 hours (--hours) of days 8-14 and scaled so that its peak is
about 20 replicas of the engine in `autoscaling_engine.json` (assumed, not measured: decode
min(25 b, 400) tokens/s at batch b, prefill 16,000 tokens/s). Kept: TTFT 2 s, TPOT twice the
unloaded. One line of JSON for each run goes to the output file; what is there already is not run
again.

    .venv/bin/python benchmarks/autoscaling.py TRACES OUT.jsonl [--seeds 1] [--cold 8 60 300]
    .venv/bin/python benchmarks/autoscaling.py TRACES OUT.jsonl --table
    .venv/bin/python benchmarks/autoscaling.py TRACES OUT.jsonl --tune --traces code 137

Issue 18's bars: a pool of 3, whose standbys cost 0.3 of a replica, are claimed in 5 s and made in
as long as a replica starts (--pool); all on spot, at 0.3 of the price, of which one worker
of all is taken back twice an hour and a whole zone once an hour, with 30 s notice (--spot).

    .venv/bin/python benchmarks/autoscaling.py TRACES OUT.jsonl --pool --spot --cold 60 [--seeds 1]
    .venv/bin/python benchmarks/autoscaling.py TRACES OUT.jsonl --pool --spot --table
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from modelfleet_operator.decisions.autoscale import ScalingPolicy
from modelfleet_operator.decisions.capacity import SpotPolicy
from modelfleet_operator.decisions.observed import Deployment
from modelfleet_operator.decisions.pool_observed import Pool
from modelfleet_operator.decisions.worker_speed import Targets
from modelfleet_operator.simulate.clairvoyant import in_flight
from modelfleet_operator.simulate.options import FleetOptions
from modelfleet_operator.simulate.pool import PoolOptions
from modelfleet_operator.simulate.rates import draw, liveliest, read_client
from modelfleet_operator.simulate.scenario import (
    Burst,
    ClaimStart,
    ColdStart,
    Scenario,
    Spot,
    Spread,
)
from modelfleet_operator.simulate.scenario import Pool as PoolScenario
from modelfleet_operator.simulate.summary import Slo, area_bound
from modelfleet_operator.simulate.trace import Cut, Trace, cut, read_trace
from modelfleet_operator.simulate.variants import Result, Variant, capacity, simulate
from modelfleet_process.calibration import Calibration
from modelfleet_process.overload import DEFAULT_TARGET

ENGINE = Path(__file__).with_name("autoscaling_engine.json")
CLIENTS = ("91", "49", "12", "149", "116", "137", "104", "20")
AZURE = ("conv", "mix", "code")
TRACES = (*CLIENTS, "conv", "mix")  # that are scored; `code` is for tuning
DAY = 86_400.0
SLOTS, BATCH_TOKENS = 64, 512
# Name, the baseline behind it and its target as a share of what keeps the SLO; empty: our own.
POLICIES: dict[str, tuple[str, dict[str, float]]] = {
    "clairvoyant": ("clairvoyant", {}),
    "ours": ("", {}),
    "ours, newest first": ("", {"newest": 1}),
    "targetQueueDepth 16, delay 5 min": ("", {"depth": 16, "delay": 300}),
    "fixed at the peak": ("fixed", {}),
    "hpa-inflight 0.55 C": ("hpa-inflight", {"share": 0.55}),
    "hpa-utilization 0.8": ("hpa-utilization", {}),
    "keda-waiting 5": ("keda-waiting", {}),
    "keda-inflight 0.55 C": ("keda-inflight", {"share": 0.55}),
    "kpa 0.55 C, delay 5 min": ("kpa", {"share": 0.55, "delay": 300}),
    "kpa 0.4 C, delay 5 min": ("kpa", {"share": 0.4, "delay": 300}),
    "kpa as documented": ("kpa", {}),
    "kubeai 0.55 C": ("kubeai", {"share": 0.55}),
    "kubeai as documented": ("kubeai", {}),
}
POOL, STANDBY_SHARE, CLAIM = 3, 0.3, 5.0
SPOT_SHARE = 0.3  # of the price on demand
MARKET = Spot(
    zones=3,
    fleet_per_hour=2.0,
    burst=Burst(per_hour=1 / 3, share=1.0),
    notice=30.0,
    price_share=SPOT_SHARE,
)
POOL_POLICIES: dict[str, tuple[str, dict[str, float]]] = {
    "ours, pool of 3": ("", {"pool": POOL}),
    "ours, newest first, pool of 3": ("", {"newest": 1, "pool": POOL}),
}
SPOT_POLICIES: dict[str, tuple[str, dict[str, float]]] = {
    "ours, on spot": ("", {"spot": 1}),
    "ours, newest first, on spot": ("", {"newest": 1, "spot": 1}),
}
ON_DEMAND = {name: name.removesuffix(", on spot") for name in SPOT_POLICIES}
ALL_POLICIES = POLICIES | POOL_POLICIES | SPOT_POLICIES


def trace_of(
    name: str, options: argparse.Namespace, seed: int, calibration: Calibration, slo: Slo
) -> Trace:
    """Scaled so that its peak is about `options.peak` replicas, with this seed's requests."""
    folder, length = options.folder, 3600 * options.hours
    if name in AZURE:
        whole = read_trace(folder / "azure-llm-2023.csv.gz", model="" if name == "mix" else name)

        def make(factor: float) -> Trace:
            return cut(whole, Cut(factor=factor, seed=seed))
    else:
        client = read_client(folder / "servegen-m-large-14d-rates.csv.gz", name)
        first = 0.0 if options.tune else 7 * DAY
        start = liveliest(client, length, first, first + 7 * DAY)

        def make(factor: float) -> Trace:
            part = Cut(start=start, length=length, factor=factor, seed=seed)
            return draw(client, part, f"client {name}")

    factor = 1.0
    for _ in range(6):
        trace = make(factor)
        variant = variant_of(name, trace, calibration, 8.0, 0, options.peak)
        keeps = capacity(variant, slo)
        seconds = in_flight(trace, calibration, keeps)
        # The peak of what lasts a minute: bursts of seconds are not what a fleet is sized for.
        minutes = [statistics.fmean(seconds[n : n + 60]) for n in range(0, len(seconds), 60)]
        peak = max(minutes) / keeps
        if abs(peak / options.peak - 1) < 0.05:
            break
        factor *= options.peak / peak
    return trace


def variant_of(
    name: str, trace: Trace, calibration: Calibration, cold: float, seed: int, peak: int
) -> Variant:
    """The defaults, from 0 to twice the peak's replicas, a queue of 3,000, with the targets."""
    slo = slo_of(calibration)
    targets = Targets(ttft=slo.ttft, tpot=slo.tpot, most=SLOTS, max_batch_tokens=BATCH_TOKENS)
    deployment = Deployment(
        namespace="default",
        name="model",
        created=1.0,
        revision="aaaa",
        served_names=("model",),
        scaling=ScalingPolicy(min_replicas=0, max_replicas=2 * peak, targets=targets),
        max_queue=3000,
    )
    start = ColdStart(load=Spread(median=cold))
    return Variant(
        name=name,
        trace=trace,
        options=FleetOptions(
            deployment=deployment,
            calibration=calibration,
            scenario=Scenario(cold_start=start, spot=MARKET),
            max_sequences=SLOTS,
            max_batch_tokens=BATCH_TOKENS,
            price=1.0,
            seed=seed,
        ),
    )


def run(policy: str, variant: Variant, keeps: int, most: int, slo: Slo) -> Result:
    """One policy; `most`: the clairvoyant's peak, which a fixed fleet has."""
    baseline, settings = ALL_POLICIES[policy]
    options = variant.options
    if "newest" in settings:
        deployment = replace(options.deployment, overload_target=DEFAULT_TARGET)
        options = replace(options, deployment=deployment)
    if "pool" in settings:
        options = with_pool(options, int(settings["pool"]))
    if "spot" in settings:
        deployment = replace(options.deployment, spot=SpotPolicy(policy="Prefer"))
        options = replace(options, deployment=deployment)
    variant = replace(variant, options=options)
    settings = {k: v for k, v in settings.items() if k not in ("newest", "pool", "spot")}
    if "depth" in settings:
        variant, settings = with_depth(variant, settings), {}
    chosen = {key: value for key, value in settings.items() if key != "share"}
    if "share" in settings:
        chosen["target"] = max(settings["share"] * keeps, 1.0)
    if baseline == "fixed":
        chosen["replicas"] = most
    return simulate(
        replace(variant, baseline=baseline, settings=chosen), slo, lambda name, share: None
    )


def with_depth(variant: Variant, settings: dict[str, float]) -> Variant:
    """Our own policy, with a target and a delay that a person set."""
    deployment = variant.options.deployment
    scaling = replace(
        deployment.scaling,
        target_queue_depth=int(settings["depth"]),
        scale_down_delay=settings["delay"],
    )
    options = replace(variant.options, deployment=replace(deployment, scaling=scaling))
    return replace(variant, options=options)


def with_pool(options: FleetOptions, size: int) -> FleetOptions:
    """A standby takes as long as a replica's whole start, though it loads no model."""
    start = options.scenario.cold_start
    assert start is not None
    claimed = ClaimStart(load=Spread(median=min(CLAIM, start.median)))
    scenario = options.scenario.model_copy(update={"pool": PoolScenario(claim=claimed)})
    pool = PoolOptions(
        pool=Pool(namespace="default", name="pool", template="standby", size=size),
        start=ColdStart(image=Spread(median=start.median)),
        price=STANDBY_SHARE,
    )
    return replace(options, scenario=scenario, pools=(pool,))


def slo_of(calibration: Calibration) -> Slo:
    """TTFT 2 s, TPOT twice the unloaded."""
    return Slo(2.0, 2 * calibration.step_time(1, 0))


def measure(options: argparse.Namespace) -> None:
    calibration = Calibration.read(ENGINE)
    slo = slo_of(calibration)
    known = {(r["trace"], r["seed"], r["cold"], r["policy"]): r for r in rows(options.out)}
    for seed in range(options.seeds):
        for name in options.traces:
            trace = trace_of(name, options, seed, calibration, slo)
            for cold in options.cold:
                variant = variant_of(name, trace, calibration, cold, seed, options.peak)
                keeps = capacity(variant, slo)
                most = 2 * options.peak
                for policy in options.policies:
                    key = (name, seed, cold, policy)
                    if key not in known:
                        begun = time.process_time()
                        result = run(policy, variant, keeps, most, slo)
                        known[key] = row(key, trace, result, keeps, time.process_time() - begun)
                        with options.out.open("a") as file:
                            file.write(json.dumps(known[key]) + "\n")
                        print(key, known[key]["attainment"], known[key]["hours"], flush=True)
                    if policy == "clairvoyant":
                        most = known[key]["most"]


def row(key: tuple, trace: Trace, result: Result, keeps: int, seconds: float) -> dict:
    summary, options = result.summary, result.variant.options
    return {
        "trace": key[0],
        "seed": key[1],
        "cold": key[2],
        "policy": key[3],
        "requests": len(trace),
        "capacity": keeps,
        "attainment": summary.attainment,
        "hours": summary.replica_hours,
        "dollars": summary.cost,
        "costs": summary.costs,
        "hits": summary.hits,
        "misses": summary.misses,
        "interruptions": summary.interrupted,
        "moved": summary.moved,
        "rerun": summary.rerun,
        "bound": area_bound(trace, options.calibration, options.max_sequences),
        "most": summary.most_replicas,
        "ttft_p99": summary.ttft.p99,
        "oldest": summary.oldest_wait,
        "actions": summary.actions_per_hour,
        "met_cold": summary.met_cold,
        "decided_by": summary.decided_by,
        "cpu_seconds": round(seconds, 2),
    }


def rows(path: Path) -> Iterator[dict]:
    if path.exists():
        yield from map(json.loads, path.read_text().splitlines())


def table(options: argparse.Namespace) -> None:
    """Cost over the clairvoyant's (geometric mean), mean and worst attainment, p99, oldest wait."""
    found = list(rows(options.out))
    clairvoyant = {
        (r["trace"], r["seed"], r["cold"]): dollars(r)
        for r in found
        if r["policy"] == "clairvoyant"
    }
    groups: dict[tuple[str, float], list[dict]] = defaultdict(list)
    for r in found:
        if (r["trace"], r["seed"], r["cold"]) in clairvoyant:
            groups[r["policy"], r["cold"]].append(r)
    colds = sorted({cold for _, cold in groups})
    print(f"{len({(r['trace'], r['seed']) for r in found})} traces with seeds")
    print("| policy | " + " | ".join(f"{cold:g} s" for cold in colds) + " |")
    print("|---" * (len(colds) + 1) + "|")
    for policy in options.policies:
        cells = []
        for cold in colds:
            group = groups.get((policy, cold))
            if not group:
                cells.append("")
                continue
            ratios = [dollars(r) / clairvoyant[r["trace"], r["seed"], r["cold"]] for r in group]
            kept = [100 * r["attainment"] for r in group]
            by_trace = defaultdict(list)
            for r in group:
                by_trace[r["trace"]].append(100 * r["attainment"])
            worst = min(statistics.fmean(values) for values in by_trace.values())
            p99 = statistics.median(r["ttft_p99"] for r in group)
            oldest = max(r["oldest"] for r in group)
            cells.append(
                f"{geometric_mean(ratios):.2f} / {statistics.fmean(kept):.1f} / {worst:.1f} / "
                f"{p99:.1f} s / {oldest:.0f} s"
            )
        print(f"| {policy} | " + " | ".join(cells) + " |")
    spot_table(found)


def spot_table(found: list[dict]) -> None:
    """What spot saves of the bill on demand, and what it costs in kept promises."""
    by_key = {(r["policy"], r["trace"], r["seed"], r["cold"]): r for r in found}
    for policy, on_demand in ON_DEMAND.items():
        pairs = [
            (r, other)
            for r in found
            if r["policy"] == policy
            and (other := by_key.get((on_demand, r["trace"], r["seed"], r["cold"])))
        ]
        if not pairs:
            continue
        print(f"\n| {policy} | of the bill on demand | points of attainment | taken back, moved |")
        print("|---|---|---|---|")
        for spot, other in pairs:
            print(
                f"| {spot['trace']}, seed {spot['seed']}, {spot['cold']:g} s | "
                f"{dollars(spot) / dollars(other):.3f} | "
                f"{100 * (spot['attainment'] - other['attainment']):+.2f} | "
                f"{spot['interruptions']}, {spot['moved']} |"
            )
        bill = geometric_mean([dollars(spot) / dollars(other) for spot, other in pairs])
        points = statistics.fmean(100 * (s["attainment"] - o["attainment"]) for s, o in pairs)
        print(f"| all (geometric and arithmetic mean) | {bill:.3f} | {points:+.2f} | |")


def dollars(r: dict) -> float:
    """An hour of a replica on demand is one; older files have hours only."""
    return r.get("dollars", r["hours"])


def geometric_mean(values: list[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


def chosen(options: argparse.Namespace) -> list[str]:
    """All of issue 17's, or what the bars of issue 18 compare."""
    names = ["clairvoyant", "ours", "ours, newest first"]
    names += POOL_POLICIES if options.pool else ()
    names += SPOT_POLICIES if options.spot else ()
    return names if options.pool or options.spot else list(POLICIES)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("folder", type=Path, help="with the traces")
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--table", action="store_true")
    arguments.add_argument("--hours", type=float, default=6.0, help="of each trace; 6 are scored")
    arguments.add_argument("--peak", type=int, default=20, help="replicas; 20 are scored")
    arguments.add_argument("--tune", action="store_true", help="days 1-7, which are not scored")
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--cold", type=float, nargs="+", default=[8.0, 60.0, 300.0])
    arguments.add_argument("--traces", nargs="+", default=TRACES, choices=(*CLIENTS, *AZURE))
    arguments.add_argument("--policies", nargs="+", default=None, choices=list(ALL_POLICIES))
    arguments.add_argument("--pool", action="store_true", help="with and without a pool of 3")
    arguments.add_argument("--spot", action="store_true", help="with and without spot")
    options = arguments.parse_args()
    options.policies = options.policies or chosen(options)
    if options.table:
        table(options)
    else:
        measure(options)


if __name__ == "__main__":
    main()
