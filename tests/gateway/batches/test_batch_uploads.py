"""Uploads go to the disk as they come, and what is wrong with them is said."""

import asyncio
import dataclasses
import os
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from clients import tls
from gateway_doubles import DEFAULTS, ScriptedWorker, eventually, expected_text, running_fleet
from gateway_processes import gateway_process, operator_of
from modelfleet_gateway.options import BatchLimits, ConnectionLimits, Options
from raw_http import ask

BOUNDARY = "xyz"
FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
MEBIBYTE = 1024 * 1024


def options(folder: Path, **limits) -> Options:
    return dataclasses.replace(DEFAULTS, batch_dir=folder, batches=BatchLimits(**limits))


def part(name: str, value: bytes, filename: str | None = None) -> bytes:
    file = f'; filename="{filename}"' if filename is not None else ""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
    return head.encode() + value + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def contents(store: Path) -> list[Path]:
    return [*store.glob("files/*"), *store.glob("incoming/*")]


PURPOSE = part("purpose", b"batch")
FILE = part("file", b"data", "f.jsonl")


@pytest.mark.parametrize(
    ("body", "headers", "status", "code", "param"),
    [
        (form(FILE), FORM, 400, "invalid_value", "purpose"),
        (form(PURPOSE), FORM, 400, "invalid_value", "file"),
        (form(part("purpose", b"other"), FILE), FORM, 400, "invalid_value", "purpose"),
        (form(PURPOSE, FILE, FILE), FORM, 400, "invalid_value", "file"),
        (form(PURPOSE, part("other", b"x", "f")), FORM, 400, "invalid_value", "file"),
        (form(part("purpose", b"b" * 2000), FILE), FORM, 400, "invalid_value", "purpose"),
        (form(*[part(f"p{i}", b"x") for i in range(17)]), FORM, 400, "invalid_value", None),
        (PURPOSE + FILE, FORM, 400, "invalid_value", None),
        (b"no form at all", FORM, 400, "invalid_value", None),
        (b"", FORM, 400, "invalid_value", None),
        (
            form(PURPOSE, part("expires_after[seconds]", b"1"), FILE),
            FORM,
            400,
            "invalid_value",
            None,
        ),
        (form(PURPOSE, part("file", b"x" * 2000, "f")), FORM, 413, "file_too_large", "file"),
        (b"{}", {"content-type": "application/json"}, 415, "unsupported_media_type", None),
        (
            form(PURPOSE, FILE),
            {"content-type": "multipart/form-data"},
            415,
            "unsupported_media_type",
            None,
        ),
        (form(PURPOSE, FILE), FORM | {"content-encoding": "gzip"}, 415, None, None),
    ],
)
async def test_a_wrong_upload_is_refused_and_leaves_nothing(
    body: bytes, headers: dict, status: int, code: str, param: str | None, tmp_path: Path
):
    async with running_fleet(options=options(tmp_path, file_bytes=1000)) as fleet:
        response = await fleet.http.post("/v1/files", content=body, headers=headers)
        assert response.status_code == status, response.text
        error = response.json()["error"]
        assert code is None or error["code"] == code
        assert param is None or error["param"] == param
        assert contents(tmp_path) == []


async def test_the_parts_of_a_form_come_in_any_order_and_pieces(tmp_path: Path):
    async with running_fleet(options=options(tmp_path)) as fleet:
        content = form(part("file", b"\r\n--xy\r\nz" * 99, "../\x01e.jsonl"), PURPOSE)

        async def slowly():
            for at in range(0, len(content), 7):
                yield content[at : at + 7]

        response = await fleet.http.post("/v1/files", content=slowly(), headers=FORM)
        file = response.json()
        assert (response.status_code, file["filename"]) == (200, "../e.jsonl")
        stored = await fleet.http.get(f"/v1/files/{file['id']}/content")
        assert stored.content == b"\r\n--xy\r\nz" * 99
        assert [path.name for path in (tmp_path / "files").iterdir()] == [file["id"]]


async def test_a_client_that_leaves_leaves_nothing(tmp_path: Path):
    async with running_fleet(options=options(tmp_path)) as fleet:

        async def half():
            yield PURPOSE + part("file", b"x" * 100_000, "f")[:-2]
            await eventually(lambda: contents(tmp_path))
            raise ConnectionResetError

        with pytest.raises(ConnectionResetError):
            await fleet.http.post("/v1/files", content=half(), headers=FORM)
        await eventually(lambda: not contents(tmp_path))


