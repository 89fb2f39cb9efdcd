"""Sources: what is a source, which folder it names, and what a folder must hold."""

from pathlib import Path

import pytest

from modelfleet_worker.errors import ModelError
from modelfleet_worker.sources import FolderSource, HubSource, local_folder, parse_source


def folder(path: Path, *names: str) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name in names:
        (path / name).touch()
    return path


def find(source: str, model_dir: Path = Path("/nowhere"), revision: str = "main") -> Path:
    return local_folder(
        source, revision=revision, model_dir=model_dir, report=lambda phase, share: None
    )


@pytest.mark.parametrize(
    ("source", "parsed"),
    [
        (
            "hf://HuggingFaceTB/SmolLM2-135M-Instruct",
            HubSource("HuggingFaceTB/SmolLM2-135M-Instruct"),
        ),
        ("file:///models/a%20b", FolderSource(Path("/models/a b"))),
    ],
)
def test_reads_sources(source: str, parsed: HubSource | FolderSource):
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
        "s3://bucket/key",
        "file://models/relative",
        "file://~/models",
        "file:models",
    ],
)
def test_refuses_what_is_no_source_and_says_what_is(source: str):
    with pytest.raises(ModelError, match=r"expected .*(hf://OWNER/NAME|file:///PATH)"):
        parse_source(source)


def test_a_folder_with_safetensors_is_taken_as_it_is(tmp_path: Path):
    assert find(folder(tmp_path / "m", "model.safetensors").as_uri()) == tmp_path / "m"


def test_the_local_copy_of_a_hub_model_comes_first(tmp_path: Path):
    copy = folder(tmp_path / "owner" / "name", "config.json", "model.safetensors")
    assert find("hf://owner/name", model_dir=tmp_path) == copy


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "expected .*safetensors.*found none"),
        (("config.json",), "expected .*safetensors.*found none"),
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
