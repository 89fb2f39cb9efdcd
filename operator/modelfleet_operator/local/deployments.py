"""The deployments of the files of `modelfleet up`, and what an edit of them changes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..api.manifests import Manifests
from ..api.model_deployment import ModelDeployment
from ..api.other_kinds import Values
from ..decisions.names import owners, revision_hash
from ..decisions.observed import Accelerator, Deployment, PastRevision
from ..views import class_view, decision_view, memory_needs, model_flags
from .checkpoint import read_config
from .pod_template import described


@dataclass(frozen=True, slots=True)
class WorkerTemplate:
    """What the workers of one revision are started with."""

    manifest: ModelDeployment
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What an edit did, as `namespace/name`."""

    created: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.created or self.changed or self.deleted)


@dataclass(slots=True)
class _Known:
    """One deployment; as on a cluster, its generation grows with each change of its spec."""

    manifest: ModelDeployment
    view: Deployment
    template: WorkerTemplate
    history: dict[str, tuple[int, WorkerTemplate]] = field(default_factory=dict)


class LocalDeployments:
    """Keeps what an API server would keep: generations, creation times, histories."""

    def __init__(self, flags: Sequence[str], drain_timeout: float) -> None:
        """`flags` are those of all workers; they are part of each revision."""
        self._flags = tuple(flags)
        self._drain_timeout = drain_timeout
        self._known: dict[str, _Known] = {}
        self.values = Values()
        self.classes: Mapping[str, Accelerator] = {}  # of the files
        self.owners: Mapping[str, str] = {}

    def apply(self, manifests: Manifests, now: float) -> Change:
        """Makes the deployments those of the files: new, changed and deleted ones."""
        self.values = manifests.values
        before = self.classes
        self.classes = {c.metadata.name: class_view(c.spec, 0) for c in manifests.classes}
        wanted = {m.full_name: m for m in manifests.deployments}
        deleted = [key for key in self._known if key not in wanted]
        for key in deleted:
            del self._known[key]
        created, changed = [], []
        for place, (key, manifest) in enumerate(wanted.items()):
            known = self._known.get(key)
            if known is None:
                # A microsecond apart: of two that ask for the same name, the first in the files
                # has it.
                self._known[key] = self._read(manifest, 1, now + place * 1e-6)
                created.append(key)
            elif known.manifest.spec == manifest.spec and self._chooses_anew(known, before):
                known.view = self._read(manifest, known.view.generation, known.view.created).view
                changed.append(key)
            elif known.manifest.spec != manifest.spec:
                view = known.view
                fresh = self._read(manifest, view.generation + 1, view.created)
                self._known[key] = replace(fresh, history=known.history)
                changed.append(key)
            else:
                known.manifest = manifest
        self.owners = owners(known.view for known in self._known.values())
        return Change(created=tuple(created), changed=tuple(changed), deleted=tuple(deleted))

    def keys(self) -> Collection[str]:
        """Every deployment of the files, in their order."""
        return self._known.keys()

    def view(self, key: str) -> Deployment | None:
        """As decisions see it; None: it is in no file any more."""
        known = self._known.get(key)
        return known.view if known else None

    def manifest(self, key: str) -> ModelDeployment:
        """As the files have it."""
        return self._known[key].manifest

    def history(self, key: str) -> tuple[PastRevision, ...]:
        """Revisions that workers can be started of."""
        kept = self._known[key].history
        return tuple(PastRevision(revision=r, number=n) for r, (n, _) in kept.items())

    def template(self, key: str, revision: str) -> WorkerTemplate | None:
        """What a worker of this revision is made of; None: it is in no history."""
        known = self._known.get(key)
        if known is None:
            return None
        if known.view.revision == revision:
            return known.template
        return known.history[revision][1] if revision in known.history else None

    def record(self, key: str, revision: str, number: int) -> None:
        """Keeps a revision, or gives it another number."""
        template = self.template(key, revision)
        if template is not None:
            self._known[key].history[revision] = (number, template)

    def forget(self, key: str, revision: str) -> None:
        """Drops a revision."""
        if known := self._known.get(key):
            known.history.pop(revision, None)

    def _chooses_anew(self, known: _Known, before: Mapping[str, Accelerator]) -> bool:
        names = known.manifest.spec.placement.accelerators
        return known.manifest.spec.placement.strategy == "Cheapest" and any(
            before.get(name) != self.classes.get(name) for name in names
        )

    def _read(self, manifest: ModelDeployment, generation: int, created: float) -> _Known:
        flags = (*model_flags(manifest), *self._flags)
        view = decision_view(
            manifest,
            revision=revision_hash([flags, described(manifest)]),
            drain_timeout=self._drain_timeout,
            created=created,
        )
        if view.cheapest and all(name in self.classes for name in view.accelerators):
            # The files have the price book: the choice is made and shown, on this one machine.
            needs = memory_needs(manifest, read_config(manifest.spec.model.source))
            view = replace(view, needs=needs, spot=None)
        else:
            # There is one machine, so there are no classes of it, and no spot.
            view = replace(view, accelerators=(), cheapest=False, spot=None)
        return _Known(
            manifest=manifest,
            view=replace(view, generation=generation),
            template=WorkerTemplate(manifest, flags),
        )
