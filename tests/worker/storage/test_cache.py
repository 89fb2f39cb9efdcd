"""The cache that worker processes share: whole models only, one fetcher, nothing in use removed."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from modelfleet_worker.errors import LoadCancelledError, ModelError
from modelfleet_worker.storage.cache import Cache, Entry, LocalModel, show_bytes

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
