"""Writes the constants that live in the runtime's Python code as JSON, for the browser: `python constants.py OUT.json`.

So the page has no copy of them. What the model files hold (sizes, bases, triangles) is not in here: the page reads it
from those files. Colours are RGB, 0..255.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from runtime import (
    detection,
    drawing,
    face_model,
    gltf,
    manifest,
    pose,
    regions,
    smoothing,
    texture,
    tracking,
    visibility,
)
from runtime.detection import BlazeFaceDetector
from runtime.engines import onnx
from runtime.image import MAX_SIDE
from runtime.roi import Roi
from runtime.tracking import Tracker


def constants() -> dict[str, Any]:
    """All of them, by module."""
    detector = BlazeFaceDetector()
    thresholds = {"scoreThreshold": detector.score_threshold, "iouThreshold": detector.iou_threshold}
    return {
        "detection": _numbers(detection) | thresholds | {"centerWeights": detection._CENTER_WEIGHTS.tolist()},
        "pose": _numbers(pose),
        "regions": _numbers(regions),
        "roi": {"sidePerLength": Roi.from_box((0, 0, 1, 1)).side},
        "image": {"maxSide": MAX_SIDE},
        "engine": {"mostThreads": onnx._MOST_THREADS},
        "manifest": {"key": manifest.ONNX_KEY, "format": manifest.FORMAT, "version": manifest.VERSION},
        "faceModel": {
            "format": face_model.FORMAT,
            "versions": [face_model._VERTEX_LANDMARKS, face_model.VERSION],
            "poseSize": face_model.POSE_SIZE,
            "landmarks": face_model.LANDMARKS,
        },
        "tracking": _numbers(tracking) | _defaults(Tracker),
        "smoothing": {
            "numbers": _numbers(smoothing),
            "settings": {name: setting and asdict(setting) for name, setting in smoothing.SETTINGS.items()},
        },
        "visibility": _numbers(visibility),
        "texture": _numbers(texture),
        "gltf": _numbers(gltf),
        "drawing": {
            "contours": [{"first": a, "last": b, "closed": closed} for a, b, closed in drawing.CONTOURS],
            "contourColor": drawing._CONTOUR_COLOR[::-1],
            "pointColor": drawing._POINT_COLOR[::-1],
            "meshColor": drawing._MESH_COLOR[::-1].tolist(),
            "dotsFrom": drawing._DOTS_FROM,
        },
    }


def _numbers(module: ModuleType) -> dict[str, float]:
    """The module's constants that are numbers: `_REST_ANGLE` as `restAngle`."""
    values = {name: value for name, value in vars(module).items() if name.isupper() and type(value) in (int, float)}
    return {_camel_case(name): value for name, value in values.items()}


def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """The defaults of its arguments."""
    parameters = inspect.signature(function).parameters.values()
    return {_camel_case(p.name): p.default for p in parameters if p.default is not p.empty}


def _camel_case(name: str) -> str:
    first, *others = name.strip("_").lower().split("_")
    return first + "".join(word.title() for word in others)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(constants(), indent=1) + "\n", encoding="utf-8")
