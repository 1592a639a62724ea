"""Do the tests notice when the code is wrong? `python -m tests.mutants [PATTERN]`, or `make mutants`.

Every change that `tests/mutants.toml` lists is made in a copy of the project, one at a time, and the tests that should
notice are run. One that passes them all is a survivor: a test is missing, or could not fail. Exit status 1 if any
survived. Tests are run in forked processes, so that torch is imported once.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import shutil
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.command import Exit, command
from runtime.errors import InvalidInputError

ROOT = Path(__file__).parents[1]
LIST = Path(__file__).with_suffix(".toml")
COPIED = ("runtime", "training", "export", "serving", "benchmarks", "tools", "tests", "checkpoints", "examples", "docs")
IMPORTED = (
    *("torch", "torch._dynamo", "numpy.testing", "hypothesis", "pytest", "cv2", "scipy.io", "tqdm", "safetensors"),
    *("onnxruntime", "onnx", "onnxscript", "matplotlib"),
)
"""What takes long to import, once for all forks."""
PASSED = 0
"""pytest's exit code; another one (a failed test, or code that can't be imported) notices the change."""
MINUTES = 10
"""A mutant that takes longer is stopped, and has been noticed."""


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A change of one file."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.file}: {' '.join(self.old.split())}  ->  {' '.join(self.new.split())}"


def read_mutants(path: Path = LIST) -> list[Mutant]:
    """The committed list."""
    entries = tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]
    return [Mutant(**{**entry, "tests": tuple(entry["tests"])}) for entry in entries]


def mutate(text: str, mutant: Mutant) -> str:
    """The file's text with the change made.

    Raises:
        InvalidInputError: What is to be changed is not there, or more than once.
    """
    if text.count(mutant.old) != 1:
        raise InvalidInputError(
            f"{mutant.file}: expected once, in {LIST.name}'s words, '{mutant.old}', got it {text.count(mutant.old)} "
            "times; follow the code"
        )
    return text.replace(mutant.old, mutant.new)


def run_tests(folder: Path, tests: Sequence[str]) -> int:
    """pytest's exit code for some tests of a copy of the project, in a process of its own; -1 if it took too long."""
    process = os.fork()
    if process == 0:
        try:
            os.chdir(folder)
            sys.path[:] = [str(folder), *(place for place in sys.path if Path(place or ".").resolve() != ROOT)]
            for name in [name for name in sys.modules if name.partition(".")[0] in COPIED]:
                del sys.modules[name]
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            import pytest

            os._exit(int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "--rootdir", str(folder), *tests])))
        finally:
            os._exit(3)
    limit = time.monotonic() + 60 * MINUTES
    while time.monotonic() < limit:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.kill(process, 9)
    os.waitpid(process, 0)
    return -1


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Try the mutants from the command line; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.partition("\n")[0])
    parser.add_argument("pattern", nargs="?", default="", help="only mutants whose file or change has this in it")
    options = parser.parse_args(arguments)
    mutants = [mutant for mutant in read_mutants() if options.pattern in mutant.name]
    if not mutants:
        raise InvalidInputError(f"Expected a part of a mutant's name, got '{options.pattern}'; see {LIST.name}.")
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    sys.dont_write_bytecode = True
    for name in IMPORTED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    survivors = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name in COPIED:
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        tests = sorted({test for mutant in mutants for test in mutant.tests})
        if run_tests(folder, tests) != PASSED:
            raise InvalidInputError(f"Expected tests that pass unless something is changed, got failures: {tests}")
        for number, mutant in enumerate(mutants, start=1):
            path = folder / mutant.file
            text = path.read_text(encoding="utf-8")
            path.write_text(mutate(text, mutant), encoding="utf-8")
            started = time.monotonic()
            survived = run_tests(folder, mutant.tests) == PASSED
            path.write_text(text, encoding="utf-8")
            survivors += [mutant] if survived else []
            fate = "SURVIVED" if survived else "killed"
            print(f"[{number}/{len(mutants)}] {fate} in {time.monotonic() - started:.0f} s: {mutant.name}", flush=True)
    print(f"{len(mutants)} tried, {len(mutants) - len(survivors)} killed, {len(survivors)} survived")
    for mutant in survivors:
        print(f"survivor: {mutant.name}\n          {' '.join(mutant.tests)}")
    return Exit.SKIPPED if survivors else Exit.DONE


if __name__ == "__main__":
    sys.exit(main())