async def test_only_so_many_uploads_run_at_once(tmp_path: Path):
    async with running_fleet(options=options(tmp_path, uploads=1)) as fleet:
        done = asyncio.Event()

        async def slowly():
            yield PURPOSE
            await done.wait()
            yield FILE + form()

        first = asyncio.create_task(fleet.http.post("/v1/files", content=slowly(), headers=FORM))
        await eventually(lambda: list(tmp_path.glob("incoming/*")))
        response = await fleet.http.post("/v1/files", content=form(PURPOSE, FILE), headers=FORM)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "overloaded")
        done.set()
        assert (await first).status_code == 200


async def test_an_upload_has_more_time_than_a_request(tmp_path: Path):
    limits = ConnectionLimits(body_time=0.2, upload_time=30)
    slow = dataclasses.replace(options(tmp_path), limits=limits)
    async with running_fleet(options=slow) as fleet:
        ends = asyncio.Event()

        async def slowly():
            yield PURPOSE
            await ends.wait()
            yield FILE + form()

        upload = asyncio.create_task(fleet.http.post("/v1/files", content=slowly(), headers=FORM))

        head = b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n{"
        assert (await ask(fleet.url, head)).status == 408
        ends.set()
        assert (await upload).status_code == 200


async def test_large_uploads_take_no_memory(tmp_path: Path):
    """Four files of 16 MiB at once, and their contents read again: 4x a piece each, not 4x them."""
    async with operator_of() as operator:
        flags = ("--batch-dir", str(tmp_path / "store"))
        async with gateway_process(operator, tmp_path, *flags) as gateway:
            process = psutil.Process(gateway.process.pid)
            await gateway.client.files.create(file=("f", b"x"), purpose="user_data")
            before, highest, size = process.memory_info().rss, 0, 16 * MEBIBYTE

            async def watch():
                nonlocal highest
                while True:
                    highest = max(highest, process.memory_info().rss)
                    await asyncio.sleep(0.01)

            async def upload() -> str:
                async def content():
                    yield PURPOSE + part("file", b"", "f")[:-2]
                    for _ in range(size // MEBIBYTE):
                        yield os.urandom(MEBIBYTE)
                    yield b"\r\n" + form()

                async with httpx.AsyncClient(
                    base_url=gateway.url, verify=tls(), timeout=120
                ) as http:
                    made = await http.post("/v1/files", content=content(), headers=FORM)
                    file = made.json()
                    assert (made.status_code, file["bytes"]) == (200, size)
                    read = 0
                    async with http.stream("GET", f"/v1/files/{file['id']}/content") as response:
                        async for piece in response.aiter_bytes():
                            read += len(piece)
                    assert read == size
                    return file["id"]

            watching = asyncio.create_task(watch())
            assert len({*await asyncio.gather(*(upload() for _ in range(4)))}) == 4
            watching.cancel()
            assert highest - before < 24 * MEBIBYTE


async def test_a_full_disk_is_a_507_and_serving_goes_on(tmp_path: Path):
    """A limit of the process stands for the disk's: no file may grow beyond 1 MiB."""
    worker = ScriptedWorker()
    async with operator_of(worker) as operator:
        flags = ("--batch-dir", str(tmp_path / "store"))
        async with gateway_process(operator, tmp_path, *flags) as gateway:
            small = await gateway.client.files.create(file=("f", b"x"), purpose="user_data")
            process = psutil.Process(gateway.process.pid)
            process.rlimit(psutil.RLIMIT_FSIZE, (MEBIBYTE, MEBIBYTE))
            with pytest.raises(openai.APIStatusError) as full:
                await gateway.client.files.create(
                    file=("f", b"x" * 3 * MEBIBYTE), purpose="user_data"
                )
            assert (full.value.status_code, full.value.code) == (507, "store_full")
            answer = await gateway.client.completions.create(model="tiny", prompt="p", seed=7)
            assert answer.choices[0].text == expected_text("p", 8)
            assert (await gateway.client.files.content(small.id)).read() == b"x"
            assert len(contents(tmp_path / "store")) == 1
