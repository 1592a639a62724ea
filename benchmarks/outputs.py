"""What results cost, and how right they are: one row for each thing that people take away.

    python -m benchmarks.outputs --json outputs.json
    git worktree add out/old COMMIT && python -m benchmarks.outputs --old out/old
    python -m benchmarks.outputs --rounds 0 --faces 0 --assets DIR [--seed 21]        metric pose alone

Everything is made here: a folder of photographs with several faces each (from the sample photograph), rendered heads
with exact visibility, and heads seen in perspective with exact poses. Times are medians of rounds that take turns, in
one process, so that a busy machine slows all rows alike; compare ratios.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import device, versions
from benchmarks.output import add_outputs, publish, table
from runtime import Face, Reconstructor, Roi, compiled, read_image
from runtime.batches import FOLDER_BATCH, Run, process
from runtime.camera import Camera
from runtime.command import Exit, command
from runtime.engines.onnx import default_threads
from runtime.errors import InvalidInputError
from runtime.gltf import to_glb
from runtime.items import Item, with_stems
from runtime.maps import depth_map, normal_map
from runtime.pose import decompose, rotation_to_euler
from runtime.rasterizer import surface_depth
from runtime.results import Results
from training.evaluation.metrics import geodesic

_ROOT = Path(__file__).resolve().parents[1]
_SAMPLE = _ROOT / "examples" / "astronaut.jpg"
_RATE = re.compile(r"([\d.]+) faces/s over")  # in what the command says of a folder
_FACES_EACH = 104 / 30  # faces a photograph of the folder, on average
_STEEP, _FRONTAL = 60.0, 30.0  # degrees of yaw
_OFF_CENTER = (15.0, 28.0)  # degrees from the camera's axis
_SIZE = 192  # pixels of a render
_TRUTH = 0.5  # mm: a point of a render is hidden where its head lies farther before it


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.outputs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="of each timing; 0: none (default: 5)")
    parser.add_argument("--photos", type=int, default=30, help="in the folder (default: 30)")
    parser.add_argument("--faces", type=int, default=1000, help="rendered for visibility (default: 1000)")
    parser.add_argument("--poses", type=int, default=500, help="rendered for metric pose (default: 500)")
    parser.add_argument("--seed", type=int, default=7, help="of the heads for metric pose (default: 7)")
    parser.add_argument("--assets", type=Path, metavar="DIR", help="CC0 assets to render those with (see docs/data.md)")
    parser.add_argument("--old", type=Path, metavar="DIR", help="another checkout, whose command takes turns with ours")
    add_outputs(parser)
    options = parser.parse_args(arguments)
    if options.poses == 1 or min(options.poses, options.rounds, options.faces) < 0:
        raise InvalidInputError(
            "expected --rounds and --faces of at least 0, and --poses of 0 or at least 2, got others"
        )
    with Reconstructor(threads=default_threads(spare=1)) as reconstruct:  # as the command has it for folders
        figures: dict[str, Any] = {"device": device(), "versions": versions(), "compiled": compiled.cln_cpp is not None}
        if options.rounds:
            figures |= _folder(reconstruct, options.rounds, options.photos)
            figures |= _one_face(reconstruct, max(options.rounds, 20))
        if options.old:
            figures |= _against(options.old, options.rounds, options.photos)
        if options.faces:
            figures |= _visibility(reconstruct, options.faces)
        if options.poses:
            figures |= _poses(reconstruct, options.poses, options.seed, options.assets)
    rows = [[name, f"{value:.3g}"] for name, value in figures.items() if isinstance(value, float)]
    publish(figures, table(["what", "figure"], rows), options)
    return Exit.DONE


def _folder(reconstruct: Reconstructor, rounds: int, photos: int) -> dict[str, float]:
    """Seconds for a folder: reading and detection alone, and with results."""
    with tempfile.TemporaryDirectory() as temporary:
        paths = _photographs(Path(temporary) / "photos", photos)

        def read() -> None:
            for path in paths:
                reconstruct.prepare(read_image(path))

        def written(savers: Sequence[str]) -> Callable[[], None]:
            def work() -> None:
                with tempfile.TemporaryDirectory(dir=temporary) as out:
                    results = Results(out)
                    results.make_folder()
                    items = with_stems([Item(path=path) for path in paths], lambda *_: True)
                    run = Run(reconstruct=reconstruct, results=results, batch=FOLDER_BATCH, savers=savers)
                    done = list(process(run, items))
                    assert not any(outcome.error for outcome in done)

            return work

        kinds = {"json": ("json",), "default": ("json", "picture"), "glb": ("glb",)}
        seconds = _in_turns({"reading": read} | {name: written(savers) for name, savers in kinds.items()}, rounds)
    faces = sum(len(reconstruct(image)) for image in _sheets(photos))
    return {
        "folder: faces": float(faces),
        "folder: --save json over reading and detection": seconds["json"] / seconds["reading"],
        "folder: default results, faces a second": faces / seconds["default"],
        "folder: default results over reading and detection": seconds["default"] / seconds["reading"],
        "folder: --save glb, faces a second": faces / seconds["glb"],
    }


def _against(old: Path, rounds: int, photos: int) -> dict[str, float]:
    """The default results of a folder by this checkout's command and by another's, in turns, as whole processes."""
    rates: dict[str, list[float]] = {"old": [], "this": []}
    work: dict[str, list[float]] = {"old": [], "this": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "photos"
        _photographs(folder, photos)
        for turn in range(rounds):
            for name, checkout in (("old", old), ("this", _ROOT)):
                before = _children()
                rates[name].append(_rate(checkout, folder, Path(temporary) / f"{name}_{turn}"))
                work[name].append(_children() - before)
    return {
        "folder: default results, old command, faces a second": float(np.median(rates["old"])),
        "folder: default results, this command, faces a second": float(np.median(rates["this"])),
        "folder: default results, this over old": float(np.median(np.divide(rates["this"], rates["old"]))),
        "folder: default results, processor time of old over this": float(
            np.median(np.divide(work["old"], work["this"]))
        ),
    }


def _rate(checkout: Path, photos: Path, out: Path) -> float:
    """Faces a second, as the command of a checkout says itself: without the time that it takes to start."""
    more = [os.environ["PYTHONPATH"]] if checkout == _ROOT and "PYTHONPATH" in os.environ else []  # a compiled core
    paths = {"PYTHONPATH": os.pathsep.join([str(checkout.resolve()), *more])}
    ran = subprocess.run(
        [sys.executable, "-m", "runtime", str(photos), "--out", str(out)],
        cwd=checkout, env=os.environ | paths, capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = _RATE.search(ran.stdout)
    if ran.returncode or said is None:
        raise RuntimeError(f"{checkout}: expected its command to work on a folder, got {ran.returncode}: {ran.stderr}")
    return float(said[1])


def _children() -> float:
    """Processor seconds of all processes that this one has started and waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _photographs(folder: Path, count: int) -> list[Path]:
    folder.mkdir()
    paths = []
    for i, sheet in enumerate(_sheets(count)):
        paths.append(folder / f"{i:02d}.jpg")
        cv2.imwrite(str(paths[-1]), sheet)
    return paths


