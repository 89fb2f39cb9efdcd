"""What the two bodies make of a ModelDeployment: the decisions' view and the worker's flags."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

from modelfleet_process.overload import DEFAULT_TARGET, SHARE_OF_TTFT

from .api.accelerator_class import AcceleratorSpec
from .api.fleet_spec import Scaling, Slo, SpotPlacement
from .api.formats import show_quantity
from .api.model_deployment import ModelDeployment
from .api.worker_spec import Quantization
from .decisions.autoscale import DEFAULT_QUEUE_DEPTH, ScalingPolicy
from .decisions.capacity import SpotPolicy
from .decisions.model_memory import ModelNeeds, needs_by_config, needs_by_name
from .decisions.names import revision_hash
from .decisions.observed import Accelerator, Deployment, PriceChange
from .decisions.rendering import parse_time
from .decisions.rollout import RolloutPolicy
from .decisions.schedule import Schedule
from .decisions.worker_speed import Targets

_FETCHED = ("hf://", "s3://", "oci://")
_WEIGHT_BITS = {"Int4": 4, "Int8": 8}
_DTYPE_BITS = {"Float32": 32, "BFloat16": 16, "Float16": 16}
DEFAULT_SAVING = 20  # percent: spec.placement.minSaving
CENTS = Decimal("0.000001")  # to which the price of a fraction is rounded


def decision_view(
    manifest: ModelDeployment, *, revision: str, drain_timeout: float, created: float = 0.0
) -> Deployment:
    """All that decisions need; `created` (Unix seconds) counts where the manifest has none."""
    metadata, scaling, cold = manifest.metadata, manifest.spec.scaling, manifest.spec.cold_start
    rollout, placement = manifest.spec.rollout, manifest.spec.placement
    is_cheapest = placement.strategy == "Cheapest"
    return Deployment(
        namespace=metadata.namespace,
        name=metadata.name,
        uid=metadata.uid,
        generation=metadata.generation,
        created=parse_time(metadata.creation_timestamp) if metadata.creation_timestamp else created,
        revision=revision,
        scaling=ScalingPolicy(
            mode=scaling.mode,
            min_replicas=scaling.min_replicas,
            max_replicas=scaling.ceiling,
            replicas=scaling.replicas,
            target_queue_depth=_queue_depth(scaling),
            idle_timeout=scaling.idle_timeout,
            scale_down_delay=scaling.scale_down_delay,
            schedules=tuple(
                Schedule(
                    start=schedule.start,
                    end=schedule.end,
                    time_zone=schedule.time_zone,
                    min_replicas=schedule.min_replicas,
                )
                for schedule in scaling.schedules
            ),
            max_hourly_cost=scaling.max_hourly_cost,
            targets=Targets(
                ttft=scaling.slo.ttft_p95 or 0.0,
                tpot=scaling.slo.tpot_p95 or 0.0,
                most=manifest.spec.engine.max_sequences,
                max_batch_tokens=manifest.spec.engine.max_batch_tokens,
            ),
        ),
        accelerators=placement.accelerators,
        fallback_after=placement.fallback_after,
        cheapest=is_cheapest,
        min_saving=(DEFAULT_SAVING if placement.min_saving is None else placement.min_saving) / 100,
        needs=memory_needs(manifest) if is_cheapest else ModelNeeds(),
        speed_key=_speed_key(manifest) if is_cheapest else "",
        spot=_spot(placement.spot),
        rollout=RolloutPolicy(
            max_surge=rollout.max_surge,
            max_unavailable=rollout.max_unavailable,
            history_limit=rollout.revision_history_limit,
        ),
        drain_timeout=drain_timeout,
        served_names=manifest.served_names,
        max_queue=cold.max_queue,
        hold_timeout=cold.hold_timeout,
        cold_start_deadline=cold.deadline,
        warm_pool=cold.warm_pool or "",
        overload_target=_overload_target(manifest),
        routing_policy=manifest.spec.routing.policy,
        task="" if manifest.spec.model.task == "Auto" else manifest.spec.model.task,
    )


def class_view(spec: AcceleratorSpec, generation: int) -> Accelerator:
    """What decisions need of a class: all of what one worker takes, a fraction's part of it."""
    price, part = spec.price, spec.fraction
    return Accelerator(
        generation=generation,
        price=_part(price.on_demand, part) if price else None,
        spot_price=_part(price.spot, part) if price else None,
        currency=(price.currency if price else None) or "",
        price_changes=tuple(
            PriceChange(
                at=change.from_,
                price=_part(change.on_demand, part),
                spot_price=_part(change.spot, part),
            )
            for change in (price.changes if price else ())
        ),
        memory=int((spec.memory or 0) * part),
        bandwidth=int((spec.memory_bandwidth or 0) * part),
    )


def _part(price: Decimal | None, part: Decimal) -> Decimal | None:
    if price is None or part == 1:
        return price
    return (price * part).quantize(CENTS).normalize() + 0


