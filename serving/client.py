"""`faces = client(image)`: the faces of a served model, as `runtime` would give them here.

The server is any that speaks the V2 inference protocol with Triton's model configuration; `serving.protocol` says what
travels. The face model stays here: vertices, pose and files of a `Face` are computed from its params.

    python -m serving.client grpc://HOST:8001 photo.jpg          # a line of JSON for each photograph
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runtime.command import command, exit_status, one_line, print_error
from runtime.errors import ClnError, InvalidInputError, MismatchError
from runtime.face import Face
from runtime.face_model import FaceModel, load_face_model
from runtime.image import as_bgr
from serving.protocol import BOXES, IMAGE, MAX_IMAGE_BYTES, MODEL, OUTPUTS, PIXELS, unpack_faces

TIMEOUT = 10.0  # seconds
_SCHEMES = ("grpc", "grpcs", "http", "https")


class ServerError(ClnError, RuntimeError):
    """The server is not there, does not answer in time, has no such model, or failed."""


class FaceClient:
    """Sends images to a server and gives back their faces.

    Over gRPC it may be used by several threads at once; over HTTP each thread needs its own.

    Example:
        with FaceClient("grpc://127.0.0.1:8001") as client:
            for face in client("photo.jpg"):
                print(face.pose.yaw, face.vertices.shape)
    """

    def __init__(
        self,
        url: str,
        *,
        model: str = MODEL,
        face_model: str | os.PathLike[str] | FaceModel | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        """Asks the server for the model.

        Args:
            url: `grpc://HOST:PORT` or `http://HOST:PORT` (`grpcs`, `https` for TLS).
            model: its name there.
            face_model: the engine's face model, a file or a loaded one; default: the bundled one.
            timeout: seconds that a request may take.

        Raises:
            InvalidInputError: another scheme, no port, or no time.
            ServerError: no such server or model, or no answer in time.
            MismatchError: the server's engine was made for another face model.
            EngineUnavailableError: the package `tritonclient` is missing.
        """
        address = urlsplit(url)
        if address.scheme not in _SCHEMES or not address.netloc or address.path.strip("/"):
            raise InvalidInputError(f"server: expected grpc://HOST:PORT or http://HOST:PORT, got '{url}'")
        if not timeout > 0:
            raise InvalidInputError(f"timeout: expected seconds above 0, got {timeout}")
        self._url, self._name, self._timeout = url, model, timeout
        self._is_grpc = address.scheme.startswith("grpc")
        self._triton, self._client = _connect(address.scheme, address.netloc, timeout)
        try:
            self.face_model = face_model if isinstance(face_model, FaceModel) else load_face_model(face_model)
            self._crop_size = self._check()
        except BaseException:
            self.close()
            raise

    def _check(self) -> int:
        """The side of the server's crops, once it is known to use the same face model."""
        if self._is_grpc:
            reply = self._ask("get_model_config", self._name, as_json=True)
            parameters = reply.get("config", {}).get("parameters", {})
        else:
            parameters = self._ask("get_model_config", self._name).get("parameters", {})
        try:
            sha256 = str(parameters["face_model_sha256"]["string_value"])
            size = int(parameters["input_size"]["string_value"])
        except (KeyError, TypeError, ValueError):
            raise ServerError(
                f"{self._url}: expected a model '{self._name}' as python -m serving.triton writes it, got another"
            ) from None
        if sha256 != self.face_model.sha256:
            raise MismatchError(
                f"{self._url}: its engine was made for face model {sha256[:12]}…, got '{self.face_model.name}' "
                f"({self.face_model.sha256[:12]}…); pass the same one"
            )
        return size

    def __call__(
        self, image: str | os.PathLike[str] | bytes | NDArray[np.uint8], boxes: ArrayLike | None = None
    ) -> list[Face]:
        """The faces of `image`, best detection first, or those in `boxes`, in their order.

        Args:
            image: a file's path or content, sent as it is; or pixels as `Reconstructor` takes them, sent uncompressed.
            boxes: (F, 4) rows of x, y, w, h in image pixels; skips detection.

        Raises:
            InvalidInputError: the image is none, or too large; or the server refused it, and says why.
            ServerError: the server failed or did not answer in time.
            OSError: the file cannot be read.
        """
        tensors = self._tensors(image, boxes)
        inputs = []
        for name, (values, datatype) in tensors.items():
            tensor = self._triton.InferInput(name, list(values.shape), datatype)
            tensor.set_data_from_numpy(values)
            inputs.append(tensor)
        options: dict[str, Any] = {"client_timeout": self._timeout} if self._is_grpc else {}
        reply = self._ask("infer", self._name, inputs, **options)
        try:
            tensors_out = {name: reply.as_numpy(name) for name in OUTPUTS}
        except ValueError as error:  # shape and content do not agree
            raise ServerError(
                f"{self._url}: its answers have no content ({error}); a Python backend from before NumPy 2 gives such: "
                "install numpy<2 in the server's Python, or a newer server"
            ) from None
        return unpack_faces(tensors_out, self.face_model, self._crop_size)

    @staticmethod
    def _tensors(image: Any, boxes: ArrayLike | None) -> dict[str, tuple[NDArray[Any], str]]:
        tensors: dict[str, tuple[NDArray[Any], str]] = {}
        if isinstance(image, bytes | str | os.PathLike):
            data = image if isinstance(image, bytes) else Path(image).read_bytes()
            size = len(data)
            tensors[IMAGE] = np.array([[data]], dtype=np.object_), "BYTES"
        else:
            pixels = as_bgr(image)
            size = pixels.nbytes
            tensors[PIXELS] = np.ascontiguousarray(pixels)[None], "UINT8"
        if size > MAX_IMAGE_BYTES:
            raise InvalidInputError(f"image: expected at most {MAX_IMAGE_BYTES} bytes, got {size}; make it smaller")
        if boxes is not None:
            try:
                rows = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
            except (TypeError, ValueError):
                raise InvalidInputError(f"boxes: expected rows of (x, y, w, h), got {boxes!r}") from None
            tensors[BOXES] = rows[None], "FP64"
        return tensors

    def batch_sizes(self) -> dict[int, int]:
        """How many batches of each size the server has formed for the model since it started.

        Raises:
            ServerError: it does not say.
        """
        options = {"as_json": True} if self._is_grpc else {}
        models = self._ask("get_inference_statistics", self._name, **options).get("model_stats", [])
        return {
            int(entry["batch_size"]): int(entry["compute_infer"]["count"])
            for model in models
            for entry in model.get("batch_stats", [])
        }

    def _ask(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Calls the library; its many errors become ours."""
        if self._is_grpc and method != "infer":
            options["client_timeout"] = self._timeout
        try:
            return getattr(self._client, method)(*arguments, **options)
        except self._triton.InferenceServerException as error:
            status, message = str(error.status()), " ".join(str(error.message()).split())
            if status.endswith("INVALID_ARGUMENT") or status == "400":
                raise InvalidInputError(f"{self._url}: {message}") from None
            if status.endswith("DEADLINE_EXCEEDED"):
                message = f"no answer within {self._timeout:g} s"
            elif status.endswith("UNAVAILABLE"):
                message = "no server answers there; start one, or check host and port"
            raise ServerError(f"{self._url}: {message}") from None
        except TimeoutError:
            raise ServerError(f"{self._url}: no answer within {self._timeout:g} s") from None
        except OSError as error:
            raise ServerError(
                f"{self._url}: no server answers there ({error}); start one, or check host and port"
            ) from None

    def close(self) -> None:
        """Ends the connection."""
        self._client.close()

    def __enter__(self) -> Self:
        """The client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the connection."""
        self.close()


def _connect(scheme: str, host: str, timeout: float) -> tuple[Any, Any]:
    """`tritonclient`'s module for the scheme, and its client."""
    from runtime.errors import EngineUnavailableError

    try:
        if scheme.startswith("grpc"):
            import tritonclient.grpc as triton
        else:
            import tritonclient.http as triton
    except ImportError as error:
        raise EngineUnavailableError(
            f"tritonclient: expected the package, got '{error}'; run: pip install 'tritonclient[grpc,http]'"
        ) from None
    tls = scheme in ("grpcs", "https")
    if scheme.startswith("grpc"):
        return triton, triton.InferenceServerClient(host, ssl=tls)
    return triton, triton.InferenceServerClient(host, ssl=tls, connection_timeout=timeout, network_timeout=timeout)


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m serving.client", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("url", help="grpc://HOST:PORT or http://HOST:PORT")
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTO")
    parser.add_argument("--face-model", type=Path, metavar="FILE", help="face model (default: the bundled one)")
    parser.add_argument("--timeout", type=float, default=TIMEOUT, metavar="SECONDS")
    options = parser.parse_args(arguments)
    failed = 0
    with FaceClient(options.url, face_model=options.face_model, timeout=options.timeout) as client:
        for photo in options.photos:
            try:
                faces = client(photo)
            except (InvalidInputError, OSError) as error:
                print_error(f"{photo}: {one_line(error)}")
                failed += 1
            else:
                print(json.dumps({"image": str(photo), "faces": [face.to_dict() for face in faces]}), flush=True)
    return exit_status(skipped=failed, total=len(options.photos))


if __name__ == "__main__":
    sys.exit(main())