def _sheets(photos: int) -> list[NDArray[np.uint8]]:
    """Photographs of three or four people each: the sample's, mirrored and not, at several sizes."""
    sample = read_image(_SAMPLE)[:340, 60:400]
    sheets = []
    for i in range(photos):
        count = round((i + 1) * _FACES_EACH) - round(i * _FACES_EACH)
        parts = []
        for k in range(count):
            part = cv2.flip(sample, 1) if (i + k) % 2 else sample
            side = 300 + 20 * ((i + 3 * k) % 6)
            small = cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA)
            parts.append(cv2.copyMakeBorder(small, 0, 400 - side, 0, 400 - side, cv2.BORDER_REPLICATE))
        sheets.append(np.hstack(parts))
    return sheets


def _one_face(reconstruct: Reconstructor, rounds: int) -> dict[str, float]:
    """Milliseconds of one face's results, its mesh decoded each time."""
    image = read_image(_SAMPLE)
    (face, *_) = reconstruct(image)
    camera = Camera.from_fov(50, (image.shape[1], image.shape[0]))

    def again() -> Face:
        return Face.from_dict(values, face.model)

    values = face.to_dict()
    fresh = again()
    work: dict[str, Callable[[], Any]] = {
        "depth of one face at 256 px, ms": lambda: depth_map(fresh, 256),
        "normals of one face at 256 px, ms": lambda: normal_map(fresh, 256),
        "glb with texture, one face, ms": lambda: to_glb(fresh, image),
        "visible landmarks, ms": lambda: again().visible,
        "visible vertices, ms": lambda: again().vertex_visibility,
        "metric pose, ms": lambda: fresh.metric_pose(camera),
        "metric pose, seen again, ms": lambda: reconstruct.metric_poses(image, [fresh], camera),
    }
    seconds = _in_turns(work, rounds)
    return {name: 1000 * value for name, value in seconds.items()} | {"glb, kB": len(to_glb(face, image)) / 1000}


