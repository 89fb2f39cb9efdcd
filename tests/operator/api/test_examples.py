"""What users copy is right: every ModelDeployment in examples/ and in docs/models.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from modelfleet_operator.api.manifests import check_manifest
from modelfleet_operator.cluster.pods import PodSettings, template_problems

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


def deployments(text: str) -> list[dict[str, Any]]:
    return [d for d in yaml.safe_load_all(text) if d and d.get("kind") == "ModelDeployment"]


def check(document: dict[str, Any]) -> None:
    problems, manifest = check_manifest(document)
    assert problems == []
    assert manifest is not None
    assert template_problems(manifest, PodSettings(image="worker:1")) == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_valid(path: Path):
    found = deployments(path.read_text())
    assert found
    for document in found:
        check(document)


def test_the_snippets_about_models_are_valid():
    text = (ROOT / "docs/models.md").read_text()
    snippets = [part.split("```")[0] for part in text.split("```yaml")[1:]]
    assert len(snippets) >= 4
    for snippet in snippets:
        head = {"apiVersion": "modelfleet.dev/v1alpha1", "kind": "ModelDeployment"}
        check({**head, "metadata": {"name": "a"}, **yaml.safe_load(snippet)})
