"""`modelfleet up`: a whole fleet on this machine, and nothing of it left at the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from modelfleet_process.options import LOG_LEVEL_VARIABLE, LogFormat, LogLevel

from ..api.model_deployment import ModelDeployment
from ..decisions.observed import Observed
from ..decisions.plan import Plan
from ..decisions.status import Status
from ..errors import ManifestError
from ..explain.service import serve_explain
from ..explain.snapshot import Snapshot
from ..fleet.service import FleetService, serve
from ..reconciler import Reconcilers
from .body import LocalBody, WorkerOptions
from .gateway import Gateway, check_port
from .narration import narrate
from .pod_template import environment, ignored
from .state import StateDirectory

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
KILLED = 130  # exit code after a second Ctrl-C

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class UpOptions:
    """The command line of `modelfleet up`."""

    host: str
    port: int
    state_dir: Path
    drain_timeout: float  # seconds; once for the gateway, once more for the workers
    worker_flags: tuple[str, ...] = ()
    child_log_format: LogFormat = LogFormat.TEXT
    log_level: LogLevel = LogLevel.INFO  # ours and the children's
    show_logs: bool = False


def check_for_one_machine(manifests: Sequence[ModelDeployment]) -> None:
    """ManifestError for what only a cluster can do."""
    for manifest in manifests:
        if manifest.spec.model.token_secret_ref is not None and not os.environ.get("HF_TOKEN"):
            raise ManifestError(
                f"{manifest.full_name}: spec.model.tokenSecretRef names a Secret of a cluster, and "
                "this is one machine: set the environment variable HF_TOKEN to the token instead"
            )
        source = manifest.spec.model.source
        if source.startswith("pvc://"):
            raise ManifestError(
                f"{manifest.full_name}: {source} is a PersistentVolumeClaim, which exists only in "
                "a cluster: use file:///ABSOLUTE/PATH on this machine"
            )
        environment(manifest)  # raises what is wrong with it


async def run_fleet(manifests: Sequence[ModelDeployment], options: UpOptions) -> int:
    """Runs until a signal; returns the exit code. StartError when it cannot start."""
    check_for_one_machine(manifests)
    check_port(options.host, options.port)
    for manifest in manifests:
        if manifest.spec.placement.accelerators:
            log.info("spec.placement is ignored: this is one machine", model=manifest.full_name)
        if fields := ignored(manifest):
            log.info(
                "of spec.podTemplate, this is ignored on one machine",
                fields=", ".join(fields),
                model=manifest.full_name,
            )
    with StateDirectory(options.state_dir).held() as state:
        fleet = _LocalFleet(manifests, options, state)
        async with serve_explain(fleet.snapshot) as address:
            state.write_explain_address(address)
            return await fleet.run()


class _LocalFleet:
    """The parts of one run, and the order in which they end."""

    def __init__(
        self, manifests: Sequence[ModelDeployment], options: UpOptions, state: StateDirectory
    ) -> None:
        self._options = options
        self._state = state
        self._told: dict[str, Status] = {}
        self._manifests = manifests
        self._is_first_ready = True
        self._stop, self._force = asyncio.Event(), asyncio.Event()
        log_flags = ("--log-format", options.child_log_format)
        self._body = LocalBody(
            manifests,
            WorkerOptions(
                flags=options.worker_flags,
                drain_timeout=options.drain_timeout,
                log_flags=log_flags,
                environment={LOG_LEVEL_VARIABLE: options.log_level},
            ),
            state,
            wake=self._wake,
            show=self._show,
        )
        self._fleet = FleetService(
            time.time,
            wake=self._wake,
            wake_all=self._wake_all,
        )
        self._reconcilers = Reconcilers(self._body, self._fleet, time.time, watch=self._narrate)

    def snapshot(self, key: str) -> Snapshot | str:
        """For `modelfleet explain`."""
        return self._reconcilers.snapshot(key)

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._signalled)
        self._fleet.lead(1, self._body.keys())
        server, port = await serve(self._fleet, "127.0.0.1:0")
        gateway = self._make_gateway(f"127.0.0.1:{port}")
        reconciling = asyncio.create_task(self._reconcilers.run())
        serving = asyncio.create_task(gateway.run())
        stopping = asyncio.create_task(self._stop.wait())
        try:
            tasks = [reconciling, serving, stopping]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopping}:
                task.result()  # raises why it ended
        finally:
            ending = asyncio.create_task(self._end(gateway, reconciling))
            forcing = asyncio.create_task(self._force.wait())
            await asyncio.wait([ending, forcing], return_when=asyncio.FIRST_COMPLETED)
            if not ending.done():
                log.warning("ending everything at once")
                reconciling.cancel()  # first, so that it does not replace the killed workers
                gateway.kill()
                self._body.kill()
            await ending
            for task in (forcing, stopping, serving):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task
            await server.stop(0)
            for number in SIGNALS:
                loop.remove_signal_handler(number)
                signal.signal(number, signal.SIG_IGN)  # there is nothing left to end
        return KILLED if self._force.is_set() else 0

    async def _end(self, gateway: Gateway, reconciling: asyncio.Task[None]) -> None:
        """The gateway drains first: requests that it holds may still need a worker to start."""
        await gateway.end(self._options.drain_timeout)
        reconciling.cancel()
        await asyncio.wait([reconciling])  # an error of it was raised already
        await self._body.end()

    def _wake(self, key: str) -> None:
        self._reconcilers.wake(key)

    def _wake_all(self) -> None:
        self._reconcilers.wake_all()

    def _signalled(self) -> None:
        if self._stop.is_set():
            self._force.set()
            return
        self._stop.set()
        log.info("ending: running requests finish first (again to end at once)")

    def _make_gateway(self, operator: str) -> Gateway:
        options = self._options
        return Gateway(
            options.host,
            options.port,
            [
                *("--operator", operator, "--drain-timeout", f"{options.drain_timeout:g}"),
                *("--log-format", options.child_log_format, "--log-level", options.log_level),
            ],
            self._state.run,
            self._state.logs / "gateway.log",
            lambda line: self._show("gateway", line),
            self._gateway_ready,
        )

    def _gateway_ready(self, endpoint: str) -> None:
        log.info(f"the gateway is ready: {endpoint}/v1")
        if self._is_first_ready:
            first = self._manifests[0]  # the oldest: its short names are its own
            model = (*first.served_names, first.full_name)[0]
            ask = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
            log.info(
                f"try: curl {endpoint}/v1/chat/completions "
                f"-H 'content-type: application/json' -d '{ask}'"
            )
        self._is_first_ready = False

    def _narrate(self, seen: Observed, plan: Plan) -> None:
        key = seen.deployment.key
        for line in narrate(seen.deployment, seen.workers, self._told.get(key), plan, time.time()):
            log.info(line, model=key)
        self._told[key] = plan.status

    def _show(self, name: str, line: str) -> None:
        if self._options.show_logs:
            print(f"[{name}] {line}", flush=True)  # noqa: T201  asked for with --show-logs
