"""Draws what the program makes of a photograph into one strip: `docs/outputs.jpg`, and the conventions' pictures.

    python -m tools.draw_outputs

The strip: the photograph, contours, mesh, depth, normals, the texture, and the textured head turned by 30 degrees.
`docs/conventions.jpg`: the axes of the face model's frame, and one head with yaw, pitch and roll of +30 degrees each.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime import Face, Reconstructor, Roi, read_image
from runtime.command import command
from runtime.drawing import draw_faces
from runtime.files import write_atomically
from runtime.maps import depth_map, depth_picture, normal_map, normal_picture
from runtime.pose import euler_to_rotation
from runtime.rasterizer import rasterize, vertex_normals
from runtime.texture import Texture, texture_coordinates, uv_texture

_ROOT = Path(__file__).resolve().parents[1]
_PHOTO = _ROOT / "examples" / "astronaut.jpg"
_TILE = 300  # pixels
_LARGER = 2  # times: drawn so, then averaged
_MILLIMETRES = 260.0  # across a tile
_LIGHT = np.array([0.35, -0.45, 0.8])
_QUALITY = 88

Picture = NDArray[np.uint8]


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Writes both pictures into docs/."""
    argparse.ArgumentParser(
        prog="python -m tools.draw_outputs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args(arguments)
    image = read_image(_PHOTO)
    with Reconstructor() as reconstruct:
        (face,) = reconstruct(image)
    texture = uv_texture(face, image)
    write(_ROOT / "docs" / "outputs.jpg", strip(image, face, texture))
    write(_ROOT / "docs" / "conventions.jpg", turns(face, texture))
    return 0


def write(path: Path, picture: Picture) -> None:
    """A JPEG."""
    write_atomically(path, cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes())


def strip(image: Picture, face: Face, texture: Texture) -> Picture:
    """Seven tiles in a row."""
    square = Roi(center_x=face.roi.center_x, center_y=face.roi.center_y - 8, side=face.roi.side * 1.45)
    side = _TILE * _LARGER
    large = cut(image, square, side)
    moved = moved_to(face, square, side)
    depth = cv2.cvtColor(depth_picture(depth_map(moved, (side, side))), cv2.COLOR_GRAY2BGR)
    tiles = [
        large,
        draw_faces(large, [moved], ["contours", "points"]),
        draw_faces(large, [moved], ["mesh"]),
        depth,
        normal_picture(normal_map(moved, (side, side))),
        texture.image,
        head(face, texture, euler_to_rotation(-30, 0, 0)),
    ]
    small = [cv2.resize(tile, (_TILE, _TILE), interpolation=cv2.INTER_AREA) for tile in tiles]
    names = ["photograph", "contours", "mesh", "depth", "normals", "texture", ".glb, turned by 30°"]
    return np.hstack([named(tile, name.replace("°", " deg")) for tile, name in zip(small, names, strict=True)])


def turns(face: Face, texture: Texture) -> Picture:
    """The frame's axes on the frontal head, then yaw, pitch and roll of +30 degrees."""
    tiles = []
    for name, angles in (
        ("frame: x red, y green, z blue", (18, 12, 0)),
        ("yaw +30", (30, 0, 0)),
        ("pitch +30", (0, 30, 0)),
        ("roll +30", (0, 0, 30)),
    ):
        rotation = euler_to_rotation(*angles)
        tile = head(face, texture, rotation)
        axes(tile, rotation)
        tiles.append(named(cv2.resize(tile, (_TILE, _TILE), interpolation=cv2.INTER_AREA), name))
    return np.hstack(tiles)


def cut(image: Picture, square: Roi, side: int) -> Picture:
    """The square of the image, enlarged smoothly."""
    scale = side / square.side
    left, top = square.to_image(np.zeros(2), side)
    matrix = np.array([[1 / scale, 0, left], [0, 1 / scale, top]])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return np.asarray(
        cv2.warpAffine(image, matrix, (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE), np.uint8
    )


def moved_to(face: Face, square: Roi, side: int) -> Face:
    """The face as it lies in the enlarged square."""
    x, y = square.to_crop(np.array([face.roi.center_x, face.roi.center_y]), side).tolist()
    region = Roi(center_x=x, center_y=y, side=face.roi.side * side / square.side, angle=face.roi.angle)
    landmarks = square.to_crop(face.landmarks, side)
    return Face(
        box=face.box, score=face.score, roi=region, crop_size=face.crop_size, params=face.params, landmarks=landmarks,
        model=face.model,
    )  # fmt: skip


def head(face: Face, texture: Texture, rotation: NDArray[np.float64]) -> Picture:
    """The textured head, with its expression, lit softly, on white."""
    side = _TILE * _LARGER
    middle = (face.model_vertices.max(axis=0) + face.model_vertices.min(axis=0)) / 2
    seen = (face.model_vertices - middle) @ (rotation * np.array([[1], [-1], [1]])).T * side / _MILLIMETRES
    screen = (seen + np.array([side / 2, side / 2, 0])).astype(np.float32)
    raster = rasterize(screen, face.triangles, (side, side))
    place = raster.interpolate(texture_coordinates(face.model)) * len(texture.image) - 0.5
    colors = cv2.remap(texture.image, place, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    light = _LIGHT / np.linalg.norm(_LIGHT)
    shade = 0.7 + 0.45 * np.clip(vertex_normals(screen, face.triangles) @ light, 0, 1)
    lit = colors * raster.interpolate(shade[:, None].astype(np.float32))
    return np.where(raster.mask[..., None], np.clip(lit, 0, 255), 255).astype(np.uint8)


def axes(tile: Picture, rotation: NDArray[np.float64]) -> None:
    """The model's axes from the middle of the head, the nearest drawn last, in place."""
    side = len(tile)
    for axis in np.argsort(rotation[2]):
        end = rotation[:, axis] * 115 * side / _MILLIMETRES
        tip = (round(side / 2 + end[0]), round(side / 2 - end[1]))
        color = ((60, 60, 255), (60, 200, 60), (255, 120, 40))[axis]
        cv2.arrowedLine(tile, (side // 2, side // 2), tip, color, 8, cv2.LINE_AA, tipLength=0.12)


def named(tile: Picture, name: str) -> Picture:
    """The tile with its name in a line below."""
    line = np.full((26, tile.shape[1], 3), 255, dtype=np.uint8)
    cv2.putText(line, name, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (40, 40, 40), 1, cv2.LINE_AA)
    return np.vstack([tile, line])


if __name__ == "__main__":
    sys.exit(main())
