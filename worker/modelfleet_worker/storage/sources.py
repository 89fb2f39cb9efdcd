"""From a model's source to a folder on this machine."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import structlog

from ..errors import ModelError
from ..progress import Report
from .cache import Cache
from .contents import (
    CONFIG,
    check_weights,
    is_wanted,
    refuse_file,
    refuse_other_kinds,
    refuse_other_weights,
)
from .entry import LocalModel
from .fetching import fetch_model
from .remote import Remote

log = structlog.get_logger()

EXPECTED = "hf://OWNER/NAME, file:///PATH, s3://BUCKET/PREFIX or oci://REGISTRY/REPOSITORY:TAG"

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_REPOSITORY = re.compile(rf"{_PART}/{_PART}")
_BUCKET = re.compile(r"([a-z0-9][a-z0-9.-]+[a-z0-9])(?:/(.*))?")
_ARTIFACT = re.compile(
    r"([A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]+)?|\[[0-9a-f:]+\](?::[0-9]+)?)"
    r"/([a-z0-9]+(?:[-._/]+[a-z0-9]+)*)"
    r"(?::([A-Za-z0-9_][A-Za-z0-9._-]{0,127})|@(sha256:[0-9a-f]{64}))"
)
_POINTER = b"version https://git-lfs"
_DEPTH = 2  # folders below the named one in which a model is looked for


@dataclass(frozen=True, slots=True)
class HubSource:
    """hf://OWNER/NAME."""

    repository: str


@dataclass(frozen=True, slots=True)
class FolderSource:
    """file:///PATH."""

    path: Path


@dataclass(frozen=True, slots=True)
class BucketSource:
    """s3://BUCKET/PREFIX; the prefix has no slash at its end."""

    bucket: str
    prefix: str


@dataclass(frozen=True, slots=True)
class ArtifactSource:
    """oci://HOST/REPOSITORY:TAG or @DIGEST."""

    host: str
    repository: str
    reference: str


Source = HubSource | FolderSource | BucketSource | ArtifactSource


def parse_source(source: str) -> Source:
    """Raises ModelError for what is no source of a worker, and says what is."""
    scheme, separator, rest = source.partition("://")
    match scheme if separator else "":
        case "hf":
            return _parse_hub(source, rest)
        case "file":
            return _parse_folder(source)
        case "s3":
            bucket = _BUCKET.fullmatch(rest)
            if not bucket:
                raise ModelError(f"expected s3://BUCKET/PREFIX, found {source!r}")
            return BucketSource(bucket[1], (bucket[2] or "").strip("/"))
        case "oci":
            artifact = _ARTIFACT.fullmatch(rest)
            if not artifact:
                raise ModelError(
                    f"expected oci://REGISTRY/REPOSITORY:TAG or @sha256:DIGEST, found {source!r}"
                )
            return ArtifactSource(artifact[1], artifact[2], artifact[3] or artifact[4])
        case "pvc":
            raise ModelError(
                f"{source} is a PersistentVolumeClaim, which exists only in a cluster: use "
                "file:///PATH on this machine"
            )
    raise ModelError(f"expected a source {EXPECTED}, found {source!r}")


def _parse_hub(source: str, rest: str) -> HubSource:
    if not _REPOSITORY.fullmatch(rest) or ".." in rest or "--" in rest:
        raise ModelError(f"expected hf://OWNER/NAME, found {source!r}")
    return HubSource(rest)


def _parse_folder(source: str) -> FolderSource:
    parts = urlsplit(source)
    path = unquote(parts.path)
    if parts.netloc or not path.startswith("/") or parts.query or parts.fragment:
        raise ModelError(
            f"expected file:///PATH with an absolute path, found {source!r}: "
            "~ and relative paths mean something else on every machine"
        )
    return FolderSource(Path(path))


def find_model(
    source: str, *, revision: str, model_dir: Path, cache: Cache, report: Report
) -> LocalModel:
    """The folder with the model's files, fetched if need be. Raises ModelError.

    `model_dir` may hold OWNER/NAME as a local copy (an air-gapped mirror) of the default revision.
    """
    parsed = parse_source(source)
    match parsed:
        case FolderSource(path):
            found = LocalModel(path)
        case HubSource(repository) if (
            revision == "main"
            and ((mirror := model_dir.expanduser() / repository) / "config.json").exists()
        ):
            log.info("using the local copy", source=source, folder=str(mirror))
            found = LocalModel(mirror)
        case _:
            found = fetch_model(_remote(parsed, revision), cache, report)
    return LocalModel(check_folder(found.folder), found.lock)


def check_folder(path: Path) -> Path:
    """The folder with the model's files, if they are there for this user. Raises ModelError."""
    try:
        if path.is_dir():
            # Before its folders are looked at: those of a pipeline are models, too.
            refuse_other_kinds(path, _names(path))
        folder = model_folder(path)
        check_weights(folder, _names(folder))
        refuse_other_weights(folder, folder / CONFIG)
        _check_readable(folder)
    except OSError as error:
        raise ModelError(f"{path} cannot be read by user {os.geteuid()}: {error}") from error
    return folder


def _names(folder: Path) -> list[str]:
    """Files in it and right below it, relative to it."""
    return [str(p.relative_to(folder)) for pattern in ("*", "*/*") for p in folder.glob(pattern)]


def _check_readable(folder: Path) -> None:
    """Checks access first: the reading libraries report an unreadable file as a missing one."""
    closed = [
        path.name
        for path in folder.iterdir()
        if is_wanted(path.name) and not os.access(path, os.R_OK, effective_ids=True)
    ]
    if closed:
        raise ModelError(
            f"{', '.join(sorted(closed)[:3])} in {folder} cannot be read by user {os.geteuid()}: "
            "change the files' mode, or the pod's group (spec.podTemplate's fsGroup)"
        )
    for path in filter(Path.is_file, folder.glob("*.safetensors")):
        with path.open("rb") as file:
            if file.read(len(_POINTER)) == _POINTER:
                raise ModelError(
                    f"{path} is a pointer of Git LFS, not the weights: run `git lfs pull` there"
                )


def _remote(source: HubSource | BucketSource | ArtifactSource, revision: str) -> Remote:
    """Imports what that kind needs, and nothing for the others."""
    match source:
        case HubSource(repository):
            from .hub import HubModel

            return HubModel(repository, revision)
        case BucketSource(bucket, prefix):
            from .s3 import BucketModel

            return BucketModel(bucket, prefix)
        case ArtifactSource(host, repository, reference):
            from .oci import ArtifactModel

            return ArtifactModel(host, repository, reference)


def model_folder(folder: Path) -> Path:
    """The folder itself, or the only one a little below it that holds a model.

    So an archive may have its own folders, and a claim with one model needs no path.
    """
    if not folder.is_dir():
        if folder.is_file():
            refuse_file(folder)
        found = "a file" if folder.exists() else "nothing"
        raise ModelError(f"expected a model folder at {folder}, found {found}")
    levels = [folder]
    for _ in range(_DEPTH + 1):
        models = [path for path in levels if (path / "config.json").is_file()]
        if len(models) > 1:
            names = ", ".join(str(path.relative_to(folder)) for path in models[:3])
            raise ModelError(f"{folder} holds several models ({names}, ...): name one of them")
        if models:
            return models[0]
        levels = sorted(p for level in levels for p in level.iterdir() if p.is_dir())
    return folder
