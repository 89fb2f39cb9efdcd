"""`modelfleet up`: a whole fleet on this machine, and nothing of it left at the end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import structlog

from modelfleet_process.options import LOG_LEVEL_VARIABLE, LogFormat, LogLevel, LogOptions

from ..api.manifests import Manifests, load_manifests
from ..decisions.observed import Observed
from ..decisions.plan import Plan
from ..decisions.status import ColdStartProgress, Status
from ..errors import ManifestError
from ..explain.snapshot import Snapshot
from ..fleet.service import FleetService, serve
from ..pools import PoolKeeper
from ..reconciler import Reconcilers
from ..terminal import ERRORS
from .bars import LoadBars, is_loading
from .body import LocalBody
from .deployments import Change, LocalDeployments
from .gateway import Gateway, check_port
from .narration import narrate
from .state import StateDirectory, default_directory
from .suitability import check_for_one_machine, tell_what_is_ignored
from .watching import Fingerprint, fingerprint, watch_files
from .worker_process import WorkerOptions

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
KILLED = 130  # exit code after a second Ctrl-C
PROGRESS_INTERVAL = 0.5  # seconds between two plans of a model that loads, for its bar and status

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class UpOptions:
    """The command line of `modelfleet up`."""

    files: tuple[Path, ...]
    host: str
    port: int
    state_dir: Path
    drain_timeout: float  # seconds; once for the gateway, once more for the workers
    worker_flags: tuple[str, ...] = ()
    logs: LogOptions = field(default_factory=LogOptions)  # ours and the children's
    show_logs: bool = False
    door: tuple[Path, Path] | None = None  # certificate and key of HTTPS; None: plain HTTP

    @property
    def child_log_format(self) -> LogFormat:
        """Children write into files."""
        return self.logs.format or LogFormat.TEXT

    @property
    def shows_bars(self) -> bool:
        """Whether a person watches."""
        is_told = self.logs.level in (LogLevel.DEBUG, LogLevel.INFO)
        return ERRORS.is_interactive and is_told and self.child_log_format is LogFormat.TEXT


async def run_fleet(options: UpOptions) -> int:
    """Runs until a signal; returns the exit code. ManifestError, StartError if it cannot start."""
    # Before they are read: an edit in between is noticed.
    seen = fingerprint(options.files)
    manifests = load_manifests(options.files)
    check_for_one_machine(manifests)
    check_port(options.host, options.port)
    with StateDirectory(options.state_dir).held() as state:
        fleet = _LocalFleet(options, state)
        fleet.apply(manifests)
        return await fleet.run(seen)


class _LocalFleet:
    """The parts of one run, and the order in which they end."""

    def __init__(self, options: UpOptions, state: StateDirectory) -> None:
        self._options = options
        self._state = state
        self._told: dict[str, Status] = {}
        self._notes: set[str] = set()
        self._loading: set[str] = set()
        self._bars = LoadBars(ERRORS, time.time) if options.shows_bars else None
        self._is_first_ready = True
        self._asks_for_keys = False
        self._stop, self._force = asyncio.Event(), asyncio.Event()
        self._has_gateway = asyncio.Event()
        self._deployments = LocalDeployments(options.worker_flags, options.drain_timeout)
        self._body = LocalBody(
            self._deployments,
            WorkerOptions(
                drain_timeout=options.drain_timeout,
                log_flags=("--log-format", options.child_log_format),
                flags=options.worker_flags,
                environment={LOG_LEVEL_VARIABLE: options.logs.level},
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
        self._keeper = PoolKeeper(self._body.pools, self._body.pools.ledger, time.time)

    def apply(self, manifests: Manifests) -> Change:
        """What `kubectl apply` and `kubectl delete` do on a cluster, for all that differs."""
        change = self._deployments.apply(manifests, time.time())
        self._body.pools.apply(manifests)
        # Once there were keys, an edit that removes the last one opens nothing.
        self._asks_for_keys = self._asks_for_keys or bool(manifests.keys)
        self._fleet.publish_keys(manifests.keys, required=self._asks_for_keys)
        tell_what_is_ignored(manifests, self._notes)
        for key in change.deleted:
            self._body.delete(key)
            self._told.pop(key, None)
            self._show_progress(key, None)
        if change:
            self._wake_all()
        return change

    def _edited(self) -> None:
        """The files changed: a bad edit changes nothing that runs."""
        try:
            manifests = load_manifests(self._options.files)
            check_for_one_machine(manifests)
        except ManifestError as error:
            log.error(f"the edit is not applied, and what runs stays as it is: {error}")
            return
        change = self.apply(manifests)
        for key in change.created:
            log.info("created by an edit", model=key)
        for key in change.changed:
            log.info("changed by an edit", model=key)
        for key in change.deleted:
            log.info("deleted by an edit: it is in no file any more", model=key)

    def snapshot(self, key: str) -> Snapshot | str:
        """For `modelfleet explain`."""
        return self._reconcilers.snapshot(key)

    async def run(self, seen: Fingerprint) -> int:
        """`seen` is what the files were like when they were read."""
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._signalled)
        self._fleet.lead(1, self._body.keys())
        server, port = await serve(self._fleet, "127.0.0.1:0")
        gateway = self._make_gateway(f"127.0.0.1:{port}")
        reconciling = asyncio.create_task(self._reconcilers.run())
        keeping = asyncio.create_task(self._keeper.run())
        serving = asyncio.create_task(gateway.run())
        stopping = asyncio.create_task(self._stop.wait())
        watching = asyncio.create_task(watch_files(self._options.files, seen, self._edited))
        progressing = asyncio.create_task(self._keep_progress())
        explaining = asyncio.create_task(self._explain())
        try:
            tasks = [reconciling, keeping, serving, stopping, watching, progressing, explaining]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopping}:
                task.result()  # raises why it ended
        finally:
            # An edit during the end, or a pool, would start what is being ended.
            watching.cancel()
            keeping.cancel()
            ending = asyncio.create_task(self._end(gateway, reconciling))
            forcing = asyncio.create_task(self._force.wait())
            await asyncio.wait([ending, forcing], return_when=asyncio.FIRST_COMPLETED)
            if not ending.done():
                log.warning("ending everything at once")
                reconciling.cancel()  # first, so that it does not replace the killed workers
                gateway.kill()
                self._body.kill()
            await ending
            if self._bars is not None:
                self._bars.end()
            for task in (forcing, stopping, serving, watching, keeping, progressing, explaining):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task
            await server.stop(0)
            for number in SIGNALS:
                loop.remove_signal_handler(number)
                signal.signal(number, signal.SIG_IGN)  # there is nothing left to end
        return KILLED if self._force.is_set() else 0

    async def _explain(self) -> None:
        """Answers `modelfleet explain`, once the gateway is ready; never returns.

        Not before: importing aiohttp takes a third of the time until gateway and workers start.
        """
        await self._has_gateway.wait()
        service = await asyncio.to_thread(import_module, "..explain.service", __package__)
        async with service.serve_explain(self.snapshot) as address:
            self._state.write_explain_address(address)
            await asyncio.Event().wait()

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
        door: list[str] = []
        if options.door is not None:
            certificate, key = (str(file.absolute()) for file in options.door)
            door = ["--tls-certificate", certificate, "--tls-key", key]
        return Gateway(
            options.host,
            options.port,
            [
                *("--operator", operator, "--drain-timeout", f"{options.drain_timeout:g}"),
                *("--log-format", options.child_log_format, "--log-level", options.logs.level),
                *door,
                # No other gateway has the folder: after a crash its successor need not wait long.
                *("--batch-dir", str(self._state.batches), "--batch-lease", "5"),
            ],
            self._state.run,
            self._state.logs / "gateway.log",
            lambda line: self._show("gateway", line),
            self._gateway_ready,
            has_tls=bool(door),
        )

    def _gateway_ready(self, endpoint: str) -> None:
        self._state.write_endpoint(endpoint)
        self._body.endpoint = endpoint
        self._wake_all()  # the statuses name it
        log.info(f"the gateway is ready: {endpoint}/v1")
        if self._is_first_ready:
            self._tell_of_keys()
            model = self._name_to_try()
            ask = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
            is_usual = self._state.path == default_directory().absolute()
            place = "" if is_usual else f" --state-dir {self._state.path}"
            log.info(f"try: modelfleet chat {model}{place}")
            key = " -H 'authorization: Bearer KEY'" if self._asks_for_keys else ""
            log.info(
                f"or: curl {endpoint}/v1/chat/completions "
                f"-H 'content-type: application/json'{key} -d '{ask}'"
            )
        self._is_first_ready = False
        self._has_gateway.set()

    def _tell_of_keys(self) -> None:
        if self._asks_for_keys:
            log.info("clients need one of the API keys in the files")
        else:
            log.info(
                f"no API key is asked for: whoever reaches {self._options.host} may use every "
                "model (docs/keys.md)"
            )

    def _name_to_try(self) -> str:
        """Of the first deployment: its short names are its own."""
        first = self._deployments.manifest(next(iter(self._deployments.keys())))
        return (*first.served_names, first.full_name)[0]

    def _narrate(self, seen: Observed, plan: Plan) -> None:
        key = seen.deployment.key
        lines = narrate(
            seen.deployment,
            seen.workers,
            self._told.get(key),
            plan,
            time.time(),
            tells_progress=self._bars is None,
        )
        self._show_progress(key, plan.status.cold_start)
        for line in lines:
            log.info(line, model=key)
        self._told[key] = plan.status

    async def _keep_progress(self) -> None:
        """Percentage and ETA follow the time: no event says that it passed."""
        while True:
            await asyncio.sleep(PROGRESS_INTERVAL)
            for key in self._loading:
                self._wake(key)

    def _show_progress(self, key: str, cold: ColdStartProgress | None) -> None:
        if is_loading(cold):
            self._loading.add(key)
        else:
            self._loading.discard(key)
        if self._bars is not None:
            self._bars.show(key, cold)

    def _show(self, name: str, line: str) -> None:
        if self._options.show_logs:
            print(f"[{name}] {line}", flush=True)  # noqa: T201  asked for with --show-logs
