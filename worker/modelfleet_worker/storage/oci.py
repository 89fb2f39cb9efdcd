"""Models in an OCI registry: what `oras push`, KitOps and ModelPack put there, and images.

A layer is a file with a name (org.opencontainers.image.title or org.cncf.model.filepath), or a tar
archive whose members have names. Neither names nor sizes are trusted (names.py, unpacking.py).
"""

from __future__ import annotations

import platform
import re
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from typing_extensions import override

from ..errors import BrokenTransferError, ModelError, UnreachableError
from .contents import check_complete, is_wanted
from .names import safe_name
from .registry import Registry
from .remote import Listing, Moved, Remote, RemoteFile
from .resuming import fetch_file
from .unpacking import unpack

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
            unpack(sorted(layers.iterdir()), folder)
            shutil.rmtree(layers)


def read_layers(manifest: dict[str, Any]) -> tuple[RemoteFile, ...]:
    """The files that a worker reads, and all archives. ModelError for names that leave the folder.

    Archives keep the order of the layers: a later one replaces files of an earlier one.
    """
    try:
        layers = [_read_layer(place, layer) for place, layer in enumerate(manifest["layers"])]
        kinds = {str(layer["mediaType"]) for layer in manifest["layers"]}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError("expected a manifest with layers, found something else") from error
    files = {file.name: file for file in layers if file is not None}
    archives = [file.name for file in files.values() if file.is_archive]
    if archives:
        names = [*archives, *(name for name in files if is_wanted(name))]
    else:
        top = min(
            (n.count("/") for n in files if PurePosixPath(n).name == "config.json"), default=0
        )
        # As seen from the folder with the model, which may be a folder of the artifact.
        seen = ["/".join(PurePosixPath(n).parts[top:]) for n in files if n.count("/") >= top]
        if any("ollama" in kind or "gguf" in kind for kind in kinds):
            seen.append("model.gguf")  # whose layers are told apart by their types alone
        check_complete("the artifact", seen)
        names = [name for name in files if is_wanted(name) and name.count("/") == top]
    return tuple(files[name] for name in dict.fromkeys(names))


def _read_layer(place: int, layer: dict[str, Any]) -> RemoteFile | None:
    notes, kind = layer.get("annotations") or {}, str(layer["mediaType"])
    title, digest, size = notes.get(_TITLE), str(layer["digest"]), int(layer["size"])
    if not _DIGEST.fullmatch(digest):
        raise ModelError("expected layers with a sha256 or sha512 digest, found another")
    # oras calls a single file a tar, too, unless told its type; what it packs, it compresses.
    packed = "tar" in kind and (not title or kind.endswith("gzip"))
    if packed or notes.get(_UNPACK) == "true":
        if "zstd" in kind:
            raise ModelError("expected layers as files, tar or tar+gzip, found zstd")
        name = f"{_LAYERS}/{place:04d}"
        return RemoteFile(name=name, size=size, key=digest, is_archive=True)
    named = title or notes.get(_FILEPATH)
    return RemoteFile(name=_name(str(named)), size=size, key=digest) if named else None


def _name(name: str) -> str:
    """Where a file goes. ModelError if it could leave the folder, or lie among the archives."""
    name = safe_name(name)
    if PurePosixPath(name).parts[0] == _LAYERS:
        raise ModelError(f"the artifact names a file outside of its folder: {name[:100]!r}")
    return name


def _choose(manifests: Any) -> str:
    """Of an image for several machines, the one for this; attestations are for none."""
    machine = _MACHINES.get(platform.machine(), platform.machine())
    try:
        found = {
            str((m.get("platform") or {}).get("architecture", "any")): str(m["digest"])
            for m in reversed(manifests)
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError("expected an index of manifests, found something else") from error
    for wanted in (machine, "any"):
        if _DIGEST.fullmatch(found.get(wanted, "")):
            return found[wanted]
    raise ModelError(f"expected an artifact for {machine}, found none")
