"""What the cache knows of a model somewhere else: its version, its files, how to get one."""

from __future__ import annotations

import abc
import fnmatch
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..errors import ModelError

_WANTED = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")

# Called from the fetching threads with the bytes that came since the last call; it may raise, and
# then the download stops.
Moved = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """`name` is its path in the model's folder; `key` and `etag` are the remote's own terms."""

    name: str
    size: int  # bytes
    key: str = ""
    etag: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What a model consists of now. Equal versions have equal files."""

    version: str  # of letters, digits, '-' and '_'
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


class Remote(abc.ABC):
    """A model somewhere else. Whatever it raises on purpose is a ModelError."""

    source: str  # as the user wrote it
    revision: str = "latest"

    @property
    def where(self) -> str:
        """What the messages begin with; the errors of the methods leave it out."""
        return self.source

    @abc.abstractmethod
    def list(self) -> Listing:
        """Asks what there is. UnreachableError when no server answers."""

    @abc.abstractmethod
    def fetch(self, file: RemoteFile, folder: Path, moved: Moved) -> None:
        """Puts one file into the folder, going on where an earlier try stopped.

        `moved` is called for bytes that were there before, too. Raises OSError for faults of the
        folder.
        """

    def finish(self, folder: Path) -> None:  # noqa: B027  most have nothing left to do
        """Once all files are there: leaves only what belongs to the model."""

    def copy_of(self, listing: Listing | None) -> Path | None:
        """A folder on this machine where other tools keep this version; None: any version."""
        return None


def wanted_files(names: Iterable[str]) -> list[str]:
    """What a worker reads: top-level files only; folders hold exports for other runtimes."""
    wanted = [name for name in sorted(names) if "/" not in name and is_wanted(name)]
    if any(name.startswith("model") and name.endswith(".safetensors") for name in wanted):
        # Some repositories hold the same weights twice, in their vendor's own layout.
        wanted = [name for name in wanted if not name.startswith("consolidated")]
    return wanted


def is_wanted(name: str) -> bool:
    """Whether a worker reads files of this name, whatever folder they are in."""
    return any(fnmatch.fnmatch(PurePosixPath(name).name, pattern) for pattern in _WANTED)


def check_weights(where: Path | str, names: Iterable[str]) -> None:
    """Raises ModelError unless the files include safetensors: pickles can run any code."""
    names = sorted(names)
    if any(name.endswith(".safetensors") for name in names):
        return
    pickles = [name for name in names if any(Path(name).match(p) for p in _PICKLES)]
    if pickles:
        raise ModelError(
            f"{where} holds only pickled weights ({', '.join(pickles[:3])}), which can run any "
            "code when read: convert them to safetensors"
        )
    raise ModelError(f"expected *.safetensors weights in {where}, found none")
