"""The view: all that a gateway needs to route, as the operator pushed it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from modelfleet_process.overload import DEFAULT_TARGET, OverloadPolicy
from modelfleet_proto import fleet_pb2

from ..access.caller import ANONYMOUS, Caller
from ..errors import NotReadyError, QueueFullError, UnknownModelError, quoted

NAMES_SHOWN = 20
IN_ORDER = OverloadPolicy()
BUSY_PAUSE = 5.0  # seconds after which to come back to workers that were busy
SHORTEST_SHOWN = 0.5  # seconds of a phase that is over
PREFIX_AWARE = "PrefixAware"  # of spec.routing.policy
UNKNOWN_PAUSE = 30.0  # and to a model of which it is not known when it is ready


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRoute:
    """A worker of the view: where it is, and whether new requests may go there."""

    worker_id: str
    address: str  # host:port
    routable: bool = True  # False: send nothing new
    revision: str = ""
    hand_over: bool = False  # it is about to go: what runs there goes on elsewhere
    tls_name: str = ""  # that its certificate must have; empty: it speaks no TLS
    tls_address: str = ""  # host:port where it speaks TLS


@dataclass(frozen=True, slots=True, kw_only=True)
class WakePhase:
    """A phase of a worker's start: node, image, weights, load, firstToken; Unix seconds."""

    phase: str
    began: float
    ended: float = 0.0  # 0: it goes on


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelView:
    """One model: its names, its limits and its workers."""

    model: str  # "namespace/name": always answers
    served_names: tuple[str, ...] = ()
    max_queue: int = 100
    hold_timeout: float = 300.0
    workers: tuple[WorkerRoute, ...] = ()
    created: float = 0.0
    eta: float = 0.0  # when the next worker will be ready, seconds since the epoch; 0: unknown
    phase: str = ""
    cause: str = ""  # why no worker will come by itself; empty: one may
    revisions: frozenset[str] = frozenset()  # the operator can start a worker of these
    overload: OverloadPolicy = IN_ORDER
    wake: tuple[WakePhase, ...] = ()  # of the worker that is ready next, while none is
    target_in_flight: int = 0  # requests at which a worker keeps its latency; 0: not known
    ttft_target: float = 0.0  # seconds that latency is judged by, for the operator; 0: it is not
    tpot_target: float = 0.0
    task: str = ""  # Generate or Embed; empty: workers say it
    by_prefix: bool = False  # requests go where their prompts' beginnings were read
    pack_in_flight: int = (
        0  # requests up to which a worker serves alone what several could; 0: none
    )

    @property
    def namespace(self) -> str:
        """The deployment's namespace."""
        return self.model.partition("/")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A whole view; it replaces the last one."""

    term: int = 0
    version: int = 0
    models: Mapping[str, ModelView]  # by full name
    names: Mapping[str, str]  # every name that answers, to the full name; served names first

    def resolve(self, name: str, caller: Caller = ANONYMOUS) -> ModelView:
        """The model that answers this caller; UnknownModelError says which names there are."""
        full_name = self.names.get(name)
        if full_name is None or not caller.may_use(model := self.models[full_name]):
            raise self.unknown(name, caller)
        return model

    def names_for(self, caller: Caller) -> list[str]:
        """Every name that answers this caller."""
        models = self.models
        return [name for name, model in self.names.items() if caller.may_use(models[model])]

    def unknown(self, name: str, caller: Caller = ANONYMOUS) -> UnknownModelError:
        """The error for a name that no model answers to; that of a foreign model is the same."""
        names = self.names_for(caller)
        known = ", ".join(names[:NAMES_SHOWN]) or "none"
        if len(names) > NAMES_SHOWN:
            known += f" and {len(names) - NAMES_SHOWN} more"
        return UnknownModelError(
            f"The model {quoted(name)} does not exist here. Models: {known}.", param="model"
        )


def make_view(models: Iterable[ModelView], *, term: int = 0, version: int = 0) -> View:
    """A view of these models. Full names beat served names; among those the first claim wins."""
    by_name = {model.model: model for model in models}
    served: dict[str, str] = {}
    for model in by_name.values():
        for name in model.served_names:
            if name not in by_name:
                served.setdefault(name, model.model)
    names = served | {name: name for name in by_name}
    return View(term=term, version=version, models=by_name, names=names)


def parse_view(message: fleet_pb2.View) -> View:
    """The view that the operator sent."""
    return make_view(map(parse_model, message.models), term=message.term, version=message.version)


def apply_change(view: View, change: fleet_pb2.ViewChange) -> View:
    """The view as it is after a change that the operator sent."""
    models = dict(view.models)
    for name in change.removed:
        models.pop(name, None)
    models.update((model.model, parse_model(model)) for model in change.models)
    return make_view(models.values(), term=view.term, version=change.version)


def parse_model(message: fleet_pb2.ModelView) -> ModelView:
    """One model, as the operator sent it."""
    return ModelView(
        model=message.model,
        served_names=tuple(message.served_names),
        max_queue=message.max_queue,
        hold_timeout=message.hold_timeout,
        workers=tuple(
            WorkerRoute(
                worker_id=worker.worker_id,
                address=worker.address,
                routable=worker.routable,
                revision=worker.revision,
                hand_over=worker.hand_over,
                tls_name=worker.tls_name,
                tls_address=worker.tls_address,
            )
            for worker in message.workers
        ),
        created=message.created,
        eta=message.eta,
        phase=message.phase,
        task=message.task,
        cause=message.cause,
        revisions=frozenset(message.revisions),
        overload=OverloadPolicy(
            order="NewestFirst" if message.overload_target else "Fifo",
            target=message.overload_target or DEFAULT_TARGET,
            hold_timeout=message.hold_timeout,
        ),
        wake=tuple(
            WakePhase(phase=wake.phase, began=wake.began, ended=wake.ended) for wake in message.wake
        ),
        target_in_flight=message.target_in_flight,
        by_prefix=message.routing_policy == PREFIX_AWARE,
        pack_in_flight=message.pack_in_flight,
        ttft_target=message.ttft_target,
        tpot_target=message.tpot_target,
    )


def is_outdated(view: View, current: View | None) -> bool:
    """Whether a view comes from a leader that was replaced.

    Versions are not compared: views of one stream come in order, and an operator that restarts
    within its term counts from the beginning.
    """
    return current is not None and view.term < current.term


def describe_eta(model: ModelView, now: float) -> str:
    """What a model does before it is ready: "phase Download, ready in about 42 s".

    With the phases of the start so far, if they are known: "phase Download, ready in about 42 s;
    node 31 s, image 12 s, weights 20 s so far". `now`: seconds since the epoch.
    """
    phase = f"phase {model.phase}" if model.phase else "phase unknown"
    if model.eta <= 0:
        when = "ready at an unknown time"
    elif model.eta <= now:
        when = "ready later than expected"
    else:
        when = f"ready in about {model.eta - now:.0f} s"
    took = describe_wake(model.wake, now)
    return f"{phase}, {when}; {took}" if took else f"{phase}, {when}"


def describe_wake(wake: Iterable[WakePhase], now: float) -> str:
    """Phases that took no time are left out: "image 12 s, weights 20 s so far"."""
    said = []
    for phase in wake:
        seconds = max((phase.ended or now) - phase.began, 0.0)
        if not phase.ended:
            said.append(f"{phase.phase} {seconds:.0f} s so far")
        elif seconds >= SHORTEST_SHOWN:
            said.append(f"{phase.phase} {seconds:.0f} s")
    return ", ".join(said)


def not_ready(
    model: ModelView, waited: float, ready_workers: int, now: float, lacking: str = ""
) -> NotReadyError:
    """The 503 after a request waited as long as it may (seconds).

    `lacking`: what the ready workers cannot do, being of an older version.
    """
    if ready_workers and lacking:
        why = f"its {ready_workers} ready workers are of a version without {lacking}"
        retry_after = BUSY_PAUSE
    elif ready_workers:
        why, retry_after = f"its {ready_workers} ready workers are busy", BUSY_PAUSE
    else:
        why = f"none of its {len(model.workers)} workers is ready ({describe_eta(model, now)})"
        retry_after = model.eta - now if model.eta > now else UNKNOWN_PAUSE
    return NotReadyError(
        f"No worker of {model.model} could take the request within {waited:.1f} s: {why}. "
        "Try again later.",
        retry_after=retry_after,
    )


def queue_full(
    error: QueueFullError, model: ModelView, ready_workers: int, now: float
) -> QueueFullError:
    """The 429 with the time when a worker is expected, if none is ready."""
    if ready_workers or model.eta <= now:
        return error
    message = f"{error.message} No worker is ready ({describe_eta(model, now)})."
    return type(error)(message, retry_after=model.eta - now)


def cannot_serve(model: ModelView) -> NotReadyError:
    """The 503 at once for a model of which no worker will come, as far as is known."""
    return NotReadyError(f"{model.model} cannot be served now: {model.cause}")
