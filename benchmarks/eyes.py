"""Are open and shut eyes told apart? Renders with closed, half and open eyes, and the lids that a network sees there.

    python -m benchmarks.eyes MODEL [--count 200] [--assets DIR]

MODEL is a checkpoint or an .onnx file. The measure is the eye aspect ratio (Soukupova and Cech, 2016) of the predicted
landmarks, in 3D so that it holds at any yaw: the lids' distance over the eye's width, mean of both eyes. Printed: its
mean at each opening, and the area under the ROC curve of each pair: the share of pairs of faces that come in the right
order.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.stats import mannwhitneyu
from tqdm import tqdm

from runtime.command import Exit, command
from runtime.errors import InvalidInputError
from runtime.face_model import load_face_model
from training.crops import aligned_crops
from training.data.samples import HELD_OUT_SEED, image_size
from training.decoder import Decoder
from training.evaluation.predictors import load_predictor

CORNERS = ((36, 39), (42, 45))
LIDS = (((37, 41), (38, 40)), ((43, 47), (44, 46)))


@command()
def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    from training.synthetic.eyes import OPENINGS, eye_renders
    from training.synthetic.factory import FaceFactory

    parser = argparse.ArgumentParser(prog="python -m benchmarks.eyes", description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path, help="checkpoint or .onnx file")
    parser.add_argument("--count", type=int, default=200, help="renders (default: 200)")
    parser.add_argument("--assets", type=Path, help="folder of CC0 assets to render with")
    options = parser.parse_args(arguments)
    if options.count < 3:
        raise InvalidInputError(f"--count: expected at least 3, got {options.count}")
    face_model = load_face_model()
    predict, size = load_predictor(options.model, face_model)
    factory = FaceFactory(size=image_size(size), seed=HELD_OUT_SEED, assets=options.assets)
    rendered = list(tqdm(eye_renders(factory, options.count), total=options.count, desc="rendering", disable=None))
    images = torch.from_numpy(np.stack([sample.image for sample, _ in rendered]))
    params = torch.from_numpy(np.stack([sample.params for sample, _ in rendered]))
    crops, _ = aligned_crops(images, params, Decoder(face_model), size)
    ratios = eye_aspect_ratio(face_model.landmarks(predict(crops.contiguous().numpy())))
    names = np.array([name for _, name in rendered])
    for name in OPENINGS:
        print(f"{name:>6}: eye aspect ratio {ratios[names == name].mean():.3f} over {(names == name).sum()} faces")
    for less, more in itertools.combinations(OPENINGS, 2):
        print(f"{less} against {more}: area under the ROC curve {roc_area(ratios, names == less, names == more):.3f}")
    return Exit.DONE


def eye_aspect_ratio(landmarks: NDArray[np.floating]) -> NDArray[np.float64]:
    """(B,) of landmarks (B, 68, 3)."""

    def length(a: int, b: int) -> NDArray[np.float64]:
        return np.linalg.norm(landmarks[:, a].astype(np.float64) - landmarks[:, b], axis=1)

    eyes = [sum(length(*pair) for pair in lids) / (2 * length(*ends)) for ends, lids in zip(CORNERS, LIDS, strict=True)]
    return np.asarray(np.mean(eyes, axis=0))


def roc_area(values: ArrayLike, lower: NDArray[np.bool_], higher: NDArray[np.bool_]) -> float:
    """Probability that a value of `higher` exceeds one of `lower` (ties count half)."""
    measured = np.asarray(values)
    statistic = mannwhitneyu(measured[higher], measured[lower]).statistic
    return float(statistic / (higher.sum() * lower.sum()))


if __name__ == "__main__":
    sys.exit(main())
