"""The part of MakeHuman's mesh that is used: the full head, and the face cut out of it.

A head vertex is a base vertex, or (a landmark between vertices, a point of the cut's border) a fixed blend of two of
them, so it follows every morph target linearly. Parts and regions are named in PARTS and REGIONS; masks are 0 to 1 per
vertex. Everything is decided on the neutral base mesh, whose two sides are exact mirror images, so the result
is symmetric.
"""

from dataclasses import dataclass

import numpy as np

from tools.face_model.landmarks import LANDMARKS
from tools.face_model.makehuman import Archive, BaseMesh, load_mask
from training.data.landmarks import IBUG_68

PARTS = ("skin", "left_eye", "right_eye", "upper_teeth", "lower_teeth", "tongue", "hair")
GROUPS = (
    "body",
    "helper-l-eye",
    "helper-r-eye",
    "helper-upper-teeth",
    "helper-lower-teeth",
    "helper-tongue",
    "helper-hair",
)
REGIONS = ("skin", "lips", "ears", "eyes", "eyelids", "nose", "brows")
SHOULDER_HEIGHT, SHOULDER_WIDTH = 5.0, 2.4
"""Decimetres: the head mesh is the body above this height and within this distance of the middle."""
EAR_LINE, FOREHEAD_LINE = 0.24, 8.02
"""Decimetres: the face lies in front of this depth and below this height."""
CHIN_POINT, CHIN_NORMAL = (6.14, 0.98), (0.70, 0.65)
"""(y, z): the face lies on the normal's side of a slanting plane through this point under the chin."""
BORDER_SHARPNESS = 15.0
"""Per decimetre: how tightly the border turns where two of those planes meet."""
SOCKET_REACH = 1.35
"""In eyeball radii: skin this near to the eyeball's centre and facing it lies behind the lids."""


@dataclass(frozen=True, kw_only=True)
class HeadMesh:
    """Topology and masks of the head and of the face in it.

    `blend_index (M, 3)` and `blend_weight (M, 3)`: base vertices that each head vertex is made of; `triangles (T, 3)`,
    `part (T,)`, `mirror (M,)`, `uv (M, 2)`; `masks`: name -> (M,) in 0..1; `landmarks (68,)` head vertices;
    `face_vertices (N,)` head vertices and `face_triangles (F, 3)` in face numbering; `region (N,)`.
    """

    blend_index: np.ndarray
    blend_weight: np.ndarray
    triangles: np.ndarray
    part: np.ndarray
    mirror: np.ndarray
    uv: np.ndarray
    masks: dict[str, np.ndarray]
    landmarks: np.ndarray
    face_vertices: np.ndarray
    face_triangles: np.ndarray
    region: np.ndarray

    def lift(self, base: np.ndarray) -> np.ndarray:
        """Values per base vertex, `(19158, C)`, as values per head vertex, `(M, C)`."""
        return sum(base[self.blend_index[:, k]] * self.blend_weight[:, k, None] for k in range(3))


def build_head_mesh(base: BaseMesh, archive: Archive) -> HeadMesh:
    """Select, triangulate, insert the landmark vertices, label and cut."""
    quads, quad_uv, part = _select(base)
    triangles, triangle_uv, quad_of = _triangulate(quads, quad_uv, base.vertices)
    part = part[quad_of]
    used = np.unique(triangles)
    number = np.full(len(base.vertices), -1)
    number[used] = np.arange(len(used))
    vertex_uv = np.zeros((len(used), 2))
    vertex_uv[number[triangles].ravel()] = base.uv[triangle_uv].reshape(-1, 2)
    blends = [((int(v),), (1.0,)) for v in used]
    triangles, part = _split_along_border(number[triangles], part, base.vertices[used], blends)
    triangles, part, landmarks = _insert_landmarks(number, triangles, part, base.mirror, blends)
    blend_index, blend_weight = _pad(blends)
    mirror = _mirror(blends, base.mirror)
    uv = vertex_uv[number[blend_index]] * blend_weight[:, :, None]
    mesh = {"blend_index": blend_index, "blend_weight": blend_weight, "triangles": triangles, "part": part}
    vertices = sum(base.vertices[blend_index[:, k]] * blend_weight[:, k, None] for k in range(3))
    masks = _masks(archive, vertices, triangles, part, uv.sum(1))
    masks = {name: (mask + mask[mirror]) / 2.0 for name, mask in masks.items()}  # painted by hand, not quite alike
    face_vertices, face_triangles = _cut_face(vertices, triangles, part, masks)
    region = _regions(vertices, part, triangles, masks, landmarks)[face_vertices]
    return HeadMesh(
        **mesh,
        mirror=mirror,
        uv=uv.sum(1),
        masks=masks,
        landmarks=landmarks,
        face_vertices=face_vertices,
        face_triangles=face_triangles,
        region=region,
    )


