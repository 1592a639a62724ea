"""`python -m runtime PHOTO… --out DIR`: the faces of photographs as JSON and a picture; as meshes, maps and tables.

A video gives NAME.mp4 with the faces drawn and its sound, NAME.jsonl (a line a frame) and NAME.csv (a row a face);
`--camera 0` shows a camera's. Photographs, videos, folders of them and patterns may be mixed; with `--sequence`, each
folder is one video, made of its numbered images. What cannot be done is skipped and named at the end; run again, the
command does what is not finished yet. It replaces no file that it did not write itself. Exit status: 0 all done, 1 some
were skipped, 2 nothing could be done or the call was wrong, 130 interrupted.
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
from runtime.batches import FOLDER_BATCH, Outcome, Run, process
from runtime.command import Exit, command, counted, exit_status, print_error
from runtime.drawing import DRAWERS
from runtime.engines.onnx import default_threads
from runtime.items import Item, Work, check_names, collect, with_stems
from runtime.results import Results
from runtime.savers import DEFAULT_PARTS, DEFAULT_SAVERS, SAVERS, check_draw, check_savers
from runtime.smoothing import find_setting

_LINES = 20  # items up to which each has its own line
_BAR = 30  # characters
_BOXES = (
    'face boxes instead of detection: [[x, y, w, h], …] of one photo, or {"file name": [[x, y, w, h], …], …}; pixels'
)


@command(interrupted="finished photographs are kept; the same command goes on from there")
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status (`runtime.command.Exit`)."""
    options = _parser().parse_args(arguments)
    video = {"smoothing": options.smoothing, "max_faces": options.max_faces}
    if options.camera is not None:
        return _show_camera(options, video)
    if options.out is None or not options.inputs:
        raise InvalidInputError("expected photographs or videos and --out DIR, or --camera 0; see --help")
    try:
        find_setting(options.smoothing)
    except InvalidInputError as error:
        raise InvalidInputError(f"--{error}") from None
    if options.max_faces < 1:
        raise InvalidInputError(f"--max-faces: expected at least 1, got {options.max_faces}")
    if options.batch is not None and options.batch < 1:
        raise InvalidInputError(f"--batch: expected at least 1, got {options.batch}")
    if options.rate is not None and not options.sequence:
        raise InvalidInputError("--rate: expected --sequence with it; videos bring their own times")
    if options.rate is not None:
        video["rate"] = options.rate
    savers, parts = check_savers(_names(options.save)), check_draw(_names(options.draw))
    results = Results(options.out, overwrite=options.overwrite)
    work = collect(options.inputs, sequences=options.sequence, leave_out=results.made)
    items = with_stems(work.items, lambda stem, item: results.is_free(stem, item.path))
    results.protect(file for item in items for file in item.files)
    boxes = _read_boxes(options.boxes, [item for item in items if item.error is None]) if options.boxes else {}
    if all(item.error for item in items):
        for item in items:
            print_error(item.error)
        return Exit.FAILED
    results.make_folder()
    many = work.many or len(items) > _LINES
    # Of a folder, one core reads meanwhile: more threads than cores are left would wait for each other.
    threads = options.threads or (default_threads(spare=1) if many else None)
    with Reconstructor(options.engine, face_model=options.face_model, threads=threads) as reconstruct:
        batch = options.batch or (FOLDER_BATCH if many else 1)
        run = Run(
            reconstruct=reconstruct,
            results=results,
            batch=batch,
            boxes=boxes,
            savers=savers,
            parts=parts,
            again=options.again,
            video={**video, "picture": not options.no_video},
            progress=_show_progress if sys.stderr.isatty() else None,
        )
        outcomes = process(run, items)
        return _tell_sum(outcomes, len(items), work) if many else _tell_each(outcomes, options.out, savers)


def _show_camera(options: argparse.Namespace, video: dict[str, Any]) -> int:
    from runtime.live import show_camera

    source = int(options.camera) if options.camera.isdecimal() else Path(options.camera)
    with Reconstructor(options.engine, face_model=options.face_model, threads=options.threads) as reconstruct:
        for saved in show_camera(reconstruct, source, out=options.out or Path(), **video):
            print(f"wrote {saved}")
    return Exit.DONE


