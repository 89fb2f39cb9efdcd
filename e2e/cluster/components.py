"""What the cluster is made of: programs of Go modules whose hashes are in this repository.

Two modules for six programs: what is in one module has the same versions of its libraries, so that
Kubernetes' own, which take longest, are compiled once for all of it. KEDA, which takes others, has
a third.
"""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from .layout import CACHE

MODULES = Path(__file__).parent / "go"


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One binary of a Go module below go/, and the names it is started by."""

    name: str
    built_in: str  # our module: a folder below go/
    module: str  # the upstream module whose version names the build
    # What `go build` builds: our main, or upstream's through a tool directive; several: one each
    # for the first programs.
    package: str | tuple[str, ...]
    programs: tuple[str, ...]
    files: str = ""  # a folder of the upstream module to keep beside the programs
    version_variable: str = ""  # set by the linker, where upstream wants it so
    # Else benchmarks or a target of its own use it, and build it when they do. Not in `repr`: it
    # changes no build.
    is_tested_with: bool = field(default=True, repr=False)

    @property
    def source(self) -> Path:
        """Our module: go.mod, go.sum and the mains of some of its components."""
        return MODULES / self.built_in

    @property
    def version(self) -> str:
        """The upstream module's version in our go.mod."""
        requirement = re.compile(rf"^(?:require)?\s*{re.escape(self.module)} (v\S+)", re.MULTILINE)
        found = requirement.search((self.source / "go.mod").read_text())
        if found is None:
            raise ValueError(f"{self.source / 'go.mod'} does not require {self.module}")
        return found[1]

    @property
    def folder(self) -> Path:
        """Where it is built, once for each content of our module and of this description."""
        digest = hashlib.sha256(repr(self).encode())
        for file in (self.source / "go.mod", self.source / "go.sum", *self._own_sources()):
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
        return CACHE / f"{self.name}-{self.version}-{digest.hexdigest()[:8]}"

    def _own_sources(self) -> list[Path]:
        """Of our main; none where the package is upstream's."""
        return [
            file for name in self.packages for file in sorted((self.source / name).glob("*.go"))
        ]

    @property
    def is_built(self) -> bool:
        """Builds appear by one rename, so a folder that exists is complete."""
        return self.folder.is_dir()

    @property
    def packages(self) -> tuple[str, ...]:
        """What is built, one program each; the programs beyond are links to the first."""
        return (self.package,) if isinstance(self.package, str) else self.package

    @property
    def linker_flags(self) -> str:
        """Stripped, and with the version where the program would otherwise not know it."""
        flags = ["-s", "-w"]
        if self.version_variable:
            major, minor, _ = self.version.removeprefix("v").split(".")
            variables = {"gitVersion": self.version, "gitMajor": major, "gitMinor": minor}
            flags += [f"-X {self.version_variable}.{k}={v}" for k, v in variables.items()]
        return " ".join(flags)


# In the order of need: a cluster can start as soon as the first four are there.
COMPONENTS = {
    component.name: component
    for component in (
        Component(
            name="kubernetes",
            built_in="kubernetes",
            module="k8s.io/kubernetes",
            package="./kubernetes",
            programs=(
                "kube-apiserver",
                "kube-controller-manager",
                "kube-scheduler",
                "kube-proxy",
                "kubelet",
                "kubectl",
            ),
            version_variable="k8s.io/component-base/version",
        ),
        Component(
            name="coredns",
            built_in="others",
            module="github.com/coredns/coredns",
            package="./coredns",
            programs=("coredns",),
        ),
        Component(
            name="helm",
            built_in="others",
            module="helm.sh/helm/v3",
            package="helm.sh/helm/v3/cmd/helm",
            programs=("helm",),
        ),
        Component(
            name="metrics-server",
            built_in="kubernetes",
            module="sigs.k8s.io/metrics-server",
            package="sigs.k8s.io/metrics-server/cmd/metrics-server",
            programs=("metrics-server",),
        ),
        Component(
            name="dra-driver",
            built_in="kubernetes",
            module="k8s.io/kubernetes",
            package="./dra-driver",
            programs=("dra-test-driver",),
        ),
        Component(
            name="kwok",
            built_in="others",
            module="sigs.k8s.io/kwok",
            package="sigs.k8s.io/kwok/cmd/kwok",
            programs=("kwok",),
            files="kustomize/stage",
            is_tested_with=False,
        ),
        Component(
            name="argo-cd",
            built_in="kubernetes",
            module="github.com/argoproj/argo-cd/v3",
            package="./argo-cd",
            programs=(
                "argocd-application-controller",
                "argocd-repo-server",
                "argocd-git-ask-pass",
            ),
            files="manifests/crds",
        ),
        Component(
            name="keda",
            built_in="keda",
            module="github.com/kedacore/keda/v2",
            package=(
                "github.com/kedacore/keda/v2/cmd/operator",
                "github.com/kedacore/keda/v2/cmd/adapter",
            ),
            programs=("keda-operator", "keda-adapter"),
            files="config",
            is_tested_with=False,
        ),
    )
}


def program(name: str) -> Path:
    """Where the program is, once its component is built."""
    for component in COMPONENTS.values():
        if name in component.programs:
            return component.folder / name
    raise KeyError(name)
