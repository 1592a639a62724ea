"""What the served model `faces` takes and gives, as tensors of the V2 inference protocol (KServe's, Triton's).

A request is one image, so every tensor has a leading axis of 1; the server batches over requests.

    in   image    BYTES (1, 1)          a JPEG, PNG, … file's content; or
         pixels   UINT8 (1, H, W, 3)    BGR, as OpenCV reads it
         boxes    FP64  (1, F, 4)       x, y, w, h in image pixels; without it the server looks for faces
    out  boxes    FP64  (1, F, 4)       as `Face.box`
         scores   FP64  (1, F)          as `Face.score`
         rois     FP64  (1, F, 4)       centre x, y, side, angle: the face's `Roi`
         params   FP32  (1, F, P)       as `Face.params`
         landmarks FP32 (1, F, 68, 3)   as `Face.landmarks`, image pixels

Nothing is rounded: faces that were sent are equal to those that were found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import FileFormatError
from runtime.face import Face
from runtime.face_model import FaceModel
from runtime.roi import Roi

MODEL = "faces"
IMAGE, PIXELS, BOXES = "image", "pixels", "boxes"
OUTPUTS = {"boxes": np.float64, "scores": np.float64, "rois": np.float64, "params": np.float32, "landmarks": np.float32}
LANDMARKS = 68
MAX_IMAGE_BYTES = 64 * 2**20  # of a file or of pixels; larger ones are refused by client and server


def pack_faces(faces: Sequence[Face], num_params: int) -> dict[str, NDArray[Any]]:
    """The answer's tensors, with their leading axis."""
    shapes = {
        "boxes": ([face.box for face in faces], (4,)),
        "scores": ([face.score for face in faces], ()),
        "rois": ([(f.roi.center_x, f.roi.center_y, f.roi.side, f.roi.angle) for f in faces], (4,)),
        "params": ([face.params for face in faces], (num_params,)),
        "landmarks": ([face.landmarks for face in faces], (LANDMARKS, 3)),
    }
    return {
        name: np.asarray(values, dtype=OUTPUTS[name]).reshape(1, len(faces), *shape)
        for name, (values, shape) in shapes.items()
    }


def unpack_faces(tensors: Mapping[str, Any], model: FaceModel, crop_size: int) -> list[Face]:
    """The faces of an answer.

    Raises:
        FileFormatError: a tensor is missing, or of another type or shape.
    """
    counts = {"boxes": (4,), "scores": (), "rois": (4,), "params": (model.num_params,), "landmarks": (LANDMARKS, 3)}
    number = tensors["scores"].shape[-1:] if tensors.get("scores") is not None else ()
    for name, shape in counts.items():
        values = tensors.get(name)
        wanted = (1, *number, *shape)
        if values is None or values.dtype != OUTPUTS[name] or values.shape != wanted:
            got = "nothing" if values is None else f"{values.dtype} {values.shape}"
            raise FileFormatError(
                f"answer: expected '{name}' as {np.dtype(OUTPUTS[name])} {wanted}, got {got}; "
                "run the same version on server and client"
            )
    boxes, scores, rois, params, landmarks = (tensors[name][0] for name in counts)
    return [
        Face(
            box=tuple(box),
            score=score,
            roi=Roi(center_x=roi[0], center_y=roi[1], side=roi[2], angle=roi[3]),
            crop_size=crop_size,
            params=own,
            landmarks=points,
            model=model,
        )
        for box, score, roi, own, points in zip(
            boxes.tolist(), scores.tolist(), rois.tolist(), params, landmarks, strict=True
        )
    ]
