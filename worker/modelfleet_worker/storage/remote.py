"""What the cache knows of a model somewhere else: its version, its files, how to get one."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import ModelError
from .names import MOST_FILES, safe_name, safe_version

# Called from the fetching threads with the bytes that came since the last call; it may raise, and
# then the download stops.
Moved = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """`name` is its path in the model's folder; `key` and `etag` are the remote's own terms."""

    name: str
    size: int  # bytes, as declared: no more are written
    key: str = ""
    etag: str = ""
    is_archive: bool = False  # unpacked once all files are there


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What a model consists of now. Equal versions have equal files.

    Raises ModelError for names, sizes and versions that no model has.
    """

    version: str  # of letters, digits, '.', '-' and '_'
    files: tuple[RemoteFile, ...]

    def __post_init__(self) -> None:
        safe_version(self.version)
        if len(self.files) > MOST_FILES:
            raise ModelError(f"expected at most {MOST_FILES} files, found {len(self.files)}")
        for file in self.files:
            safe_name(file.name)
            if type(file.size) is not int or file.size < 0:
                raise ModelError(f"expected the size of {file.name[:100]!r} in bytes, found none")

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def packed_size(self) -> int:
        """Bytes of the archives, which are on the disk beside what they hold for a while."""
        return sum(file.size for file in self.files if file.is_archive)


class Remote(abc.ABC):
    """A model somewhere else. Whatever it raises on purpose is a ModelError.

    No message has a value of the environment, or a byte of what a server answered that is no name
    of a file: the one may be a secret, the other a page that only this machine can read.
    """

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
