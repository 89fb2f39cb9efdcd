"""What the pages tell a reader to type for the chart renders it, and their YAML is what it says."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from kubernetes.aio import client

from helm import CHART, find_helm
from modelfleet_operator.api.accelerator_class import KIND as ACCELERATOR_CLASS
from modelfleet_operator.api.manifests import check_manifest, observed_class, observed_pool
from modelfleet_operator.api.model_deployment import KIND as MODEL_DEPLOYMENT
from modelfleet_operator.api.warm_pool import KIND as WARM_POOL
from modelfleet_operator.simulate.scenario import Scenario
from pages import EXAMPLES, PAGES, ROOT, commands, documents, helm_flags, of

VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
REGISTRY = "--set images.registry=registry.example.com/team"
# Flags of install and upgrade that `helm template` does not have, or that talk to a cluster.
NOT_OF_TEMPLATE = r"\s--(wait|create-namespace|install|reset-then-reuse-values|take-ownership)\b"
YAML = of([*PAGES, *EXAMPLES], documents)
INSTALLS = [(page, c) for page, c in of(PAGES, commands) if re.match("helm (install|upgrade) ", c)]
OTHERS = [
    (page, c)
    for page, c in of(PAGES, commands)
    if c.startswith("helm ") and (page, c) not in INSTALLS
]


def shell(command: str, values: Path | None = None) -> subprocess.CompletedProcess[str]:
    """As a reader's shell would read it, with helm of the version that the cluster's tests use."""
    helm = find_helm()
    if helm is None:
        pytest.skip("needs helm: `make cluster` builds it")
    flags = f" --kube-version=1.34{f' --values {values}' if values else ''}"
    return subprocess.run(
        ["bash", "-c", command + (flags if command.startswith("helm template") else "")],
        cwd=ROOT, check=False, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PATH": f"{helm.parent}:{os.environ['PATH']}"},
    )  # fmt: skip


def rendered(command: str, values: Path | None = None) -> list[dict[str, Any]]:
    done = shell(command, values)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def test_the_pages_tell_how_to_install_and_how_to_upgrade():
    verbs = {command.split()[1] for _, command in INSTALLS}
    assert verbs == {"install", "upgrade"}
    assert {page for page, _ in INSTALLS} >= {"README.md", "docs/install.md"}


@pytest.mark.parametrize(("page", "command"), INSTALLS)
def test_an_installation_renders(page: str, command: str):
    template = re.sub("^helm (install|upgrade)", "helm template", command)
    template = re.sub(NOT_OF_TEMPLATE, "", template)
    if "--reset-then-reuse-values" in command:
        template += f" {REGISTRY}"  # as it was installed
    images = re.findall(r"image: (\S+)", shell(template).stdout)
    assert images
    assert {image.partition("/")[0] for image in images} == {"registry.example.com"}


@pytest.mark.parametrize(("page", "command"), OTHERS)
def test_any_other_command_of_helm_has_the_flags_that_are_named(page: str, command: str):
    words = shlex.split(command)
    known = shell(f"helm {words[1]} --help").stdout
    for flag in (word.partition("=")[0] for word in words if word.startswith("--")):
        assert re.search(rf"{flag}\b", known), command


@pytest.mark.parametrize(("page", "flags"), of(PAGES, helm_flags))
def test_flags_in_the_text_set_what_they_say(page: str, flags: str):
    rendered(f"helm template modelfleet charts/modelfleet {REGISTRY} {flags}")


def test_the_table_of_installing_has_flags_for_what_it_offers():
    found = [flags for page, flags in of(PAGES, helm_flags) if page == "docs/install.md"]
    for value in ("scope.namespaces", "worker.hostPaths", "worker.allowedEndpoints", "worker.env"):
        assert any(value in flags for flags in found), value


def test_without_a_registry_the_chart_says_what_to_do():
    done = shell("helm template modelfleet charts/modelfleet")
    assert done.returncode != 0
    assert "docs/images.md" in done.stderr
    loaded = rendered(
        "helm template modelfleet charts/modelfleet --set images.registry=docker.io --no-hooks"
    )
    (operator,) = [each for each in loaded if each["metadata"]["name"] == "modelfleet-operator"
                   and each["kind"] == "Deployment"]  # fmt: skip
    (container,) = operator["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"docker.io/modelfleet/operator:{_version()}"


def _version() -> str:
    version: str = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    return version


def test_what_the_chart_gives_to_workers_arrives_as_it_was_written():
    """Through helm's templates, YAML, and the kubelet's $(…) in arguments."""
    variables = [{"name": "A", "value": "x $(POD_NAMESPACE) \"'<&\n{{ y }}"}, {"name": "B"}]
    flags = shlex.quote(f"worker.env={json.dumps(variables)}")
    (arguments,) = [
        container["args"]
        for each in rendered(
            f"helm template modelfleet charts/modelfleet {REGISTRY} --set-json {flags} "
            "--set worker.resources.requests.cpu=2 --set 'worker.allowedEndpoints={minio.s:9000}'"
        )
        if each["kind"] == "Deployment"
        for container in each["spec"]["template"]["spec"]["containers"]
        if container["name"] == "operator"
    ]
    given = dict(argument.partition("=")[::2] for argument in arguments[1:])
    # The kubelet: $(NAME) is a variable of the container, $$ is one $.
    assert not re.search(r"(?<!\$)\$\(", given["--worker-env"])
    assert json.loads(given["--worker-env"].replace("$$(", "$(")) == variables
    assert json.loads(given["--worker-resources"])["requests"] == {"cpu": 2}
    assert given["--allowed-endpoint"] == "minio.s:9000"


@pytest.mark.parametrize(("page", "document"), YAML)
def test_yaml_of_a_page_is_what_it_says(page: str, document: dict[str, Any], tmp_path: Path):
    match document.get("kind"):
        case None if document.keys() == {"spec"}:  # a part of a ModelDeployment
            check_deployment({"metadata": {"name": "a"}, **document})
        case None if page == "docs/simulate.md":
            Scenario.model_validate(document)
        case None:
            check_values(document, tmp_path)
        case str(kind) if kind == MODEL_DEPLOYMENT:
            check_deployment(document)
        case str(kind) if kind in OBSERVED:
            assert OBSERVED[kind](document)[0] == []
        case str(kind) if kind in OF_KUBERNETES:
            check_fields(document, getattr(client, OF_KUBERNETES[kind]))
        case "Application":
            for source in document["spec"]["sources"]:
                if "helm" in source:
                    check_values(source["helm"]["valuesObject"], tmp_path)
        case "HelmRelease":
            check_values(document["spec"]["values"], tmp_path)
        case "ScaledObject":  # KEDA itself reads it in e2e/test_keda.py
            assert document["spec"]["scaleTargetRef"]["kind"] == MODEL_DEPLOYMENT
        case kind:
            assert kind in OF_FLUX, f"{page}: this test does not know what a {kind} is"


OBSERVED = {ACCELERATOR_CLASS: observed_class, WARM_POOL: observed_pool}
OF_KUBERNETES = {
    kind: f"V1{kind}"
    for kind in ("NetworkPolicy", "Role", "ConfigMap", "PersistentVolumeClaim", "Job", "Secret")
}
OF_FLUX = {"GitRepository", "OCIRepository", "Kustomization", "HelmRelease"}


def check_deployment(document: dict[str, Any]) -> None:
    head = {"apiVersion": "modelfleet.dev/v1alpha1", "kind": MODEL_DEPLOYMENT}
    spec = document["spec"]
    if "model" not in spec:
        spec = {"model": {"source": "hf://owner/name"}, **spec}
    assert check_manifest({**head, **document, "spec": spec})[0] == []


def check_values(values: dict[str, Any], folder: Path) -> None:
    """The chart takes them, and they are all that it needs beside a registry."""
    jsonschema.Draft7Validator(SCHEMA).validate(merged(VALUES, values))
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    registry = "" if "registry" in values.get("images", {}) else REGISTRY
    rendered(f"helm template modelfleet charts/modelfleet {registry}", file)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    return {**base} | {
        name: merged(base[name], value)
        if isinstance(value, dict) and isinstance(base.get(name), dict)
        else value
        for name, value in over.items()
    }


def check_fields(given: Any, kind: Any) -> None:
    """The client library's type keeps every field."""

    def lost(before: Any, after: Any) -> bool:
        if isinstance(before, dict):
            return any(n not in after or lost(v, after[n]) for n, v in before.items())
        if isinstance(before, list):
            return any(lost(b, a) for b, a in zip(before, after, strict=True))
        return bool(before != after)

    assert not lost(given, kind.from_dict(given).to_dict(serialize=True))


def _sources() -> dict[tuple[str, str], dict[str, Any]]:
    """The objects of Flux in docs/gitops.md, by kind and name."""
    return {
        (each["kind"], each["metadata"]["name"]): each
        for page, each in YAML
        if page == "docs/gitops.md" and each.get("kind") in OF_FLUX
    }


def test_what_flux_is_told_to_read_is_among_its_files():
    found = _sources()
    assert {kind for kind, _ in found} == OF_FLUX
    for page, each in YAML:
        spec = each.get("spec", {}) if page == "docs/gitops.md" else {}
        chart = spec.get("chart", {}).get("spec", {}) if each.get("kind") == "HelmRelease" else {}
        for reference in filter(
            None, (spec.get("sourceRef"), spec.get("chartRef"), chart.get("sourceRef"))
        ):
            assert (reference["kind"], reference["name"]) in found
        if chart:
            assert (ROOT / chart["chart"] / "Chart.yaml").is_file()


def test_files_that_the_commands_name_are_there():
    named = [
        word
        for _, command in of(PAGES, commands)
        for word in command.split()
        if re.match(r"(examples|charts|docs)/", word)
    ]
    assert "examples/smollm2.yaml" in named
    for word in named:
        assert (ROOT / word).exists(), word