def _in_turns(work: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each, one round of all after another."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for do in work.values():  # what is made once is made before
        do()
    for _ in range(rounds):
        for name, do in work.items():
            started = time.perf_counter()
            do()
            times[name].append(time.perf_counter() - started)
    return {name: float(np.median(values)) for name, values in times.items()}


def _visibility(reconstruct: Reconstructor, count: int) -> dict[str, float]:
    """Agreement (%) of `face.visible` with the rendered head: with the true parameters, and with the network's."""
    from training.synthetic.factory import FaceFactory
    from training.synthetic.noise import stream

    factory = FaceFactory(size=_SIZE, margin=1.35, seed=11)
    model = reconstruct.face_model
    agreement: dict[str, list[NDArray[np.bool_]]] = {"true parameters": [], "network": []}
    yaws = []
    for index in range(count):
        subject = factory._subject(stream(factory.seed, 0, index), None, None, None)
        camera = subject.camera
        screen = camera.project(subject.vertices)
        points = camera.project(factory.landmarks(subject.vertices))
        hidden = surface_depth(points, screen, factory._head.model_triangles) > points[:, 2] + _TRUTH
        params = np.concatenate([camera.pose.ravel(), subject.coefficients]).astype(np.float32)
        whole = Roi(center_x=(_SIZE - 1) / 2, center_y=(_SIZE - 1) / 2, side=_SIZE)
        true = Face(
            box=(0, 0, _SIZE, _SIZE), score=1, roi=whole, crop_size=_SIZE, params=params,
            landmarks=model.landmarks(params), model=model,
        )  # fmt: skip
        (found,) = reconstruct(factory.sample(index).image, [_box(points)])
        agreement["true parameters"].append(true.visible == ~hidden)
        agreement["network"].append(found.visible == ~hidden)
        yaws.append(true.pose.yaw)
    steep = np.abs(yaws) > _STEEP
    figures = {}
    for name, values in agreement.items():
        same = 100 * np.array(values)
        figures[f"visibility, {name}, agreement, %"] = float(same.mean())
        if steep.any():
            figures[f"visibility, {name}, |yaw| > 60°, %"] = float(same[steep].mean())
    return figures


def _poses(reconstruct: Reconstructor, count: int, seed: int, assets: Path | None) -> dict[str, float]:
    """Errors of metric pose: each head rendered on the camera's axis, and seen off it by turning the camera."""
    from training.synthetic import factory as module

    factory = module.FaceFactory(size=_SIZE, margin=1.35, seed=seed, assets=assets)
    rng = np.random.default_rng(0)
    drawn = module.random_distance, module.random_turn
    module.random_turn = lambda own: np.eye(3, dtype=np.float32)  # the turned camera is made here, from the picture
    module.random_distance = lambda own: float(320 * (2000 / 320) ** own.random())  # never orthographic
    kinds = ("centred", "off-centre", "centred, seen again", "off-centre, seen again")
    errors: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    turns: list[NDArray[np.float64]] = []  # how far they are off, about the head's own axes
    own: list[float] = []  # of the network's matrix, before there is a camera
    yaws: list[float] = []
    try:
        for index in range(count // 2):
            subject = factory._subject(module.stream(factory.seed, 0, index), None, None, None)
            sample, seen = factory.sample(index), subject.camera
            image = sample.image
            yaws.append(rotation_to_euler(seen.rotation)[0])
            landmarks = factory.landmarks(subject.vertices).astype(np.float64)
            for where, degrees in (("centred", 0.0), ("off-centre", rng.uniform(*_OFF_CENTER))):
                turned, camera, picture = _turned(image, seen, degrees, rng.uniform(0, 2 * np.pi))
                rotation = turned @ np.diag([1.0, -1.0, -1.0]) @ seen.rotation
                translation = turned @ [0, 0, seen.distance]
                points = camera.project(landmarks @ rotation.T + translation)
                (face,) = reconstruct(picture, [_box(points)])
                pupils = float(np.linalg.norm(landmarks[36:42].mean(axis=0) - landmarks[42:48].mean(axis=0)))
                pose, distance = face.metric_pose(camera, scale_mm=pupils), float(np.linalg.norm(translation))
                (again,) = reconstruct.metric_poses(picture, [face], camera, scale_mm=pupils)
                for name, found in ((where, pose), (f"{where}, seen again", again)):
                    off = float(geodesic(found.rotation, rotation))
                    errors[name].append((off, 100 * abs(found.distance / distance - 1)))
                turns.append(np.degrees(cv2.Rodrigues(rotation.T @ again.rotation)[0].ravel()))
                if not degrees:
                    own.append(float(geodesic(face.pose.rotation, decompose(sample.params[:12])[1])))
    finally:
        module.random_distance, module.random_turn = drawn
    figures = {"metric pose: the network's own, centred, against its exact label, °": float(np.median(own))}
    for how, again in (("of the face alone", ""), ("seen again", ", seen again")):
        centred, aside = (np.array(errors[where + again]) for where in ("centred", "off-centre"))
        both, ratio = np.median([*centred, *aside], axis=0), np.median(aside, axis=0) / np.median(centred, axis=0)
        figures |= {
            f"metric pose {how}: median rotation error, °": float(both[0]),
            f"metric pose {how}: median distance error, %": float(both[1]),
            f"metric pose {how}: rotation, off-centre over centred": float(ratio[0]),
            f"metric pose {how}: distance, off-centre over centred": float(ratio[1]),
        }
    side = np.where(np.repeat(yaws, 2) < 0, -1.0, 1.0)[:, None]
    signed = -np.array(turns) * np.hstack([np.ones_like(side), side, side])  # heads that look to the right mirrored
    size, steep = np.linalg.norm(turns, axis=1), np.abs(np.repeat(yaws, 2))
    for low, high in ((0.0, _FRONTAL), (_FRONTAL, _STEEP), (_STEEP, 180.0)):
        within = (steep >= low) & (steep < high)
        name = f"|yaw| >= {low:g}°" if high > _STEEP else f"|yaw| {low:g}..{high:g}°"
        if within.any():
            figures[f"metric pose seen again: median rotation error, {name}"] = float(np.median(size[within]))
            for axis, values in zip(("nod up", "turn aside", "lean back"), signed[within].T, strict=True):
                figures[f"metric pose seen again: median of too much {axis}, {name}"] = float(np.median(values))
    return figures


def _turned(
    image: NDArray[np.uint8], seen: Any, degrees: float, around: float
) -> tuple[NDArray[np.float64], Camera, NDArray[np.uint8]]:
    """The camera turned about its own centre: by what, its intrinsics, and its picture (a homography: exact)."""
    focal = seen.scale * seen.distance
    axis = np.radians(degrees) * np.array([-np.sin(around), np.cos(around), 0])
    turn = np.asarray(cv2.Rodrigues(axis)[0], dtype=np.float64)
    half = int(focal * np.tan(np.radians(30)) + 0.7 * _SIZE)
    camera = Camera(focal, focal, half - 0.5, half - 0.5)
    before = Camera(focal, focal, float(seen.offset[0]), float(seen.offset[1]))
    matrix = camera.matrix @ turn @ np.linalg.inv(before.matrix)
    picture = cv2.warpPerspective(image, matrix, (2 * half, 2 * half), borderMode=cv2.BORDER_REPLICATE)
    return turn, camera, np.asarray(picture, dtype=np.uint8)


def _box(points: NDArray[np.floating]) -> list[float]:
    low, high = points[:, :2].min(axis=0), points[:, :2].max(axis=0)
    return [*low.tolist(), *(high - low).tolist()]


if __name__ == "__main__":
    sys.exit(main())
