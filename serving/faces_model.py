"""The served model `faces`: what Triton's Python backend runs, one of these in each of its processes.

`python -m serving.triton` writes a repository whose `model.py` imports `TritonPythonModel` from here; the server's
Python has this package installed. `serving.protocol` says what goes in and out. Requests that wait together become one
batch for the network; one that is wrong gets an error for an answer, and the others don't notice.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.errors import ClnError, InvalidInputError
from runtime.face import Face
from runtime.image import decode_image
from runtime.reconstructor import Prepared, Reconstructor
from serving.protocol import BOXES, IMAGE, MAX_IMAGE_BYTES, PIXELS, pack_faces

BATCH = 32  # faces in one call of the network

_log = logging.getLogger(__name__)


def answer(reconstruct: Reconstructor, requests: Sequence[Mapping[str, NDArray[Any]]]) -> list[list[Face] | ClnError]:
    """The faces of each request, or what is wrong with it; the network is called once for all of them.

    Args:
        reconstruct: what does the work.
        requests: their tensors by name, as `serving.protocol` says.
    """
    prepared = [_prepare(reconstruct, tensors) for tensors in requests]
    good = [item for item in prepared if isinstance(item, Prepared)]
    found = iter(reconstruct.reconstruct(good, batch=BATCH))
    return [next(found) if isinstance(item, Prepared) else item for item in prepared]


def _prepare(reconstruct: Reconstructor, tensors: Mapping[str, NDArray[Any]]) -> Prepared | ClnError:
    try:
        return reconstruct.prepare(_image(tensors), _boxes(tensors))
    except ClnError as error:
        return error
    except (cv2.error, MemoryError, ValueError, TypeError) as error:  # of one request, it must not touch the others
        _log.warning("a request failed: %s", error)
        return InvalidInputError(f"image: expected one that can be worked on, got {type(error).__name__}: {error}")


def _image(tensors: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
    if (IMAGE in tensors) == (PIXELS in tensors):
        raise InvalidInputError(
            f"request: expected either '{IMAGE}' or '{PIXELS}', got {'both' if IMAGE in tensors else 'neither'}"
        )
    name = IMAGE if IMAGE in tensors else PIXELS
    values = tensors[name]
    if values.shape[:1] != (1,):
        raise InvalidInputError(
            f"{name}: expected one image in a request, got shape {values.shape}; the server batches over requests"
        )
    if name == PIXELS:
        if values.nbytes > MAX_IMAGE_BYTES:
            raise InvalidInputError(f"pixels: expected at most {MAX_IMAGE_BYTES} bytes, got {values.nbytes}")
        return np.asarray(values[0], dtype=np.uint8)
    data = values.reshape(-1)[0] if values.size == 1 else None
    if not isinstance(data, bytes):
        raise InvalidInputError(f"image: expected one file's content of shape (1, 1), got shape {values.shape}")
    if len(data) > MAX_IMAGE_BYTES:
        raise InvalidInputError(f"image: expected at most {MAX_IMAGE_BYTES} bytes, got {len(data)}; make it smaller")
    return decode_image(data, name="image")


def _boxes(tensors: Mapping[str, NDArray[Any]]) -> NDArray[Any] | None:
    if BOXES not in tensors:
        return None
    boxes = tensors[BOXES]
    if boxes.ndim != 3 or boxes.shape[0] != 1 or boxes.shape[2] != 4:
        raise InvalidInputError(f"boxes: expected shape (1, F, 4), got {boxes.shape}")
    return np.asarray(boxes[0])


class TritonPythonModel:
    """What Triton's Python backend looks for; its methods' names and arguments are Triton's."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the engine that the model's configuration names, and runs it once."""
        parameters = {key: v["string_value"] for key, v in json.loads(args["model_config"])["parameters"].items()}
        folder = Path(args["model_repository"]) / args["model_version"]
        cv2.setNumThreads(1)  # the processes of this model share the cores
        face_model = folder / parameters["face_model"] if parameters.get("face_model") else None
        self.reconstruct = Reconstructor(folder / parameters["engine"], face_model=face_model, threads=1)
        self.reconstruct.warmup()
        self.reconstruct(np.zeros((64, 64, 3), dtype=np.uint8))  # loads the detector

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """An answer for each request, in their order."""
        import triton_python_backend_utils as backend

        names = (IMAGE, PIXELS, BOXES)
        tensors = [{t.name(): t.as_numpy() for t in request.inputs() if t.name() in names} for request in requests]
        try:
            answers = answer(self.reconstruct, tensors)
        except ClnError as error:
            answers = [error] * len(requests)
        return [self._response(backend, item) for item in answers]

    def _response(self, backend: Any, item: list[Face] | ClnError) -> Any:
        if isinstance(item, ClnError):
            kind = backend.TritonError.INVALID_ARG if isinstance(item, ValueError) else backend.TritonError.INTERNAL
            return backend.InferenceResponse(error=backend.TritonError(str(item), kind))
        tensors = pack_faces(item, self.reconstruct.face_model.num_params)
        return backend.InferenceResponse([backend.Tensor(name, values) for name, values in tensors.items()])

    def finalize(self) -> None:
        """Frees the engine."""
        self.reconstruct.close()
