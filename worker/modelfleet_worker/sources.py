"""From a model's source to a folder on this machine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import structlog

from .errors import ModelError
from .hub import download
from .progress import Report

log = structlog.get_logger()

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_REPOSITORY = re.compile(rf"{_PART}/{_PART}")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True, slots=True)
class HubSource:
    """hf://OWNER/NAME."""

    repository: str


@dataclass(frozen=True, slots=True)
class FolderSource:
    """file:///PATH."""

    path: Path


def parse_source(source: str) -> HubSource | FolderSource:
    """Raises ModelError for anything but hf://OWNER/NAME and file:///PATH."""
    scheme, separator, rest = source.partition("://")
    if scheme == "hf" and separator:
        if not _REPOSITORY.fullmatch(rest) or ".." in rest or "--" in rest:
            raise ModelError(f"expected hf://OWNER/NAME, found {source!r}")
        return HubSource(rest)
    if scheme == "file" and separator:
        parts = urlsplit(source)
        path = unquote(parts.path)
        if parts.netloc or not path.startswith("/") or parts.query or parts.fragment:
            raise ModelError(
                f"expected file:///PATH with an absolute path, found {source!r}: "
                "~ and relative paths mean something else on every machine"
            )
        return FolderSource(Path(path))
    raise ModelError(f"expected a source hf://OWNER/NAME or file:///PATH, found {source!r}")


def local_folder(source: str, *, revision: str, model_dir: Path, report: Report) -> Path:
    """The folder with the model's files, downloaded if need be. Raises ModelError.

    `model_dir` may hold OWNER/NAME as a local copy (an air-gapped mirror) of the default revision.
    """
    match parse_source(source):
        case FolderSource(path):
            if not path.is_dir():
                found = "a file" if path.exists() else "nothing"
                raise ModelError(f"expected a model folder at {path}, found {found}")
            folder = path
        case HubSource(repository):
            mirror = model_dir.expanduser() / repository
            if revision == "main" and (mirror / "config.json").exists():
                log.info("using the local copy", source=source, folder=str(mirror))
                folder = mirror
            else:
                folder = download(repository, revision, report)
    check_weights(folder, {path.name for path in folder.iterdir()})
    return folder


def check_weights(where: Path | str, names: set[str]) -> None:
    """Raises ModelError unless the files include safetensors: pickles can run any code."""
    if any(name.endswith(".safetensors") for name in names):
        return
    pickles = sorted(name for name in names if any(Path(name).match(p) for p in _PICKLES))
    if pickles:
        raise ModelError(
            f"{where} holds only pickled weights ({', '.join(pickles[:3])}), which can run any "
            "code when read: convert them to safetensors"
        )
    raise ModelError(f"expected *.safetensors weights in {where}, found none")
