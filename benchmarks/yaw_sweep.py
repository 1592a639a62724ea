"""Turn one rendered face from -90 to 90 degrees of yaw and plot predicted against true yaw.

    python -m benchmarks.yaw_sweep MODEL --out PNG [--index I] [--step DEGREES]

The face is number I of those that are kept out of training; only its yaw changes, pitch and roll are 0. The crop is the
true landmarks' region, as in `training.evaluate`. True yaw is the label's: under a perspective camera it is that of the
best scaled-orthographic fit, and so not quite the angle that the head was turned by. Below the curve: some of the
crops with the predicted landmarks. Printed: mean and largest absolute error in degrees.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from runtime.command import command
from runtime.drawing import draw_landmarks
from runtime.errors import InvalidInputError
from runtime.face import Face
from runtime.face_model import FaceModel, load_face_model
from runtime.pose import euler_to_rotation
from runtime.roi import Roi
from training.crops import aligned_crops
from training.data.samples import HELD_OUT_SEED, image_size
from training.decoder import Decoder
from training.evaluation.accuracy import yaw_of
from training.evaluation.figures import load_pyplot
from training.evaluation.predictors import Predict, load_predictor

FRAMES = 7
_FRAME_SIZE = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class Sweep:
    """Crops uint8 (N, S, S, 3) of one face, and their true and predicted params (N, 62)."""

    crops: NDArray[np.uint8]
    truth: NDArray[np.float32]
    predicted: NDArray[np.float32]

    @property
    def yaw(self) -> NDArray[np.float64]:
        """True and predicted yaw (2, N) in degrees."""
        return np.array([[yaw_of(row) for row in rows] for rows in (self.truth, self.predicted)])


def sweep(predict: Predict, size: int, face_model: FaceModel, index: int, yaws: NDArray[np.float64]) -> Sweep:
    """Render face `index` at each yaw and look at it."""
    from training.synthetic.factory import FaceFactory

    factory = FaceFactory(size=image_size(size), seed=HELD_OUT_SEED)
    turns = tqdm([euler_to_rotation(float(yaw), 0.0, 0.0) for yaw in yaws], desc="rendering", disable=None)
    samples = [factory.sample(index, rotation=turn.astype(np.float32)) for turn in turns]
    images = torch.from_numpy(np.stack([sample.image for sample in samples]))
    params = torch.from_numpy(np.stack([sample.params for sample in samples]))
    crops, truth = aligned_crops(images, params, Decoder(face_model), size)
    pixels = crops.contiguous().numpy()
    return Sweep(crops=pixels, truth=truth.numpy(), predicted=predict(pixels))


def shown(result: Sweep) -> list[int]:
    """Which renders are drawn."""
    return [int(number) for number in np.linspace(0, len(result.crops) - 1, FRAMES).round()]


def frames(result: Sweep, face_model: FaceModel) -> list[NDArray[np.uint8]]:
    """Some of the crops, enlarged, with the predicted landmarks, BGR."""
    size = result.crops.shape[1]
    whole = Roi(center_x=(_FRAME_SIZE - 1) / 2, center_y=(_FRAME_SIZE - 1) / 2, side=float(_FRAME_SIZE))
    pictures = []
    for number in shown(result):
        params = result.predicted[number]
        landmarks = whole.to_image(face_model.landmarks(params), size)
        box = (0.0, 0.0, float(_FRAME_SIZE), float(_FRAME_SIZE))
        face = Face(box=box, score=1.0, roi=whole, crop_size=size, params=params, landmarks=landmarks, model=face_model)
        large = cv2.resize(result.crops[number], (_FRAME_SIZE, _FRAME_SIZE), interpolation=cv2.INTER_CUBIC)
        pictures.append(draw_landmarks(large, [face]))
    return pictures


def plot(result: Sweep, face_model: FaceModel, title: str, path: Path) -> None:
    """Write the picture.

    Raises:
        EngineUnavailableError: Matplotlib is not installed.
    """
    pyplot = load_pyplot()
    truth, predicted = result.yaw
    pictures = frames(result, face_model)
    figure = pyplot.figure(figsize=(10, 7.2), layout="constrained")
    grid = figure.add_gridspec(2, len(pictures), height_ratios=[4, 1])
    axes = figure.add_subplot(grid[0, :])
    axes.plot([-90, 90], [-90, 90], color="0.7", linewidth=1, label="perfect")
    axes.plot(truth, predicted, ".-", linewidth=1, label="predicted")
    axes.set(xlabel="true yaw (degrees)", ylabel="predicted yaw (degrees)", xlim=(-93, 93), ylim=(-93, 93), title=title)
    axes.set_xticks(range(-90, 91, 30))
    axes.set_yticks(range(-90, 91, 30))
    axes.grid(alpha=0.3)
    axes.legend()
    for column, (number, picture) in enumerate(zip(shown(result), pictures, strict=True)):
        tile = figure.add_subplot(grid[1, column])
        tile.imshow(picture[..., ::-1])
        tile.set_title(f"{round(float(truth[number]))} → {round(float(predicted[number]))}", fontsize=9)
        tile.axis("off")
    figure.savefig(path, dpi=120, format="png")
    pyplot.close(figure)


@command()
def main(arguments: list[str] | None = None) -> int:
    """Command line; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.yaw_sweep", description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="checkpoint (.pth) or engine (.onnx, .engine)")
    parser.add_argument("--out", required=True, type=Path, help="the picture, .png")
    parser.add_argument("--index", type=int, default=0, help="which face (default: 0)")
    parser.add_argument("--step", type=float, default=5.0, help="degrees between renders (default: 5)")
    options = parser.parse_args(arguments)
    if options.index < 0 or not 0 < options.step <= 90:
        raise InvalidInputError(
            f"Expected --index of at least 0 and --step in 0..90, got {options.index} and {options.step:g}."
        )
    face_model = load_face_model()
    predict, size = load_predictor(options.model, face_model)
    yaws = np.linspace(-90, 90, round(180 / options.step) + 1)
    result = sweep(predict, size, face_model, options.index, yaws)
    truth, predicted = result.yaw
    off = np.abs(predicted - truth)
    title = f"{Path(options.model).name}, face {options.index}: mean |error| {off.mean():.2f}°"
    plot(result, face_model, title, options.out)
    worst = int(off.argmax())
    largest = f"largest {off[worst]:.2f} degrees (at {truth[worst]:.0f})"
    print(f"yaw error over {len(off)} renders: mean {off.mean():.2f}, {largest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
