"""docs/walkthrough.md names the files that a request passes: traced, in one process."""

import asyncio
import re
import sys
import threading
import types
from pathlib import Path

from gateway_doubles import OperatorDouble, eventually
from modelfleet_gateway.http.server import Gateway, address_of, listen
from modelfleet_gateway.options import Options
from modelfleet_proto import fleet_pb2
from modelfleet_worker.devices.paced import Calibration
from modelfleet_worker.loading.device_loaders import paced_loader
from modelfleet_worker.serving.lifecycle import Lifecycle
from modelfleet_worker.serving.server import ServerOptions, WorkerServer
from modelfleet_worker.spec import ModelSpec
from raw_http import ask, request

MODEL = "default/tiny"
PAGE = Path(__file__).parents[2] / "docs" / "walkthrough.md"
BODY = (
    b'{"model": "default/tiny", "messages": [{"role": "user", "content": "hi"}],'
    b' "stream": true, "max_tokens": 20, "ignore_eos": true}'
)
# What runs on its own clock, and what a connection that is kept does not need again.
BESIDE = {
    "gateway": {"http/server.py", "routing/stats_watch.py", "routing/health.py", "tasks.py"},
    "worker": {
        "engine/device.py",  # a device that computes at once uses it
        *(
            f"serving/{name}.py"
            for name in ("change_notifier", "counters", "lifecycle", "service", "state", "stats")
        ),
    },
}


def listed(part: str) -> set[str]:
    """The files of a part's list, below its folder."""
    page = PAGE.read_text().partition("## One queue signal")[0]
    section = re.split(r"### In the (?:gateway|worker): \d+ files\n", page)
    text = section[1 if part == "gateway" else 2]
    return set(re.findall(r"^\d+\. `([\w/.]+)`", text, re.MULTILINE))


class Trace:
    """The files of our own whose functions run while it is on, in every thread from now on."""

    def __init__(self) -> None:
        self.on = False
        self._code: set[types.CodeType] = set()
        threading.setprofile(self._called)
        sys.setprofile(self._called)

    def _called(self, frame, event, arg) -> None:
        if self.on and event == "call":
            self._code.add(frame.f_code)

    def stop(self) -> None:
        threading.setprofile(None)
        sys.setprofile(None)

    def files(self, part: str) -> set[str]:
        folder = f"/modelfleet_{part}/"
        names = {code.co_filename for code in self._code}
        found = {name.rpartition(folder)[2] for name in names if folder in name}
        return {name for name in found if not name.startswith("operator_link/")} - BESIDE[part]


async def test_the_files_of_a_request_are_those_of_the_page():
    trace = Trace()
    workers = []
    for name in ("w-0", "w-1"):
        lifecycle = Lifecycle(paced_loader(Calibration(step_seconds=0.01, load_seconds=0.0)))
        workers.append(WorkerServer(lifecycle, ServerOptions(listen="127.0.0.1:0", worker_id=name)))
        await workers[-1].start()
        lifecycle.load(ModelSpec(model=MODEL, source="hf://a/b"))
    operator = OperatorDouble()
    await operator.start()
    routes = [
        fleet_pb2.WorkerRoute(worker_id=f"w-{number}", address=worker.address, routable=True)
        for number, worker in enumerate(workers)
    ]
    operator.view.models.add(
        model=MODEL, max_queue=9, hold_timeout=20, routing_policy="PrefixAware", workers=routes
    )
    listener = listen("127.0.0.1:0")
    gateway = Gateway(Options(operator=operator.address), listener)
    running = asyncio.create_task(gateway.run())
    try:
        queues = gateway.dispatcher.queues
        await eventually(lambda: MODEL in queues and queues[MODEL].ready_workers == 2)
        url = f"http://{address_of(listener)}"
        for trace.on in (False, True):
            answer = await ask(url, request("POST /v1/chat/completions", body=BODY))
            assert answer.status == 200
        trace.on = False
    finally:
        trace.stop()
        gateway.drain()
        gateway.drain()
        await running
        for worker in workers:
            await worker.stop()
        await operator.stop()

    assert trace.files("gateway") == listed("gateway")
    # The paced device has a tokenizer and a step of its own.
    rooms = ("serving/", "engine/")
    assert {f for f in trace.files("worker") if f.startswith(rooms)} == {
        f for f in listed("worker") if f.startswith(rooms)
    }
