"""The chart agrees with what it is made of. What needs helm is in e2e/test_chart_rendering.py."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import generate_chart

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "modelfleet"
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
TEMPLATES = {path.name: path.read_text() for path in (CHART / "templates").glob("*.yaml")}


def values(**changes: Any) -> dict[str, Any]:
    """The defaults with other values at dotted paths, written with `__`."""
    changed = copy.deepcopy(VALUES)
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = changed
        for parent in parents:
            place = place[parent]
        place[last] = value
    return changed


def refusals(these: dict[str, Any]) -> list[str]:
    return [error.message for error in jsonschema.Draft7Validator(SCHEMA).iter_errors(these)]


def test_the_crds_of_the_chart_are_those_of_the_project():
    ours = {path.name: path.read_text() for path in (ROOT / "crds").glob("*.yaml")}
    charts = {path.name: path.read_text() for path in (CHART / "files" / "crds").glob("*.yaml")}
    assert charts == ours, "run `make generate`"


def test_every_crd_has_the_one_line_that_the_template_puts_its_metadata_after():
    for path in (CHART / "files" / "crds").glob("*.yaml"):
        assert path.read_text().count("\nmetadata:\n") == 1, path


def test_chart_and_project_have_one_version():
    assert (CHART / "Chart.yaml").read_text() == generate_chart.chart_yaml(), "run `make generate`"


def test_the_readme_has_the_table_of_todays_values():
    assert (CHART / "README.md").read_text() == generate_chart.readme(), "run `make generate`"


def test_the_defaults_are_valid():
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    assert refusals(VALUES) == []


def test_the_schema_describes_every_value_and_no_other():
    def compare(schema: dict[str, Any], defaults: dict[str, Any], path: str) -> None:
        fields = set(schema["properties"]) - ({"global"} if not path else set())
        assert fields == set(defaults), path
        assert schema["additionalProperties"] is False, path
        for name, default in defaults.items():
            field = schema["properties"][name]
            assert field.get("description"), f"{path}{name}"
            if field.get("additionalProperties") is False:
                compare(field, default, f"{path}{name}.")

    compare(SCHEMA, VALUES, "")


def test_every_value_is_used_by_a_template():
    text = "\n".join(
        path.read_text() for path in (CHART / "templates").rglob("*") if path.is_file()
    )

    def leaves(these: dict[str, Any]) -> list[str]:
        return [
            leaf
            for name, value in these.items()
            for leaf in (leaves(value) if isinstance(value, dict) and value else [name])
        ]

    assert [
        leaf for leaf in leaves(VALUES) if leaf not in text and leaf not in RESOURCE_NAMES
    ] == []


RESOURCE_NAMES = {"cpu", "memory"}  # `resources` goes into the container as a whole


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(values(gateway__replica=3), id="a value that does not exist"),
        pytest.param(values(operator__replicas=0), id="no operator at all"),
        pytest.param(values(gateway__replicas="2"), id="a number in quotes"),
        pytest.param(values(worker__device="gpu"), id="a device that does not exist"),
        pytest.param(values(worker__hostPaths=["models"]), id="a host path that is not absolute"),
        pytest.param(values(worker__hostPaths=["/"]), id="the whole node as a host path"),
        pytest.param(values(worker__nodeCache="/models"), id="a node cache outside the host paths"),
        pytest.param(values(worker__hub__endpoint="hub.example"), id="a hub without a scheme"),
        pytest.param(values(images__worker__digest="sha256:12"), id="a digest that is too short"),
        pytest.param(values(gateway__httpRoute__enabled=True), id="a route without a Gateway"),
        pytest.param(values(scope__namespaces=["Team A"]), id="what cannot be a namespace"),
        pytest.param(values(logLevel="verbose"), id="a level that does not exist"),
        pytest.param(values(gateway__preStopSleep=0), id="a sleep that the API server refuses"),
        pytest.param(values(worker__env=[{"name": "A", "valeu": "b"}]), id="a misspelt variable"),
        pytest.param(values(worker__resources={"request": {}}), id="misspelt requests"),
        pytest.param(values(worker__allowedEndpoints=["http://a:1"]), id="a URL as an endpoint"),
    ],
)
def test_the_schema_refuses(wrong: dict[str, Any]):
    assert refusals(wrong)


@pytest.mark.parametrize("command", ["operator", "gateway"])
def test_every_flag_in_the_templates_exists(command: str):
    flag = r'^\s+- (?:\{\{ printf ")?(--[a-z-]+)'
    used = set(re.findall(flag, TEMPLATES[f"{command}.yaml"], flags=re.MULTILINE))
    helped = subprocess.run(
        ["modelfleet", command, "--help"],
        check=True, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"},
    ).stdout  # fmt: skip
    known = set(re.findall(r"--[a-z-]+", helped))
    assert len(used) >= 5
    assert used <= known


def test_no_role_asks_for_everything():
    for name, template in TEMPLATES.items():
        if "rbac" in name:
            assert "*" not in re.sub(r"\{\{.*?\}\}", "", template, flags=re.DOTALL), name


def test_no_image_lock_names_a_host():
    for lock in (ROOT / "requirements").glob("*.lock"):
        assert "://" not in lock.read_text(), lock


def pinned(file: Path) -> set[str]:
    return set(re.findall(r"^([a-z0-9][a-z0-9._-]*==\S+)", file.read_text(), flags=re.MULTILINE))


def test_images_install_the_versions_that_are_tested():
    tested = pinned(ROOT / "requirements.lock")
    for image in ("operator", "worker", "torch", "torch-cpu"):
        locked = pinned(ROOT / "requirements" / f"{image}.lock")
        assert locked <= tested, f"requirements/{image}.lock: run `python tools/lock_images.py`"


def test_every_requirement_is_in_an_image():
    """A dependency that was added to pyproject.toml is there in the images, too."""
    import lock_images

    project = lock_images.project()
    shared = {lock_images.name(line) for line in project.shared}
    worker = {lock_images.name(line) for line in project.worker}
    assert shared <= lock_images.names_in("operator")
    assert worker <= lock_images.names_in("worker") | lock_images.names_in("torch")
    assert shared - lock_images.NOT_IN_WORKERS <= lock_images.names_in("worker")


def test_the_operators_image_holds_neither_torch_nor_transformers():
    import lock_images

    assert not {"torch", "transformers", "numpy"} & lock_images.names_in("operator")


def test_the_workers_image_holds_nothing_of_kubernetes():
    import lock_images

    assert not {"kopf", "kubernetes"} & lock_images.names_in("worker")
