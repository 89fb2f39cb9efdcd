#!/usr/bin/env bash
# A streamed chat whose text holds U+2028 (or U+0085, U+2029) is cut in the midst of its JSON by httpx's iter_lines and by
# requests' iter_lines(decode_unicode=True).
#
# Versions: httpx 0.28.1, requests 2.34.2, openai 3.57.0, httpx-sse 0.4.3, pydantic 2.13.5 (HTTPX=..., REQUESTS=... try
#           others).
# Input:    server-sent events whose data is a chunk as pydantic's model_dump_json() writes it (as FastAPI servers do;
#           orjson and json.dumps(ensure_ascii=False) write the same). JSON allows these characters as they are, and in
#           the event stream's format only CR, LF and CRLF end a line.
# Expected: lines end where the format says; each `data:` line is one JSON value.
# Instead:  both split the decoded text by str.splitlines(), which ends lines at eight more characters. The first part is
#           no JSON. The openai client and httpx-sse read the same stream as it is, and so does requests without decoding.
# Matters:  the loop over response.iter_lines() is how an SSE stream is read in tutorials, gateways and load generators.
#           It works until a model quotes a web page or a PDF, where U+2028 and U+0085 are common; then one answer in
#           thousands ends with a JSONDecodeError that no retry heals.
#
# Seen:
#   bytes on the wire hold U+2028, U+0085, U+2029: True
#   httpx iter_lines                        JSONDecodeError
#   requests iter_lines, decode_unicode     JSONDecodeError
#   requests iter_lines, bytes              read
#   openai                                  read
#   httpx-sse                               read
#   AS DESCRIBED
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
export VIRTUAL_ENV=$work/venv PATH=$work/venv/bin:$PATH
${PIP:-pip} install --quiet "httpx==${HTTPX:-0.28.1}" "requests==${REQUESTS:-2.34.2}" openai==3.57.0 httpx-sse==0.4.3 \
    pydantic==2.13.5 || { echo "INSTALLATION FAILED"; exit 2; }

cat >"$work/probe.py" <<'PY'
import http.server
import json
import sys
import threading

import httpx
import httpx_sse
import openai
import requests
from openai.types.chat import ChatCompletionChunk

TEXT = "one\u2028two\u0085three\u2029four"
chunk = ChatCompletionChunk.model_validate(
    {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m",
     "choices": [{"index": 0, "delta": {"content": TEXT}, "finish_reason": "stop"}]}
)
EVENTS = f"data: {chunk.model_dump_json()}\n\ndata: [DONE]\n\n".encode()
raw = all(character.encode() in EVENTS for character in "\u2028\u0085\u2029")
print("bytes on the wire hold U+2028, U+0085, U+2029:", raw)


class Server(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.end_headers()
        self.wfile.write(EVENTS)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"


def texts(lines):
    decoded = (line if isinstance(line, str) else line.decode() for line in lines)
    data = [line.removeprefix("data: ") for line in decoded if line.startswith("data: ")]
    return [json.loads(one)["choices"][0]["delta"]["content"] for one in data if one != "[DONE]"]


def by_httpx():
    with httpx.stream("POST", url) as answer:
        return texts(answer.iter_lines())


def by_openai():
    client = openai.OpenAI(base_url=url, api_key="none")
    return [c.choices[0].delta.content for c in client.chat.completions.create(model="m", messages=[], stream=True)]


def by_httpx_sse():
    with httpx.Client() as client, httpx_sse.connect_sse(client, "POST", url) as source:
        return texts(f"data: {event.data}" for event in source.iter_sse())


seen = []
for name, read in {
    "httpx iter_lines": by_httpx,
    "requests iter_lines, decode_unicode": lambda: texts(
        requests.post(url, stream=True).iter_lines(decode_unicode=True)
    ),
    "requests iter_lines, bytes": lambda: texts(requests.post(url, stream=True).iter_lines()),
    "openai": by_openai,
    "httpx-sse": by_httpx_sse,
}.items():
    try:
        outcome = "read" if read() == [TEXT] else "other text"
    except json.JSONDecodeError:
        outcome = "JSONDecodeError"
    seen.append(outcome)
    print(f"{name:<39} {outcome}")
described = raw and seen == ["JSONDecodeError"] * 2 + ["read"] * 3
print("AS DESCRIBED" if described else "CHANGED")
sys.exit(0 if described else 1)
PY
python "$work/probe.py"
