"""A ModelDeployment as the index holds it: parsed once for each change, used often."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..api.manifests import observed_manifest
from ..api.model_deployment import ModelDeployment
from ..decisions.observed import Deployment
from ..decisions.reasons import Reason
from ..views import decision_view
from .observing import Object, invalid_deployment
from .pods import PodSettings, pod_template, template_problems, template_revision
from .storage import keeps_files

# Parts of the spec that make its revision.
_IN_THE_POD = {"model", "quantization", "engine", "pod_template"}


@dataclass(frozen=True, slots=True)
class Known:
    """The object, its parsed form and its revision."""

    body: Object
    manifest: ModelDeployment | None  # None: it is not valid
    error: str  # what its user must correct
    revision: str
    error_reason: Reason = Reason.INVALID_SPEC
    view: Deployment | None = None  # what its spec says to decisions; None: it is not valid

    @property
    def is_deleting(self) -> bool:
        """Its deletion is certain: foreground deletion waits for its pods."""
        return "deletionTimestamp" in self.metadata

    @property
    def metadata(self) -> Object:
        """The object's own metadata."""
        metadata: Object = self.body["metadata"]
        return metadata

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.metadata['namespace']}/{self.metadata['name']}"

    @property
    def served_names(self) -> tuple[str, ...]:
        """Short names that it asks for; while its spec cannot be read, those that it had."""
        if self.manifest is None:
            return tuple(sorted(recall_names(self.body)[0]))
        return self.manifest.served_names

    def still_reads(self, body: Object) -> bool:
        """Whether `body` has the same spec, as after our own writes to the status."""
        metadata = body["metadata"]
        generation = metadata.get("generation")
        return generation is not None and (metadata["uid"], generation) == (
            self.uid,
            self.metadata.get("generation"),
        )

    def makes_the_same_pods(self, body: Object) -> bool:
        """Whether `body` differs in `spec.scaling` at most, of which there is nothing in a pod."""
        if self.manifest is None or self.uid != body["metadata"]["uid"]:
            return False
        ours, theirs = self.body["spec"], body["spec"]
        return {**ours, "scaling": None} == {**theirs, "scaling": None}

    @property
    def uid(self) -> str:
        """Of this very object: a later one of the same name has another uid."""
        uid: str = self.metadata["uid"]
        return uid

    def deployment(self, workers: int) -> Deployment:
        """As decisions see it; `workers` is how many there are."""
        claimed, yielded = recall_names(self.body)
        return replace(
            self.view or invalid_deployment(self.body, self.error, workers),
            error=self.error,
            error_reason=self.error_reason,
            served_names=self.served_names,
            claimed=claimed,
            yielded=yielded,
        )


def recall_names(body: Object) -> tuple[frozenset[str], Mapping[str, str]]:
    """The short names that it had and that it yielded, as the memory in its status says."""
    match body.get("status"):
        case {"memory": {"claimed": list(claimed), "yielded": dict(yielded)}}:
            return frozenset(map(str, claimed)), {str(k): str(v) for k, v in yielded.items()}
    return frozenset(), {}


def read_deployment(body: Object, settings: PodSettings, before: Known | None = None) -> Known:
    """Validates a ModelDeployment for the index; `before` is what it was until now."""
    wrong, manifest = observed_manifest(body)
    if manifest is None:
        return Known(body, None, "; ".join(wrong), "")
    if before is not None and before.makes_the_same_pods(body):
        revision, error, reason = before.revision, before.error, before.error_reason
    else:
        revision, error, reason = _revision(manifest, settings)
    view = _view(manifest, revision, settings)
    return Known(body, manifest, error, revision, reason, view)


def _revision(manifest: ModelDeployment, settings: PodSettings) -> tuple[str, str, Reason]:
    """The revision, why no pod can be made of it (empty: one can) and that as a reason."""
    problems = template_problems(manifest, settings)
    if problems:
        error = "; ".join(sentence for _, sentence in problems)
        # No pod can be made of it, but it is another revision than the one that runs.
        wanted = manifest.spec.model_dump(mode="json", include=_IN_THE_POD)
        return template_revision(wanted), error, problems[0][0]
    return template_revision(pod_template(manifest, settings)), "", Reason.INVALID_SPEC


def _view(manifest: ModelDeployment, revision: str, settings: PodSettings) -> Deployment:
    keeps = keeps_files(
        manifest.spec.model,
        node_cache=settings.node_cache,
        image_volumes=settings.image_volumes,
    )
    view = decision_view(manifest, revision=revision, drain_timeout=settings.drain_timeout)
    return replace(view, keeps_weights=keeps)
