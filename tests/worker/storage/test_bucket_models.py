"""s3:// models, from a real S3 server that checks keys and signatures."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelfleet_worker.errors import BrokenTransferError, ModelError
from modelfleet_worker.storage import resuming
from modelfleet_worker.storage.cache import Cache
from modelfleet_worker.storage.fetching import fetch_model
from modelfleet_worker.storage.resuming import fetch_file
from modelfleet_worker.storage.s3 import BucketModel
from storage_servers import Store, s3_server

WEIGHTS = bytes(range(256)) * 40_000  # 10 MB: moto serves it in one piece
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": WEIGHTS,
    "tokenizer.json": b"{}",
    "pytorch_model.bin": b"pickle",
    "onnx/model.safetensors": b"another runtime's",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with s3_server(tmp_path_factory.mktemp("s3")) as store:
        client = store.client()
        client.create_bucket(Bucket="models")
        for name, content in FILES.items():
            client.put_object(Bucket="models", Key=f"llama/8b/{name}", Body=content)
        client.put_object(Bucket="models", Key="pickles/model.bin", Body=b"pickle")
        yield store


@pytest.fixture(autouse=True)
def login(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)


def fetch(
    tmp_path: Path,
    bucket: str = "models",
    prefix: str = "llama/8b",
    report=lambda phase, share: None,
) -> Path:
    return fetch_model(BucketModel(bucket, prefix), Cache(tmp_path), report).folder


def add_rest(store: Store, prefix: str) -> None:
    """What belongs to a model beside its weights."""
    for name in ("config.json", "tokenizer.json"):
        store.client().put_object(Bucket="models", Key=f"{prefix}/{name}", Body=b"{}")


def test_fetches_what_a_worker_reads_right_under_the_prefix(tmp_path: Path):
    shares: list[float] = []
    folder = fetch(tmp_path, report=lambda phase, share: shares.append(share))
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    wanted = ("config.json", "model.safetensors", "tokenizer.json")
    assert found == {name: FILES[name] for name in wanted}
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 1)
    assert len(set(shares)) > 5


def test_goes_on_with_the_bytes_that_a_killed_process_left(tmp_path: Path, store: Store):
    listing = BucketModel("models", "llama/8b").list()
    partial = Cache(tmp_path).entry("s3://models/llama/8b", listing.version).partial
    partial.mkdir()
    (partial / "model.safetensors.part").write_bytes(WEIGHTS[:9_000_000])
    shares: list[float] = []
    folder = fetch(tmp_path, report=lambda phase, share: shares.append(share))
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert shares[0] == pytest.approx(9_000_000 / listing.size, abs=0.01)
    assert not list(folder.glob("*.part"))


def test_bytes_that_were_damaged_on_the_disk_are_found_and_fetched_again(tmp_path: Path):
    listing = BucketModel("models", "llama/8b").list()
    partial = Cache(tmp_path).entry("s3://models/llama/8b", listing.version).partial
    partial.mkdir()
    (partial / "model.safetensors.part").write_bytes(b"?" * 9_000_000)
    with pytest.raises(ModelError, match=r"model\.safetensors was damaged.*expected md5"):
        fetch(tmp_path)
    assert (fetch(tmp_path) / "model.safetensors").read_bytes() == WEIGHTS


def test_another_content_is_another_version_and_the_old_one_is_served_without_an_answer(
    tmp_path: Path, store: Store, monkeypatch
):
    client = store.client()
    add_rest(store, "changing")
    for content in (b"one", b"two"):
        client.put_object(Bucket="models", Key="changing/model.safetensors", Body=content)
        folder = fetch(tmp_path, prefix="changing")
        assert (folder / "model.safetensors").read_bytes() == content
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert fetch(tmp_path, prefix="changing") == folder


def test_an_object_that_was_put_in_parts_has_no_md5_to_compare(tmp_path: Path, store: Store):
    client = store.client()
    add_rest(store, "parts")
    target = {"Bucket": "models", "Key": "parts/model.safetensors"}
    upload = target | {"UploadId": client.create_multipart_upload(**target)["UploadId"]}
    parts = [
        {"PartNumber": n, "ETag": client.upload_part(**upload, PartNumber=n, Body=body)["ETag"]}
        for n, body in [(1, b"x" * (5 << 20)), (2, b"y")]
    ]
    client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    folder = fetch(tmp_path, prefix="parts")
    assert (folder / "model.safetensors").stat().st_size == (5 << 20) + 1


def test_any_key_is_sent_as_it_was_signed(tmp_path: Path, store: Store):
    prefix = "../a b+c/é'(1)~%20/./x"
    add_rest(store, prefix)
    store.client().put_object(Bucket="models", Key=f"{prefix}/model.safetensors", Body=b"x")
    assert (fetch(tmp_path, prefix=prefix) / "model.safetensors").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("bucket", "prefix", "message"),
    [
        pytest.param("gone", "x", "no such bucket.*spec.model.source", id="no bucket"),
        pytest.param("models", "gone", "it is empty", id="no prefix"),
        pytest.param("models", "llama", "did you mean s3://models/llama/8b", id="too high"),
        pytest.param("models", "pickles", "pickled.*convert them", id="pickles"),
    ],
)
def test_says_what_is_wrong(tmp_path: Path, bucket: str, prefix: str, message: str):
    with pytest.raises(ModelError, match=f"^s3://{bucket}/{prefix}: .*{message}"):
        fetch(tmp_path, bucket, prefix)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        pytest.param(
            {"AWS_ACCESS_KEY_ID": "AKIAWRONG"},
            r"not accepted \(InvalidAccessKeyId\).*AWS_ACCESS_KEY_ID",
            id="an unknown key",
        ),
        pytest.param(
            {"AWS_SECRET_ACCESS_KEY": "wrong"},
            r"not accepted \(SignatureDoesNotMatch\)",
            id="another's secret",
        ),
        pytest.param(
            {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
            "there are no credentials: set AWS_ACCESS_KEY_ID.*spec.podTemplate",
            id="none",
        ),
        pytest.param(
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
            "the store cannot be reached.*refused.*check the network and AWS_ENDPOINT_URL",
            id="no server",
        ),
        pytest.param(
            {"AWS_ENDPOINT_URL": "nonsense"}, "a setting is wrong.*check AWS_ENDPOINT_URL", id="URL"
        ),
        pytest.param(
            {"AWS_ENDPOINT_URL": "http://user:nonsense@127.0.0.1:9"},
            "the store cannot be reached",
            id="a password in the URL",
        ),
    ],
)
def test_says_what_is_wrong_with_the_settings_and_quotes_none(
    tmp_path: Path, variables, message, monkeypatch
):
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ModelError, match=message) as told:
        fetch(tmp_path)
    assert not [value for value in variables.values() if value and value in str(told.value)]
    assert "nonsense" not in str(told.value)


def test_rights_that_are_missing_are_named(tmp_path: Path, store: Store, monkeypatch):
    iam = store.client("iam")
    iam.create_user(UserName="unprivileged")
    key = iam.create_access_key(UserName="unprivileged")["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    with pytest.raises(ModelError, match=r"access is denied: .* s3:ListBucket and s3:GetObject"):
        fetch(tmp_path)


def test_a_connection_that_breaks_goes_on_and_one_that_keeps_breaking_ends(
    tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(resuming, "_PAUSE", 0.001)
    content, asked = b"0123456789", []

    def read(offset: int) -> Iterator[bytes]:
        asked.append(offset)
        if len(asked) <= breaks:
            yield content[offset : offset + 3]
            raise BrokenTransferError("reset by peer")
        yield content[offset:]

    breaks, digest = 2, ("sha256", hashlib.sha256(content).hexdigest())
    fetch_file(tmp_path / "a", len(content), read, lambda count: None, digest=digest)
    assert asked == [0, 3, 6]
    assert (tmp_path / "a").read_bytes() == content
    with pytest.raises(ModelError, match="keeps breaking: reset by peer"):
        fetch_file(tmp_path / "b", 10, always_broken, lambda count: None)
    assert not (tmp_path / "b").exists()


def always_broken(offset: int) -> Iterator[bytes]:
    raise BrokenTransferError("reset by peer")
    yield b""
