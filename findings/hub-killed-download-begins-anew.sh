#!/usr/bin/env bash
# A model download of huggingface_hub that was killed is not resumed: the next one begins at byte 0, beside the old part.
#
# Versions: huggingface_hub 2.4.0 (HUGGINGFACE_HUB=... tries another) without hf-xet, 0.24.7 for comparison.
# Input:    a hub that serves one file of 64 MiB at 8 MB/s, with ranges. A first hf_hub_download of it is ended by
#           SIGKILL after 3 s, as by the kernel when a pod has too little memory. A second one follows.
# Expected: the second one asks for what is missing, as 0.24.7 does and as the library's own retries within a process do.
# Instead:  the part is named by chance for each process, so nobody finds it again: the second one asks for all, and
#           the old part stays on the disk for good.
# Matters:  an init container or worker that downloads 140 GB and is killed near the end begins again, and the volume
#           needs room for each attempt. A restart loop fills it.
#
# Seen:
#   huggingface_hub 0.24.7  killed after  3 s  parts left 1  the next asks for bytes=N-  parts left then 0
#   huggingface_hub 2.4.0   killed after  3 s  parts left 1  the next asks for all       parts left then 1
#   AS DESCRIBED
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HF_HUB_DISABLE_PROGRESS_BARS=1 HF_HUB_DISABLE_TELEMETRY=1 HF_HUB_DISABLE_XET=1

cat >"$work/hub.py" <<'PY'
import http.server
import sys
import time

SIZE, RATE, PIECE = 64 << 20, 8_000_000, 1 << 18


class Hub(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body):
        wanted = self.headers.get("range", "")
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        if with_body:
            print("bytes=N-" if start else "all", flush=True)
        self.send_response(206 if start else 200)
        for name, value in (
            ("content-length", SIZE - start),
            ("accept-ranges", "bytes"),
            ("etag", '"' + "a" * 64 + '"'),
            ("x-repo-commit", "b" * 40),
            *((("content-range", f"bytes {start}-{SIZE - 1}/{SIZE}"),) if start else ()),
        ):
            self.send_header(name, str(value))
        self.end_headers()
        for at in range(start, SIZE if with_body else start, PIECE):
            self.wfile.write(bytes(min(PIECE, SIZE - at)))
            time.sleep(PIECE / RATE)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        pass  # the client was killed


server = Server(("127.0.0.1", 0), Hub)
print(server.server_port, flush=True)
server.serve_forever()
PY
get='from huggingface_hub import hf_hub_download; hf_hub_download("owner/name", "model.safetensors")'

# try VERSION: one line of what it did.
try() {
    local name=$work/$1
    python3 -m venv "$name"
    VIRTUAL_ENV=$name PATH=$name/bin:$PATH ${PIP:-pip} install --quiet "huggingface_hub==$1" ||
        { echo "INSTALLATION FAILED"; exit 2; }
    python3 "$work/hub.py" >"$name/asked" &
    local hub=$! first
    while [ ! -s "$name/asked" ]; do sleep 0.1; done
    export HF_HOME=$name/home HF_ENDPOINT=http://127.0.0.1:$(head -1 "$name/asked")
    "$name/bin/python" -c "$get" >"$name/first.log" 2>&1 &
    first=$!
    until grep -q all "$name/asked"; do sleep 0.1; done
    sleep 3
    kill -KILL "$first"
    wait "$first" 2>/dev/null || true
    local before after next
    before=$(find "$name/home" -name '*.incomplete' | wc -l)
    "$name/bin/python" -c "$get" >"$name/second.log" 2>&1 || { cat "$name/second.log"; kill "$hub"; exit 1; }
    after=$(find "$name/home" -name '*.incomplete' | wc -l)
    next=$(sed -n 3p "$name/asked")
    kill "$hub"
    wait "$hub" 2>/dev/null || true
    printf 'huggingface_hub %-7s killed after  3 s  parts left %s  the next asks for %-9s  parts left then %s\n' \
        "$1" "$before" "$next" "$after"
}

new=${HUGGINGFACE_HUB:-2.4.0}
try 0.24.7 | tee "$work/seen"
try "$new" | tee -a "$work/seen"
if grep -q "0.24.7 .*left 1 .*bytes=N- .*then 0" "$work/seen" && grep -q "$new .*left 1 .*all .*then 1" "$work/seen"; then
    echo "AS DESCRIBED"
else
    echo "CHANGED"
    exit 1
fi