def memory_needs(manifest: ModelDeployment, config: Mapping[str, Any] | None = None) -> ModelNeeds:
    """What a worker of it takes; `config`: the checkpoint's config.json, where it can be read."""
    name, bits = model_name(manifest.spec.model.source), weight_bits(manifest)
    kv_cache = manifest.spec.engine.kv_cache_memory
    by_config = needs_by_config(config or {}, name, bits=bits, kv_cache=kv_cache)
    return by_config or needs_by_name(name, bits=bits, kv_cache=kv_cache)


def model_name(source: str) -> str:
    """The part of a source that names the model: neither a registry's host nor a digest."""
    scheme, _, rest = source.partition("://")
    if scheme == "oci":
        rest = rest.partition("@")[0].partition("/")[2]
    return unquote(rest)


def weight_bits(manifest: ModelDeployment) -> int | None:
    """Bits of a weight in memory, as the spec says; None: as the checkpoint has them."""
    asked = _WEIGHT_BITS.get(manifest.spec.quantization.weights)
    return asked or _DTYPE_BITS.get(manifest.spec.model.dtype)


def _speed_key(manifest: ModelDeployment) -> str:
    """Another one where what was measured of its speed and memory does not hold any more."""
    return revision_hash(model_flags(manifest))


def _queue_depth(scaling: Scaling) -> int | None:
    """None: what one worker takes is learned from the latency that was asked for."""
    if scaling.target_queue_depth is None and scaling.slo == Slo():
        return DEFAULT_QUEUE_DEPTH
    return scaling.target_queue_depth


def _spot(spot: SpotPlacement | None) -> SpotPolicy | None:
    if spot is None:
        return None
    share = 100 if spot.max_spot_share is None else spot.max_spot_share
    return SpotPolicy(policy=spot.policy, on_demand_base=spot.on_demand_base, max_share=share)


def _overload_target(manifest: ModelDeployment) -> float:
    """See Deployment; of `slo.ttftP95` as much as what it takes to serve leaves for waiting."""
    if manifest.spec.queue.overload != "NewestFirst":
        return 0.0
    wanted = manifest.spec.scaling.slo.ttft_p95
    return DEFAULT_TARGET if wanted is None else SHARE_OF_TTFT * wanted


def model_flags(manifest: ModelDeployment, *, source: str = "") -> list[str]:
    """The worker's flags that say which model it holds and how; unset fields are its defaults.

    `source` is where the worker finds the model, if that is not what the manifest names.
    """
    model, engine = manifest.spec.model, manifest.spec.engine
    flags = [f"--model={manifest.full_name}", f"--source={source or model.source}"]
    flags.append(f"--dtype={model.dtype}")
    if model.revision is not None:
        flags.append(f"--revision={model.revision}")
    if model.context_length is not None:
        flags.append(f"--context-length={model.context_length}")
    if model.generation_defaults != "Checkpoint":
        flags.append(f"--generation-defaults={model.generation_defaults}")
    if model.tool_parser != "Auto":
        flags.append(f"--tool-parser={model.tool_parser}")
    if model.reasoning_parser != "Auto":
        flags.append(f"--reasoning-parser={model.reasoning_parser}")
    if model.task != "Auto":
        flags.append(f"--task={model.task}")
    flags += _quantization_flags(manifest.spec.quantization)
    flags.append(f"--max-sequences={engine.max_sequences}")
    flags.append(f"--max-batch-tokens={engine.max_batch_tokens}")
    if engine.kv_cache_memory is not None:
        flags.append(f"--kv-cache-memory={show_quantity(engine.kv_cache_memory)}")
    if not engine.prefix_caching:
        flags.append("--no-prefix-caching")
    if engine.deterministic:
        flags.append("--deterministic")
    return flags


def fetch_flags(manifests: Iterable[ModelDeployment]) -> list[str]:
    """The flags of a standby that fetches their files ahead, if it may: those that need no token.

    What is mounted into pods or lies on this machine needs no fetching.
    """
    models = [manifest.spec.model for manifest in manifests]
    return [
        f"--fetch={model.source}" + (f"#{model.revision}" if model.revision else "")
        for model in models
        if model.token_secret_ref is None and model.source.startswith(_FETCHED)
    ]


def asleep_flags(model: Sequence[str]) -> list[str]:
    """The flags of a standby that holds a model, of those by which a worker of its own knows it."""
    return ["--asleep", *model] if model else []


def _quantization_flags(quantization: Quantization) -> list[str]:
    # None of them by default: the pods of deployments without it stay as they are.
    flags: list[str] = []
    if quantization.weights != "None":
        flags.append(f"--weights={quantization.weights.lower()}")
    if quantization.group_size is not None:
        flags.append(f"--group-size={quantization.group_size}")
    flags += [f"--override={o.modules}={o.weights.lower()}" for o in quantization.overrides]
    if quantization.kv_cache != "Auto":
        flags.append(f"--kv-cache={quantization.kv_cache.lower()}")
    return flags
