"""Builds the project's images for a cluster on this machine, without a registry.

`python e2e/images.py [--commit SHA]` prints the references. An image is named by everything that is
in it, so that nothing is built twice: an unchanged tree costs a hash, changed code one layer.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
CACHE = Path.home() / ".cache" / "modelfleet" / "cluster"
ARCHIVES = CACHE / "images"
STORE = CACHE / "buildah"
CERTIFICATES = Path("/etc/ssl/certs")
CERTIFICATE = CERTIFICATES / "ca-certificates.crt"
KEPT = 4  # archives of each image: about 0.4 GB a piece
STORE_LIMIT = 8e9  # bytes; beyond it, the layers that make a build fast are made anew

SHARED = (
    ".dockerignore",
    "LICENSE",
    "README.md",
    "hatch_build.py",
    "pyproject.toml",
    "process",
    "proto",
)
SOURCES = {  # what each image's Dockerfile copies
    "operator": (
        *SHARED,
        "operator",
        "gateway",
        "requirements/build.lock",
        "requirements/operator.lock",
    ),
    "worker": (*SHARED, "worker", "requirements/build.lock", "requirements/worker.lock"),
}
GENERATED = re.compile(r"(^|/)__pycache__/|_pb2")

# A Debian that is small and holds the Python that both images need; pip comes with venv.
PACKAGES = "python3,python3-venv,ca-certificates"
SUITE = "bookworm"
NEVER_READ: tuple[str, ...] = ("var/cache/apt/archives", "var/lib/apt/lists")
NEVER_READ += ("usr/share/doc", "usr/share/info", "usr/share/locale", "usr/share/man")


@dataclass(frozen=True, slots=True)
class Image:
    """One image, ready to be loaded: `ctr -n k8s.io image import ARCHIVE` gives it its name."""

    repository: str  # localhost/modelfleet-operator
    tag: str  # a hash of all that is in it
    archive: Path  # what `docker save` would write

    @property
    def reference(self) -> str:
        """As a pod names it."""
        return f"{self.repository}:{self.tag}"


class BuildError(Exception):
    """A command failed; its output is the message."""


def operator_image(tree: Path = ROOT) -> Image:
    """The operator and the gateway, as Dockerfile.operator of this tree says."""
    return _image(tree, "operator", target="runtime")


def worker_image(tree: Path = ROOT) -> Image:
    """The worker without the layer of torch: mount a site-packages that holds it at /opt/torch."""
    return _image(tree, "worker", target="runtime")


@contextlib.contextmanager
def tree_of(commit: str) -> Iterator[Path]:
    """The files of an earlier commit, for as long as the context lasts."""
    with tempfile.TemporaryDirectory(prefix="modelfleet-tree-") as folder:
        archive = Path(folder) / "tree.tar"
        _run("git", "-C", str(ROOT), "archive", "--output", str(archive), commit)
        tree = Path(folder) / "tree"
        tree.mkdir()
        _run("tar", "--extract", "--file", str(archive), "--directory", str(tree))
        yield tree


def _image(tree: Path, name: str, *, target: str) -> Image:
    base = base_image()
    recipe = tree / f"Dockerfile.{name}"
    key = hashlib.sha256(f"{base} {target}".encode())
    for file in (recipe, *_sources(tree, name)):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        key.update(f"{file.relative_to(tree)} {content}\n".encode())
    tag = key.hexdigest()[:12]
    repository = f"localhost/modelfleet-{name}"
    image = Image(repository, tag, ARCHIVES / f"modelfleet-{name}-{tag}.tar")
    with _locked("images"):
        if image.archive.exists():
            image.archive.touch()  # the newest are kept
            return image
        _buildah(
            "build", "--isolation", "chroot", "--layers", "--quiet",
            "--file", str(recipe), "--target", target, "--tag", image.reference,
            "--build-arg", f"BASE_IMAGE={base}", "--build-arg", f"REVISION={tag}",
            "--build-arg", f"VERSION={_version(tree)}", *_trust(), str(tree),
        )  # fmt: skip
        _export(image)
        _bound_store()
        for old in sorted(
            ARCHIVES.glob(f"modelfleet-{name}-*.tar"), key=lambda file: -file.stat().st_mtime
        )[KEPT:]:
            old.unlink()
    return image


def base_image() -> str:
    """A Debian with Python, made once from the packages that this machine installs from."""
    reference = f"localhost/modelfleet-base:{hashlib.sha256(PACKAGES.encode()).hexdigest()[:12]}"
    with _locked("base"):
        if _buildah("images", "--quiet", "--filter", f"reference={reference}"):
            return reference
        with tempfile.TemporaryDirectory(prefix="modelfleet-base-") as folder:
            root = Path(folder) / "root"
            _run(
                "debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(root),
                _package_mirror(),
            )  # fmt: skip
            for unread in NEVER_READ:
                _run("find", str(root / unread), "-mindepth", "1", "-delete")
            _run("tar", "-C", str(root), "--create", "--file", f"{folder}/base.tar", ".")
            recipe = Path(folder) / "Dockerfile"
            recipe.write_text('FROM scratch\nADD base.tar /\nCMD ["python3"]\n')
            _buildah("build", "--quiet", "--tag", reference, "--file", str(recipe), folder)
    return reference


def _package_mirror() -> str:
    """Where apt gets this suite's packages on this machine."""
    places = _run(
        "apt-get", "indextargets", "--format", "$(REPO_URI)", f"Release: {SUITE}",
        "Component: main", "Created-By: Packages",
    )  # fmt: skip
    if not places:
        raise BuildError(f"expected apt to know a mirror with {SUITE}, it knows none")
    return places.splitlines()[0]


