"""What of manifests one machine cannot do: refused, or passed over with a note."""

from __future__ import annotations

import os

import structlog

from ..api.manifests import Manifests
from ..api.model_deployment import ModelDeployment
from ..api.other_kinds import Reference, Values
from ..errors import ManifestError
from .pod_template import described, environment, ignored, references

log = structlog.get_logger()


def check_for_one_machine(manifests: Manifests) -> None:
    """ManifestError for what only a cluster can do."""
    for manifest in manifests.deployments:
        _check_token(manifest, manifests.values)
        source = manifest.spec.model.source
        if source.startswith("pvc://"):
            raise ManifestError(
                f"{manifest.full_name}: {source} is a PersistentVolumeClaim, which exists only in "
                "a cluster: use file:///ABSOLUTE/PATH on this machine"
            )
        # Both raise what is wrong with the template.
        described(manifest)
        environment(manifest, manifests.values)


def _check_token(manifest: ModelDeployment, values: Values) -> None:
    token = manifest.spec.model.token_secret_ref
    if token is None or os.environ.get("HF_TOKEN"):
        return
    reference = Reference("Secret", manifest.metadata.namespace, token.name)
    if token.key not in values.of(reference):
        raise ManifestError(
            f"{manifest.full_name}: spec.model.tokenSecretRef names the key {token.key} of "
            f"{reference}, which no file has: put the Secret into one of the files, or set the "
            "environment variable HF_TOKEN to the token"
        )


def tell_what_is_ignored(manifests: Manifests, told: set[str]) -> None:
    """A line for each thing; what is in `told` was said before."""
    used = {str(r) for manifest in manifests.deployments for r in references(manifest)}
    skipped = [other for other in manifests.others if other not in used]
    lines = []
    if skipped:
        found = ", ".join(skipped)
        lines.append((f"objects of other kinds are ignored on one machine: {found}", "", ""))
    for manifest in manifests.deployments:
        model = manifest.full_name
        placement = manifest.spec.placement
        names = {c.metadata.name for c in manifests.classes}
        if placement.strategy == "Cheapest" and names.issuperset(placement.accelerators):
            what = "the choice of a class is made and shown, and every worker runs on this machine"
            lines.append((what, model, ""))
        elif placement.accelerators or placement.spot is not None:
            lines.append(("spec.placement is ignored: this is one machine", model, ""))
        if fields := ignored(manifest, manifests.values):
            what = "of spec.podTemplate, this is ignored on one machine"
            lines.append((what, model, ", ".join(fields)))
    for what, model, details in lines:
        line = "\n".join((what, model, details))
        if line in told:
            continue
        told.add(line)
        context = {"fields": details} if details else {}
        log.info(what, **context, **({"model": model} if model else {}))
