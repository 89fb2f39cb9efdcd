"""What the fields of all our objects share: strict models, rules for the CRD, metadata.

Manifests spell fields in camelCase, durations as `90s` and memory as `2Gi`; here the names are
Python's, durations are seconds and memory is bytes. An explicit `null` is an absent field, as the
Kubernetes API server reads it.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict

from .formats import Format

OPEN_OBJECT: JsonDict = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
DNS_LABEL = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"


class Rule(BaseModel):
    """A CEL expression for the CRD; the same check in Python stands beside it."""

    model_config = ConfigDict(frozen=True)
    rule: str
    message: str


class ApiModel(BaseModel):
    """Strict, frozen, camelCase in manifests; unknown fields are errors."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        use_attribute_docstrings=True,
        validate_default=False,
    )
    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return {name: value for name, value in data.items() if value is not None}
        return data


class Metadata(ApiModel):
    """What Modelfleet reads of a Kubernetes object's metadata; the rest is allowed and unused."""

    name: Annotated[
        str,
        Format(
            what="a name of lower-case letters, digits and '-' that begins and ends with a letter "
            "or digit",
            pattern=DNS_LABEL,
            max_length=63,
        ),
    ]
    namespace: Annotated[
        str, Format(what="a namespace's name", pattern=DNS_LABEL, max_length=63)
    ] = "default"
    uid: str = ""
    generation: int = 0
    creation_timestamp: str = ""
    deletion_timestamp: str = ""

    # The rest of ObjectMeta, named so that a misspelled `namespace` is still an error.
    annotations: Any = None
    deletion_grace_period_seconds: Any = None
    finalizers: Any = None
    generate_name: Any = None
    labels: Any = None
    managed_fields: Any = None
    owner_references: Any = None
    resource_version: Any = None
    self_link: Any = None


def unique(names: tuple[str, ...]) -> tuple[str, ...]:
    """The same names; ValueError if one is there twice."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"expected each name once, found {', '.join(twice)} more than once")
    return names


def as_tuple(value: Any) -> Any:
    """A manifest's list as the strict models want it."""
    return tuple(value) if isinstance(value, list) else value
