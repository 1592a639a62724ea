"""The C++ library `cln` for Python. `runtime` uses it where it is installed; nothing changes but speed.

Images are uint8 (H, W), (H, W, 3) BGR or (H, W, 4) BGRA; regions are rows of (center_x, center_y, side), image pixels,
and, as a fourth number, an angle, degrees clockwise; params are float32 (B, 12 + S + E). Results are new arrays. The
GIL is released while crops are cut and faces decoded.
"""

from cln_cpp._core import (
    Decoder,
    FaceModel,
    OneEuroFilter,
    Tracker,
    crop,
    interpolate,
    metric_pose,
    rasterize,
    surface_depth,
    vertex_normals,
    visibility,
)

__all__ = [
    "Decoder",
    "FaceModel",
    "OneEuroFilter",
    "Tracker",
    "crop",
    "interpolate",
    "metric_pose",
    "rasterize",
    "surface_depth",
    "vertex_normals",
    "visibility",
]