def _show_progress(item: Item, done: int, total: int | None) -> None:
    """A line that grows, with the time that is left."""
    if done == 1 or _progress.get("item") is not item:
        _progress.update(item=item, started=time.perf_counter(), first=done)
    rate = (done - _progress["first"]) / max(time.perf_counter() - _progress["started"], 1e-6)
    left = f", {max(total - done, 0) / rate:.0f} s left" if total and rate > 0 else ""
    bar = f"[{('#' * (_BAR * min(done, total) // total)).ljust(_BAR, '.')}] " if total else ""
    end = "\n" if done == total else ""
    print(
        f"\r{bar}{item.path.name}: {done}/{total or '?'} frames, {rate:.0f} frames/s{left}   ", end=end, file=sys.stderr
    )


_progress: dict[str, Any] = {}


def _tell_each(outcomes: Iterable[Outcome], out: Path, savers: Sequence[str]) -> int:
    """One line for each item as it is done."""
    total = skipped = 0
    for outcome in outcomes:
        total += 1
        for note in outcome.notes:
            print(f"warning: {outcome.photo}: {note}", file=sys.stderr)
        if outcome.error is None:
            print(_describe(outcome, out, savers))
        else:
            print_error(outcome.error)
            skipped += 1
    if skipped and total > 1:
        print(f"{skipped} of {total} skipped")
    return exit_status(skipped=skipped, total=total)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _describe(outcome: Outcome, out: Path, savers: Sequence[str]) -> str:
    faces, stem = outcome.faces, out / outcome.stem
    if outcome.finished:
        return f"{outcome.photo}: finished before ({stem}.*); --again does it again"
    if outcome.summary is not None:
        return f"{outcome.photo}: {outcome.summary}; wrote {stem}.*"
    endings = [SAVERS[name].endings for name in savers if faces or "*" not in SAVERS[name].endings]
    wrote = f"wrote {stem}{', '.join(endings)}" if endings else "wrote nothing"
    if not faces:
        return f"{outcome.photo}: no face found; {wrote} (give boxes with --boxes to skip detection)"
    angles = "; ".join(f"yaw {f.pose.yaw:+.0f}° pitch {f.pose.pitch:+.0f}° roll {f.pose.roll:+.0f}°" for f in faces)
    return f"{outcome.photo}: {counted(len(faces), 'face')} ({angles}); {wrote}"


