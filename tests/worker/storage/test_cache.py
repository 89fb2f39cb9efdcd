"""The cache that worker processes share: whole models only, one fetcher, nothing in use removed."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelfleet_worker.errors import LoadCancelledError, ModelError, UnreachableError
from modelfleet_worker.storage.cache import Cache, show_bytes
from modelfleet_worker.storage.entry import Entry, LocalModel
from modelfleet_worker.storage.fetching import fetch_model
from modelfleet_worker.storage.remote import Listing, Moved, Remote, RemoteFile
from modelfleet_worker.storage.resuming import fetch_file

MB = 1_000_000


def silent(phase: str, share: float) -> None:
    pass


def fill(entry: Entry, size: int = 3) -> Callable[[], None]:
    """Fetches one file of so many bytes."""

    def fetch() -> None:
        entry.partial.mkdir()
        (entry.partial / "model.safetensors").write_bytes(b"x" * size)
        entry.complete()

    return fetch


def stored(cache: Cache, source: str, size: int = 3, version: str = "v1") -> LocalModel:
    entry = cache.entry(source, version)

    def fetch() -> None:
        cache.make_room(entry, size)
        fill(entry, size)()

    return cache.get(entry, fetch, silent)


def must_not() -> None:
    pytest.fail("it is there already")


def test_a_model_is_fetched_once(tmp_path: Path):
    cache = Cache(tmp_path)
    entry = cache.entry("s3://bucket/a", "v1")
    first = cache.get(entry, fill(entry), silent)
    assert (first.folder / "model.safetensors").read_bytes() == b"xxx"
    assert cache.get(entry, must_not, silent) == first
    assert not entry.partial.exists()


def test_sources_and_versions_have_places_of_their_own(tmp_path: Path):
    cache = Cache(tmp_path)
    places = {
        cache.entry(source, version).path
        for source in ("s3://a/b", "s3://a-b", "s3://a--b", "hf://a/b", f"s3://{'a' * 200}/b")
        for version in ("1", "2")
    }
    assert len(places) == 10
    assert all(place.parent.parent == tmp_path for place in places)


def test_one_fetches_and_the_others_wait_and_tell_its_progress(tmp_path: Path):
    cache = Cache(tmp_path)
    entry = cache.entry("s3://bucket/a", "v1")
    begun, go_on = threading.Event(), threading.Event()

    def fetch() -> None:
        entry.write_progress(0.25)
        begun.set()
        assert go_on.wait(20)
        fill(entry)()

    told: list[tuple[str, float]] = []

    def report(phase: str, share: float) -> None:
        told.append((phase, share))
        go_on.set()

    fetcher = threading.Thread(target=lambda: cache.get(entry, fetch, silent))
    fetcher.start()
    assert begun.wait(20)
    found = cache.get(entry, must_not, report)
    fetcher.join()
    assert found.folder.is_dir()
    assert told[0] == ("Download", 0.25)


def test_a_wait_can_be_given_up(tmp_path: Path):
    cache = Cache(tmp_path)
    entry = cache.entry("s3://bucket/a", "v1")

    def give_up(phase: str, share: float) -> None:
        raise LoadCancelledError

    with entry.exclusive(), pytest.raises(LoadCancelledError):
        cache.get(entry, must_not, give_up)


def test_the_next_one_tries_itself_when_a_fetch_fails(tmp_path: Path):
    cache = Cache(tmp_path)
    entry = cache.entry("s3://bucket/a", "v1")

    def fail() -> None:
        entry.partial.mkdir()
        raise ModelError("no network")

    with pytest.raises(ModelError, match="no network"):
        cache.get(entry, fail, silent)
    entry.partial.rmdir()
    assert cache.get(entry, fill(entry), silent).folder.is_dir()


def test_a_read_only_cache_serves_what_it_holds(tmp_path: Path):
    filled = stored(Cache(tmp_path), "s3://bucket/a")
    lock = filled.folder.parent / "lock"
    for holds_lock in (True, False):  # the second: a folder that was copied without its lock
        if not holds_lock:
            lock.unlink()
        seen = mount_read_only(tmp_path, lambda: stored(Cache(tmp_path), "s3://bucket/a"))
        assert seen == filled
        mount_read_only(tmp_path, lambda: expect_cannot_be_used(tmp_path))


def expect_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot be used.*Read-only"):
        Cache(tmp_path).entry("s3://bucket/other", "v1")


def mount_read_only(folder: Path, act: Callable[[], object]) -> object:
    if os.system(f"mount --bind {folder} {folder} 2>/dev/null") != 0:
        pytest.skip("mounting is not permitted here")
    try:
        assert os.system(f"mount -o remount,ro,bind {folder}") == 0
        return act()
    finally:
        os.system(f"umount -l {folder}")


def test_the_least_recently_used_models_make_room_and_those_in_use_never(tmp_path: Path):
    cache = Cache(tmp_path, limit=10 * MB)
    oldest = stored(cache, "s3://bucket/oldest", 4 * MB)
    idle = stored(cache, "s3://bucket/idle", 4 * MB).folder
    os.utime(oldest.folder.parent / "lock", (1, 1))
    newest = stored(cache, "s3://bucket/newest", 5 * MB).folder
    assert oldest.folder.is_dir()  # still held
    assert not idle.exists()
    assert newest.is_dir()
    with pytest.raises(ModelError, match=r"7 MB to fetch.*MODELFLEET_CACHE_LIMIT.* 10 MB, 4 MB"):
        stored(cache, "s3://bucket/big", 7 * MB)


def test_what_a_dead_process_left_half_fetched_makes_room_first(tmp_path: Path):
    cache = Cache(tmp_path, limit=10 * MB)
    idle = stored(cache, "s3://bucket/idle", 4 * MB).folder
    half = cache.entry("s3://bucket/half", "v1")
    half.partial.mkdir()
    (half.partial / "a.part").write_bytes(b"x" * 5 * MB)
    with half.exclusive():
        pass
    os.utime(half.path / "lock", (1, 1))
    stored(cache, "s3://bucket/new", 6 * MB)
    assert not half.partial.exists()
    assert idle.is_dir()


def test_a_removal_that_was_killed_is_ended_by_the_next(tmp_path: Path):
    entry = Cache(tmp_path).entry("s3://bucket/a", "v1")
    (entry.path / "removed/deep").mkdir(parents=True)
    fill(entry)()
    with entry.exclusive():
        entry.clear()
    assert [path.name for path in entry.path.iterdir()] == ["lock"]


def test_a_model_being_fetched_counts_with_all_that_it_will_have(tmp_path: Path):
    cache = Cache(tmp_path, limit=10 * MB)
    other = cache.entry("s3://bucket/other", "v1")
    with other.exclusive():
        cache.make_room(other, 8 * MB)
        with pytest.raises(ModelError, match="MODELFLEET_CACHE_LIMIT"):
            stored(cache, "s3://bucket/new", 3 * MB)


def test_without_a_limit_nothing_is_removed(tmp_path: Path):
    cache = Cache(tmp_path)
    folders = [stored(cache, f"s3://bucket/{n}", MB).folder for n in range(3)]
    assert all(folder.is_dir() for folder in folders)


def test_what_cannot_fit_is_refused_before_a_byte_is_fetched(tmp_path: Path):
    with pytest.raises(ModelError, match=r"1 PB to fetch, and the disk is full: .* free at"):
        stored(Cache(tmp_path), "s3://bucket/a", 10**15)


def test_a_model_that_is_used_stays_locked_as_long_as_it_is_held(tmp_path: Path):
    held = stored(Cache(tmp_path), "s3://bucket/a")
    entry = Entry(held.folder.parent)
    with entry.exclusive() as is_ours:
        assert not is_ours
    del held
    with entry.exclusive() as is_ours:
        assert is_ours


def test_using_a_model_is_noted(tmp_path: Path):
    held = stored(Cache(tmp_path), "s3://bucket/a")
    entry = Entry(held.folder.parent)
    os.utime(entry.path / "lock", (1, 1))
    stored(Cache(tmp_path), "s3://bucket/a")
    assert time.time() - entry.last_used < 60


def test_the_kernel_lets_go_of_a_killed_holders_lock(tmp_path: Path):
    entry = Cache(tmp_path).entry("s3://bucket/a", "v1")
    ready, wait = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        lock = os.open(entry.path / "lock", os.O_CREAT | os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.write(ready[1], b"1")
        os.read(wait[0], 1)  # for ever
    os.read(ready[0], 1)
    with entry.exclusive() as is_ours:
        assert not is_ours
    os.kill(child, 9)
    os.waitpid(child, 0)
    with entry.exclusive() as is_ours:
        assert is_ours


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (7 * 10**9, "7 GB"), (10**15, "1 PB")],
)
def test_shows_sizes_for_people(count: int, shown: str):
    assert show_bytes(count) == shown


def damage(path: Path) -> None:
    if path.is_dir():
        for file in sorted(path.rglob("*"), reverse=True):
            file.unlink()
        path.rmdir()
        path.write_text("a file in its place")
    else:
        path.unlink(missing_ok=True)
        (path / "a folder in its place").mkdir(parents=True)


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(lambda e: (e.model / "model.safetensors").write_bytes(b"x"), id="half a file"),
        pytest.param(lambda e: (e.model / "model.safetensors").unlink(), id="a lost file"),
        pytest.param(lambda e: damage(e.model / "model.safetensors"), id="a folder for a file"),
        pytest.param(lambda e: damage(e.model), id="a file for the model"),
        pytest.param(lambda e: shutil.rmtree(e.model), id="no model"),
        pytest.param(lambda e: e.partial.write_text("x"), id="a file for the gathered files"),
        pytest.param(
            lambda e: (e.partial / "model.safetensors").mkdir(parents=True), id="a folder"
        ),
        pytest.param(
            lambda e: (e.path / "files").write_bytes(b"\xff\xfe no list"), id="a bad list"
        ),
        pytest.param(lambda e: damage(e.path / "files"), id="a folder for the list"),
        pytest.param(lambda e: damage(e.path / "size"), id="a folder for the size"),
        pytest.param(lambda e: (e.path / "size").write_text("inf"), id="no size"),
        pytest.param(lambda e: damage(e.path / "progress"), id="a folder for the progress"),
        pytest.param(lambda e: (e.path / "removed").write_text("x"), id="a file for what goes"),
    ],
)
def test_what_somebody_broke_by_hand_heals(tmp_path: Path, broken: Callable[[Entry], object]):
    cache = Cache(tmp_path, limit=10 * MB)
    first = fetch_model(Instant(), cache, silent)
    entry = Entry(first.folder.parent)
    del first
    broken(entry)
    again = fetch_model(Instant(), cache, silent)
    assert (again.folder / "model.safetensors").read_bytes() == b"x" * 1000
    stored(cache, "s3://bucket/other", 9 * MB)


def test_a_damaged_model_that_is_used_is_told(tmp_path: Path):
    used = fetch_model(Instant(), Cache(tmp_path), silent)
    (used.folder / "model.safetensors").write_bytes(b"x")
    with pytest.raises(
        ModelError, match=r"has 1 bytes of 1000, and another worker uses that model"
    ):
        fetch_model(Instant(), Cache(tmp_path), silent)


def test_a_lock_that_is_a_folder_is_told(tmp_path: Path):
    held = fetch_model(Instant(), Cache(tmp_path), silent).folder.parent
    damage(held / "lock")
    with pytest.raises(ModelError, match="lock is a folder: remove it"):
        fetch_model(Instant(), Cache(tmp_path), silent)


@pytest.mark.parametrize("note", [b"../../elsewhere", b"..", b"\xff\xfe", b"", b"a\0b", None])
def test_a_note_of_a_version_that_somebody_broke_names_no_folder(
    tmp_path: Path, note: bytes | None
):
    cache = Cache(tmp_path / "cache")
    held = fetch_model(Instant(), cache, silent)
    (tmp_path / "elsewhere/model").mkdir(parents=True)
    [path] = tmp_path.glob("cache/*/latest.version")
    if note is None:
        damage(path)
    else:
        path.write_bytes(note)
    with pytest.raises(ModelError, match="gone"):
        fetch_model(Instant(gone=True), cache, silent)
    assert fetch_model(Instant(), cache, silent) == held


@pytest.mark.parametrize(
    "listing",
    [
        {"version": "../x"},
        {"version": ".."},
        {"version": "v1", "files": (RemoteFile(name="../x.json", size=1),)},
        {"version": "v1", "files": (RemoteFile(name="/x.json", size=1),)},
        {"version": "v1", "files": (RemoteFile(name="a\0.json", size=1),)},
        {"version": "v1", "files": (RemoteFile(name="x.json", size=-1),)},
        {"version": "v1", "files": (RemoteFile(name="x.json", size=1),) * 10_001},
    ],
)
def test_no_remote_lists_what_leaves_its_folder(listing: dict[str, Any]):
    with pytest.raises(ModelError, match=r"expected|outside of its folder"):
        Listing(**({"files": ()} | listing))


class Instant(Remote):
    """One file of 1,000 bytes, at once."""

    source = "test://instant"

    def __init__(self, *, gone: bool = False) -> None:
        self.gone = gone

    def list(self) -> Listing:
        if self.gone:
            raise UnreachableError("it is gone")
        file = RemoteFile(name="model.safetensors", size=1000)
        return Listing(version="v1", files=(file,))

    def fetch(self, file: RemoteFile, folder: Path, moved: Moved) -> None:
        fetch_file(folder / file.name, file.size, lambda at: [b"x" * (1000 - at)], moved)
