"""spec.quantization and the flags that a worker gets for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelfleet_operator.api.manifests import load_manifests
from modelfleet_operator.errors import ManifestError
from modelfleet_operator.views import model_flags


def flags(folder: Path, quantization: str) -> list[str]:
    path = folder / "fleet.yaml"
    path.write_text(
        "apiVersion: modelfleet.dev/v1alpha1\nkind: ModelDeployment\nmetadata: {name: smol}\n"
        f"spec: {{model: {{source: 'hf://owner/name'}}, quantization: {quantization}}}\n"
    )
    (deployment,) = load_manifests([path]).deployments
    plain = ("--model", "--source", "--dtype", "--max-")
    return [flag for flag in model_flags(deployment) if not flag.startswith(plain)]


@pytest.mark.parametrize(
    ("quantization", "expected"),
    [
        ("{}", []),
        ("{weights: None}", []),
        ("{weights: Int8}", ["--weights=int8"]),
        ("{kvCache: Auto}", []),
        ("{kvCache: Int8}", ["--kv-cache=int8"]),
        (
            "{weights: Int4, groupSize: 32, overrides: [{modules: '*.down_proj', weights: Int8},"
            " {modules: lm_head, weights: None}]}",
            [
                "--weights=int4",
                "--group-size=32",
                "--override=*.down_proj=int8",
                "--override=lm_head=none",
            ],
        ),
    ],
)
def test_the_worker_is_told_what_differs_from_its_defaults(
    tmp_path: Path, quantization: str, expected: list[str]
):
    assert flags(tmp_path, quantization) == expected


@pytest.mark.parametrize(
    ("quantization", "said"),
    [
        ("{weights: int8}", "weights"),
        ("{groupSize: 48}", "groupSize"),
        ("{kvCache: Int4}", "kvCache"),
        ("{overrides: [{modules: 'a b', weights: Int8}]}", "a module's name as in the checkpoint"),
        ("{overrides: [{modules: lm_head}]}", "weights"),
    ],
)
def test_what_no_worker_can_load_is_refused(tmp_path: Path, quantization: str, said: str):
    with pytest.raises(ManifestError, match=said):
        flags(tmp_path, quantization)
