"""Reads ModelDeployments from YAML files and says in sentences what is wrong with them."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ..errors import ManifestError
from . import accelerator_class
from .accelerator_class import AcceleratorClass
from .model_deployment import API_VERSION, KIND, ApiModel, Metadata, ModelDeployment

_Object = TypeVar("_Object", bound=ApiModel)


class _Loader(yaml.SafeLoader):
    """YAML as Kubernetes reads it: times stay strings, and a key that stands twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.value in seen and isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key_node.value!r} stands twice",
                    problem_mark=key_node.start_mark,
                )
            if isinstance(key_node, yaml.ScalarNode):
                seen.add(key_node.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regex) for tag, regex in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load_manifests(paths: Iterable[Path]) -> list[ModelDeployment]:
    """Every ModelDeployment in the files, in order; AcceleratorClasses are checked and left out.

    ManifestError lists all that is wrong in all files: file, document, field, what was expected and
    what was found.
    """
    found: list[ModelDeployment] = []
    homes: dict[str, str] = {}  # full name -> where it stands
    wrong: list[str] = []
    for path in paths:
        try:
            documents = _documents(path)
        except ManifestError as error:
            wrong.append(str(error))
            continue
        for number, document in documents:
            where = f"{path}, document {number}"
            if _is_class(document):
                problems, _ = _validated(AcceleratorClass, document)
                wrong += [f"{where}: {problem}" for problem in problems]
                continue
            problems, deployment = check_manifest(document)
            wrong += [f"{where}: {problem}" for problem in problems]
            if deployment is None:
                continue
            first = homes.setdefault(deployment.full_name, where)
            if first is not where:
                wrong.append(
                    f"{where}: {deployment.full_name} stands in {first} already: "
                    "rename one of them, or give it another namespace"
                )
            found.append(deployment)
    if not found and not wrong:
        wrong.append(f"expected a {KIND} in one of the files, found {accelerator_class.KIND} only")
    if wrong:
        raise ManifestError("\n".join(wrong))
    return found


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


def _is_class(document: Any) -> bool:
    asked = (accelerator_class.KIND, API_VERSION)
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


def _documents(path: Path) -> list[tuple[int, Any]]:
    """The documents that are not empty, counted from 1."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ManifestError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: expected YAML in UTF-8: {error}") from error
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        documents = list(yaml.load_all(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ManifestError(f"{path}{line}: not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ManifestError(f"{path}: not valid YAML: {error}") from error
    except RecursionError:
        raise ManifestError(f"{path}: not a manifest: nested too deeply") from None
    numbered = [(n, document) for n, document in enumerate(documents, 1) if document is not None]
    if not numbered:
        raise ManifestError(f"{path}: expected a {KIND}, found an empty file")
    return numbered


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
