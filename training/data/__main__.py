"""`python -m training.data check KIND:DIR`: what a data set on disk lacks. The kinds are in `training.data.catalog`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from runtime.command import Exit, command
from training.data.catalog import check


@command()
def main(arguments: list[str] | None = None) -> int:
    """0 for a complete set, 1 where something is missing or bad, 2 after an error's one line."""
    parser = argparse.ArgumentParser(prog="python -m training.data", description="Data sets on disk.")
    commands = parser.add_subparsers(dest="command", required=True)
    check_command = commands.add_parser("check", help="say what a data set lacks")
    check_command.add_argument("data", metavar="KIND:DIR", help="for example 300w-lp:DIR, aflw:DIR, points:DIR")
    check_command.add_argument("--images", action="store_true", help="decode every image too (slow)")
    check_command.add_argument("--crop-size", type=int, default=128, help="of synthetic samples (default: 128)")
    check_command.add_argument("--assets", type=Path, help="folder of CC0 assets of synthetic samples (default: none)")
    options = parser.parse_args(arguments)
    report = check(options.data, images=options.images, crop_size=options.crop_size, assets=options.assets)
    for line in report.found:
        print(line)
    for line in report.problems:
        print(f"problem: {line}")
    print("complete" if not report.problems else "not complete")
    return Exit.SKIPPED if report.problems else Exit.DONE


if __name__ == "__main__":
    sys.exit(main())
