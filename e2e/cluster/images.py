"""The pause image, made on this machine: nothing is pulled from a registry."""

import tempfile
from pathlib import Path

from .commands import command, say
from .layout import IMAGE_STORE, IMAGES, PAUSE_IMAGE

ARCHIVE = IMAGES / "pause.tar"
BUSYBOX = Path("/bin/busybox")  # Debian's static one
RECIPE = """\
FROM scratch
COPY busybox /busybox
ENTRYPOINT ["/busybox", "sleep", "2147483647"]
"""


def pause_archive() -> Path:
    """The image that holds a pod's namespaces; the busybox in it is handy for tests."""
    if not ARCHIVE.exists():
        say(f"Making the image {PAUSE_IMAGE}...")
        ARCHIVE.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            context = Path(folder)
            (context / "busybox").write_bytes(BUSYBOX.read_bytes())
            (context / "busybox").chmod(0o755)
            (context / "Dockerfile").write_text(RECIPE)
            buildah("build", "--isolation", "chroot", "--tag", PAUSE_IMAGE, folder)
        unfinished = ARCHIVE.with_suffix(".unfinished")
        unfinished.unlink(missing_ok=True)
        buildah("push", PAUSE_IMAGE, f"oci-archive:{unfinished}:{PAUSE_IMAGE}")
        unfinished.rename(ARCHIVE)
    return ARCHIVE


def buildah(*arguments: str) -> str:
    """Buildah with the store of e2e/images.py; raises CommandError."""
    folders = ("--root", IMAGE_STORE / "root", "--runroot", IMAGE_STORE / "run")
    return command("buildah", *folders, "--storage-driver", "overlay", *arguments)
