"""Reads manifests from YAML files and says in sentences what is wrong with them."""

from __future__ import annotations

import copy
import dataclasses
import difflib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ..decisions.api_keys import ApiKey, keys_in_force
from ..decisions.cost import two_currencies
from ..errors import ManifestError
from . import accelerator_class, warm_pool
from .accelerator_class import AcceleratorClass
from .api_model import ApiModel, Metadata
from .documents import read_documents
from .key_secret import is_key_secret, read_key_secret
from .model_deployment import API_VERSION, KIND, ModelDeployment
from .other_kinds import Reference, Values, describe, expand_list, is_other_kind, read_values
from .warm_pool import WarmPool

_Object = TypeVar("_Object", bound=ApiModel)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Manifests:
    """All that stands in some files, and all that is wrong with them."""

    deployments: tuple[ModelDeployment, ...] = ()  # valid ones, in order
    homes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Where each stands, by its full name: file and number of the document."""
    classes: tuple[AcceleratorClass, ...] = ()  # valid ones
    pools: tuple[WarmPool, ...] = ()  # valid ones
    others: tuple[str, ...] = ()  # objects of other kinds, like "Job default/fill"
    values: Values = dataclasses.field(default_factory=Values)
    """Of the Secrets and ConfigMaps among them."""
    keys: tuple[ApiKey, ...] = ()  # of the Secrets that are API keys
    problems: tuple[str, ...] = ()  # file, document, field, what was expected and what was found


def load_manifests(paths: Iterable[Path]) -> Manifests:
    """Every object in the files. ManifestError lists all that is wrong in all of them."""
    read = read_manifests(paths)
    if read.problems:
        raise ManifestError("\n".join(read.problems))
    return read


def read_manifests(paths: Iterable[Path]) -> Manifests:
    """The same with the problems as values."""
    reading = _Reading()
    paths = list(paths)
    for path in paths:
        try:
            documents = read_documents(path)
        except ManifestError as error:
            reading.problems.append(str(error))
            continue
        for number, document in documents:
            objects = expand_list(document)
            for place, item in enumerate(objects, 1):
                within = "" if objects == [document] else f", item {place}"
                reading.add(item, f"{path}, document {number}{within}")
    if not reading.homes and not reading.problems:
        found = [
            *([accelerator_class.KIND] if reading.classes else []),
            *([warm_pool.KIND] if reading.pools else []),
            *reading.kinds,
        ]
        reading.problems.append(
            f"{', '.join(map(str, paths))}: expected a {KIND} in one of the files, found "
            f"{', '.join(dict.fromkeys(found)) or 'none'} only"
        )
    reading.check_currencies()
    keys, conflicts = keys_in_force(reading.keys)
    reading.problems += [f"Secret {conflict.id}: {conflict.message}" for conflict in conflicts]
    return Manifests(
        deployments=tuple(reading.deployments),
        homes=reading.homes,
        classes=tuple(reading.classes),
        pools=tuple(reading.pools),
        others=tuple(reading.others),
        values=Values(reading.values),
        keys=keys,
        problems=tuple(reading.problems),
    )


class _Reading:
    """What was found so far."""

    def __init__(self) -> None:
        self.deployments: list[ModelDeployment] = []
        self.homes: dict[str, str] = {}
        self.classes: list[AcceleratorClass] = []
        self.pools: list[WarmPool] = []
        self.others: list[str] = []
        self.kinds: list[str] = []  # of `others`
        self.values: dict[Reference, Mapping[str, str]] = {}
        self.keys: list[ApiKey] = []
        self.problems: list[str] = []

    def add(self, document: Any, where: str) -> None:
        """`where` is the file and the number of the document."""
        if _is_of(accelerator_class.KIND, document):
            problems, class_ = _validated(AcceleratorClass, document)
            self._complain(where, problems)
            if class_ is not None:
                self.classes.append(class_)
        elif _is_of(warm_pool.KIND, document):
            problems, pool = _validated(WarmPool, document)
            self._complain(where, problems)
            if pool is not None:
                self._add_pool(pool, where)
        elif is_key_secret(document):
            problems, key = read_key_secret(document)
            self._complain(where, (f"{describe(document)}: {problem}" for problem in problems))
            if key is not None:
                self.keys.append(key)
        elif is_other_kind(document):
            self.others.append(describe(document))
            self.kinds.append(document["kind"])
            problems, reference, texts = read_values(document)
            self._complain(where, (f"{describe(document)}: {problem}" for problem in problems))
            if reference is not None:
                self.values[reference] = texts
        else:
            problems, deployment = check_manifest(document)
            self._complain(where, problems)
            if deployment is not None:
                self._add_deployment(deployment, where)

    def _add_deployment(self, deployment: ModelDeployment, where: str) -> None:
        first = self.homes.setdefault(deployment.full_name, where)
        if first is not where:
            self.problems.append(
                f"{where}: {deployment.full_name} stands in {first} already: "
                "rename one of them, or give it another namespace"
            )
        else:
            self.deployments.append(deployment)

    def _add_pool(self, pool: WarmPool, where: str) -> None:
        if any(other.full_name == pool.full_name for other in self.pools):
            self.problems.append(
                f"{where}: there is a {warm_pool.KIND} {pool.full_name} already: rename one of "
                "them, or give it another namespace"
            )
        else:
            self.pools.append(pool)

    def check_currencies(self) -> None:
        """The cost of a deployment is one sum, so the classes that it names have one currency."""
        prices = {c.metadata.name: c.spec.price for c in self.classes}
        for deployment in self.deployments:
            named: dict[str, str] = {}  # currency -> a class
            for name in deployment.spec.placement.accelerators:
                price = prices.get(name)
                if price is not None and price.currency is not None:
                    named.setdefault(price.currency, name)
            if len(named) > 1:
                self.problems.append(
                    f"{self.homes[deployment.full_name]}: spec.placement.accelerators: "
                    f"{two_currencies(named)}"
                )

    def _complain(self, where: str, problems: Iterable[str]) -> None:
        self.problems += [f"{where}: {problem}" for problem in problems]


def check_manifest(document: Any) -> tuple[list[str], ModelDeployment | None]:
    """What is wrong with one object, one sentence each, or else its typed view."""
    if not isinstance(document, dict):
        return [f"expected an object of kind {KIND}, found {_shown(document)}"], None
    kind, version = document.get("kind"), document.get("apiVersion")
    if (kind, version) != (KIND, API_VERSION):
        return [
            f"expected kind {KIND} of apiVersion {API_VERSION}, found kind {_shown(kind)} of "
            f"apiVersion {_shown(version)}: remove or correct this document"
        ], None
    return _validated(ModelDeployment, document)


def _validated(model: type[_Object], document: dict[str, Any]) -> tuple[list[str], _Object | None]:
    try:
        return [], model.model_validate(document)
    except ValidationError as error:
        return [_sentence(details, model) for details in error.errors()], None


def _is_of(kind: str, document: Any) -> bool:
    asked = (kind, API_VERSION)
    return (
        isinstance(document, dict) and (document.get("kind"), document.get("apiVersion")) == asked
    )


def observed_manifest(body: Mapping[str, Any]) -> tuple[list[str], ModelDeployment | None]:
    """As check_manifest, of an object that the API server gave.

    Its metadata and status are the server's own business, so only what we read of them is taken.
    """
    return _observed(ModelDeployment, body)


def observed_class(body: Mapping[str, Any]) -> tuple[list[str], AcceleratorClass | None]:
    """The same for an AcceleratorClass."""
    return _observed(AcceleratorClass, body)


def observed_pool(body: Mapping[str, Any]) -> tuple[list[str], WarmPool | None]:
    """The same for a WarmPool."""
    return _observed(WarmPool, body)


def _observed(model: type[_Object], body: Mapping[str, Any]) -> tuple[list[str], _Object | None]:
    """A field that we do not know is one of a newer CRD, whose operator is on its way.

    The API server refused or dropped all others.
    """
    ours = {field.alias for field in Metadata.model_fields.values()}
    metadata = {key: value for key, value in body["metadata"].items() if key in ours}
    document = {**body, "metadata": metadata}
    try:
        return [], model.model_validate(document)
    except ValidationError as error:
        unknown = [e["loc"] for e in error.errors() if e["type"] == "extra_forbidden"]
    return _validated(model, _without(document, unknown))


def _without(document: dict[str, Any], locations: Iterable[tuple[int | str, ...]]) -> Any:
    document = copy.deepcopy(document)
    for *path, last in locations:
        node: Any = document
        for part in path:
            node = node[part]
        del node[last]
    return document


_EXPECTED = {
    "int_type": "a whole number",
    "bool_type": "true or false",
    "string_type": "a string",
    "tuple_type": "a list",
    "model_type": "an object with fields",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "literal_error": "one of {expected}",
    "too_long": "at most {max_length} entries",
}


def _sentence(error: ErrorDetails, model: type[BaseModel]) -> str:
    """`spec.scaling.minReplicas: expected a whole number, found "two"`."""
    location, context = error["loc"], error.get("ctx", {})
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    path = path.lstrip(".") or "the object"
    if error["type"] == "extra_forbidden":
        return f"{path}: there is no such field{_suggestion(location, model)}"
    if error["type"] == "missing":
        return f"{path}: this field is required and missing"
    if error["type"] == "value_error":
        said = str(context["error"])
        # A Format says what it expected; what it found is known here.
        return f"{path}: {said}" + (
            f", found {_shown(error['input'])}" if _is_scalar(error["input"]) else ""
        )
    expected = _EXPECTED.get(error["type"])
    said = f"expected {expected.format(**context)}" if expected else error["msg"]
    return f"{path}: {said}, found {_shown(error['input'])}"


def _suggestion(location: tuple[int | str, ...], model: type[BaseModel]) -> str:
    fields = list(_fields_at(location[:-1], model))
    close = difflib.get_close_matches(str(location[-1]), fields, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; fields here are {', '.join(sorted(fields))}"


def _fields_at(location: tuple[int | str, ...], model: type[BaseModel]) -> Iterator[str]:
    for part in location:
        for field in model.model_fields.values():
            if field.alias == part:
                model = _model_of(field.annotation)
    yield from (cast("str", field.alias) for field in model.model_fields.values())


def _model_of(annotation: Any) -> type[BaseModel]:
    options = getattr(annotation, "__args__", (annotation,))  # of `SecretKeyRef | None`, the former
    return next(o for o in options if isinstance(o, type) and issubclass(o, BaseModel))


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def _shown(value: Any) -> str:
    """A value as the manifest spells it, shortened."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."
