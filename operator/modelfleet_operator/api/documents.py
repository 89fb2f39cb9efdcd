"""The documents of a YAML file, read as Kubernetes reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ..errors import ManifestError
from .model_deployment import KIND


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


def read_documents(path: Path) -> list[tuple[int, Any]]:
    """Those that are not empty, counted from 1. ManifestError."""
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