def _select(base: BaseMesh) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The head's quads, their texture corners and their part."""
    chosen, part = [], []
    for index, group in enumerate(GROUPS):
        faces = np.flatnonzero(base.groups == group)
        if group == "body":
            corners = base.vertices[base.quads[faces]]
            near = (corners[..., 1].min(1) > SHOULDER_HEIGHT) & (np.abs(corners[..., 0]).max(1) < SHOULDER_WIDTH)
            faces = faces[near]
        chosen.append(faces)
        part.append(np.full(len(faces), index, np.uint8))
    order = np.concatenate(chosen)
    return base.quads[order], base.quad_uv[order], np.concatenate(part)


def _triangulate(quads: np.ndarray, quad_uv: np.ndarray, vertices: np.ndarray) -> tuple[np.ndarray, ...]:
    """Split quads along their shorter diagonal (the same one on both sides of the face)."""
    corner = vertices[quads]
    first = np.linalg.norm(corner[:, 0] - corner[:, 2], axis=1)
    second = np.linalg.norm(corner[:, 1] - corner[:, 3], axis=1)
    along_first = first <= second
    split = np.where(along_first[:, None], [0, 1, 2, 0, 2, 3], [0, 1, 3, 1, 2, 3]).reshape(-1, 2, 3)
    rows = np.arange(len(quads))[:, None, None]
    return quads[rows, split].reshape(-1, 3), quad_uv[rows, split].reshape(-1, 3), np.repeat(np.arange(len(quads)), 2)


def inside_border(points: np.ndarray) -> np.ndarray:
    """How far inside the face's border a point lies, in decimetres: three planes, their corners rounded."""
    normal = np.array(CHIN_NORMAL) / np.linalg.norm(CHIN_NORMAL)
    distances = (points[:, 1:] - CHIN_POINT) @ normal, points[:, 2] - EAR_LINE, FOREHEAD_LINE - points[:, 1]
    return -np.log(sum(np.exp(-BORDER_SHARPNESS * d) for d in distances)) / BORDER_SHARPNESS


def _split_along_border(
    triangles: np.ndarray, part: np.ndarray, vertices: np.ndarray, blends: list
) -> tuple[np.ndarray, np.ndarray]:
    """Split the skin's triangles where the face's border crosses them, so that the cut is a smooth line."""
    depth = inside_border(vertices)
    made: dict[tuple[int, int], int] = {}
    points = list(vertices)

    def crossing(a: int, b: int) -> int:
        outer, inner = (a, b) if depth[a] < depth[b] else (b, a)
        share = round(float(np.clip(depth[outer] / (depth[outer] - depth[inner]), 0.05, 0.95)), 3)  # no slivers
        if (outer, inner) not in made:
            made[outer, inner] = len(blends)
            blends.append((blends[outer][0] + blends[inner][0], (1.0 - share, share)))
            points.append((1.0 - share) * vertices[outer] + share * vertices[inner])
        return made[outer, inner]

    faces, parts = [], []
    for face, label in zip(triangles.tolist(), part.tolist(), strict=True):
        inside = [depth[v] > 0.0 for v in face]
        pieces = [face]
        if label == 0 and any(inside) and not all(inside):
            lone = inside.index(sum(inside) == 1)
            a, b, c = face[lone:] + face[:lone]
            p, q = crossing(a, b), crossing(a, c)
            straight = np.linalg.norm(points[p] - points[c]) <= np.linalg.norm(points[b] - points[q])
            pieces = [[a, p, q], *([[p, b, c], [p, c, q]] if straight else [[p, b, q], [b, c, q]])]
        faces += pieces
        parts += [label] * len(pieces)
    return np.array(faces), np.array(parts, np.uint8)


