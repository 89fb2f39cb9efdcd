"""Archives that are made to fill a disk, to take memory or to write elsewhere (guard 26)."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from artifacts import archive
from modelfleet_worker.errors import ModelError
from modelfleet_worker.storage.names import safe_name
from modelfleet_worker.storage.oci import read_layers
from modelfleet_worker.storage.unpacking import unpack

MIB = 1 << 20


def unpacked(tmp_path: Path, *layers: bytes) -> dict[str, int]:
    """Sizes by name, also of what was written before an error."""
    paths = []
    for place, content in enumerate(layers):
        paths.append(tmp_path / f"{place:04d}")
        paths[-1].write_bytes(content)
    (tmp_path / "model").mkdir()
    unpack(paths, tmp_path / "model")
    return written(tmp_path)


def written(tmp_path: Path) -> dict[str, int]:
    folder = tmp_path / "model"
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}


def member(name: str, size: int, kind: bytes = tarfile.REGTYPE, **pax: str) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.pax_headers = size, kind, pax
    return info.tobuf(tarfile.PAX_FORMAT)


@pytest.mark.parametrize("name", ["model.safetensors", "of-no-use"])
def test_a_compressed_archive_has_no_more_than_its_size_allows(tmp_path: Path, name: str):
    bomb = archive({name: bytes(64 * MIB)})
    assert len(bomb) < MIB
    with pytest.raises(
        ModelError, match=r"unpack to more than the .* bytes that their sizes allow"
    ):
        unpacked(tmp_path, bomb)
    assert sum(written(tmp_path).values()) < 20 * MIB


def test_many_archives_have_no_more_than_one(tmp_path: Path):
    layers = [archive({f"{n}.json": bytes(6 * MIB)}) for n in range(4)]
    with pytest.raises(ModelError, match="unpack to more than"):
        unpacked(tmp_path, *layers)
    assert sum(written(tmp_path).values()) < 20 * MIB


def test_what_shrinks_well_is_unpacked(tmp_path: Path):
    assert unpacked(tmp_path, archive({"tokenizer.json": b"[1, 2]\n" * MIB})) == {
        "tokenizer.json": 7 * MIB
    }


def test_a_sparse_file_has_no_more_than_the_archive(tmp_path: Path):
    pax = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "model.safetensors",
        "GNU.sparse.realsize": str(2**40),
    }
    layout = b"1\n0\n1\n".ljust(512, b"\0")  # one piece, of one byte
    content = member("x", 513, **pax) + layout + b"x".ljust(512, b"\0") + bytes(1024)
    with pytest.raises(ModelError, match="unpack to more than"):
        unpacked(tmp_path, content)
    assert written(tmp_path) == {}


def test_a_header_takes_no_memory(tmp_path: Path):
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 8 * MIB
    content = info.tobuf(tarfile.USTAR_FORMAT) + bytes(8 * MIB)
    with pytest.raises(ModelError, match="a header of no sense"):
        unpacked(tmp_path, content)


def test_headers_that_only_name_each_other_are_no_archive(tmp_path: Path):
    info = tarfile.TarInfo("x")
    info.type = tarfile.XHDTYPE
    with pytest.raises(ModelError, match="no readable archive"):
        unpacked(tmp_path, gzip.compress(info.tobuf(tarfile.USTAR_FORMAT) * 5000))


def test_thousands_of_files_are_no_model(tmp_path: Path):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for n in range(10_001):
            tar.addfile(tarfile.TarInfo(f"{n}.json"))
    with pytest.raises(ModelError, match="at most 10000 files"):
        unpacked(tmp_path, out.getvalue())


DEEP = "/".join(["d"] * 33) + "/config.json"


def test_32_folders_are_deep_enough(tmp_path: Path):
    assert safe_name(DEEP.removeprefix("d/")) == DEEP.removeprefix("d/")
    with pytest.raises(ModelError, match="in more than 32 folders"):
        unpacked(tmp_path, archive({DEEP: b"{}"}, "w"))
    title = {"org.opencontainers.image.title": DEEP}
    layer = {"mediaType": "x", "digest": f"sha256:{'0' * 64}", "size": 1, "annotations": title}
    with pytest.raises(ModelError, match="in more than 32 folders"):
        read_layers({"layers": [layer]})
    with pytest.raises(ModelError, match="more than 255 bytes"):
        safe_name(f"{'a' * 256}.json")


def test_no_file_lies_among_the_archives():
    title = {"org.opencontainers.image.title": ".layers/0000"}
    layer = {"mediaType": "x", "digest": f"sha256:{'0' * 64}", "size": 1, "annotations": title}
    with pytest.raises(ModelError, match="outside of its folder"):
        read_layers({"layers": [layer]})
