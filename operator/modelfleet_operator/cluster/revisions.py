"""The history of a ModelDeployment: one apps/v1 ControllerRevision for each revision it had.

Each holds the whole pod template, so that a worker of an old revision can be started again as it
was, whatever the spec, the flags and the operator's own code say by then.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..decisions.observed import PastRevision
from .pods import DEPLOYMENT, REVISION, owner_reference

CHANGE_CAUSE = "kubernetes.io/change-cause"  # annotation that kubectl writes and shows

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class KnownRevision:
    """A ControllerRevision as the index holds it; the template as text, since many are kept."""

    name: str
    uid: str
    owner_uid: str
    revision: str
    number: int
    text: str

    @property
    def template(self) -> dict[str, Any]:
        """What a worker's pod of it is made of."""
        template: dict[str, Any] = json.loads(self.text)
        return template

    def seen(self) -> PastRevision:
        """As decisions see it."""
        return PastRevision(revision=self.revision, number=self.number)


def controller_revision(
    owner: Object, template: Object, *, revision: str, number: int
) -> dict[str, Any]:
    """The object to create; `owner` is the metadata of the ModelDeployment."""
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "name": f"{owner['name']}-{revision}",
            "namespace": owner["namespace"],
            "labels": {DEPLOYMENT: owner["name"], REVISION: revision},
            **_change_cause(owner),
            "ownerReferences": [owner_reference(owner)],
        },
        "revision": number,
        "data": {"spec": {"template": template}},
    }


def _change_cause(owner: Object) -> dict[str, Any]:
    """Metadata with the cause of the change, if the object has one."""
    cause = owner.get("annotations", {}).get(CHANGE_CAUSE)
    return {"annotations": {CHANGE_CAUSE: cause}} if cause else {}


def read_revision(body: Object) -> KnownRevision | None:
    """None for one that is not as we write them.

    Which revision it is says its name, as a label can be changed by hand.
    """
    metadata, number = body["metadata"], body.get("revision")
    owner = next((o for o in metadata.get("ownerReferences", ()) if o.get("controller")), None)
    data: Any = body.get("data")
    for name in ("spec", "template"):
        data = data.get(name) if isinstance(data, dict) else None
    if owner is None or not isinstance(number, int) or not _is_template(data):
        return None
    revision = metadata["name"].removeprefix(f"{owner['name']}-")
    return KnownRevision(
        name=metadata["name"],
        uid=metadata["uid"],
        owner_uid=owner["uid"],
        revision=revision,
        number=number,
        text=json.dumps({"metadata": {}, **data}, separators=(",", ":")),
    )


def _is_template(data: Any) -> bool:
    return isinstance(data, dict) and isinstance(data.get("spec"), dict)
