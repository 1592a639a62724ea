"""Data sets by name: `KIND:DIR` of a command line becomes samples, or a check of what is there.

    300w-lp, aflw2000, 3ddfa, 3ddfa-val        params of a converted Basel model
    300w-lp-landmarks, helen, lfpw, points     68 points, for any face model
    aflw, aflw-3ddfa                           21 points, for any face model

`synthetic:N[:DIR]` is read by `training.data.samples`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.errors import ClnError, InvalidInputError
from runtime.face_model import FaceModel
from runtime.image import read_image
from runtime.roi import Roi
from training.data.aflw import load_aflw, load_aflw_crops
from training.data.basel_samples import BaselSamples
from training.data.files import Skipped
from training.data.landmarks import AFLW_21, IBUG_68, LandmarkSamples, PointFace, Scheme
from training.data.mat_faces import FOLDERS_300W_LP, MatFaces, load_300w_lp, load_aflw2000_faces
from training.data.packed import load_packed
from training.data.points import PointFaces, load_own, load_pts
from training.data.samples import MARGIN, SyntheticSamples, image_size, parse_synthetic

KINDS_WITH_PARAMS = ("300w-lp", "aflw2000", "3ddfa", "3ddfa-val")
KINDS_WITH_POINTS = ("300w-lp-landmarks", "helen", "lfpw", "points", "aflw", "aflw-3ddfa")
_NAMED = 20


def parse_kind(text: str) -> tuple[str, str]:
    """`KIND:DIR` -> both.

    Raises:
        InvalidInputError: There is no such kind, or no folder.
    """
    kind, _, folder = text.partition(":")
    known = (*KINDS_WITH_PARAMS, *KINDS_WITH_POINTS, "synthetic")
    if kind not in known or not folder:
        raise InvalidInputError(f"Expected KIND:DIR with one of the kinds {', '.join(known)}, got '{text}'.")
    return kind, folder


def open_samples(
    text: str, face_model: FaceModel, *, size: int, flips: bool | None = None, threads: int | None = None
) -> BaselSamples | LandmarkSamples:
    """Samples with params (`BaselSamples`) or with points (`LandmarkSamples`) of a `KIND:DIR`.

    Args:
        text: The kind and the folder; not synthetic.
        face_model: What params are for; a converted Basel model for the kinds that have them.
        size: Side of the images, `training.data.samples.image_size` of the crop's.
        flips: Whether to take 300W-LP's mirrored images; by default only where the face model can't mirror.
        threads: Decoding threads.

    Raises:
        InvalidInputError: There is no such kind.
        MismatchError: The kind needs a Basel model.
        FileNotFoundError: A folder or file is missing.
        FileFormatError: A file has another layout, or more than 1 % of the labels are bad.
    """
    kind, folder = parse_kind(text)
    with_flips = not face_model.can_mirror if flips is None else flips
    if kind == "synthetic":
        raise InvalidInputError("Synthetic samples are rendered: use training.data.samples.")
    if kind in KINDS_WITH_PARAMS:
        if kind == "300w-lp":
            return BaselSamples(load_300w_lp(folder, flips=with_flips), face_model, size=size, threads=threads)
        if kind == "aflw2000":
            return BaselSamples(load_aflw2000_faces(folder), face_model, size=size, threads=threads)
        packed = load_packed(folder, "val" if kind == "3ddfa-val" else "train")
        return BaselSamples(packed, face_model, size=size, threads=threads)
    if kind == "300w-lp-landmarks":
        faces: Sequence[PointFace] = landmark_faces(load_300w_lp(folder, flips=with_flips))
    else:
        faces = _POINT_READERS[kind](folder).faces
    return LandmarkSamples(faces, scheme_of(kind), size=size, margin=MARGIN, threads=threads)


def scheme_of(kind: str) -> Scheme:
    """The points that a kind's faces are labelled with."""
    return AFLW_21 if kind.startswith("aflw") else IBUG_68


_POINT_READERS: dict[str, Callable[[str], PointFaces]] = {
    "helen": load_pts,
    "lfpw": load_pts,
    "points": load_own,
    "aflw": load_aflw,
    "aflw-3ddfa": load_aflw_crops,
}


def landmark_faces(faces: MatFaces) -> list[PointFace]:
    """A .mat set's landmarks as points alone, of the faces that have them."""
    everything = np.ones(faces.landmarks.shape[1], bool)
    return [
        PointFace(
            image_path=image, points=points.astype(np.float64), visible=everything, roi=Roi.from_landmarks(points)
        )
        for image, points in zip(faces.images, faces.landmarks, strict=True)
        if np.isfinite(points).all()
    ]


