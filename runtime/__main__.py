"""`python -m runtime PHOTO… --out DIR`: reconstructs the faces of photographs into JSON, a picture and meshes.

A single folder in place of photographs stands for the images in it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from runtime import FileFormatError, InvalidInputError, Reconstructor
from runtime.batches import Outcome, photos_in, reconstruct_files
from runtime.command import command, exit_status, print_error

_FOLDER_BATCH = 32
_BAR = 30  # characters


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status (`runtime.command.Exit`)."""
    options = _parser().parse_args(arguments)
    if options.batch is not None and options.batch < 1:
        raise InvalidInputError(f"--batch: expected at least 1, got {options.batch}")
    folder = len(options.photos) == 1 and options.photos[0].is_dir()
    photos = photos_in(options.photos[0]) if folder else options.photos
    _check_stems(photos)
    boxes = _read_boxes(options.boxes, photos) if options.boxes else {}
    with Reconstructor(options.engine, face_model=options.face_model, threads=options.threads) as reconstruct:
        batch = options.batch or (_FOLDER_BATCH if folder else 1)
        outcomes = reconstruct_files(reconstruct, photos, boxes, options.out, batch=batch)
        return _tell_folder(outcomes, len(photos)) if folder else _tell_photos(outcomes, options.out)


def _tell_photos(outcomes: Iterable[Outcome], out: Path) -> int:
    """One line for each photograph as it is done."""
    total = skipped = 0
    for outcome in outcomes:
        total += 1
        if outcome.error is None:
            print(_describe(outcome, out))
        else:
            print_error(outcome.error)
            skipped += 1
    return exit_status(skipped=skipped, total=total)


def _describe(outcome: Outcome, out: Path) -> str:
    faces, stem = outcome.faces, out / outcome.photo.stem
    if not faces:
        return f"{outcome.photo}: no face found; wrote {stem}.json and .png (give boxes with --boxes to skip detection)"
    angles = "; ".join(f"yaw {f.pose.yaw:+.0f}° pitch {f.pose.pitch:+.0f}° roll {f.pose.roll:+.0f}°" for f in faces)
    count = f"{len(faces)} face{'s' * (len(faces) > 1)}"
    return f"{outcome.photo}: {count} ({angles}); wrote {stem}.json, .png, _*.obj, _*.ply"


def _tell_folder(outcomes: Iterable[Outcome], total: int) -> int:
    """A line that grows, on a terminal; then the sum, and what was skipped and why."""
    started = time.perf_counter()
    faces, empty, skipped = 0, 0, []
    for done, outcome in enumerate(outcomes, start=1):
        faces += len(outcome.faces)
        empty += outcome.error is None and not outcome.faces
        if outcome.error is not None:
            skipped.append(outcome.error)
        if sys.stderr.isatty():
            rate = faces / (time.perf_counter() - started)
            bar = ("#" * (_BAR * done // total)).ljust(_BAR, ".")
            print(f"\r[{bar}] {done}/{total} photos, {faces} faces, {rate:.1f} faces/s", end="", file=sys.stderr)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    seconds = time.perf_counter() - started
    print(
        f"{faces} faces in {total} photos, {faces / seconds:.1f} faces/s over {seconds:.1f} s; "
        f"{empty} without a face, {len(skipped)} skipped"
    )
    for error in skipped:
        print_error(f"skipped {error}")
    return exit_status(skipped=len(skipped), total=total)


def _check_stems(photos: Sequence[Path]) -> None:
    twice = [stem for stem, count in Counter(photo.stem for photo in photos).items() if count > 1]
    if twice:
        raise InvalidInputError(
            f"photos: expected different file names, got '{twice[0]}' more than once, whose results would "
            "overwrite each other; run the command once for each, with another --out"
        )


def _read_boxes(path: Path, photos: Sequence[Path]) -> dict[Path, Any]:
    """Boxes by photo, from a JSON list (for a single photo) or an object that maps file names to lists."""
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: expected a JSON file of boxes, found none; check the path") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise FileFormatError(f"{path}: expected boxes in JSON, got {error}") from None
    if isinstance(values, list):
        if len(photos) != 1:
            raise InvalidInputError(
                f"{path}: a list of boxes is for one photo, got {len(photos)} photos; "
                'use {"file name": [[x, y, w, h], …]}'
            )
        return {photos[0]: values}
    if not isinstance(values, dict) or not all(isinstance(v, list) for v in values.values()):
        raise FileFormatError(f'{path}: expected [[x, y, w, h], …] or {{"file name": [[x, y, w, h], …]}}')
    return {photo: values[photo.name] for photo in photos if photo.name in values}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m runtime", description=__doc__)
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTO", help="image files, or one folder of them")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--engine", type=Path, metavar="PATH", help=".onnx or .engine file (default: the bundled network)"
    )
    parser.add_argument("--face-model", type=Path, metavar="FILE", help="face model (default: the bundled one)")
    parser.add_argument("--boxes", type=Path, metavar="FILE.json", help="face boxes instead of detection")
    parser.add_argument(
        "--batch", type=int, metavar="N", help=f"faces in one call (default: 1, of a folder {_FOLDER_BATCH})"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads of ONNX Runtime")
    return parser


if __name__ == "__main__":
    sys.exit(main())
