"""What the command line makes of a gateway's answers."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator

import pytest

from modelfleet_operator.client.gateway import (
    Finished,
    Token,
    Waiting,
    connect,
    list_models,
    normalize,
    read_events,
    stream_chat,
)
from modelfleet_operator.errors import EndpointError


def chunk(text: str = "", finish: str | None = None) -> str:
    choice = {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": finish}
    return f"data: {json.dumps({'choices': [choice]})}"


def test_reads_a_stream_with_its_comments():
    lines = [
        *(
            ": waiting for a worker: Weights; 1 queued",
            "",
            ": keep-alive",
            "",
            chunk("Hel"),
            "",
            chunk("lo"),
        ),
        *(chunk(finish="stop"), 'data: {"choices": [], "usage": {}}', "data: [DONE]"),
    ]
    assert list(read_events(iter(lines))) == [
        Waiting("waiting for a worker: Weights; 1 queued"),
        Token("Hel"),
        Token("lo"),
        Finished("stop"),
    ]


@pytest.mark.parametrize(
    ("last", "said"),
    [
        pytest.param('data: {"error": {"message": "no luck"}}', "no luck", id="an error"),
        pytest.param('data: {"error": 3}', "ended the answer with an error", id="an odd one"),
        pytest.param("data: <html>", "expected JSON in the stream", id="no JSON"),
        pytest.param("", "before it was whole", id="an early end"),
    ],
)
def test_a_stream_that_breaks_off_is_an_error(last: str, said: str):
    with pytest.raises(EndpointError, match=said):
        list(read_events(iter([chunk("Hel"), last])))


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://a.example/v1/", "http://a.example"),
        ("https://a.example", "https://a.example"),
        ("http://[::1]:80/base", "http://[::1]:80/base"),
    ],
)
def test_an_endpoint_may_be_written_shorter(given: str, url: str):
    assert normalize(given) == url


@pytest.mark.parametrize("given", ["ftp://a", "http://", "http://a:99999", "http://[", "a b:x"])
def test_what_is_no_url_is_refused_before_anything_is_sent(given: str):
    with pytest.raises(EndpointError, match="expected a URL"):
        normalize(given)


class Handler(http.server.BaseHTTPRequestHandler):
    """Refuses chats as a gateway does; lists one model."""

    def do_GET(self) -> None:
        self._send(200, {"object": "list", "data": [{"id": "smol", "root": "default/smol"}]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if asked["model"] == "smol":
            self._stream(asked["messages"][-1]["content"])
            return
        self._send(404, {"error": {"message": "there is no model 'x'", "code": "model_not_found"}})

    def _stream(self, text: str) -> None:
        """An echo, with all characters as they are, in pieces that end in the midst of some."""
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": "stop"}
        event = f"data: {json.dumps({'choices': [choice]}, ensure_ascii=False)}\n\n".encode()
        self.send_response(200)
        self.end_headers()
        for at in range(0, len(event), 7):
            self.wfile.write(event[at : at + 7])
            self.wfile.flush()

    def _send(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_refusal_is_told_in_the_gateways_words(endpoint: str):
    with connect(endpoint) as gateway:
        assert list_models(gateway) == [{"id": "smol", "root": "default/smol"}]
        with pytest.raises(EndpointError, match="there is no model 'x'"):
            list(stream_chat(gateway, "x", []))


def test_an_answer_may_hold_what_other_texts_end_their_lines_with(endpoint: str):
    text = "a\u2028b\u2029c\x85d🙂"
    with connect(endpoint) as gateway:
        asked = [{"role": "user", "content": text}]
        assert list(stream_chat(gateway, "smol", asked)) == [Token(text), Finished("stop")]


def test_no_gateway_is_one_sentence():
    with connect("http://127.0.0.1:9") as gateway, pytest.raises(EndpointError) as caught:
        list_models(gateway)
    assert str(caught.value).startswith("no gateway answers at http://127.0.0.1:9")