def _tell_sum(outcomes: Iterable[Outcome], total: int, work: Work) -> int:
    """A line that grows, on a terminal; then the sum, and what was skipped and why."""
    started = time.perf_counter()
    faces, empty, finished = 0, 0, 0
    skipped: list[str] = []
    notes: list[str] = []
    videos: list[str] = []
    for done, outcome in enumerate(outcomes, start=1):
        faces += len(outcome.faces)
        finished += outcome.finished
        empty += outcome.error is None and not outcome.finished and outcome.summary is None and not outcome.faces
        notes += [f"{outcome.photo}: {note}" for note in outcome.notes]
        if outcome.error is not None:
            skipped.append(outcome.error)
        elif outcome.summary is not None:
            videos.append(f"{outcome.photo}: {outcome.summary}")
        if sys.stderr.isatty():
            rate = faces / (time.perf_counter() - started)
            bar = ("#" * (_BAR * done // total)).ljust(_BAR, ".")
            print(f"\r[{bar}] {done}/{total} files, {faces} faces, {rate:.1f} faces/s", end="", file=sys.stderr)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    seconds = time.perf_counter() - started
    print(
        f"{counted(faces, 'face')} in {counted(total, 'file')}, {faces / seconds:.1f} faces/s over {seconds:.1f} s; "
        f"{f'{finished} finished before, ' if finished else ''}{_left_alone(work.left_alone)}"
        f"{empty} without a face, {len(skipped)} skipped"
    )
    for video in videos:
        print(video)
    for note in notes:
        print(f"warning: {note}", file=sys.stderr)
    for error in skipped:
        print_error(f"skipped {error}")
    return exit_status(skipped=len(skipped), total=total)


def _left_alone(kinds: Counter[str]) -> str:
    if not kinds:
        return ""
    listed = ", ".join(f"{count} {suffix}" for suffix, count in kinds.most_common(5))
    return f"{counted(kinds.total(), 'other file')} left alone ({listed}), "


def _read_boxes(path: Path, items: Sequence[Item]) -> dict[Path, Any]:
    """Boxes by photo, from a JSON list (for a single photo) or an object that maps file names to lists."""
    try:
        values = json.loads(path.read_bytes(), object_pairs_hook=_without_doubles)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: expected a JSON file of boxes, found none; check the path") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise FileFormatError(f"{path}: expected boxes in JSON, got {error}") from None
    except InvalidInputError as error:
        raise FileFormatError(f"{path}: {error}") from None
    if isinstance(values, list):
        if len(items) != 1:
            raise InvalidInputError(
                f"{path}: a list of boxes is for one photo, got {len(items)} photos; "
                'use {"file name": [[x, y, w, h], …]}'
            )
        _expect_photograph(items[0], path)
        return {items[0].path: values}
    if not isinstance(values, dict) or not all(isinstance(v, list) for v in values.values()):
        raise FileFormatError(f'{path}: expected [[x, y, w, h], …] or {{"file name": [[x, y, w, h], …]}}')
    found = check_names(values, items, source=path)
    boxes: dict[Path, Any] = {}
    for name, item in found.items():
        if item.path in boxes:
            raise InvalidInputError(f"{path}: expected each photograph once, got {item.path} again as '{name}'")
        _expect_photograph(item, path)
        boxes[item.path] = values[name]
    return boxes


def _expect_photograph(item: Item, boxes: Path) -> None:
    if item.is_video:
        raise InvalidInputError(
            f"{boxes}: expected boxes of photographs, got some of a video, {item.path}, which is tracked"
        )


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise InvalidInputError(f"expected each name once, got '{twice}' again; put all its boxes into one list")
    return values


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m runtime", description=__doc__)
    add = parser.add_argument
    kinds = "; ".join(f"{name} ({saver.about})" for name, saver in SAVERS.items())
    add("inputs", nargs="*", type=Path, metavar="PHOTO", help="images, videos, folders of them, patterns; mixed")
    add("--out", type=Path, metavar="DIR", help="folder for the results")
    add("--engine", type=Path, metavar="PATH", help=".onnx or .engine file (default: the bundled network)")
    add("--face-model", type=Path, metavar="FILE", help="face model (default: the bundled one)")
    add("--boxes", type=Path, metavar="FILE.json", help=_BOXES)
    add("--save", default=",".join(DEFAULT_SAVERS), metavar="KINDS", help=f"what to write: {kinds}")
    add("--draw", default=",".join(DEFAULT_PARTS), metavar="PARTS", help=f"of the picture: some of {','.join(DRAWERS)}")
    add("--again", action="store_true", help="do photographs again that are finished")
    add("--overwrite", action="store_true", help="replace files in --out that this program did not write, too")
    add("--batch", type=int, metavar="N", help=f"faces in one call (default: 1, of many photos {FOLDER_BATCH})")
    add(
        "--camera", metavar="N|FILE", help="show a camera's faces, or a file's as a camera's: q ends, s saves a picture"
    )
    add("--no-video", action="store_true", help="of videos: no NAME.mp4, only NAME.jsonl and NAME.csv")
    add("--sequence", action="store_true", help="a folder is one video: its numbered images, in their order")
    add("--rate", type=float, metavar="FPS", help="of sequences: images per second (default: 30)")
    add("--smoothing", default="responsive", metavar="HOW", help="of videos: still, responsive (default) or off")
    add("--max-faces", type=int, default=4, metavar="N", help="of videos: faces that are followed (default: 4)")
    add("--threads", type=int, metavar="N", help="threads of ONNX Runtime")
    return parser


if __name__ == "__main__":
    sys.exit(main())
