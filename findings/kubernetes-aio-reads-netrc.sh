#!/usr/bin/env bash
# A `default` entry in ~/.netrc makes each request of kubernetes' asynchronous client an error.
#
# Versions: kubernetes 37.0.1 with aiohttp 3.14.5 (KUBERNETES=... and AIOHTTP=... try others).
# Input:    a kubeconfig with a bearer token, and a netrc file with a `default` entry (curl and git honour it for
#           every host that has no entry of its own).
# Expected: the kubeconfig decides who one is, as for kubectl and for the synchronous client of the same package.
# Instead:  kubernetes.aio makes its session with trust_env. aiohttp then looks the host up in the netrc file, for
#           each request and in a thread, and refuses to send the token beside it: ValueError, before anything is
#           sent. Without a token (a client certificate) it sends the netrc's password to the API server.
# Matters:  operators and tools in Python that work in a pod end at once on the machine of somebody with such a file.
#           `configuration.client_session_kwargs = {"trust_env": False}` ends it, and reads no HTTPS_PROXY any more:
#           set `configuration.proxy` as well.
# Seen:
#   kubernetes 37.0.1, aiohttp 3.14.5
#   synchronous client, token:                  server saw Bearer ...
#   kubernetes.aio, token:                      ValueError, server saw nothing
#   kubernetes.aio, no token:                   server saw Basic ...
#   kubernetes.aio, token, trust_env off:       server saw Bearer ...
#   AS DESCRIBED
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
export VIRTUAL_ENV=$work/venv PATH=$work/venv/bin:$PATH
${PIP:-pip} install --quiet "kubernetes[aio]==${KUBERNETES:-37.0.1}" "aiohttp==${AIOHTTP:-3.14.5}" ||
    { echo "INSTALLATION FAILED"; exit 2; }

echo "default login somebody password something" >"$work/netrc"
chmod 600 "$work/netrc"
cat >"$work/probe.py" <<'PY'
import asyncio
import http.server
import json
import threading
from importlib.metadata import version

from kubernetes import client
from kubernetes.aio import client as aio

seen = []


class ApiServer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        seen.append(f"{self.headers['Authorization']} ".split()[0] + " ...")
        body = json.dumps({"major": "1", "minor": "34", "gitVersion": "", "gitCommit": "", "gitTreeState": "",
                           "buildDate": "", "goVersion": "", "compiler": "", "platform": ""}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def configured(module, token, **session):
    configuration = module.Configuration()
    configuration.host = f"http://127.0.0.1:{server.server_address[1]}"
    if token:
        configuration.api_key["BearerToken"] = "Bearer a-token"
    if session:
        configuration.client_session_kwargs = session
    return configuration


def synchronous():
    with client.ApiClient(configured(client, True)) as api:
        client.VersionApi(api).get_code()


async def asynchronous(token, **session):
    async with aio.ApiClient(configured(aio, token, **session)) as api:
        await aio.VersionApi(api).get_code()


def outcome(what, run):
    seen.clear()
    error = ""
    try:
        run()
    except ValueError as refused:
        assert "AUTHORIZATION" in str(refused), refused
        error = "ValueError, "
    print(f"{what + ':':<43} {error}server saw {seen[0] if seen else 'nothing'}")
    return error, *seen


print(f"kubernetes {version('kubernetes')}, aiohttp {version('aiohttp')}")
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), ApiServer)
threading.Thread(target=server.serve_forever, daemon=True).start()
as_described = [
    outcome("synchronous client, token", synchronous) == ("", "Bearer ..."),
    outcome("kubernetes.aio, token", lambda: asyncio.run(asynchronous(True))) == ("ValueError, ",),
    outcome("kubernetes.aio, no token", lambda: asyncio.run(asynchronous(False))) == ("", "Basic ..."),
    outcome("kubernetes.aio, token, trust_env off", lambda: asyncio.run(asynchronous(True, trust_env=False)))
    == ("", "Bearer ..."),
]
print("AS DESCRIBED" if all(as_described) else "CHANGED")
raise SystemExit(not all(as_described))
PY
NETRC=$work/netrc python "$work/probe.py"
