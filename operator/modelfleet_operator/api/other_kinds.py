"""What stands beside ModelDeployments in a file: Secrets and ConfigMaps are read, the rest is not.

A cluster takes such files whole; one machine uses of them what a spec refers to.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal

from .accelerator_class import KIND as CLASS_KIND
from .model_deployment import GROUP, KIND
from .warm_pool import KIND as POOL_KIND

ValuesKind = Literal["Secret", "ConfigMap"]
_KEY: Final = re.compile(r"[-._a-zA-Z0-9]+")
_VALUES: Final[dict[str, ValuesKind]] = {"Secret": "Secret", "ConfigMap": "ConfigMap"}


@dataclass(frozen=True, slots=True)
class Reference:
    """A Secret or ConfigMap that a spec refers to."""

    kind: ValuesKind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Values:
    """The text of Secrets and ConfigMaps. Never shown: `repr` has no values."""

    _found: Mapping[Reference, Mapping[str, str]] = field(
        default_factory=lambda: MappingProxyType({}), repr=False
    )

    def __contains__(self, reference: Reference) -> bool:
        return reference in self._found

    def of(self, reference: Reference) -> Mapping[str, str]:
        """Key -> text; empty when no file has the object. What is no text is left out."""
        return self._found.get(reference, {})


def is_other_kind(document: Any) -> bool:
    """Whether it is an object of a kind that is not ours; a misspelled one of ours is not."""
    if not isinstance(document, dict):
        return False
    kind, version = document.get("kind"), document.get("apiVersion")
    if not isinstance(kind, str) or not isinstance(version, str) or not kind or not version:
        return False
    return kind not in (KIND, CLASS_KIND, POOL_KIND) and version.partition("/")[0] != GROUP


def expand_list(document: Any) -> list[Any]:
    """The objects of a `kind: List`, as `kubectl get -o yaml` writes it; else the document."""
    if not isinstance(document, dict):
        return [document]
    items = document.get("items")
    is_list = (document.get("kind"), document.get("apiVersion")) == ("List", "v1")
    return items if is_list and isinstance(items, list) else [document]


def describe(document: Mapping[str, Any]) -> str:
    """`Job default/fill`."""
    metadata = document.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    name = metadata.get("name", "without a name")
    return f"{document['kind']} {metadata.get('namespace', 'default')}/{name}"


def read_values(document: Mapping[str, Any]) -> tuple[list[str], Reference | None, dict[str, str]]:
    """Of a Secret or ConfigMap: what is wrong with it, what it is, and its text by key."""
    kind, metadata = _VALUES.get(document["kind"]), document.get("metadata")
    if kind is None or document.get("apiVersion") != "v1" or not isinstance(metadata, dict):
        return [], None, {}
    name, namespace = metadata.get("name"), metadata.get("namespace") or "default"
    if not isinstance(name, str) or not isinstance(namespace, str):
        return [], None, {}
    wrong: list[str] = []
    texts: dict[str, str] = {}
    # As the API server merges them: stringData wins.
    for part in ("data", "stringData") if kind == "Secret" else ("data",):
        entries = document.get(part) or {}
        if not isinstance(entries, dict):
            wrong.append(f"{part}: expected an object of texts")
            continue
        for key, value in entries.items():
            if not isinstance(key, str) or not _KEY.fullmatch(key):
                wrong.append(f"{part}: expected a key of letters, digits, '-', '_' and '.'")
            elif not isinstance(value, str):
                wrong.append(f"{part}.{key}: expected a string")
            elif kind == "Secret" and part == "data":
                decoded = _decoded(value)
                if decoded is None:
                    wrong.append(f"{part}.{key}: expected base64; plain text goes into stringData")
                elif (text := _as_text(decoded)) is not None:
                    texts[key] = text
            elif "\0" not in value:
                texts[key] = value
    return wrong, Reference(kind, namespace, name), texts


def _decoded(value: str) -> bytes | None:
    try:
        return base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError):
        return None


def _as_text(value: bytes) -> str | None:
    """Bytes that are no text can be no variable."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text