def _sources(tree: Path, image: str) -> Iterator[Path]:
    for source in SOURCES[image]:
        path = tree / source
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and not GENERATED.search(str(file.relative_to(tree))):
                yield file


def _trust() -> list[str]:
    """This machine's certificates for the steps that download; no layer holds them."""
    if not CERTIFICATE.exists():
        return []
    return [
        "--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro",
        "--build-arg", f"PIP_CERT={CERTIFICATE}", "--build-arg", f"SSL_CERT_FILE={CERTIFICATE}",
    ]  # fmt: skip


def _version(tree: Path) -> str:
    found = re.search(r'^version = "([^"]+)"', (tree / "pyproject.toml").read_text(), re.MULTILINE)
    return found[1] if found else "0.0.0"


def _export(image: Image) -> None:
    """Docker's format of an archive is not compressed, which would take longer than building."""
    ARCHIVES.mkdir(parents=True, exist_ok=True)
    half = image.archive.with_suffix(".half")
    half.unlink(missing_ok=True)  # buildah would refuse to change it
    _buildah("push", "--quiet", image.reference, f"docker-archive:{half}:{image.reference}")
    half.replace(image.archive)


def _bound_store() -> None:
    """Every change of the code leaves some layers; all but the base go when they are too many."""
    # Files may go while they are counted, which is no error here; -x leaves out what is mounted.
    measure = ["du", "-s", "-x", "-b", str(STORE)]
    counted = subprocess.run(measure, capture_output=True, text=True, check=False).stdout
    if int(counted.split()[0]) > STORE_LIMIT:
        base = base_image()
        named = _buildah("images", "--format", "{{.ID}} {{.Name}}:{{.Tag}}").splitlines()
        others = [line.split()[0] for line in named if line.split()[1] != base]
        _buildah("rmi", "--force", *others)


def _buildah(*arguments: str) -> str:
    STORE.mkdir(parents=True, exist_ok=True)
    return _run(
        "buildah", "--root", str(STORE / "root"), "--runroot", str(STORE / "run"),
        "--storage-driver", "overlay", *arguments,
    )  # fmt: skip


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-40:])
        raise BuildError(f"{' '.join(command)}\nended with {done.returncode}:\n{said}")
    return done.stdout.strip()


@contextlib.contextmanager
def _locked(name: str) -> Iterator[None]:
    """Two builds wait for each other instead of doing the work twice."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> None:
    """Prints a line for each image: its name and its archive."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commit", help="build the files of this commit instead of the tree's")
    commit = parser.parse_args().commit
    with tree_of(commit) if commit else contextlib.nullcontext(ROOT) as tree:
        try:
            for image in (operator_image(tree), worker_image(tree)):
                sys.stdout.write(f"{image.reference} {image.archive}\n")
        except BuildError as error:
            sys.exit(str(error))


if __name__ == "__main__":
    main()