def _insert_landmarks(
    number: np.ndarray, triangles: np.ndarray, part: np.ndarray, mirror: np.ndarray, blends: list
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give every landmark a vertex: its own, or a new one that splits an edge (on both sides alike)."""
    faces = [tuple(t) for t in triangles.tolist()]
    parts = part.tolist()
    made: dict[frozenset, int] = {}
    landmarks = np.zeros(68, int)
    for index in range(68):
        twin = int(IBUG_68.mirror[index])
        source = LANDMARKS.get(index) or {int(mirror[v]): w for v, w in LANDMARKS[twin].items()}
        key = frozenset(source)
        if len(source) == 1:
            landmarks[index] = number[next(iter(source))]
        elif key in made:
            landmarks[index] = made[key]
        else:
            landmarks[index] = made[key] = len(blends)
            blends.append((tuple(source), tuple(source.values())))
            _split(faces, parts, {int(number[v]) for v in source}, len(blends) - 1)
    return np.array(faces), np.array(parts, np.uint8), landmarks


def _split(faces: list, parts: list, corners: set[int], new: int) -> None:
    hit = [i for i, face in enumerate(faces) if corners <= set(face)]
    if not hit:
        raise ValueError(
            f"expected {sorted(corners)} to be an edge of the head mesh, got none: settle the landmark again"
        )
    for i in hit:
        children = [tuple(new if v == out else v for v in faces[i]) for out in faces[i] if out in corners]
        faces[i] = children[0]
        faces.extend(children[1:])
        parts.extend([parts[i]] * (len(children) - 1))


def _pad(blends: list) -> tuple[np.ndarray, np.ndarray]:
    index = np.array([vertices + (vertices[0],) * (3 - len(vertices)) for vertices, _ in blends])
    weight = np.array([weights + (0.0,) * (3 - len(weights)) for _, weights in blends])
    return index, weight


def _mirror(blends: list, base_mirror: np.ndarray) -> np.ndarray:
    place = {frozenset(zip(*blend, strict=True)): i for i, blend in enumerate(blends)}
    twins = [frozenset((int(base_mirror[v]), w) for v, w in zip(*blend, strict=True)) for blend in blends]
    return np.array([place[twin] for twin in twins])


def _vertex_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Unit normals, area-weighted, `(M, 3)`; zero where a vertex has no triangle."""
    a, b, c = (vertices[triangles[:, k]] for k in range(3))
    face = np.cross(b - a, c - a)
    normals = np.zeros_like(vertices)
    for k in range(3):
        np.add.at(normals, triangles[:, k], face)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


def _part_vertices(triangles: np.ndarray, part: np.ndarray, name: str) -> np.ndarray:
    return np.unique(triangles[part == PARTS.index(name)])


def _masks(
    archive: Archive, vertices: np.ndarray, triangles: np.ndarray, part: np.ndarray, uv: np.ndarray
) -> dict[str, np.ndarray]:
    skin = np.zeros(len(vertices), bool)
    skin[_part_vertices(triangles, part, "skin")] = True
    masks = {
        name: load_mask(archive, f"mpfb_{name.replace('_', '-')}.jpg", uv) * skin
        for name in ("lips", "ears", "inside_mouth", "eyelids")
    }
    masks["inner_mouth"] = masks.pop("inside_mouth")
    normals = _vertex_normals(vertices, triangles[part == 0])
    socket = np.zeros(len(vertices))
    for eye in ("left_eye", "right_eye"):
        ball = vertices[_part_vertices(triangles, part, eye)]
        centre, radius = (ball.max(0) + ball.min(0)) / 2, np.ptp(ball[:, 0]) / 2
        towards = centre - vertices
        distance = np.linalg.norm(towards, axis=1)
        socket[skin & (distance < SOCKET_REACH * radius) & ((normals * towards).sum(1) / distance > 0.1)] = 1.0
    masks["eye_socket"] = socket
    return masks


def _cut_face(
    vertices: np.ndarray, triangles: np.ndarray, part: np.ndarray, masks: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Ear to ear, forehead to under the chin, with the fronts of the eyeballs, without mouth cavity and eye sockets."""
    centre = vertices[triangles].mean(1)
    inner, socket = masks["inner_mouth"] > 0.5, masks["eye_socket"] > 0.5
    keep = (part == 0) & ~inner[triangles].any(1) & ~socket[triangles].all(1)
    keep &= inside_border(centre) > 0.0
    for name in ("left_eye", "right_eye"):
        ball = vertices[_part_vertices(triangles, part, name)][:, 2]
        keep |= (part == PARTS.index(name)) & (centre[:, 2] > (ball.max() + ball.min()) / 2 + 0.02)
    face_vertices = np.unique(triangles[keep])
    number = np.full(len(vertices), -1)
    number[face_vertices] = np.arange(len(face_vertices))
    return face_vertices, number[triangles[keep]]


def _regions(
    vertices: np.ndarray, part: np.ndarray, triangles: np.ndarray, masks: dict[str, np.ndarray], landmarks: np.ndarray
) -> np.ndarray:
    """Region index of each head vertex; nose and brows by their landmarks, the rest by the masks."""
    region = np.zeros(len(vertices), np.uint8)
    points = vertices[landmarks]
    x, y, z = np.abs(vertices[:, 0]), vertices[:, 1], vertices[:, 2]
    ridge, base, nostril = points[27], points[33], points[35]
    height = (y - base[1]) / (ridge[1] - base[1])
    width = nostril[0] * np.interp(height, [0.0, 0.12, 0.35, 1.0], [1.3, 1.65, 1.3, 0.7])
    region[(height > 0.0) & (height < 1.0) & (x < width) & (z > nostril[2] - 0.12)] = REGIONS.index("nose")
    brow = points[[22, 23, 24, 25, 26]]
    line = np.interp(x, brow[:, 0], brow[:, 1])
    along = (x > brow[0, 0] - 0.05) & (x < brow[-1, 0] + 0.05) & (z > brow[-1, 2] - 0.2)
    region[along & (np.abs(y - line) < 0.06)] = REGIONS.index("brows")
    region[masks["lips"] > 0.5] = REGIONS.index("lips")
    region[masks["ears"] > 0.4] = REGIONS.index("ears")
    region[(masks["eyelids"] > 0.5) | (masks["eye_socket"] > 0.5)] = REGIONS.index("eyelids")
    for name in ("left_eye", "right_eye"):
        region[_part_vertices(triangles, part, name)] = REGIONS.index("eyes")
    return region
