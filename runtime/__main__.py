"""`python -m runtime PHOTO… --out DIR`: reconstructs the faces of photographs into JSON, a picture and meshes."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2

from runtime import ClnError, FileFormatError, InvalidInputError, Reconstructor, read_image
from runtime.drawing import draw_landmarks, draw_mesh
from runtime.face import Face
from runtime.files import write_atomically


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, or 2 with one line of error for each thing that went wrong."""
    options = _parser().parse_args(arguments)
    failed = False
    try:
        _check_stems(options.photos)
        boxes = _read_boxes(options.boxes, options.photos) if options.boxes else {}
        with Reconstructor(options.engine, face_model=options.face_model, threads=options.threads) as reconstruct:
            for photo in options.photos:
                try:
                    print(_process(reconstruct, photo, boxes.get(photo), options.out))
                except (FileNotFoundError, FileFormatError, InvalidInputError) as error:
                    print(f"error: {error}", file=sys.stderr)
                    failed = True
    except (ClnError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 2 if failed else 0


def _process(reconstruct: Reconstructor, photo: Path, boxes: Any, out: Path) -> str:
    image = read_image(photo)
    faces = reconstruct(image, boxes)
    stem = out / photo.stem
    record = {"image": photo.name, "faces": [face.to_dict() for face in faces]}
    write_atomically(stem.with_name(f"{photo.stem}.json"), json.dumps(record) + "\n")
    picture = cv2.imencode(".png", draw_landmarks(draw_mesh(image, faces), faces))[1]
    write_atomically(stem.with_name(f"{photo.stem}.png"), picture.tobytes())
    _write_meshes(faces, stem)
    if not faces:
        return f"{photo}: no face found; wrote {stem}.json and .png (give boxes with --boxes to skip detection)"
    angles = "; ".join(f"yaw {f.pose.yaw:+.0f}° pitch {f.pose.pitch:+.0f}° roll {f.pose.roll:+.0f}°" for f in faces)
    return f"{photo}: {len(faces)} face{'s' * (len(faces) > 1)} ({angles}); wrote {stem}.json, .png, _*.obj, _*.ply"


def _write_meshes(faces: Sequence[Face], stem: Path) -> None:
    for i, face in enumerate(faces):
        face.save_obj(stem.with_name(f"{stem.name}_{i}.obj"))
        face.save_ply(stem.with_name(f"{stem.name}_{i}.ply"))


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
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTO", help="image files")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--engine", type=Path, metavar="PATH", help=".onnx or .engine file (default: the bundled network)"
    )
    parser.add_argument("--face-model", type=Path, metavar="FILE", help="face model (default: the bundled one)")
    parser.add_argument("--boxes", type=Path, metavar="FILE.json", help="face boxes instead of detection")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of ONNX Runtime")
    return parser


if __name__ == "__main__":
    sys.exit(main())
