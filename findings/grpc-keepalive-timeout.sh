#!/usr/bin/env bash
# A gRPC client that asks for a ping after 5 s, with a timeout of 3 s, notices a dead peer after 65 s, or two minutes.
#
# Versions: grpcio 1.85.1 (GRPCIO=... tries another); 1.60.1, 1.70.0 and 1.78.0 do the same in the first two cases.
# Input:    a stream that sent its first message and is silent, as an engine is during a long prefill. Then the peer
#           goes deaf: its kernel still takes the bytes, nothing answers them (a stopped or frozen process).
# Expected: grpc.keepalive_time_ms=5000 and grpc.keepalive_timeout_ms=3000 end the stream some 8 s later.
# Instead:  1. keepalive_timeout_ms has no effect when it is below grpc.http2.ping_timeout_ms, whose default is a
#              minute: the timer of the former is set only where one is set already (grpc/grpc#39239 knows of it).
#           2. Two pings without data in between are free, all later ones go out once a minute. So the longer a
#              stream had been silent, the later a death is seen, by up to another minute.
#           ping_timeout_ms and max_pings_without_data=0 together give what the keepalive arguments promise; the
#           server has to allow such pings (grpc.http2.min_ping_interval_without_data_ms), as this one does.
# Matters:  a router that fails streams over when a worker freezes waits a minute or two with its requests.
#
# Seen:
#   grpcio 1.85.1
#   keepalive 5 s + 3 s                              deaf at  1 s  pings at 5             ends at 65 s  UNAVAILABLE
#   the same, ping_timeout 3 s                       deaf at  1 s  pings at 5             ends at  8 s  UNAVAILABLE
#   the same, ping_timeout 3 s                       deaf at 12 s  pings at 5, 10, 70     ends at 73 s  UNAVAILABLE
#   the same, ping_timeout 3 s, pings without data 0 deaf at 12 s  pings at 5, 10, 15     ends at 18 s  UNAVAILABLE
#   AS DESCRIBED
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
export VIRTUAL_ENV=$work/venv PATH=$work/venv/bin:$PATH
${PIP:-pip} install --quiet "grpcio==${GRPCIO:-1.85.1}" || { echo "INSTALLATION FAILED"; exit 2; }

cat >"$work/probe.py" <<'PY'
import asyncio
import os

import grpc

KEEPALIVE = [("grpc.keepalive_time_ms", 5000), ("grpc.keepalive_timeout_ms", 3000)]
TIMEOUT = ("grpc.http2.ping_timeout_ms", 3000)
UNLIMITED = ("grpc.http2.max_pings_without_data", 0)


async def silent_after_the_first(request, context):
    yield b"first"
    await asyncio.Event().wait()


class Wire:
    """Between client and server, until it goes deaf; notes when the client pings."""

    def __init__(self, port):
        self.port, self.deaf, self.pings, self.clock = port, False, [], asyncio.get_running_loop().time
        self.start = self.clock()

    def now(self):
        return round(self.clock() - self.start)

    async def connect(self, client, to_client):
        server, to_server = await asyncio.open_connection("127.0.0.1", self.port)
        await asyncio.gather(self.up(client, to_server), self.down(server, to_client), return_exceptions=True)

    async def up(self, client, to_server):
        to_server.write(await client.readexactly(24))  # HTTP/2's preface
        while True:
            head = await client.readexactly(9)
            body = await client.readexactly(int.from_bytes(head[:3], "big"))
            if head[3] == 6 and not head[4] & 1 and self.now() > 1:  # PING, no answer to one; not the connection's own
                self.pings.append(self.now())
            if not self.deaf:
                to_server.write(head + body)

    async def down(self, server, to_client):
        while data := await server.read(65536):
            if not self.deaf:
                to_client.write(data)


async def measure(port, name, options, deaf_at):
    wire = Wire(port)
    listening = await asyncio.start_server(wire.connect, "127.0.0.1", 0)
    target = "127.0.0.1:%d" % listening.sockets[0].getsockname()[1]
    call = grpc.aio.insecure_channel(target, options=KEEPALIVE + options).unary_stream("/probe.Probe/Stream")(b"")
    assert await call.read() == b"first"
    asyncio.get_running_loop().call_later(deaf_at, setattr, wire, "deaf", True)
    try:
        await asyncio.wait_for(call.read(), 150)
        code = "a message"
    except grpc.aio.AioRpcError as error:
        code = error.code().name
    except asyncio.TimeoutError:
        code = "nothing"
    pings = ", ".join(map(str, wire.pings))
    line = f"{name:<48} deaf at {deaf_at:2} s  pings at {pings:<13} ends at {wire.now():2} s  {code}"
    return line, wire.now() if code == "UNAVAILABLE" else 0, len(wire.pings)


async def main():
    print("grpcio", grpc.__version__, flush=True)
    server = grpc.aio.server(options=[("grpc.http2.min_ping_interval_without_data_ms", 1000)])
    methods = {"Stream": grpc.unary_stream_rpc_method_handler(silent_after_the_first)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("probe.Probe", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    seen = await asyncio.gather(
        measure(port, "keepalive 5 s + 3 s", [], 1),
        measure(port, "the same, ping_timeout 3 s", [TIMEOUT], 1),
        measure(port, "the same, ping_timeout 3 s", [TIMEOUT], 12),
        measure(port, "the same, ping_timeout 3 s, pings without data 0", [TIMEOUT, UNLIMITED], 12),
    )
    for line, _, _ in seen:
        print(line)
    holds = all(abs(at - due) <= 4 for (_, at, _), due in zip(seen, (65, 8, 73, 18)))
    print("AS DESCRIBED" if holds else "CHANGED", flush=True)
    os._exit(0 if holds else 1)  # the deaf connections need no goodbye


asyncio.run(main())
PY
python "$work/probe.py"
