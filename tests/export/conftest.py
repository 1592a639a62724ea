"""A small random network that behaves like a trained one, as a checkpoint with its own small face model."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from export import faces  # noqa: E402
from runtime import safetensors  # noqa: E402
from runtime.face_model import FORMAT, FaceModel, load_face_model  # noqa: E402
from training.checkpoint import Checkpoint, save_checkpoint  # noqa: E402
from training.config import CLNConfig, StreamConfig  # noqa: E402
from training.model import CLN, reparameterize  # noqa: E402

SIZE = 64


@dataclass(frozen=True, kw_only=True)
class Sources:
    folder: Path
    face_model_path: Path
    face_model: FaceModel
    network: CLN

    def save(self, network: CLN, name: str = "small.pth", face_model_sha256: str | None = None) -> Path:
        path = self.folder / name
        content = Checkpoint(
            config=network.config,
            state_dict=network.state_dict(),
            face_model_name=self.face_model.name,
            face_model_sha256=face_model_sha256 or self.face_model.sha256,
            test={"nme": {"mean": 3.5}, "set": "synthetic"},
        )
        save_checkpoint(path, content)
        return path


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    folder = tmp_path_factory.mktemp("sources")
    path = folder / "face_model.safetensors"
    _write_face_model(path)
    return Sources(folder=folder, face_model_path=path, face_model=load_face_model(path), network=_network())


@pytest.fixture(scope="session")
def graph(sources: Sources) -> bytes:
    """The network's float32 graph: the exporter takes seconds."""
    pytest.importorskip("onnx")
    from export.onnx_graph import export_graph

    return export_graph(reparameterize(sources.network))


@pytest.fixture(autouse=True)
def quick_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Smooth blobs in place of rendered faces: the renderer has its own tests, and compiles for seconds."""
    monkeypatch.setattr("export.sources.rendered_faces", blobs)


def blobs(size, face_model, indices):
    """Four crops that stand in for faces, and no labels."""
    assert list(indices)
    return faces.noise_crops(size, 8)[4:], np.empty((0, face_model.num_params), np.float32)


def _network() -> CLN:
    torch.manual_seed(0)
    config = CLNConfig(
        input_size=SIZE,
        global_stream=StreamConfig(widths=(8, 8, 16, 16), blocks=(1, 1, 2, 1)),
        local_stream=StreamConfig(widths=(8, 8, 8, 16), blocks=(1, 1, 1, 1)),
        fusion_width=16,
        heads=2,
        realign=True,
    )
    network = CLN(config).train()
    with torch.no_grad():
        for _ in range(30):  # gives the batch norms statistics that fit their inputs
            network(torch.randint(0, 256, (4, SIZE, SIZE, 3), dtype=torch.uint8))
        network.head.weight.mul_(10)
    mean, std = torch.zeros(62), torch.ones(62)
    mean[[0, 10]], mean[5], mean[[3, 7]] = 0.3, -0.3, SIZE / 2
    std[:12], std[[3, 7]], std[11] = 0.1, 5.0, 0.0
    network.set_whitening(mean, std)
    return network.eval()


def _write_face_model(path: Path) -> None:
    generator = np.random.default_rng(0)
    vertices = 80
    tensors = {
        "mean": generator.uniform(-80, 80, (vertices, 3)).astype(np.float32),
        "shape_basis": generator.normal(size=(40, vertices, 3)).astype(np.float16),
        "expression_basis": generator.normal(size=(10, vertices, 3)).astype(np.float16),
        "shape_sigma": np.ones(40, np.float32),
        "expression_sigma": np.ones(10, np.float32),
        "shape_mirror": np.ones(40, np.float32),
        "expression_mirror": np.ones(10, np.float32),
        "triangles": np.array([[0, 1, 2]], np.int32),
        "landmark_vertices": np.arange(68, dtype=np.int32),
        "mirror": np.arange(vertices, dtype=np.int32),
        "uv": np.zeros((vertices, 2), np.float32),
        "region": np.zeros(vertices, np.uint8),
    }
    metadata = {"format": FORMAT, "version": "1", "name": "points", "license": "CC0", "region_names": "face"}
    safetensors.write(path, tensors, metadata)
