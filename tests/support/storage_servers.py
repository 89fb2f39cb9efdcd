"""Real servers to fetch models from, each a process of a package, on loopback."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import boto3
import yaml

TIMEOUT = 60.0  # seconds until a server that does not come up fails its test


@dataclass(frozen=True)
class Server:
    """`address` is HOST:PORT."""

    address: str
    log: Path

    @property
    def url(self) -> str:
        return f"http://{self.address}"


@dataclass(frozen=True)
class Store(Server):
    """An S3 server that checks signatures, and a user of it who may do everything."""

    key: str
    secret: str

    @property
    def environment(self) -> dict[str, str]:
        """For a client with these credentials."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, service: str = "s3"):
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
        )


@contextlib.contextmanager
def s3_server(folder: Path, host: str = "127.0.0.1") -> Iterator[Store]:
    """moto; the first calls make the user, from then on every call needs one."""
    command = [sys.executable, "-m", "moto.server", "-H", host]
    with _server("s3", command, folder, host, INITIAL_NO_AUTH_ACTION_COUNT="3") as server:
        open_to_all = Store(server.address, server.log, "none", "none")
        iam = open_to_all.client("iam")
        iam.create_user(UserName="tests")
        policy = (
            '{"Version": "2012-10-17", "Statement": '
            '[{"Effect": "Allow", "Action": "*", "Resource": "*"}]}'
        )
        iam.put_user_policy(UserName="tests", PolicyName="all", PolicyDocument=policy)
        key = iam.create_access_key(UserName="tests")["AccessKey"]
        yield Store(server.address, server.log, key["AccessKeyId"], key["SecretAccessKey"])


def find_registry() -> str | None:
    """The distribution project's registry: Debian's package docker-registry."""
    return shutil.which("docker-registry")


@contextlib.contextmanager
def oci_registry(
    folder: Path, host: str = "127.0.0.1", auth: dict[str, object] | None = None
) -> Iterator[Server]:
    """`auth` as in the registry's configuration file."""
    program = find_registry()
    assert program is not None
    port = _free_port(host)
    config = {
        "version": 0.1,
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "registry")}},
        "http": {"addr": f"{host}:{port}"},
        **({"auth": auth} if auth else {}),
    }
    file = folder / "registry.yaml"
    file.write_text(yaml.safe_dump(config))
    with _server("registry", [program, "serve", str(file)], folder, host, port=port) as server:
        yield server


@contextlib.contextmanager
def hub_server(folder: Path, files: dict[str, bytes], host: str = "127.0.0.1") -> Iterator[Server]:
    """olah, serving the git repository owner/name as a Hugging Face hub does."""
    repository = folder / "mirrors/models/owner/name"
    repository.mkdir(parents=True)
    for name, content in files.items():
        (repository / name).write_bytes(content)
    git = [
        "git",
        "-C",
        str(repository),
        "-c",
        "user.name=tests",
        "-c",
        "user.email=tests@localhost",
    ]
    for command in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", "model"]):
        subprocess.run([*git, *command], check=True)
    port = _free_port(host)
    config = folder / "olah.toml"
    config.write_text(
        f'[basic]\nhost = "{host}"\nport = {port}\nhf-scheme = "http"\n'
        f'hf-netloc = "{host}:{port}"\nhf-lfs-netloc = "{host}:{port}"\nmirror-scheme = "http"\n'
        f'mirror-netloc = "{host}:{port}"\nmirror-lfs-netloc = "{host}:{port}"\n'
        f'repos-path = "{folder}/repos"\nmirrors-path = ["{folder}/mirrors"]\n'
        "[accessibility]\noffline = true\n"
    )
    program = Path(sys.executable).with_name("olah-cli")
    command = [str(program), "-c", str(config), "--log-path", str(folder / "logs")]
    with _server("hub", command, folder, host, port=port) as server:
        yield server


@contextlib.contextmanager
def _server(
    name: str,
    command: Sequence[str],
    folder: Path,
    host: str,
    port: int | None = None,
    **environment: str,
) -> Iterator[Server]:
    if port is None:
        port = _free_port(host)
        command = [*command, "-p", str(port)]
    log = folder / f"{name}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=os.environ | environment,
            start_new_session=True,
        )
    try:
        _wait_for(process, host, port, log)
        yield Server(f"{host}:{port}", log)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # they keep nothing that is worth a clean end
        process.wait()


def _wait_for(process: subprocess.Popen[bytes], host: str, port: int, log: Path) -> None:
    until = time.monotonic() + TIMEOUT
    while True:
        assert process.poll() is None, f"it ended:\n{log.read_text()}"
        assert time.monotonic() < until, f"it does not answer:\n{log.read_text()}"
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
            return
        time.sleep(0.05)


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as server:
        return int(server.getsockname()[1])
