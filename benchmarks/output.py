"""What the benchmarks' commands share: tables in Markdown, where figures are written, and how a command fails."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from runtime.command import Exit, print_error
from runtime.files import write_atomically


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    escaped = [[cell.replace("|", "\\|") for cell in cells] for cells in (columns, *rows)]
    lines = [f"| {' | '.join(cells)} |" for cells in escaped]
    return "\n".join([lines[0], "| --- " * len(columns) + "|", *lines[1:]])


def number(value: float | None, digits: int) -> str:
    """A cell; a dash for what was not measured."""
    return "–" if value is None else f"{value:.{digits}f}"


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """Adds --json and --markdown."""
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all figures there")
    parser.add_argument("--markdown", type=Path, metavar="OUT", help="write the table there")


def publish(values: dict[str, Any], text: str, options: argparse.Namespace) -> None:
    """Prints the table `text`, and writes it and the figures where the options say."""
    print(text)
    if options.json:
        write_atomically(options.json, json.dumps(values, indent=1) + "\n")
    if options.markdown:
        write_atomically(options.markdown, f"{text}\n")


def run(work: Callable[[], None]) -> int:
    """A command's exit status: what `work` refuses or fails at is one line on stderr."""
    try:
        work()
    except RuntimeError as error:  # a library's; all others are the command's (`runtime.command`)
        print_error(error)
        return Exit.FAILED
    return Exit.DONE
