"""Images made on this machine: nothing is pulled from a registry."""

import os
import subprocess
import tempfile
from pathlib import Path

from .commands import command, say
from .errors import CommandError
from .layout import BASE_IMAGE, IMAGES, PAUSE_IMAGE

STORAGE = IMAGES / "storage"
BUSYBOX = Path("/bin/busybox")
PACKAGES = ("python3", "python3-venv", "python3-pip", "ca-certificates")


def pause_archive() -> Path:
    """The image that holds a pod's namespaces: it sleeps until the pod ends."""
    archive = IMAGES / "pause.tar"
    if not archive.exists():
        with tempfile.TemporaryDirectory() as folder:
            context = Path(folder)
            (context / "busybox").write_bytes(BUSYBOX.read_bytes())
            (context / "busybox").chmod(0o755)
            (context / "Dockerfile").write_text(
                "FROM scratch\nCOPY busybox /busybox\n"
                'ENTRYPOINT ["/busybox", "sleep", "2147483647"]\n'
            )
            build_archive(context, PAUSE_IMAGE, archive)
    return archive


def build_archive(context: Path, name: str, archive: Path) -> None:
    """Builds a Dockerfile and writes the image as an OCI archive, which containers can be made of."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    say(f"Making the image {name}...")
    isolation = ("--isolation", "chroot", "--layers=false")
    buildah("build", *isolation, "--tag", name, str(context))
    unfinished = archive.with_suffix(".unfinished")
    unfinished.unlink(missing_ok=True)
    buildah("push", name, f"oci-archive:{unfinished}:{name}")
    unfinished.rename(archive)


def buildah(*arguments: str) -> str:
    """buildah with a storage of our own; raises CommandError."""
    storage = ("--root", STORAGE, "--runroot", IMAGES / "runroot", "--storage-driver", "vfs")
    return command("buildah", *storage, *arguments)
