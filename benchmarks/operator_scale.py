"""The operator with many ModelDeployments: how soon it acts, and what it costs.

Needs a cluster (`make cluster`, or any with KUBECONFIG), its CRDs, and kwok, which plays nodes and
kubelets: `python benchmarks/operator_scale.py --kwok PATH [--deployments 1000]`. Everything it
makes is gone at the end. Without `--traffic` no gateway is connected; with it, one reaches every
worker, and the load of so many models a second changes, so that the autoscaler has what it learns
from. `--pools` and `--classes` are warm pools beside the deployments, and AcceleratorClasses.

To measure another build beside this one, run this file with that build's Python and commands:
`PATH=OTHER/.venv/bin:$PATH python benchmarks/operator_scale.py ...`, after applying its `crds/`;
one that knows no WarmPool is measured with `--pools 0`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import resource
import shutil
import statistics
import subprocess
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kubernetes.aio import client, config

import scale_cluster as sc
from scale_gateway import FakeGateway

REPLICAS = 5
FLEET = "127.0.0.1:19090"
LISTEN = "127.0.0.1:19091"
TICKS = os.sysconf("SC_CLK_TCK")
SETTLED_WITHIN = 1800.0  # seconds


@dataclass
class Operator:
    """The process under test, measured from outside and by its own metrics."""

    process: subprocess.Popen[bytes]
    begun: float = field(default_factory=time.monotonic)
    cpu: float = 0.0
    requests: dict[str, float] = field(default_factory=dict)

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory(self) -> dict[str, int]:
        """RSS now and its peak, MiB."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        values = {line.partition(":")[0]: line.split()[1] for line in lines if "kB" in line}
        return {"now": int(values["VmRSS"]) // 1024, "peak": int(values["VmHWM"]) // 1024}

    def api_requests(self) -> dict[str, float]:
        """By method and resource, since it began."""
        with urllib.request.urlopen(f"http://{LISTEN}/metrics", timeout=10) as response:
            text = response.read().decode()
        name = "modelfleet_operator_api_requests_total"
        found: dict[str, float] = {}
        for line in text.splitlines():
            if line.startswith(name + "{"):
                labels, _, value = line.removeprefix(name).rpartition(" ")
                parts = dict(part.split("=") for part in labels.strip("{}").split(","))
                key = f"{parts['method']} {parts['resource']} {parts['code']}".replace('"', "")
                found[key] = found.get(key, 0) + float(value)
        return found

    def begin(self) -> None:
        self.begun, self.cpu = time.monotonic(), self.cpu_seconds()
        self.requests = self.api_requests()

    def end(self, what: str) -> None:
        """Prints what it used since `begin`."""
        seconds = time.monotonic() - self.begun
        cpu = (self.cpu_seconds() - self.cpu) / seconds
        memory = self.memory()
        print(f"| {what}: operator, core-seconds a second | {cpu:.3f} |")
        print(f"| {what}: operator, memory now / peak | {memory['now']} / {memory['peak']} MiB |")
        for name, count in sorted(self.api_requests().items()):
            rate = (count - self.requests.get(name, 0)) / seconds
            if rate >= 0.005:
                print(f"| {what}: requests {name} | {rate:.2f}/s |")


@contextlib.contextmanager
def operator(namespace: str, kubeconfig: Path, log: Path, profile: Path | None):
    command = [shutil.which("modelfleet") or "modelfleet"]
    if profile:
        command = ["python", "-m", "cProfile", "-o", str(profile), *command]
    with log.open("w") as output:
        process = subprocess.Popen(
            [
                *command,
                "operator",
                "--worker-image=benchmark/worker:1",
                f"--kubeconfig={kubeconfig}",
                f"--namespace={namespace}",
                f"--lease-namespace={namespace}",
                f"--fleet-listen={FLEET}",
                f"--metrics-listen={LISTEN}",
                "--log-format=json",
            ],
            stdout=output,
            stderr=output,
            start_new_session=True,  # its own share of the processor
        )
        try:
            for _ in range(600):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://{LISTEN}/readyz", timeout=1)
                    break
                time.sleep(0.1)
            yield Operator(process)
        finally:
            process.terminate()
            process.wait(30)


async def edits(fleet: sc.Fleet, rate: float, seconds: float, spec) -> list[sc.Edit]:
    """`rate` a second, in turn, whatever becomes of those before; `spec(n)` is what changes."""
    names = sorted(fleet.seen)
    tasks = []
    begun = time.monotonic()
    for n in range(round(rate * seconds)):
        await asyncio.sleep(max(0.0, begun + n / rate - time.monotonic()))
        name = names[n % len(names)]
        tasks.append(asyncio.create_task(fleet.edit(name, spec(fleet.seen[name], n))))
    made = list(await asyncio.gather(*tasks))
    await fleet.observed(made, within=120)
    return made


def print_latencies(what: str, made: list[sc.Edit]) -> None:
    took = sorted(edit.observed - edit.acknowledged for edit in made if edit.observed is not None)
    marks = (statistics.median(took), took[int(len(took) * 0.99)], took[-1])
    shown = " / ".join(f"{mark * 1000:.0f}" for mark in marks)
    print(f"| {what}: edit to status, p50 / p99 / worst | {shown} ms of {len(took)} |")


async def measure(
    options: argparse.Namespace, fleet: sc.Fleet, under_test: Operator, gateway: FakeGateway
) -> None:
    count = options.deployments
    pods = count * REPLICAS + options.pools * sc.STANDBYS

    def step_replicas(seen: sc.Seen, _: int) -> dict[str, Any]:
        wanted = REPLICAS + 1 if seen.min_replicas == REPLICAS else REPLICAS
        return {"scaling": {"minReplicas": wanted}}

    print("| what | measured |\n|---|---|", flush=True)
    begun = time.monotonic()
    under_test.begin()
    await fleet.create(range(count), REPLICAS)
    created = time.monotonic() - begun
    await fleet.pods_are("bound", pods, SETTLED_WITHIN)
    bound = time.monotonic() - begun
    await fleet.settled(count, SETTLED_WITHIN)
    settled = time.monotonic() - begun
    what = f"{count} created / {pods} pods bound / every status right"
    print(f"| {what} | {created:.0f} / {bound:.0f} / {settled:.0f} s |")
    under_test.end("building up")
    # Kwok may lag far behind, and pods that no kubelet takes are news of their own.
    await fleet.pods_are("running", pods, SETTLED_WITHIN)

    if options.traffic:
        under_test.begin()
        gateway.rate = options.traffic
        await asyncio.sleep(options.idle)
        under_test.end(f"{options.traffic:g} models a second change their load")
        gateway.rate = 0.0
    await asyncio.sleep(options.settle)
    under_test.begin()
    await asyncio.sleep(options.idle)
    under_test.end("idle")

    gateway.rate = options.traffic
    under_test.begin()
    made = await edits(fleet, options.rate, options.seconds, step_replicas)
    used = (under_test.cpu_seconds() - under_test.cpu) / len(made)
    under_test.end("edits of minReplicas")
    print(f"| edits of minReplicas: operator, processor time an edit | {used * 1000:.1f} ms |")
    print_latencies("edits of minReplicas", made)
    begun = time.monotonic()
    await fleet.settled(count, SETTLED_WITHIN)
    print(f"| every status right after the last edit | {time.monotonic() - begun:.1f} s |")

    under_test.begin()
    made = await edits(
        fleet,
        options.rolling_rate,
        options.rolling_seconds,
        lambda _, n: {"engine": {"maxSequences": 32 + n // count}},
    )
    under_test.end("edits that roll a revision")
    print_latencies("edits that roll a revision", made)


async def run(options: argparse.Namespace) -> None:
    configuration = client.Configuration()
    kubeconfig = options.kubeconfig.expanduser()
    await config.load_kube_config(str(kubeconfig), client_configuration=configuration)
    configuration.connection_pool_maxsize = 64
    options.logs.mkdir(parents=True, exist_ok=True)
    async with client.ApiClient(configuration) as api_client:
        fleet = sc.Fleet(api_client, options.namespace)
        pods = options.deployments * (REPLICAS + 2) + options.pools * sc.STANDBYS
        nodes = -(-pods // sc.NODE_PODS)
        await make_room(fleet, nodes, options.classes, options.pools)
        try:
            with (
                sc.fake_nodes(options.kwok, kubeconfig, options.logs / "kwok.log"),
                operator(
                    options.namespace, kubeconfig, options.logs / "operator.log", options.profile
                ) as under_test,
            ):
                gateway = FakeGateway(FLEET)
                link = gateway.connected() if options.traffic else contextlib.nullcontext()
                async with fleet.watched(), link:
                    await measure(options, fleet, under_test, gateway)
                print("cleaning up", flush=True)
                await clean_up(fleet, nodes, options.classes)
        except BaseException:
            with sc.fake_nodes(options.kwok, kubeconfig, options.logs / "kwok-end.log"):
                await clean_up(fleet, nodes, options.classes)
            raise


async def make_room(fleet: sc.Fleet, nodes: int, classes: int, pools: int) -> None:
    namespace: Any = {"metadata": {"name": fleet.namespace}}
    await fleet.core.create_namespace(namespace)
    for name in sc.class_names(classes):
        await fleet.objects.create_cluster_custom_object(
            sc.GROUP, sc.VERSION, "acceleratorclasses", sc.accelerator_class(name)
        )
    await fleet.create_pools(pools)
    for number in range(nodes):
        made: Any = client.V1Node.from_dict(sc.node(number))
        await fleet.core.create_node(made)


async def clean_up(fleet: sc.Fleet, nodes: int, classes: int) -> None:
    with contextlib.suppress(client.ApiException):
        await fleet.core.delete_namespace(fleet.namespace)
    async with asyncio.timeout(900):
        while True:
            try:
                await fleet.core.read_namespace(fleet.namespace)
            except client.ApiException as error:
                if error.status == 404:
                    break
            await asyncio.sleep(1)
    for number in range(nodes):
        with contextlib.suppress(client.ApiException):
            await fleet.core.delete_node(f"benchmark-fake-{number}")
    for name in sc.class_names(classes):
        with contextlib.suppress(client.ApiException):
            await fleet.objects.delete_cluster_custom_object(
                sc.GROUP, sc.VERSION, "acceleratorclasses", name
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, default=os.environ.get("KUBECONFIG"))
    parser.add_argument("--kwok", type=Path, default=Path("kwok"))
    parser.add_argument("--namespace", default="operator-scale")
    parser.add_argument("--deployments", type=int, default=1000)
    parser.add_argument("--pools", type=int, default=0, help="WarmPools beside them")
    parser.add_argument("--classes", type=int, default=1, help="AcceleratorClasses")
    parser.add_argument("--rate", type=float, default=10, help="edits a second")
    parser.add_argument("--seconds", type=float, default=300, help="how long")
    parser.add_argument("--rolling-rate", type=float, default=1, help="rolling edits a second")
    parser.add_argument("--rolling-seconds", type=float, default=60)
    parser.add_argument(
        "--traffic", type=float, default=0, help="models a second whose load changes; 0: no gateway"
    )
    parser.add_argument("--settle", type=float, default=60, help="seconds before the idle time")
    parser.add_argument("--idle", type=float, default=60, help="seconds of idle time measured")
    parser.add_argument("--logs", type=Path, default=Path("/tmp/operator-scale"))
    parser.add_argument("--profile", type=Path, help="cProfile's output for the operator")
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(run(options))


if __name__ == "__main__":
    main()
