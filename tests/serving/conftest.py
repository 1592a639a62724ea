"""One Triton server for all tests of the served model, on free ports of loopback."""

from pathlib import Path

import pytest

PHOTO = Path(__file__).parents[2] / "examples" / "astronaut.jpg"
EDGE = Path(__file__).parents[2] / "runtime" / "assets" / "edge.onnx"


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    pytest.importorskip("tritonclient.grpc", exc_type=ImportError)
    from serving.local_server import LocalServer, environment
    from serving.triton import write_repository

    if not environment().is_dir():
        pytest.skip("Triton's server is not installed: python -m serving.local_server --install")
    models = tmp_path_factory.mktemp("models")
    write_repository(EDGE, models, instances=2)
    with LocalServer(models) as running:
        yield running


@pytest.fixture(scope="session")
def reconstruct():
    pytest.importorskip("onnxruntime")
    from runtime import Reconstructor

    with Reconstructor(threads=1) as reconstructor:
        yield reconstructor
