"""`Reconstructor`: from an image to faces — detection, crop, network, decoding."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runtime.engines import Engine, load_engine
from runtime.engines.base import Closing
from runtime.engines.gpu_crop import is_on_gpu
from runtime.errors import FileFormatError, InvalidInputError, MismatchError
from runtime.face import Face
from runtime.face_model import FaceModel, load_face_model
from runtime.image import as_bgr
from runtime.regions import LOOKS, Looks, asked_rois
from runtime.roi import Roi, check_overlap, crop, crop_through, maps, split_box, to_image

if TYPE_CHECKING:
    from runtime.camera import Camera, MetricPose
    from runtime.detection import FaceDetector


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """An image's faces on their way to the network."""

    crops: NDArray[np.uint8]  # (F, S, S, 3)
    rois: tuple[Roi, ...]
    boxes: tuple[tuple[float, float, float, float], ...]
    scores: tuple[float, ...]
    frame: NDArray[np.uint8] | None = None
    """The image, to cut faces again whose detected region was off; None where the regions were given."""


class Reconstructor(Closing):
    """Reconstructs all faces of an image; several faces go through the network as one batch.

    Example:
        with Reconstructor() as reconstruct:
            for face in reconstruct(read_image("photo.jpg")):
                print(face.pose.yaw, face.landmarks.shape)
    """

    def __init__(
        self,
        engine: str | os.PathLike[str] | Engine | None = None,
        *,
        face_model: str | os.PathLike[str] | FaceModel | None = None,
        detector: FaceDetector | None = None,
        threads: int | None = None,
        stream: Any = None,
    ) -> None:
        """Loads the engine and the face model.

        Args:
            engine: a `.onnx` or `.engine` file, or a loaded engine, which its owner closes; default: the bundled `edge`
                network.
            face_model: a face-model file or a loaded one; default: the bundled one.
            detector: finds faces when no boxes are given; default: the bundled BlazeFace, loaded on first use.
            threads: of ONNX Runtime, inside one operator; default: the cores this process may use, at most four.
            stream: with a `.engine` file, the CUDA stream to work on (`load_engine`); default: an own one.

        Raises:
            FileNotFoundError, FileFormatError, InvalidInputError, EngineUnavailableError: see `load_engine`.
            MismatchError: the engine was built for another face model.
        """
        self.face_model = face_model if isinstance(face_model, FaceModel) else load_face_model(face_model)
        self._detector = detector
        self._owned = contextlib.ExitStack()  # what was opened here, and is closed with it
        if engine is None:
            bundled = resources.files("runtime") / "assets" / "edge.onnx"
            with resources.as_file(bundled) as path:
                self.engine = self._owned.enter_context(load_engine(path, threads=threads))
        elif isinstance(engine, str | os.PathLike):
            self.engine = self._owned.enter_context(load_engine(engine, threads=threads, stream=stream))
        else:
            self.engine = engine
        manifest = self.engine.manifest
        if manifest.face_model_sha256 != self.face_model.sha256:
            expected, got = f"{manifest.face_model_sha256[:12]}…", f"{self.face_model.sha256[:12]}…"
            self.close()
            raise MismatchError(
                f"engine: built for face model '{manifest.face_model}' ({expected}), "
                f"got '{self.face_model.name}' ({got}); "
                "pass the face model it was trained with, or an engine trained for this one"
            )

    def __call__(self, image: NDArray[np.uint8], boxes: ArrayLike | None = None) -> list[Face]:
        """Reconstructs the faces of `image`, best detection first, or those in `boxes`, in their order.

        Args:
            image: uint8 (H, W, 3) BGR; grey and BGRA are converted. With a `.engine` it may be on the GPU: any object
                with DLPack's methods or `__cuda_array_interface__` (`runtime.engines.gpu_crop`).
            boxes: (F, 4) rows of x, y, w, h in image pixels, tight around brows, chin and cheeks, or (F, 5) with an
                angle (`Roi.from_box`); skips detection.

        Raises:
            InvalidInputError: no image, or a box with NaN, without area or wholly outside the image.
        """
        if is_on_gpu(image) or self.cuts_frames:
            return self._on_gpu(image, boxes)
        return self.reconstruct([self.prepare(image, boxes)])[0]

    def warmup(self, batch: int = 1) -> None:
        """Runs the network once on `batch` empty crops: what engines put off to their first call is then done."""
        if (prepare := getattr(self.engine, "warmup", None)) is not None:
            prepare(batch)
            return
        size = self.engine.manifest.input_size
        self.engine(np.zeros((batch, size, size, 3), dtype=np.uint8))

    def prepare(self, image: NDArray[np.uint8], boxes: ArrayLike | None = None) -> Prepared:
        """What comes before the network: faces found, or taken from `boxes`, and cut out.

        May run in other threads than the network, so that many images are worked on at once: in several, if the
        detector may, as the built-in one. Takes and raises what a call does.
        """
        frame = as_bgr(image)
        rois, outlines, scores = self._regions(frame, boxes, frame.shape)
        crops = crop(frame, rois, self.engine.manifest.input_size)
        again = frame if boxes is None else None
        return Prepared(crops=crops, rois=tuple(rois), boxes=tuple(outlines), scores=tuple(scores), frame=again)

    def _regions(
        self, frame: NDArray[np.uint8] | None, boxes: ArrayLike | None, shape: Sequence[int] | None
    ) -> tuple[list[Roi], list[Any], Any]:
        """Regions, boxes and scores: found in `frame`, or of boxes, which are held against `shape` (H, W, …)."""
        if boxes is None and frame is not None:
            found = self.detector.detect(frame)
            from runtime.detection import roi_from_detection

            return [roi_from_detection(d) for d in found], [d.box for d in found], [d.score for d in found]
        given = _rows(boxes)
        if shape is not None:
            check_overlap(given, height=shape[0], width=shape[1])
        return [Roi.from_box(box) for box in given], [split_box(box)[0] for box in given], [1.0] * len(given)

    def _on_gpu(self, image: Any, boxes: ArrayLike | None) -> list[Face]:
        """Cuts the faces on the GPU; of a frame that is there already, only detection needs a copy in host memory."""
        engine = self._frame_engine()
        if is_on_gpu(image):
            frame = engine.to_host(image) if boxes is None else None
        else:
            frame = image = as_bgr(image)
        rois, outlines, scores = self._regions(frame, boxes, getattr(image, "shape", None))
        params = engine.run_frame(image, rois)
        landmarks, looks = self._looks(params, rois, boxes is None)
        while looks.again:
            looks.take(engine.run_frame(image, list(looks.again.values())))
        return self.faces(looks.params, looks.rois, outlines, scores, landmarks if looks.params is params else None)

    def run(self, image: Any, rois: Sequence[Roi]) -> NDArray[np.float32]:
        """Params (F, 12 + S + E) of regions of an image in host memory or on the GPU, in one call of the engine.

        Raises:
            InvalidInputError: no image, or one on the GPU for an engine that runs elsewhere.
            FileFormatError: the engine gives NaN or infinity.
        """
        engine: Any = self.engine
        if is_on_gpu(image) or self.cuts_frames:
            return _finite(self._frame_engine().run_frame(image, rois))
        return _finite(engine(crop(image, rois, engine.manifest.input_size)))

    def metric_poses(
        self,
        image: Any,
        faces: Sequence[Face],
        camera: Camera,
        *,
        scale_mm: float | None = None,
        between: tuple[Sequence[int], Sequence[int]] | None = None,
    ) -> list[MetricPose]:
        """Where heads stand before `camera`, each looked at again as it would be seen by this camera turned to it.

        Nearer to the truth than `face.metric_pose`, which does without the image: on 500 perspective renders, half of
        them 15 to 28 degrees off the axis, that takes an eighth off the rotation's error, and heads off the axis are as
        right as others. It costs one more call of the network, for all faces.

        Args:
            image: that the faces were found in, as for a call.
            faces: of the image.
            camera: as for `runtime.camera.metric_pose`.
            scale_mm: as there, for all faces alike.
            between: as there; default: the pupils.

        Raises:
            InvalidInputError: as `runtime.camera.metric_pose` does, or `image` is none.
        """
        from runtime.camera import PUPILS, metric_pose

        if not faces:
            return []
        frame = self._frame_engine().to_host(image) if is_on_gpu(image) else image
        size = self.engine.manifest.input_size
        params, landmarks = (np.stack([getattr(face, name) for face in faces]) for name in ("params", "landmarks"))
        rois = asked_rois(params, landmarks, [face.roi for face in faces], size)
        views = [camera.turned_to(roi, size) for roi in rois]
        crops = [crop_through(frame, view.homography, roi.side, size) for view, roi in zip(views, rois, strict=True)]
        whole = Roi(center_x=(size - 1) / 2, center_y=(size - 1) / 2, side=size)
        seen = self.faces(self.engine(np.stack(crops)), [whole] * len(faces))
        poses = (
            metric_pose(face, view.camera, scale_mm=scale_mm, between=between or PUPILS)
            for face, view in zip(seen, views, strict=True)
        )
        return [view.turned_back(pose, roi.side / size) for pose, view, roi in zip(poses, views, rois, strict=True)]

    def faces(
        self,
        params: NDArray[np.float32],
        rois: Sequence[Roi],
        boxes: Sequence[tuple[float, float, float, float]] | None = None,
        scores: Sequence[float] | None = None,
        landmarks: NDArray[np.float32] | None = None,
    ) -> list[Face]:
        """Faces of params (F, 12 + S + E) that regions gave; without boxes, those that their regions are made of.

        `landmarks` (F, 68, 3), image pixels, are not computed again where they are known.
        """
        size = self.engine.manifest.input_size
        if landmarks is None:
            landmarks = self.landmarks(params, *maps(rois, size))
        boxes = boxes or [_box_of(roi) for roi in rois]
        scores = scores or [1.0] * len(rois)
        return [
            Face(box=box, score=score, roi=roi, crop_size=size, params=own, landmarks=points, model=self.face_model)
            for box, score, roi, own, points in zip(boxes, scores, rois, params, landmarks, strict=True)
        ]

    def landmarks(
        self, params: NDArray[np.float32], linear: NDArray[np.float64], offset: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """Landmarks (F, 68, 3), image pixels, of params (F, 12 + S + E) and their regions' `runtime.roi.maps`."""
        return to_image(self.face_model.landmarks(_finite(params)), linear, offset)

    def reconstruct(self, prepared: Sequence[Prepared], *, batch: int | None = None) -> list[list[Face]]:
        """The faces of each image, the network called once for all, or for `batch` crops at a time.

        Faces whose detected region turns out to be off are looked at again, in the one they ask for (see `Looks`).
        """
        if not prepared:
            return []
        params = self._in_batches([p.crops for p in prepared], batch)
        ends = accumulate(len(p.rois) for p in prepared)
        firsts = [params[end - len(p.rois) : end] for end, p in zip(ends, prepared, strict=True)]
        # Decoded image by image, and so alike to the last digit whatever other images are in the call.
        seen = [self._looks(first, p.rois, p.frame is not None) for first, p in zip(firsts, prepared, strict=True)]
        size = self.engine.manifest.input_size
        while off := [(looks, p.frame) for (_, looks), p in zip(seen, prepared, strict=True) if looks.again]:
            cut = [crop(frame, list(looks.again.values()), size) for looks, frame in off if frame is not None]
            again, start = self._in_batches(cut, batch), 0
            for looks, _ in off:
                end = start + len(looks.again)
                looks.take(again[start:end])
                start = end
        return [
            self.faces(looks.params, looks.rois, p.boxes, p.scores, landmarks if looks.params is first else None)
            for (landmarks, looks), first, p in zip(seen, firsts, prepared, strict=True)
        ]

    def _in_batches(self, parts: Sequence[NDArray[np.uint8]], batch: int | None) -> NDArray[np.float32]:
        """Params of crops, in calls of `batch` at a time."""
        crops = parts[0] if len(parts) == 1 else np.concatenate(parts)
        step = batch or max(len(crops), 1)
        params = [self.engine(crops[start : start + step]) for start in range(0, max(len(crops), 1), step)]
        return params[0] if len(params) == 1 else np.concatenate(params)

    def _looks(
        self, params: NDArray[np.float32], rois: Sequence[Roi], detected: bool
    ) -> tuple[NDArray[np.float32], Looks]:
        """Landmarks of first looks at faces, and the looks: more than one if the regions were `detected`."""
        size = self.engine.manifest.input_size

        def decode(params: NDArray[np.float32], rois: Sequence[Roi]) -> NDArray[np.float32]:
            return self.landmarks(params, *maps(rois, size))

        landmarks = decode(params, rois)
        return landmarks, Looks(params, landmarks, rois, size, decode, most=LOOKS if detected else 1)

    @property
    def detector(self) -> FaceDetector:
        """The detector in use."""
        if self._detector is None:
            from runtime.detection import BlazeFaceDetector

            self._detector = BlazeFaceDetector()
        return self._detector

    @property
    def cuts_frames(self) -> bool:
        """Whether the engine cuts regions out of frames itself, on the GPU."""
        return bool(getattr(self.engine, "cuts_frames", False))

    def _frame_engine(self) -> Any:
        if not hasattr(self.engine, "run_frame"):
            raise InvalidInputError(
                "image: expected a frame in host memory for this engine, got one on the GPU; copy it to a NumPy array, "
                "or load a .engine file"
            )
        return self.engine

    def close(self) -> None:
        """Frees the engine, if it was loaded here: one that was handed over is its owner's to close."""
        self._owned.close()


def _rows(boxes: Any) -> list[Any]:
    try:
        return list(boxes)
    except TypeError:
        raise InvalidInputError(f"boxes: expected rows of (x, y, w, h), got {boxes!r}") from None


def _finite(params: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.logical_and.reduce(np.isfinite(params), axis=None):  # `all` takes longer to do the same
        raise FileFormatError("engine: expected finite params, got NaN or infinity; the engine file is damaged")
    return params


def _box_of(roi: Roi) -> tuple[float, float, float, float]:
    side = roi.side / math.sqrt(2)
    return roi.center_x - side / 2, roi.center_y - side / 2, side, side
