"""Builds the components that are missing, once for each version."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from .commands import say
from .components import Component
from .errors import BuildError


def build_missing(components: Iterable[Component]) -> None:
    """Builds one after another: each build uses every core.

    Raises BuildError with the compiler's words.
    """
    missing = [component for component in components if not component.is_built]
    if missing and shutil.which("go") is None:
        raise BuildError("Building the cluster needs Go 1.26 or later: no `go` was found in PATH.")
    for component in missing:
        say(f"Building {component.name} {component.version} (minutes, once)...")
        started = time.monotonic()
        build(component)
        say(f"Built {component.folder} in {time.monotonic() - started:.0f} s")


def build(component: Component) -> None:
    """Builds into a temporary folder and renames it: an interrupted build counts for nothing."""
    target = component.folder
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{component.name}-", dir=target.parent) as parent:
        output = Path(parent) / "build"
        output.mkdir()
        # The linker strips debugging information, so compiling it would be for nothing.
        flags = ["-trimpath", "-mod=readonly", "-gcflags=all=-dwarf=false"]
        flags += ["-ldflags", component.linker_flags]
        packages = component.packages
        for package, program in zip(packages, component.programs, strict=False):
            go(component, "build", *flags, "-o", str(output / program), package)
        for other in component.programs[len(packages) :]:
            (output / other).symlink_to(component.programs[0])
        if component.files:
            module = go(component, "list", "-m", "-f", "{{.Dir}}", component.module).strip()
            shutil.copytree(
                Path(module) / component.files,
                output / Path(component.files).name,
                copy_function=shutil.copyfile,  # the module cache is read-only, our copy is not
            )
        try:
            output.rename(target)
        except OSError:
            if not target.is_dir():  # else another run beside us has just built the same
                raise


def drop_go_caches() -> None:
    """Frees what the builds needed, gigabytes: all of Go's module and build caches."""
    subprocess.run(["go", "clean", "-cache", "-modcache"], check=True)


def go(component: Component, *arguments: str) -> str:
    """Runs Go inside our module and returns what it printed."""
    # cgo would tie the programs to this machine's libc, and none of them needs it. The compiler
    # spends a quarter of its time on collecting its own garbage unless it may keep it (helm, of
    # 213 s of processor time: 55 s; debugging information, left out above: 11 s).
    environment = {**os.environ, "CGO_ENABLED": "0", "GOGC": os.environ.get("GOGC", "800")}
    result = subprocess.run(
        ["go", *arguments],
        cwd=component.source,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise BuildError(f"`go {arguments[0]}` failed for {component.name}:\n{result.stderr}")
    return result.stdout
