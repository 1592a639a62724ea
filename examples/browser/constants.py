"""Writes the constants that live in the runtime's Python code as JSON, for the browser: `python constants.py OUT.json`.

So the page has no copy of them. What the model files hold (sizes, bases, triangles) is not in here: the page reads it
from those files. Colours are RGB, 0..255.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from runtime import detection, drawing, face_model, manifest
from runtime.detection import BlazeFaceDetector
from runtime.engines import onnx
from runtime.image import MAX_SIDE
from runtime.roi import Roi


def constants() -> dict[str, Any]:
    """All of them, by module."""
    detector = BlazeFaceDetector()
    return {
        "detection": {
            "view": detection._VIEW,
            "cell": detection._CELL,
            "candidate": detection._CANDIDATE,
            "small": detection._SMALL,
            "workSize": detection._WORK_SIZE,
            "centerWeights": detection._CENTER_WEIGHTS.tolist(),
            "boxPerSpread": detection._BOX_PER_SPREAD,
            "lean": detection._LEAN,
            "tilted": detection._TILTED,
            "upright": detection._UPRIGHT,
            "turns": detection._TURNS,
            "scoreThreshold": detector.score_threshold,
            "iouThreshold": detector.iou_threshold,
        },
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
        "drawing": {
            "contours": [{"first": a, "last": b, "closed": closed} for a, b, closed in drawing.CONTOURS],
            "contourColor": drawing._CONTOUR_COLOR[::-1],
            "pointColor": drawing._POINT_COLOR[::-1],
            "meshColor": drawing._MESH_COLOR[::-1].tolist(),
            "dotsFrom": drawing._DOTS_FROM,
        },
    }


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(constants(), indent=1) + "\n", encoding="utf-8")
