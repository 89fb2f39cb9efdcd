"""The main job, on this machine: one YAML becomes a fleet that answers, sleeps and wakes.

`make demo` runs it. Everything is real: the `modelfleet up` process, its gateway and its workers,
the model, and the official `openai` client.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import yaml
from openai import OpenAI
from rich.console import Console
from rich.markup import escape

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "smollm2.yaml"
MODEL = "smollm2"
TIMEOUT = 180.0  # seconds until a step of the demo counts as failed

console = Console(highlight=False, soft_wrap=True)
terminal = threading.Lock()  # held while an answer is being written


def main() -> int:
    """Returns the process's exit code."""
    started = time.monotonic()
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="modelfleet-demo-") as state:
        say(f"modelfleet up {EXAMPLE.relative_to(ROOT)} --port {port}")
        up = subprocess.Popen(
            ["modelfleet", "up", str(EXAMPLE), "--port", str(port), "--state-dir", state],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Its own group: Ctrl-C reaches this script, which then ends the fleet in order.
            start_new_session=True,
        )
        echo = threading.Thread(target=echo_lines, args=(up,))
        echo.start()
        try:
            walk_through(up, port, Path(state), started)
        except KeyboardInterrupt:
            say("interrupted")
            return 130
        except (StuckError, httpx.HTTPError) as error:
            say(f"[red]the demo failed:[/] {escape(str(error))}")
            return 1
        finally:
            say("Ending the fleet (SIGTERM)")
            up.send_signal(signal.SIGTERM)
            up.wait()
            echo.join()
    say(f"Done in {time.monotonic() - started:.0f} s. No process was left behind.")
    return up.returncode


def echo_lines(up: subprocess.Popen[bytes]) -> None:
    """Prints what the fleet says, a line at a time, and never into the middle of an answer."""
    for line in up.stdout or ():
        with terminal:
            console.print(line.decode(errors="replace").rstrip(), style="dim", markup=False)


class StuckError(Exception):
    """Something that the demo waits for did not happen."""


def walk_through(up: subprocess.Popen[bytes], port: int, state: Path, started: float) -> None:
    """Asks, watches the fleet sleep, asks again."""
    endpoint = f"http://127.0.0.1:{port}"
    wait_until(up, "the gateway is ready", lambda: answers(f"{endpoint}/readyz"))
    client = OpenAI(base_url=f"{endpoint}/v1", api_key="not needed", max_retries=0, timeout=TIMEOUT)

    first = ask(client, "What is the capital of France?")
    say(f"[dim]First token {first - started:.1f} s after the demo began.[/]")

    say("Now no request comes. After 10 s the last worker goes to sleep...")
    wait_until(up, "the fleet sleeps", lambda: condition(state, "Ready") == "Asleep")
    # One that is ending would be asked again, which is quicker and shows nothing.
    wait_until(up, "the last worker has ended", lambda: not workers(up))
    say("Asleep: no worker runs, and nothing is paid for. The endpoint still answers:")

    asked = time.monotonic()
    woken = ask(client, "Name one thing that is good about sleeping.")
    say(f"[dim]Woken by the request: first token after {woken - asked:.1f} s.[/]")


def ask(client: OpenAI, question: str) -> float:
    """Streams one answer to the terminal; returns when its first token came (monotonic seconds)."""
    console.print(f"\n[bold]You:[/] {question}\n")
    stream = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": question}],
        max_tokens=64,
        temperature=0,
        stream=True,
    )
    first = 0.0
    pieces = (chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    with contextlib.ExitStack() as answering:
        for text in pieces:
            if text and not first:
                first = time.monotonic()
                answering.enter_context(terminal)
                console.print(f"[bold]{MODEL}:[/] ", end="")
            console.print(text, end="", markup=False)
        console.print("\n")
    if not first:
        raise StuckError("the model's answer was empty")
    return first


def wait_until(up: subprocess.Popen[bytes], what: str, happened: Callable[[], bool]) -> None:
    """Looks every 20 ms. Raises StuckError when it takes too long, or when `up` has ended."""
    deadline = time.monotonic() + TIMEOUT
    while not happened():
        if up.poll() is not None:
            raise StuckError(f"`modelfleet up` ended with {up.returncode} before {what}")
        if time.monotonic() > deadline:
            raise StuckError(f"waited {TIMEOUT:.0f} s and still not: {what}")
        time.sleep(0.02)


def answers(url: str) -> bool:
    """Whether the URL answers 200 now."""
    try:
        return httpx.get(url, timeout=2).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def workers(up: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The worker processes of the fleet."""
    found = []
    for process in psutil.Process(up.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if "modelfleet_worker" in process.cmdline():
                found.append(process)
    return found


def condition(state: Path, kind: str) -> str | None:
    """The reason of a condition in the status that `modelfleet up` writes; None if it is absent."""
    for file in state.rglob(f"{MODEL}.yaml"):
        status = (yaml.safe_load(file.read_text()) or {}).get("status") or {}
        for entry in status.get("conditions", []):
            if entry["type"] == kind:
                return str(entry["reason"])
    return None


def free_port() -> int:
    """8080 if it is free, else any free port."""
    for port in (8080, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise SystemExit("no free port on 127.0.0.1")


def say(text: str) -> None:
    """The demo's own voice, apart from the fleet's."""
    console.print(f"[cyan]==>[/] {text}")


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
