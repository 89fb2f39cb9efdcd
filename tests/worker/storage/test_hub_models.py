"""hf:// models, from a double that breaks as real hubs do and from a real hub server."""

import errno
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from hub_double import SHA, Hub, serve_hub
from modelfleet_worker.errors import LoadCancelledError, ModelError
from modelfleet_worker.storage.cache import Cache
from modelfleet_worker.storage.contents import wanted_files
from modelfleet_worker.storage.fetching import fetch_model
from modelfleet_worker.storage.hub import HubModel
from storage_servers import hub_server

WEIGHTS = bytes(range(256)) * 4096  # 1 MiB
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": WEIGHTS,
    "tokenizer.json": b"{}",
    "pytorch_model.bin": b"pickle",
    "onnx/model.safetensors": b"another runtime's",
    "README.md": b"# read me",
}


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))


@pytest.fixture
def fetch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    """Fetches from a hub into the test's own cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "huggingface"))

    def fetch(
        hub: Hub | str,
        *,
        repository: str = "owner/name",
        revision: str = "main",
        report=lambda phase, share: None,
    ) -> Path:
        monkeypatch.setenv("HF_ENDPOINT", hub if isinstance(hub, str) else hub.url)
        return fetch_model(HubModel(repository, revision), Cache(tmp_path / "cache"), report).folder

    return fetch


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_downloads_only_what_a_worker_reads(fetch):
    with serve_hub(Hub(FILES)) as hub:
        folder = fetch(hub)
    assert names(folder) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_a_real_hub_server_that_tells_no_sizes(fetch, tmp_path: Path):
    files = {name: content for name, content in FILES.items() if "/" not in name}
    shares: list[float] = []
    with hub_server(tmp_path, files) as hub:
        folder = fetch(hub.url, report=lambda phase, share: shares.append(share))
        with pytest.raises(ModelError, match=r"owner/other.*does not exist, or it is private"):
            fetch(hub.url, repository="owner/other")
    assert names(folder) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 1)
    assert len(set(shares)) > 2  # in between, too


def test_reports_bytes_up_to_the_end_and_nothing_for_what_is_there(fetch):
    told: list[tuple[str, float]] = []
    with serve_hub(Hub(FILES)) as hub:
        fetch(hub, report=lambda *seen: told.append(seen))
        assert (told[0], told[-1]) == (("Download", 0), ("Download", 1))
        assert max(share for _, share in told) <= 1
        told.clear()
        fetch(hub, report=lambda *seen: told.append(seen))
        assert told == []  # a model in the cache is no download


def test_sends_the_token(fetch, monkeypatch):
    with serve_hub(Hub(FILES, token="secret")) as hub:
        monkeypatch.setenv("HF_TOKEN", "secret")
        assert fetch(hub).is_dir()


def test_a_gated_model_in_a_shared_cache_is_only_for_those_who_may_have_it(fetch, monkeypatch):
    with serve_hub(Hub(FILES, token="secret", gated=True)) as hub:
        monkeypatch.setenv("HF_TOKEN", "secret")
        folder = fetch(hub)
        monkeypatch.delenv("HF_TOKEN")
        with pytest.raises(ModelError, match="gated"):
            fetch(hub)
        assert folder.is_dir()


def test_a_broken_connection_goes_on_where_it_stopped(fetch):
    large = WEIGHTS * 12  # huggingface_hub keeps chunks of 10 MB
    with serve_hub(Hub({**FILES, "model.safetensors": large})) as hub:
        hub.cut_after = 11_000_000
        folder = fetch(hub)
        assert (folder / "model.safetensors").read_bytes() == large
        assert hub.ranges == ["bytes=10485760-"] or hub.ranges == ["bytes=10000000-"]


def test_a_hub_that_is_gone_is_no_problem_once_the_model_is_cached(fetch):
    with serve_hub(Hub(FILES)) as hub:
        folder = fetch(hub)
    assert fetch(hub.url) == folder


def test_what_hugging_faces_own_tools_fetched_is_used_as_it_is(fetch, tmp_path):
    from huggingface_hub import hf_hub_download

    with serve_hub(Hub(FILES)) as hub:
        for name in ("config.json", "tokenizer.json", "model.safetensors"):
            theirs = Path(
                hf_hub_download(
                    "owner/name",
                    name,
                    revision=SHA,
                    endpoint=hub.url,
                    cache_dir=tmp_path / "huggingface",
                )
            )
        asked = len(hub.requests)
        assert fetch(hub) == theirs.parent
        assert len(hub.requests) == asked + 1  # what `main` is now
        theirs.unlink()  # as `hf download` leaves it when it is killed
        assert fetch(hub) != theirs.parent


def test_offline_nothing_is_asked(fetch, monkeypatch):
    from huggingface_hub import constants

    with serve_hub(Hub(FILES)) as hub:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(ModelError, match=r"HF_HUB_OFFLINE.*not in the cache.*--model-dir"):
            fetch(hub)
        assert hub.requests == []
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        folder = fetch(hub)
        asked = len(hub.requests)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert fetch(hub) == folder
        assert len(hub.requests) == asked


@pytest.mark.parametrize(
    ("hub", "asked", "message"),
    [
        pytest.param(Hub(FILES), {"repository": "owner/other"}, "does not exist", id="missing"),
        pytest.param(
            Hub(FILES), {"revision": "v9"}, "no such revision.*spec.model.revision", id="revision"
        ),
        pytest.param(Hub(FILES, token="t"), {}, "private.*tokenSecretRef", id="private"),
        pytest.param(
            Hub(FILES, token="t", gated=True),
            {},
            "gated.*accept its licence.*tokenSecretRef",
            id="gated",
        ),
        pytest.param(
            Hub({"config.json": b"{}", "pytorch_model.bin": b""}), {}, "pickled", id="pickle"
        ),
        pytest.param(Hub({"config.json": b"{}"}), {}, "safetensors", id="no weights"),
    ],
)
def test_says_what_is_wrong_and_what_to_do(hub, asked, message, fetch):
    with serve_hub(hub), pytest.raises(ModelError, match=f"^hf://owner/.*{message}"):
        fetch(hub, **asked)
    assert not any(request.startswith("GET /owner") for request in hub.requests)


def test_an_unreachable_hub_is_named(fetch):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(ModelError, match=r"cannot be reached.*refused.*HF_ENDPOINT"):
        fetch(address)


def test_a_full_disk_is_named(fetch, tmp_path):
    def full(phase: str, share: float) -> None:
        if share > 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    with serve_hub(Hub(FILES)) as hub:
        with pytest.raises(ModelError, match=rf"disk is full.* free at {tmp_path}/cache"):
            fetch(hub, report=full)
        assert not list(tmp_path.glob("cache/*/*/partial"))
        assert fetch(hub).is_dir()


def test_a_cancelled_load_stops_downloading(fetch):
    def cancelled(phase: str, share: float) -> None:
        if share > 0:
            raise LoadCancelledError

    with serve_hub(Hub(FILES)) as hub, pytest.raises(LoadCancelledError):
        fetch(hub, report=cancelled)


def test_a_vendors_second_copy_of_the_weights_is_left_out():
    found = ["model-00001-of-00002.safetensors", "consolidated.safetensors", "params.json"]
    assert wanted_files(found) == ["model-00001-of-00002.safetensors", "params.json"]
    assert wanted_files(["consolidated.safetensors"]) == ["consolidated.safetensors"]
