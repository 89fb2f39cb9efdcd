"""One file from a server that answers ranges: whole and verified, or not there."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from ..errors import BrokenTransferError, ModelError, UnreachableError
from .entry import remove_unless_file
from .remote import Moved

_CHUNK = 1 << 20
_TRIES = 7  # in a row, without a single byte coming in between: half a minute in all
_PAUSE = 0.5  # seconds after the first failure; doubled after each

# Bytes from an offset on; raises BrokenTransferError where going on later may help.
Read = Callable[[int], Iterable[bytes]]


def fetch_file(
    path: Path, size: int, read: Read, moved: Moved, *, digest: tuple[str, str] | None = None
) -> None:
    """Appends to `path`.part until it is whole; then it gets its name.

    `digest` is an algorithm of hashlib and the hexadecimal sum that the file must have: ModelError
    if it has not. UnreachableError when the connection keeps breaking.
    """
    part = path.with_name(f"{path.name}.part")
    for leftover in (path, part):
        remove_unless_file(leftover)
    if path.exists() and path.stat().st_size == size:
        moved(size)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    sum_ = hashlib.new(digest[0], usedforsecurity=False) if digest else None
    with part.open("ab+") as file:
        if file.tell() > size:
            file.truncate(0)
        file.seek(0)
        while chunk := file.read(_CHUNK):
            moved(len(chunk))
            if sum_:
                sum_.update(chunk)
        for chunk in _all_chunks(read, file.tell(), size, moved):
            file.write(chunk)
            if sum_:
                sum_.update(chunk)
    if digest and sum_ and sum_.hexdigest() != digest[1]:
        part.unlink()
        raise ModelError(
            f"{path.name} was damaged on its way: expected {digest[0]} {digest[1]}, found "
            f"{sum_.hexdigest()}; it is fetched again at the next try"
        )
    part.rename(path)


def _all_chunks(read: Read, start: int, size: int, moved: Moved) -> Iterable[bytes]:
    tries, at = 0, start
    while at < size:
        try:
            for chunk in read(at):
                if at + len(chunk) > size:
                    raise ModelError(f"expected {size} bytes, found more")
                yield chunk
                at += len(chunk)
                tries = 0
                moved(len(chunk))
            if at < size:
                raise BrokenTransferError(f"the answer ended after {at} of {size} bytes")
        except BrokenTransferError as error:
            tries += 1
            if tries >= _TRIES:
                raise UnreachableError(f"the connection keeps breaking: {error}") from error
            _pause(_PAUSE * 2 ** (tries - 1), moved)


def _pause(seconds: float, moved: Moved) -> None:
    """Waits; a load that was cancelled ends it early, since `moved` raises then."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        moved(0)
        time.sleep(min(left, 0.1))
