import errno
import functools
import os
import signal
import subprocess
import sys
import textwrap
import warnings

import pytest

from runtime.command import Exit, command, exit_status
from runtime.errors import InvalidInputError

DEVICE_FULL = "/dev/full"


def run(work, capsys):
    status = command()(work)()
    return status, capsys.readouterr()


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InvalidInputError("expected\na, got b"), "error: expected a, got b"),
        (OSError(errno.ENOSPC, "No space left on device", "o.json"), "error: o.json: No space left on device; free"),
        (FileNotFoundError("x: expected an image file, found none"), "error: x: expected an image file, found none"),
        (MemoryError(), "error: out of memory; give it smaller"),
        (InvalidInputError("a\x1b[2Jb\udcff"), "error: a\\x1b[2Jb\\udcff"),  # a name that would clear the screen
        (KeyError("k"), "error: internal error: KeyError: 'k' (test_command.py:"),
    ],
)
def test_an_error_is_one_line_and_status_2(error, line, capsys):
    def work():
        raise error

    status, captured = run(work, capsys)
    assert status == 2 and captured.err.startswith(line) and captured.err.count("\n") == 1 and captured.out == ""


def test_ctrl_c_is_130_and_says_what_is_kept(capsys):
    def work():
        raise KeyboardInterrupt

    assert command(interrupted="what was written is kept")(work)() == 130
    assert capsys.readouterr().err == "interrupted; what was written is kept\n"


def test_a_warning_is_one_line(capsys):
    def work():
        warnings.warn("half a picture", stacklevel=1)
        return 0

    status, captured = run(work, capsys)
    assert status == 0 and captured.err == "warning: half a picture\n"


@pytest.mark.parametrize(("skipped", "total", "status"), [(0, 3, 0), (1, 3, 1), (3, 3, 2), (0, 0, 0)])
def test_the_status_of_items(skipped, total, status):
    assert exit_status(skipped=skipped, total=total) == status


PROGRAM = """
    import argparse, pathlib, sys
    from runtime.command import command

    @command()
    def main():
        argparse.ArgumentParser(description="Δ").parse_args(sys.argv[2:])
        for _ in range(20_000):
            print("Δ yaw 10°")
        pathlib.Path(sys.argv[1]).write_text("done")
        return 0

    sys.exit(main())
"""


def start(tmp_path, *arguments, **options):
    code = textwrap.dedent(PROGRAM)
    return subprocess.Popen([sys.executable, "-c", code, tmp_path / "o", *arguments], encoding="latin-1", **options)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252:strict"])
def test_text_that_the_terminal_lacks_decides_nothing(tmp_path, encoding):
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    with start(tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        out, err = process.communicate()
    assert (process.returncode, err) == (0, "") and "\\u0394 yaw 10" in out and (tmp_path / "o").exists()


def test_help_in_ascii(tmp_path):
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    with start(tmp_path, "--help", stdout=subprocess.PIPE, env=environment) as process:
        assert "\\u0394" in process.communicate()[0] and process.returncode == 0


def test_work_goes_on_when_nobody_reads(tmp_path):
    with start(tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0 and (tmp_path / "o").exists()


@pytest.mark.skipif(not os.path.exists(DEVICE_FULL), reason="needs /dev/full")
def test_lost_output_is_said(tmp_path):
    with open(DEVICE_FULL, "w") as full, start(tmp_path, stdout=full, stderr=subprocess.PIPE) as process:
        err = process.communicate()[1]
    assert process.returncode == Exit.SKIPPED and "No space left" in err and (tmp_path / "o").exists()


WAITING = """
    import sys, time
    from runtime.command import command

    @command()
    def main():
        print("up", flush=True)
        time.sleep(60)
        return 0

    sys.exit(main())
"""


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(("number", "word", "status"), [("SIGINT", "interrupted", 130), ("SIGTERM", "terminated", 143)])
def test_a_command_that_is_stopped_leaves_no_traceback(number, word, status):
    pipe, code = subprocess.PIPE, textwrap.dedent(WAITING)
    # A shell's background jobs ignore Ctrl-C, and what they start inherits that.
    default = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=pipe, stderr=pipe, text=True, preexec_fn=default
    ) as process:
        process.stdout.readline()
        process.send_signal(getattr(signal, number))
        assert process.communicate()[1] == f"{word}\n" and process.returncode == status
