"""`python -m serving.local_server MODELS`: NVIDIA's Triton Inference Server on this machine, without a container.

The wheel `nvidia-pytriton` carries the server and its Python backend (no ONNX Runtime, no TensorRT: of our repository
it serves `faces` alone). It listens on loopback only. For tests, load tests and trying things out; a fleet runs
NVIDIA's image (`docs/serving.md`).

The wheel's backend was built before NumPy 2 and misreads its arrays: answers have the right shape and no content. So it
gets an environment of its own with NumPy 1, which sees this one's other packages:

    python -m serving.local_server --install       # once: 75 MB into triton/ of this environment
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import site
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
import venv
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from runtime.command import Exit, command, print_error
from runtime.errors import EngineUnavailableError, InvalidInputError
from serving.protocol import MODEL

REQUIREMENTS = ("numpy>=1.26,<2", "nvidia-pytriton==0.7.0")
START_SECONDS = 90.0
STOP_SECONDS = 20.0


def environment() -> Path:
    """Where the server's environment is, or goes."""
    return Path(sys.prefix) / "triton"


def install(folder: Path) -> None:
    """Makes the server's environment.

    Raises:
        EngineUnavailableError: pip finds no such packages for this Python or system.
    """
    unfinished = folder.with_name(folder.name + ".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    venv.create(unfinished, with_pip=False, symlinks=True)
    packages = _packages(unfinished)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(packages), *REQUIREMENTS]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PIP_CONSTRAINT": ""})
    if result.returncode:
        shutil.rmtree(unfinished, ignore_errors=True)
        reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise EngineUnavailableError(f"{' '.join(REQUIREMENTS)}: pip cannot install them here: {reason}")
    others = [f"import site; site.addsitedir({path!r})\n" for path in site.getsitepackages()]
    (packages / "others.pth").write_text("".join(others))
    server = packages / "pytriton" / "tritonserver"
    backend = unfinished / "backends" / "python"
    shutil.copytree(server / "backends" / "python", backend)
    shutil.copy(server / "python_backend_stubs" / _version() / "triton_python_backend_stub", backend)
    for program in (server / "bin" / "tritonserver", backend / "triton_python_backend_stub"):
        program.chmod(0o755)  # pip keeps no permissions of a wheel's data
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def _version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _packages(folder: Path) -> Path:
    return folder / "lib" / f"python{_version()}" / "site-packages"


class LocalServer:
    """A running server; leaving its `with` ends it and all its processes.

    Example:
        with LocalServer(models) as server, FaceClient(server.grpc) as faces_of:
            faces = faces_of(image)
    """

    def __init__(
        self, models: Path, *, grpc_port: int | None = None, http_port: int | None = None, folder: Path | None = None
    ) -> None:
        """Starts it, and waits until it answers.

        Args:
            models: a model repository.
            grpc_port: default: a free one.
            http_port: default: a free one.
            folder: the server's environment (default: `environment()`).

        Raises:
            EngineUnavailableError: it is not installed, or does not start; the message has its log's errors.
            InvalidInputError: the repository has no model `faces`.
        """
        root = environment() if folder is None else folder
        program = _packages(root) / "pytriton" / "tritonserver" / "bin" / "tritonserver"
        if not program.is_file():
            raise EngineUnavailableError(
                f"{root}: expected Triton's server, found none; run: python -m serving.local_server --install"
            )
        if not (models / MODEL / "config.pbtxt").is_file():
            raise InvalidInputError(
                f"{models}: expected a repository with the model '{MODEL}'; write one with python -m serving.triton"
            )
        ports = [grpc_port or free_port(), http_port or free_port()]
        self.grpc, self.http = f"grpc://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}"
        self._log: IO[bytes] = tempfile.TemporaryFile(prefix="triton.")  # noqa: SIM115 - closed in close()
        arguments = [
            program,
            f"--model-repository={models}",
            f"--backend-directory={root / 'backends'}",
            "--model-control-mode=explicit",
            f"--load-model={MODEL}",
            "--disable-auto-complete-config",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={ports[0]}",
            "--http-address=127.0.0.1",
            f"--http-port={ports[1]}",
            "--allow-metrics=false",
            "--pinned-memory-pool-byte-size=0",
            "--exit-timeout-secs=5",
        ]
        libraries = [str(_packages(root) / "nvidia_pytriton.libs"), str(sysconfig.get_config_var("LIBDIR"))]
        variables = {  # the backend's Python is the one that PATH leads to
            "PATH": f"{root / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "LD_LIBRARY_PATH": os.pathsep.join(libraries),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        self._process = subprocess.Popen(
            [str(a) for a in arguments],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=os.environ | variables,
            start_new_session=True,
        )
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def _wait(self) -> None:
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            if not self.is_running():
                raise EngineUnavailableError(f"Triton: ended with {self._process.returncode}; {self.errors()}")
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"{self.http}/v2/models/{MODEL}/ready", timeout=2) as reply,
            ):
                if reply.status == 200:
                    return
            time.sleep(0.1)
        raise EngineUnavailableError(f"Triton: not ready after {START_SECONDS:.0f} s; {self.errors()}")

    @property
    def pid(self) -> int:
        """The server's process."""
        return self._process.pid

    def is_running(self) -> bool:
        """Whether its process is there."""
        return self._process.poll() is None

    def log(self) -> str:
        """All that it and its models have printed."""
        self._log.seek(0)
        return self._log.read().replace(b"\0", b"").decode(errors="replace")

    def errors(self) -> str:
        """The log's last errors, in one line."""
        lines = [line for line in self.log().splitlines() if line[:1] == "E" or "Error" in line]
        return " | ".join(lines[-3:]) or "its log has no error"

    def close(self) -> None:
        """Ends the server and the processes that it started."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()

    def __enter__(self) -> LocalServer:
        """The server."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends it."""
        self.close()


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.local_server", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("models", type=Path, nargs="?", help="a repository, written by python -m serving.triton")
    parser.add_argument("--install", action="store_true", help="fetch the server first")
    parser.add_argument("--grpc-port", type=int, default=8001)
    parser.add_argument("--http-port", type=int, default=8000)
    options = parser.parse_args(arguments)
    if options.models is None and not options.install:
        parser.error("expected MODELS or --install")
    if options.install:
        install(environment())
        print(f"installed: {environment()}")
    if options.models is not None:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # or the server would outlive us
        with LocalServer(options.models, grpc_port=options.grpc_port, http_port=options.http_port) as server:
            print(f"serving '{MODEL}' at {server.grpc} and {server.http}; Ctrl-C ends it", flush=True)
            while server.is_running():
                time.sleep(0.5)
            print_error(f"Triton ended by itself; {server.errors()}")
            return Exit.FAILED
    return Exit.DONE


if __name__ == "__main__":
    sys.exit(main())