def hold_out(kind: str, images: Sequence[Path], count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of faces to train on and of `count` held-out ones, chosen at random: no photograph is on both sides.

    What else is of a held-out face's photograph (300W-LP turns each to many sides) is in neither part.

    Raises:
        InvalidInputError: One side would be empty.
    """
    numbers: dict[str, int] = {}
    groups = np.array([numbers.setdefault(photograph(kind, image), len(numbers)) for image in images])
    rank = np.argsort(np.random.default_rng(seed).permutation(len(numbers)))
    order = np.argsort(rank[groups], kind="stable")
    held_out = order[:count]
    kept = np.setdiff1d(order[count:], np.flatnonzero(np.isin(groups, groups[held_out])))
    if not 0 < count == len(held_out) or not len(kept):
        raise InvalidInputError(
            f"expected --held-out to leave faces on both sides, got {count} of {len(images)} faces in {len(numbers)} "
            "photographs; give another number, or more data."
        )
    return kept, np.sort(held_out)


def photograph(kind: str, image: Path) -> str:
    """Names the photograph that a sample was made of: the same for all turned, mirrored and augmented images of it.

    300W-LP's `AFW_Flip/AFW_134212_1_0.jpg` is a render, number 0, of `AFW_134212_1`; 3DDFA's crop of it, number 1, is
    called `AFWFlip_AFW_134212_1_0_1.jpg`. In other sets an image is a photograph, perhaps with several faces.
    """
    if kind.startswith("300w-lp"):
        return re.sub(r"_\d+$", "", image.stem)
    if kind.startswith("3ddfa"):
        return re.sub(r"^[A-Z]+(Flip)?_|_\d+_\d+$", "", image.stem)
    return str(image)


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What a check found: lines that say what is there, and lines that say what is wrong."""

    found: list[str]
    problems: list[str]


def check(text: str, *, images: bool = False, crop_size: int = 128, assets: Path | None = None) -> CheckReport:
    """Whether a set is complete.

    Args:
        text: KIND:DIR.
        images: Decode every image too, which takes a millisecond or more each.
        crop_size: Of synthetic samples.
        assets: The folder that synthetic samples are rendered with.

    Raises:
        InvalidInputError: There is no such kind.
    """
    kind, folder = parse_kind(text)
    if kind == "synthetic":
        return _check_synthetic(text, crop_size, assets)
    try:
        paths, found, problems = _contents(kind, folder)
    except (ClnError, OSError) as error:
        return CheckReport(found=[], problems=[str(error)])
    unreadable = _unreadable(paths, decode=images)
    total = len(paths) + len(problems)
    found = [*found, f"{len(paths)} faces" + ("" if images else "; images were not decoded, add --images for that")]
    problems = problems + unreadable
    if len(problems) > _NAMED:
        problems = [*problems[:_NAMED], f"and {len(problems) - _NAMED} more, of {total}"]
    return CheckReport(found=found, problems=problems)


def _contents(kind: str, folder: str) -> tuple[list[Path], list[str], list[str]]:
    """Images, what is there, and what is wrong."""
    if kind in ("300w-lp", "300w-lp-landmarks"):
        faces = load_300w_lp(folder, max_bad=1.0)
        have = {part: 0 for part in FOLDERS_300W_LP}
        for path in faces.images:
            have[path.parent.name] += 1
        lines = [f"{part}: {have[part]} of {count} faces" for part, count in FOLDERS_300W_LP.items()]
        missing = [line for line, part in zip(lines, have, strict=True) if have[part] < FOLDERS_300W_LP[part]]
        return faces.images, [line for line in lines if line not in missing], missing + list(faces.bad.values())
    if kind == "aflw2000":
        faces = load_aflw2000_faces(folder, max_bad=1.0)
        short = [f"{len(faces.images)} of 2000 faces"] if len(faces.images) < 2000 else []
        return faces.images, [], short + list(faces.bad.values())
    if kind in KINDS_WITH_PARAMS:
        return load_packed(folder, "val" if kind == "3ddfa-val" else "train").images, [], []
    if kind.startswith("aflw"):
        points = _POINT_READERS[kind](folder)
    else:
        points = load_own(folder, max_bad=1.0) if kind == "points" else load_pts(folder, max_bad=1.0)
    notes = [*points.notes[:_NAMED], *([f"and {rest} more"] if (rest := len(points.notes) - _NAMED) > 0 else [])]
    return [face.image_path for face in points.faces], notes, list(points.bad.values())


def _unreadable(paths: Sequence[Path], *, decode: bool) -> list[str]:
    """Why images can't be used, one line each."""
    from tqdm import tqdm

    lines = []
    for path in tqdm(paths, unit="image", desc="checking images", disable=None):
        if not path.is_file():
            lines.append(f"{path}: is missing")
        elif decode:
            try:
                read_image(path)
            except (ClnError, OSError) as error:
                lines.append(str(error))
    return lines


def _check_synthetic(text: str, crop_size: int, assets: Path | None) -> CheckReport:
    try:
        count, directory = parse_synthetic(text)
        if not directory.is_dir():
            return CheckReport(found=[], problems=[f"{directory}: nothing is rendered there yet"])
        samples = SyntheticSamples(count, directory, size=image_size(crop_size), assets=assets)
        missing = len(samples.missing())
    except (ClnError, OSError) as error:
        return CheckReport(found=[], problems=[str(error)])
    found = [f"{count - missing} of {count} faces rendered in {samples.folder}"]
    hint = f"{missing} faces are not rendered yet; run: python -m training.data.samples {text} --crop-size {crop_size}"
    return CheckReport(found=found, problems=[hint] if missing else [])


def report_skipped(samples: object) -> list[str]:
    """What a source skipped so far, as lines for a run's end; empty for one that skips nothing."""
    skipped = getattr(samples, "skipped", None)
    return skipped.report() if isinstance(skipped, Skipped) else []
