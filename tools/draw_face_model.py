"""Draw the face model for the documentation: docs/face_model.png.

    python -m tools.draw_face_model [--face-model PATH] [--output PATH]

Rows: the mean face from the front, at 45 degrees and in profile, with the 68 landmarks; random identities; expressions.
The expressions are found in the model itself: each is the most probable coefficients that move the landmarks as named.
Orthographic, twice the size and shrunk for smooth edges.
"""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

from runtime import load_face_model, safetensors
from runtime.command import command
from runtime.pose import euler_to_rotation
from runtime.rasterizer import rasterize, vertex_normals

ROOT = Path(__file__).resolve().parent.parent
TILE, SMALL, OVERSAMPLING = 384, 192, 2
MILLIMETRES_ACROSS = 240.0
SKIN = {"skin": (168, 190, 224), "lips": (128, 132, 205), "eyes": (240, 240, 240), "brows": (140, 164, 200)}
LIGHT = np.array([-0.35, -0.45, 0.82])
"""Where it comes from, y down: from the upper left, towards the viewer."""
EXPRESSIONS = {
    "jaw open": {57: (0, -26, -5), 8: (0, -26, -8), 66: (0, -25, -3), 51: (0, 0, 0), 62: (0, 0, 0)},
    "smile": {48: (-8, 7, -5), 54: (8, 7, -5), 57: (0, 0, 0), 8: (0, 0, 0)},
    "pucker": {48: (9, 0, 3), 54: (-9, 0, 3), 51: (0, 0, 4), 57: (0, 0, 4), 8: (0, 0, 0)},
    "brows up": {19: (0, 8, 0), 24: (0, 8, 0), 21: (0, 8, 0), 22: (0, 8, 0), 37: (0, 0, 0), 41: (0, 0, 0)},
    "frown": {19: (0, -5, 0), 24: (0, -5, 0), 21: (2, -6, 0), 22: (-2, -6, 0), 48: (0, -4, 0), 54: (0, -4, 0)},
    "eyes closed": {37: (0, -8, 0), 38: (0, -8, 0), 43: (0, -8, 0), 44: (0, -8, 0), 19: (0, 0, 0), 24: (0, 0, 0)},
}
"""Landmark -> where it goes, in mm."""
STILL = (range(17, 27), range(36, 48), range(48, 68))
"""Brows, eyes, mouth: those that an expression does not name stay where they are."""
SLACK_MM = 0.7
"""How precisely an expression's landmarks must get there, against coefficients of size one."""


@command()
def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--face-model", type=Path, default=ROOT / "runtime/assets/face_model.safetensors")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/face_model.png")
    options = parser.parse_args()
    tensors, metadata = safetensors.read(options.face_model)
    colours = vertex_colours(tensors["region"], metadata["region_names"].split(","))
    picture = compose(tensors, colours, load_face_model(options.face_model).landmark_vertices)
    if not cv2.imwrite(str(options.output), picture, [cv2.IMWRITE_PNG_COMPRESSION, 9]):
        parser.error(f"expected to write {options.output}, could not: name a writable .png")
    return 0


def vertex_colours(region: np.ndarray, names: list[str]) -> np.ndarray:
    """BGR of each vertex, `(N, 3)`."""
    return np.array([SKIN.get(name, SKIN["skin"]) for name in names], np.float64)[region]


def compose(tensors: dict[str, np.ndarray], colours: np.ndarray, marks: np.ndarray) -> np.ndarray:
    """The whole picture, BGR; `marks (68,)` are the landmarks' vertices."""
    mean = tensors["mean"].astype(np.float64)
    large = [render(mean, tensors["triangles"], colours, yaw, TILE, marks) for yaw in (0.0, -45.0, -90.0)]
    rng = np.random.default_rng(7)
    identities = []
    shape_basis = tensors["shape_basis"].astype(np.float64)
    for index in range(6):
        face = mean + np.tensordot(rng.normal(size=len(shape_basis)), shape_basis, 1)
        identities.append(render(face, tensors["triangles"], colours, (0.0, -30.0)[index % 2], SMALL, None))
    expressions = []
    for name, moves in EXPRESSIONS.items():
        face = mean + expression(tensors["expression_basis"].astype(np.float64), marks, moves)
        tile = render(face, tensors["triangles"], colours, 0.0, SMALL, None)
        cv2.putText(tile, name, (6, SMALL - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (60, 60, 60), 1, cv2.LINE_AA)
        expressions.append(tile)
    return np.vstack([np.hstack(large), np.hstack(identities), np.hstack(expressions)])


def expression(basis: np.ndarray, marks: np.ndarray, moves: dict[int, tuple[float, float, float]]) -> np.ndarray:
    """Offsets `(N, 3)` of the most probable expression that moves the named landmarks so."""
    still = [k for group in STILL if not set(group) & set(moves) for k in group]
    moves = dict.fromkeys(still, (0.0, 0.0, 0.0)) | moves
    columns = basis[:, marks[list(moves)]].reshape(len(basis), -1).T / SLACK_MM
    wanted = np.array(list(moves.values()), np.float64).ravel() / SLACK_MM
    coefficients = np.linalg.solve(columns.T @ columns + np.eye(len(basis)), columns.T @ wanted)
    return np.tensordot(coefficients, basis, 1)


def render(
    vertices: np.ndarray, triangles: np.ndarray, colours: np.ndarray, yaw: float, size: int, marks: np.ndarray | None
) -> np.ndarray:
    """One view on white, `(size, size, 3)`; landmarks that face the viewer are drawn green, the others grey."""
    side = OVERSAMPLING * size
    scale = side / MILLIMETRES_ACROSS
    screen = vertices @ euler_to_rotation(yaw, 0.0, 0.0).T * [scale, -scale, scale] + side * np.array([0.5, 0.53, 0.0])
    normals = vertex_normals(screen, triangles)
    shade = 0.42 + 0.66 * np.clip(normals @ LIGHT, 0.0, None)
    front = triangles[facing_triangles(screen, triangles)]
    raster = rasterize(screen, front, (side, side))
    shown = raster.mask
    canvas = np.full((side, side, 3), 255, np.uint8)
    canvas[shown] = np.clip(raster.interpolate(colours * shade[:, None])[shown], 0, 255).round()
    # No white slit between closed lips: a pixel beside a surface takes its colour.
    canvas[~shown] = cv2.erode(canvas, np.ones((3, 3), np.uint8))[~shown]
    if marks is not None:
        facing = np.isin(marks, front)
        order = np.argsort(facing, kind="stable")  # those that face away first, under the others
        points = np.round(screen[marks[order], :2] * 16).astype(int).tolist()
        for (x, y), front in zip(points, facing[order], strict=True):
            cv2.circle(canvas, (x, y), 16 * 4, (40, 150, 0) if front else (170, 170, 170), -1, cv2.LINE_AA, 4)
    return cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)


def facing_triangles(screen: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Whether each triangle faces the viewer: clockwise, as y is down."""
    a, b, c = (screen[triangles[:, k], :2] for k in range(3))
    return (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0] < 0.0


if __name__ == "__main__":
    sys.exit(main())
