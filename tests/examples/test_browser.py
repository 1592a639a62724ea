"""The page in the browser: built, checked, and held against the Python runtime in real Chromium.

One photograph here, for a quick answer; `make browser-test` runs everything.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "examples/browser"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.skipif(shutil.which("npm") is None, reason="Node.js with npm is not installed"),
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed, or name it in CHROMIUM"),
]


def run(*command: str, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=PAGE, env=os.environ | environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def installed() -> None:
    if not (PAGE / "node_modules/.package-lock.json").is_file():
        run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")


@pytest.mark.usefixtures("installed")
def test_the_page_builds_and_agrees_with_the_runtime(tmp_path):
    page, expected = tmp_path / "page", tmp_path / "expected"
    told = run("node", "build.mjs", str(page), PYTHON=sys.executable)
    megabytes = float(told.split(": ")[1].split()[0])
    assert megabytes < 12
    assert f"downloads {megabytes} MB" in " ".join((page / "index.html").read_text(encoding="utf-8").split())
    run("npm", "run", "--silent", "check")
    run(sys.executable, "test/expected.py", str(expected), "--quick", PYTHONPATH=str(ROOT))
    environment = {"CLN_PAGE": str(page), "CLN_EXPECTED": str(expected), "CHROMIUM": str(CHROMIUM)}
    told = run("node", "--test", "--test-name-pattern=astronaut|sentence", "test/page.test.mjs", **environment)
    assert "as the Python runtime" in told
    run("node", "--test", "test/winograd.test.mjs")


def test_no_download_address_is_in_the_lock_file():
    assert "resolved" not in (PAGE / "package-lock.json").read_text(encoding="utf-8")
