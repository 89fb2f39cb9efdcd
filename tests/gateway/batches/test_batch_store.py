"""The store: leases with fences, results written once, limits, and disks that fail."""

import dataclasses
import sqlite3
import threading
from pathlib import Path

import pytest

from modelfleet_gateway.batches.batch_table import LeaseLostError
from modelfleet_gateway.batches.objects import Batch, Line, Result, Status, StoredFile
from modelfleet_gateway.batches.schema import connect
from modelfleet_gateway.batches.storage import Storage, Tables
from modelfleet_gateway.errors import (
    BatchEndedError,
    FileInUseError,
    StoreFullError,
    StoreUnavailableError,
    TooManyBatchesError,
    TooManyFilesError,
    UnknownBatchError,
    UnknownFileError,
)
from modelfleet_gateway.options import BatchLimits

LIMITS = BatchLimits()
NOW = 1_800_000_000


def file(file_id: str = "file-in", owner: str = "k", **changes) -> StoredFile:
    fields = {"filename": "in.jsonl", "purpose": "batch", "bytes": 100, "created_at": NOW}
    return StoredFile(id=file_id, owner=owner, **(fields | changes))


def batch(batch_id: str = "batch_1", owner: str = "k", **changes) -> Batch:
    fields = {
        "endpoint": "/v1/completions",
        "input_file_id": "file-in",
        "completion_window": "24h",
        "created_at": NOW,
        "expires_at": NOW + 86_400,
    }
    return Batch(id=batch_id, owner=owner, **(fields | changes))


def tables(folder: Path, limits: BatchLimits = LIMITS) -> Tables:
    return Tables(connect(folder / "batches.sqlite3"), limits)


def lines(count: int) -> list[Line]:
    return [Line(number=i, custom_id=f"c{i}", offset=i, length=1) for i in range(count)]


def result(number: int, fence: int, *, succeeded: bool = True, text: bytes = b"x\n") -> Result:
    return Result(batch="batch_1", fence=fence, number=number, succeeded=succeeded, line=text)


def begun(store: Tables, count: int = 3) -> int:
    """A batch that "a" runs until NOW + 20; returns its fence."""
    store.files.add(file())
    store.batches.add(batch())
    (leased,) = store.batches.lease("a", NOW, NOW + 20, 9)
    store.batches.begin("batch_1", leased.fence, lines(count), "tiny", NOW)
    return leased.fence


def test_one_gateway_leases_a_batch_until_its_lease_is_over(tmp_path: Path):
    a, b = tables(tmp_path), tables(tmp_path)
    fence = begun(a)
    assert b.batches.lease("b", NOW + 19, NOW + 39, 9) == []
    assert [one.fence for one in a.batches.renew("a", NOW + 30)] == [fence]
    assert b.batches.lease("b", NOW + 29, NOW + 49, 9) == []
    (taken,) = b.batches.lease("b", NOW + 30, NOW + 50, 9)
    assert taken.fence > fence
    assert a.batches.renew("a", NOW + 60) == []


def test_what_an_old_lease_writes_is_refused(tmp_path: Path):
    a, b = tables(tmp_path), tables(tmp_path)
    old = begun(a)
    assert a.batches.write([result(0, old, text=b"of a\n")]) == set()
    (taken,) = b.batches.lease("b", NOW + 20, NOW + 40, 9)
    assert a.batches.write([result(1, old, text=b"late\n")]) == {"batch_1"}
    with pytest.raises(LeaseLostError):
        a.batches.finalize("batch_1", old, Status.COMPLETED, NOW)
    with pytest.raises(LeaseLostError):
        a.batches.set_reason("batch_1", old, "late")
    assert [one.number for one in b.batches.waiting_lines("batch_1", -1, 9)] == [1, 2]
    assert b.batches.write([result(1, taken.fence), result(2, taken.fence)]) == set()
    assert [text for _, _, text in b.batches.results("batch_1")] == [b"of a\n", b"x\n", b"x\n"]


