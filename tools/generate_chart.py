"""Writes what the chart holds of other files: the CRDs, the version, README's table of values."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
CHART = ROOT / "charts" / "modelfleet"
TABLE = re.compile(r"(<!-- values -->\n).*(<!-- /values -->)", flags=re.DOTALL)


def main() -> None:
    """Writes them all."""
    shutil.rmtree(CHART / "files" / "crds", ignore_errors=True)
    shutil.copytree(ROOT / "crds", CHART / "files" / "crds")
    for path, text in ((CHART / "Chart.yaml", chart_yaml()), (CHART / "README.md", readme())):
        path.write_text(text, encoding="utf-8")


def chart_yaml() -> str:
    """Chart.yaml with the project's version: chart, operator, gateway and workers are one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    version = project["project"]["version"]
    text = (CHART / "Chart.yaml").read_text(encoding="utf-8")
    text = re.sub(r"^version: .*$", f"version: {version}", text, flags=re.MULTILINE)
    return re.sub(r"^appVersion: .*$", f'appVersion: "{version}"', text, flags=re.MULTILINE)


def readme() -> str:
    """README.md with its table of values: the schema describes, values.yaml has the defaults."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    lines = ["| value | default | meaning |", "|---|---|---|", *_rows(schema, values, "")]
    table = "\n".join(lines) + "\n"
    text = (CHART / "README.md").read_text(encoding="utf-8")
    return TABLE.sub(lambda found: found[1] + table + found[2], text)


def _rows(schema: dict[str, Any], values: dict[str, Any], path: str) -> Iterator[str]:
    for name, value in values.items():
        field = schema["properties"][name]
        if "properties" in field and name != "resources":
            yield from _rows(field, value, f"{path}{name}.")
            continue
        default = json.dumps(value).replace("|", "\\|")
        yield f"| `{path}{name}` | `{default}` | {field['description']}{_choices(field)} |"


def _choices(field: dict[str, Any]) -> str:
    if "enum" not in field:
        return ""
    return " One of " + ", ".join(f"`{choice}`" for choice in field["enum"]) + "."


if __name__ == "__main__":
    main()
