"""Models in an OCI registry: what `oras push`, KitOps and ModelPack put there, and images.

A layer is a file with a name (org.opencontainers.image.title or org.cncf.model.filepath), or a tar
archive whose members have names. Names are not trusted: none may lead out of the model's folder.
"""

from __future__ import annotations

import platform
import re
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from typing_extensions import override

from ..errors import BrokenTransferError, ModelError, UnreachableError
from .registry import Registry
from .remote import Listing, Moved, Remote, RemoteFile, check_weights, is_wanted
from .resuming import fetch_file

_TITLE = "org.opencontainers.image.title"
_FILEPATH = "org.cncf.model.filepath"  # of the CNCF's model specification
_UNPACK = "io.deis.oras.content.unpack"  # how oras marks a folder
_LAYERS = ".layers"  # where archives wait until all are there
_DIGEST = re.compile(r"(sha256):([0-9a-f]{64})|(sha512):([0-9a-f]{128})")
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


class ArtifactModel(Remote):
    """oci://HOST/REPOSITORY at a tag or a digest."""

    def __init__(self, host: str, repository: str, reference: str) -> None:
        separator = "@" if ":" in reference else ":"
        self.source = f"oci://{host}/{repository}{separator}{reference}"
        self._reference = reference
        self._registry = Registry(host, repository)

    @override
    def list(self) -> Listing:
        try:
            digest, manifest = self._registry.manifest(self._reference)
            if "manifests" in manifest:
                digest, manifest = self._registry.manifest(_choose(manifest["manifests"]))
        except BrokenTransferError as error:
            raise UnreachableError(str(error)) from error
        return Listing(version=digest.replace(":", "-"), files=read_layers(manifest))

    @override
    def fetch(self, file: RemoteFile, folder: Path, moved: Moved) -> None:
        def read(offset: int) -> Iterator[bytes]:
            return self._registry.blob(file.key, offset)

        algorithm, _, digest = file.key.partition(":")
        fetch_file(folder / file.name, file.size, read, moved, digest=(algorithm, digest))

    @override
    def finish(self, folder: Path) -> None:
        layers = folder / _LAYERS
        if layers.is_dir():
            for layer in sorted(layers.iterdir()):
                unpack(layer, folder)
            shutil.rmtree(layers)


def read_layers(manifest: dict[str, Any]) -> tuple[RemoteFile, ...]:
    """The files that a worker reads, and all archives. ModelError for names that leave the folder.

    Archives keep the order of the layers: a later one replaces files of an earlier one.
    """
    try:
        layers = [_read_layer(place, layer) for place, layer in enumerate(manifest["layers"])]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"expected a manifest with layers, found none: {error!r}") from error
    files = {file.name: file for file in layers if file is not None}
    archives = [name for name in files if name.startswith(f"{_LAYERS}/")]
    if archives:
        names = [*archives, *(name for name in files if is_wanted(name))]
    else:
        check_weights("the artifact", files)
        top = min(
            (n.count("/") for n in files if PurePosixPath(n).name == "config.json"), default=0
        )
        names = [name for name in files if is_wanted(name) and name.count("/") == top]
    return tuple(files[name] for name in dict.fromkeys(names))


def _read_layer(place: int, layer: dict[str, Any]) -> RemoteFile | None:
    notes, kind = layer.get("annotations") or {}, str(layer["mediaType"])
    title, digest, size = notes.get(_TITLE), str(layer["digest"]), int(layer["size"])
    if not _DIGEST.fullmatch(digest):
        raise ModelError(f"expected a layer with a sha256 or sha512 digest, found {digest!r}")
    # oras calls a single file a tar, too, unless told its type; what it packs, it compresses.
    packed = "tar" in kind and (not title or kind.endswith("gzip"))
    if packed or notes.get(_UNPACK) == "true":
        if "zstd" in kind:
            raise ModelError(f"expected layers as files, tar or tar+gzip, found {kind}")
        return RemoteFile(name=f"{_LAYERS}/{place:04d}", size=size, key=digest)
    name = title or notes.get(_FILEPATH)
    return RemoteFile(name=safe_name(str(name)), size=size, key=digest) if name else None


def _choose(manifests: list[dict[str, Any]]) -> str:
    """Of an image for several machines, the one for this; attestations are for none."""
    machine = _MACHINES.get(platform.machine(), platform.machine())
    found = {
        str((m.get("platform") or {}).get("architecture", "any")): str(m["digest"])
        for m in reversed(manifests)
    }
    for wanted in (machine, "any"):
        if wanted in found:
            return found[wanted]
    raise ModelError(f"expected an artifact for {machine}, found {', '.join(found) or 'none'}")


def safe_name(name: str) -> str:
    """The name, relative to the model's folder. ModelError if it could lead out of it."""
    path = PurePosixPath(name)
    if (
        path.is_absolute()
        or ".." in path.parts
        or not path.parts
        or path.parts[0] == _LAYERS
        or re.search(r"[\x00-\x1f\\]", name)
    ):
        raise ModelError(f"the artifact names a file outside of its folder: {name!r}")
    return str(path)


def unpack(archive: Path, folder: Path) -> None:
    """The members that a worker reads; what it does not read is not written at all."""
    try:
        with tarfile.open(archive, "r|*") as members:
            for member in members:
                if member.name in (".", "./"):
                    continue
                name = safe_name(member.name)
                if not is_wanted(name) or member.isdir():
                    continue
                content = members.extractfile(member) if member.isreg() else None
                if content is None:
                    raise ModelError(f"expected a file, found a link in the artifact: {name!r}")
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as file:
                    shutil.copyfileobj(content, file, 1 << 20)
    except (tarfile.TarError, EOFError) as error:
        raise ModelError(f"a layer of the artifact is no readable archive: {error}") from error