def test_a_line_has_one_result_and_counts_once(tmp_path: Path):
    store = tables(tmp_path)
    fence = begun(store)
    store.batches.write([result(0, fence), result(1, fence, succeeded=False)])
    store.batches.write([result(0, fence, succeeded=False, text=b"again\n")])
    seen = store.batches.get("batch_1", "k")
    assert (seen.total, seen.completed, seen.failed, seen.waiting) == (3, 1, 1, 1)
    assert next(iter(store.batches.results("batch_1")))[2] == b"x\n"


def test_gateways_that_lease_at_once_never_get_the_same_batch(tmp_path: Path):
    store = tables(tmp_path)
    store.files.add(file())
    for number in range(40):
        store.batches.add(batch(f"batch_{number}"))
    taken: dict[str, list[str]] = {}

    def lease(holder: str) -> None:
        mine = tables(tmp_path)
        taken[holder] = [
            one.batch.id for _ in range(8) for one in mine.batches.lease(holder, NOW, NOW + 20, 3)
        ]

    threads = [threading.Thread(target=lease, args=(f"g{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids = [one for some in taken.values() for one in some]
    assert len(ids) == len(set(ids)) == 40


def test_a_batch_keeps_all_that_it_says_over_a_restart(tmp_path: Path):
    store = tables(tmp_path)
    fence = begun(store)
    store.batches.write([result(0, fence), result(1, fence, succeeded=False)])
    store.batches.set_reason("batch_1", fence, "why")
    before = store.batches.get("batch_1", "k")
    store.connection.close()
    assert tables(tmp_path).batches.get("batch_1", "k") == before
    assert before.reason == "why"
    assert before.in_progress_at == NOW


def test_cancelling_ends_what_runs_and_keeps_what_is_done(tmp_path: Path):
    store = tables(tmp_path)
    fence = begun(store)
    store.batches.write([result(0, fence)])
    cancelled = store.batches.cancel("batch_1", "k", NOW + 5)
    assert (cancelled.status, cancelled.cancelling_at) == (Status.CANCELLING, NOW + 5)
    (seen,) = store.batches.renew("a", NOW + 40)
    assert seen.batch.outcome is Status.CANCELLED
    # A holder that has not seen it yet, and thinks all is done, does not undo it.
    final = store.batches.finalize("batch_1", fence, Status.COMPLETED, NOW + 6)
    assert final.outcome is Status.CANCELLED
    output = file("file-out", purpose="batch_output")
    ended = store.batches.finish("batch_1", fence, output=output, errors=None, now=NOW + 7)
    assert (ended.status, ended.cancelled_at) == (Status.CANCELLED, NOW + 7)
    assert (ended.completed, ended.failed) == (1, 2)
    assert ended.output_file_id == "file-out"
    with pytest.raises(BatchEndedError):
        store.batches.cancel("batch_1", "k", NOW + 8)
    assert store.batches.lease("b", NOW + 100, NOW + 120, 9) == []


def test_what_belongs_to_another_key_is_not_there(tmp_path: Path):
    store = tables(tmp_path)
    begun(store)
    with pytest.raises(UnknownFileError) as foreign:
        store.files.get("file-in", "other")
    with pytest.raises(UnknownFileError) as none:
        store.files.get("file-xx", "other")
    assert foreign.value.message.replace("-in", "-xx") == none.value.message
    with pytest.raises(UnknownFileError):
        store.files.delete("file-in", "other")
    for action in (
        lambda: store.batches.get("batch_1", "other"),
        lambda: store.batches.cancel("batch_1", "other", NOW),
    ):
        with pytest.raises(UnknownBatchError):
            action()
    with pytest.raises(UnknownFileError):
        store.batches.add(batch("batch_2", owner="other"))
    assert store.batches.page("other", after=None, limit=9) == ([], False)
    listed = store.files.page("other", purpose=None, after=None, limit=9, newest_first=True)
    assert listed == ([], False)


def test_lists_come_in_pages_newest_first(tmp_path: Path):
    store = tables(tmp_path)
    for number in range(5):
        store.files.add(file(f"file-{number}", purpose="batch" if number else "evals"))

    def ids(after: str | None, limit: int, *, newest_first: bool = True, purpose=None):
        found, more = store.files.page(
            "k", purpose=purpose, after=after, limit=limit, newest_first=newest_first
        )
        return [one.id[5:] for one in found], more

    assert ids(None, 2) == (["4", "3"], True)
    assert ids("file-3", 3) == (["2", "1", "0"], False)
    assert ids("file-3", 9, newest_first=False) == (["4"], False)
    assert ids(None, 9, purpose="evals") == (["0"], False)


def test_files_and_batches_of_a_key_are_limited(tmp_path: Path):
    store = tables(tmp_path, BatchLimits(files_per_key=2, batches_per_key=1))
    store.files.add(file("file-in"))
    store.files.add(file("file-2"))
    with pytest.raises(TooManyFilesError):
        store.files.add(file("file-3"))
    store.files.add(file("file-3", owner="another"))
    store.batches.add(batch("batch_1"))
    with pytest.raises(TooManyBatchesError):
        store.batches.add(batch("batch_2"))


def test_a_file_that_a_batch_reads_stays(tmp_path: Path):
    store = tables(tmp_path)
    store.files.add(file("file-in", expires_at=NOW + 10))
    store.files.add(file("file-other", expires_at=NOW + 10))
    store.batches.add(batch())
    with pytest.raises(FileInUseError):
        store.files.delete("file-in", "k")
    assert store.files.expire(NOW + 9) == []
    assert store.files.expire(NOW + 11) == ["file-other"]
    store.batches.cancel("batch_1", "k", NOW)
    (leased,) = store.batches.lease("a", NOW, NOW + 20, 9)
    store.batches.finish("batch_1", leased.fence, output=None, errors=None, now=NOW)
    assert store.files.expire(NOW + 11) == ["file-in"]


def test_a_store_of_a_later_version_is_refused(tmp_path: Path):
    connection = connect(tmp_path / "batches.sqlite3")
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    with pytest.raises(sqlite3.DatabaseError, match="later version"):
        connect(tmp_path / "batches.sqlite3")


async def test_a_full_disk_is_said_and_what_was_written_stays(tmp_path: Path):
    storage = Storage(tmp_path, LIMITS)
    try:
        fence = await storage.call(begun)
        await storage.call(lambda t: t.batches.write([result(0, fence)]))
        # SQLite's own way to be full: as ENOSPC, without a disk to fill.
        await storage.call(
            lambda t: t.connection.execute(
                f"PRAGMA max_page_count = {t.connection.execute('PRAGMA page_count').fetchone()[0]}"
            ).fetchone()
        )
        big = result(1, fence, text=b"y" * 10_000_000)
        with pytest.raises(StoreFullError):
            await storage.call(lambda t: t.batches.write([big]))
        # The next connection knows no such limit: the disk has room again.
        assert await storage.call(lambda t: t.batches.write([result(1, fence)])) == set()
        seen = await storage.call(lambda t: t.batches.get("batch_1", "k"))
        assert (seen.completed, seen.waiting) == (2, 1)
    finally:
        storage.close()


async def test_a_store_that_is_gone_is_said_and_not_made_anew(tmp_path: Path):
    folder = tmp_path / "store"
    storage = Storage(folder, LIMITS)
    try:
        fence = await storage.call(begun)
        folder.rename(tmp_path / "elsewhere")
        for _ in range(2):
            with pytest.raises(StoreUnavailableError):
                await storage.call(lambda t: t.batches.write([result(0, fence)]))
        assert not folder.exists()
        (tmp_path / "elsewhere").rename(folder)
        assert await storage.call(lambda t: t.batches.write([result(0, fence)])) == set()
    finally:
        storage.close()


async def test_a_folder_that_cannot_be_made_is_no_exception_of_another_kind(tmp_path: Path):
    (tmp_path / "a file").write_text("")
    storage = Storage(tmp_path / "a file" / "store", LIMITS)
    with pytest.raises(StoreUnavailableError):
        await storage.call(lambda t: t.files.ids())
    storage.close()


def test_the_store_counts_files_and_results(tmp_path: Path):
    store = tables(tmp_path, dataclasses.replace(LIMITS, store_bytes=1_000_000))
    fence = begun(store)
    before = store.files.used_bytes()
    store.batches.write([result(0, fence, text=b"z" * 500_000)])
    assert store.files.used_bytes() - before > 490_000
    with pytest.raises(StoreFullError):
        store.files.check_room("k", 500_000)
    store.files.check_room("k", 300_000)
