"""The view: all that a gateway needs to route, as the operator pushed it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modelfleet_proto import fleet_pb2

from ..errors import NotReadyError, UnknownModelError

NAMES_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRoute:
    """A worker that exists."""

    worker_id: str
    address: str  # host:port
    routable: bool = True  # False: send nothing new
    revision: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One model: its names, its limits and its workers."""

    model: str  # "namespace/name": always answers
    served_names: tuple[str, ...] = ()
    max_queue: int = 100
    hold_timeout: float = 300.0
    workers: tuple[WorkerRoute, ...] = ()
    created: float = 0.0
    eta: float = 0.0  # when the next worker will be ready, seconds since the epoch; 0: unknown
    phase: str = ""
    revisions: frozenset[str] = frozenset()  # the operator can start a worker of these

    @property
    def namespace(self) -> str:
        """The deployment's namespace."""
        return self.model.partition("/")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A whole view; it replaces the last one."""

    term: int = 0
    version: int = 0
    routes: Mapping[str, Route]  # by full name
    names: Mapping[str, str]  # every name that answers, to the full name; served names first

    def resolve(self, name: str) -> Route:
        """The route that answers to this name; UnknownModelError says which names there are."""
        model = self.names.get(name)
        if model is not None:
            return self.routes[model]
        known = ", ".join(list(self.names)[:NAMES_SHOWN]) or "none"
        if len(self.names) > NAMES_SHOWN:
            known += f" and {len(self.names) - NAMES_SHOWN} more"
        raise UnknownModelError(
            f"The model {name!r} does not exist here. Models: {known}.", param="model"
        )


def make_view(routes: tuple[Route, ...], *, term: int = 0, version: int = 0) -> View:
    """A view of these routes. Full names beat served names; among those the first claim wins."""
    full = {route.model: route.model for route in routes}
    served: dict[str, str] = {}
    for route in routes:
        for name in route.served_names:
            if name not in full:
                served.setdefault(name, route.model)
    return View(
        term=term,
        version=version,
        routes={route.model: route for route in routes},
        names=served | full,
    )


def parse_view(message: fleet_pb2.View) -> View:
    """The view that the operator sent."""
    routes = tuple(parse_route(model) for model in message.models)
    return make_view(routes, term=message.term, version=message.version)


def changed_view(view: View, message: fleet_pb2.ViewChange) -> View:
    """The view as it is after a change that the operator sent."""
    routes = dict(view.routes)
    for model in message.removed:
        routes.pop(model, None)
    routes.update((model.model, parse_route(model)) for model in message.models)
    return make_view(tuple(routes.values()), term=view.term, version=message.version)


def parse_route(model: fleet_pb2.ModelView) -> Route:
    """One model, as the operator sent it."""
    return Route(
        model=model.model,
        served_names=tuple(model.served_names),
        max_queue=model.max_queue,
        hold_timeout=model.hold_timeout,
        workers=tuple(
            WorkerRoute(
                worker_id=worker.worker_id,
                address=worker.address,
                routable=worker.routable,
                revision=worker.revision,
            )
            for worker in model.workers
        ),
        created=model.created,
        eta=model.eta,
        phase=model.phase,
        revisions=frozenset(model.revisions),
    )


def is_outdated(view: View, current: View | None) -> bool:
    """Whether a view comes from a leader that was replaced.

    Versions are not compared: a stream keeps their order, and an operator that restarted within
    its term begins again.
    """
    return current is not None and view.term < current.term


def describe_eta(route: Route, now: float) -> str:
    """For a person who waits: what the model is doing and when it will be ready. `now`: epoch."""
    phase = f"phase {route.phase}" if route.phase else "phase unknown"
    if route.eta <= 0:
        return f"{phase}, ready at an unknown time"
    return f"{phase}, ready in about {max(0.0, route.eta - now):.0f} s"


def not_ready(route: Route, waited: float, ready_workers: int, now: float) -> NotReadyError:
    """The 503 after a request waited as long as it may (seconds)."""
    if ready_workers:
        why = f"its {ready_workers} ready workers are busy"
    else:
        why = f"none of its {len(route.workers)} workers is ready ({describe_eta(route, now)})"
    return NotReadyError(
        f"No worker of {route.model} could take the request within {waited:.1f} s: {why}. "
        "Try again later.",
        retry_after=route.eta - now if route.eta > now else 5.0,
    )
