"""Unpacks the archives of an artifact, which may be made to fill a disk or to write elsewhere."""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from ..errors import ModelError
from .contents import is_wanted
from .names import MOST_FILES, safe_name

# What compressed archives may unpack to: weights hardly shrink, JSON to a tenth.
_RATIO, _ALLOWANCE = 16, 16 << 20
_CHUNK = 1 << 20
_GZIP = b"\x1f\x8b"


def unpack(archives: Sequence[Path], folder: Path) -> None:
    """The members that a worker reads; what it does not read is not written at all.

    Raises ModelError for archives that have more bytes than their sizes allow, for names outside of
    the folder, links in place of files, and for what is no archive.
    """
    room = _Room(archives)
    for archive in archives:
        try:
            with archive.open("rb") as packed:
                content = gzip.GzipFile(fileobj=packed) if _is_compressed(archive) else packed
                _unpack(_Counted(cast("BinaryIO", content), room), folder, room)
        except (
            tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError, RecursionError,
        ) as error:  # fmt: skip
            raise ModelError("a layer of the artifact is no readable archive") from error


def _is_compressed(archive: Path) -> bool:
    with archive.open("rb") as packed:
        return packed.read(len(_GZIP)) == _GZIP


class _Room:
    """Bytes that may be read and written, and files that may be made, of all archives together."""

    def __init__(self, archives: Sequence[Path]) -> None:
        self._limit = sum(
            archive.stat().st_size * (_RATIO if _is_compressed(archive) else 1)
            for archive in archives
        )
        if any(map(_is_compressed, archives)):
            self._limit += _ALLOWANCE
        self._read = self._written = self._files = 0

    def read(self, size: int) -> None:
        """Counts bytes as they come out of an archive."""
        self._read += size
        self._check(self._read)

    def write(self, size: int) -> None:
        """Counts a file before it is made: a sparse one has more than the archive has for it."""
        self._files += 1
        if self._files > MOST_FILES:
            raise ModelError(f"expected at most {MOST_FILES} files, found more in an archive")
        self._written += size
        self._check(self._written)

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise ModelError(
                f"the artifact's archives unpack to more than the {self._limit} bytes that their "
                "sizes allow: push its files as they are"
            )


def _unpack(content: _Counted, folder: Path, room: _Room) -> None:
    with tarfile.open(
        fileobj=cast("BinaryIO", content), mode="r|", bufsize=_CHUNK, tarinfo=_Member
    ) as members:
        while (member := members.next()) is not None:
            cast("Any", members).members.clear()  # it keeps them: an archive may have millions
            if member.name in (".", "./"):
                continue
            name = safe_name(member.name)
            if not is_wanted(name) or member.isdir():
                continue
            source = members.extractfile(member) if member.isreg() else None
            if source is None:
                raise ModelError(f"expected a file, found a link in the artifact: {name[:100]!r}")
            room.write(member.size)
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                shutil.copyfileobj(source, file, _CHUNK)


class _Counted:
    """What tarfile reads from."""

    def __init__(self, content: BinaryIO, room: _Room) -> None:
        self._content = content
        self._room = room

    def read(self, size: int) -> bytes:
        """ModelError once all archives together have more than they may."""
        chunk = self._content.read(size)
        self._room.read(len(chunk))
        return chunk


class _Member(tarfile.TarInfo):
    """Whose headers are short: tarfile reads them into memory, whatever size they have."""

    _LARGEST_HEADER = 1 << 20
    _HEADERS = (
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.SOLARIS_XHDTYPE,
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
    )

    def _proc_member(self, members: Any) -> Any:  # tarfile's own place for subclasses
        if self.size < 0 or (self.type in self._HEADERS and self.size > self._LARGEST_HEADER):
            raise ModelError("expected an archive of files, found one with a header of no sense")
        return super()._proc_member(members)  # type: ignore[misc]
