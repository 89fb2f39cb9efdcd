"""Sources: what is a source, which folder it names, and what a folder must hold."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from modelfleet_worker.errors import ModelError
from modelfleet_worker.storage.cache import Cache
from modelfleet_worker.storage.sources import (
    ArtifactSource,
    BucketSource,
    FolderSource,
    HubSource,
    Source,
    find_model,
    parse_source,
)


def folder(path: Path, *names: str) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name in names:
        (path / name).touch()
    return path


def find(source: str, model_dir: Path = Path("/nowhere"), revision: str = "main") -> Path:
    found = find_model(
        source,
        revision=revision,
        model_dir=model_dir,
        cache=Cache(Path("/nowhere")),
        report=lambda phase, share: None,
    )
    return found.folder


@pytest.mark.parametrize(
    ("source", "parsed"),
    [
        (
            "hf://HuggingFaceTB/SmolLM2-135M-Instruct",
            HubSource("HuggingFaceTB/SmolLM2-135M-Instruct"),
        ),
        ("file:///models/a%20b", FolderSource(Path("/models/a b"))),
        ("s3://bucket/llama/8b/", BucketSource("bucket", "llama/8b")),
        ("s3://my.bucket", BucketSource("my.bucket", "")),
        ("oci://r.example/team/smol:v1.0", ArtifactSource("r.example", "team/smol", "v1.0")),
        ("oci://localhost:5000/smol:v1", ArtifactSource("localhost:5000", "smol", "v1")),
        (
            f"oci://r.example/smol@sha256:{'0a' * 32}",
            ArtifactSource("r.example", "smol", f"sha256:{'0a' * 32}"),
        ),
    ],
)
def test_reads_sources(source: str, parsed: Source):
    assert parse_source(source) == parsed


@pytest.mark.parametrize(
    "source",
    [
        "",
        "smollm2",
        "HuggingFaceTB/SmolLM2",
        "hf://SmolLM2",
        "hf://a/b/c",
        "hf://../etc",
        "hf://a/..",
        "gs://bucket/key",
        "s3://",
        "s3:///key",
        "oci://r.example/smol",
        "oci://r.example:v1",
        "oci://r.example/Smol:v1",
        "oci://r.example/../smol:v1",
        "file://models/relative",
        "file://~/models",
        "file:models",
    ],
)
def test_refuses_what_is_no_source_and_says_what_is(source: str):
    with pytest.raises(ModelError, match=r"expected .*(hf://OWNER|file:///P|s3://B|oci://R)"):
        parse_source(source)


def test_a_claim_is_a_thing_of_clusters():
    with pytest.raises(ModelError, match="exists only in a cluster: use file:///PATH"):
        parse_source("pvc://models/smol")


def test_a_folder_with_safetensors_is_taken_as_it_is(tmp_path: Path):
    assert find(folder(tmp_path / "m", "model.safetensors").as_uri()) == tmp_path / "m"


def test_the_local_copy_of_a_hub_model_comes_first(tmp_path: Path):
    copy = folder(tmp_path / "owner" / "name", "config.json", "model.safetensors")
    assert find("hf://owner/name", model_dir=tmp_path) == copy


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "expected .*safetensors.*found nothing: name the folder"),
        (("config.json",), "expected .*safetensors.*found config.json: name the folder"),
        (("pytorch_model.bin",), "pickled.*pytorch_model.bin.*convert them to safetensors"),
        (("consolidated.00.pth",), "pickled.*convert"),
    ],
)
def test_refuses_a_folder_without_safetensors(tmp_path: Path, names: tuple, message: str):
    with pytest.raises(ModelError, match=message):
        find(folder(tmp_path / "m", *names).as_uri())


def test_names_the_path_that_is_missing(tmp_path: Path):
    with pytest.raises(ModelError, match=r"/gone, found nothing"):
        find((tmp_path / "gone").as_uri())
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match=r"/file, found a file"):
        find((tmp_path / "file").as_uri())


def test_the_only_model_below_a_folder_is_found_and_several_are_named(tmp_path: Path):
    folder(tmp_path / "claim/llama/8b", "config.json", "model.safetensors")
    folder(tmp_path / "claim/lost+found")
    assert find((tmp_path / "claim").as_uri()) == tmp_path / "claim/llama/8b"
    folder(tmp_path / "claim/smol/135m", "config.json", "model.safetensors")
    with pytest.raises(ModelError, match=r"several models \(llama/8b, smol/135m.*name one"):
        find((tmp_path / "claim").as_uri())


def test_files_that_the_worker_may_not_read_are_named(tmp_path: Path):
    closed = folder(tmp_path / "closed", "config.json", "model.safetensors")
    (closed / "model.safetensors").chmod(0)
    unlisted = folder(tmp_path / "unlisted", "config.json", "model.safetensors")
    unlisted.chmod(0)
    for place in (tmp_path, *tmp_path.parents[:2]):  # pytest keeps them to itself
        place.chmod(0o755)
    for place in (closed, unlisted):
        told = as_unprivileged_user(lambda place=place: find(place.as_uri()))
        assert "cannot be read by user 65534" in told


def as_unprivileged_user(act: Callable[[], object]) -> str:
    """What the error says when a user without rights does it; root may read everything."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    os.seteuid(65534)
    try:
        with pytest.raises(ModelError) as caught:
            act()
    finally:
        os.seteuid(0)
    return str(caught.value)
