import cv2
import numpy as np
import pytest

from runtime import InvalidInputError
from runtime.texture import shown_vertices, texture_coordinates, uv_texture, vertex_colors
from tests.runtime.faces import MODEL, posed


def painted(face, shape=(200, 220)):
    """A photograph whose colour says where it was taken: blue x, green y, and red for the image's left half."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return np.stack([columns, rows, 200 * (columns < shape[1] / 2)], axis=2).astype(np.uint8)


def test_the_unfolding_is_upright_mirror_symmetric_and_inside_the_texture():
    uv = texture_coordinates(MODEL)
    assert uv.shape == (len(MODEL.mean), 2) and uv.min() > 0 and uv.max() < 1
    partner = uv[MODEL.mirror]
    assert np.abs(uv[:, 0] + partner[:, 0] - 1).max() < 0.01 and np.abs(uv[:, 1] - partner[:, 1]).max() < 0.01
    left_eye, right_eye, chin = (MODEL.at_landmarks(uv[None])[0][i] for i in (45, 36, 8))
    assert left_eye[0] > right_eye[0] and chin[1] > left_eye[1]  # u to the subject's left, v downwards
    a, b, c = (uv[MODEL.triangles[:, k]] for k in range(3))
    turned = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0] > 0
    assert turned.mean() < 0.08  # folds: lips, lids, nostrils, ears


def test_what_is_seen_is_the_photograph():
    face = posed(0)
    image = painted(face)
    texture = uv_texture(face, image, 256)
    assert texture.image.shape == (256, 256, 3) and texture.seen.shape == (256, 256)
    shown = shown_vertices(face, image) > 0.99
    colors = vertex_colors(face, image)[:, ::-1].astype(float)
    off = np.abs(colors[:, :2] - face.vertices[:, :2])[shown]
    assert shown.mean() > 0.3 and (off < 3).mean() > 0.95


def test_teeth_are_not_painted_on_lips_that_were_found_a_millimetre_off():
    coefficients = np.zeros(MODEL.num_params - 12)
    coefficients[MODEL.shape_count] = 2  # the jaw drops
    face = posed(0, center=(400.0, 360.0), side=640.0, coefficients=coefficients)
    mouth = np.round(face.landmarks[60:68, :2]).astype(np.int32)
    assert mouth[6, 1] - mouth[2, 1] > 20
    image = np.full((800, 800, 3), 90, np.uint8)
    cv2.fillPoly(image, [mouth], (255, 255, 255))
    cv2.polylines(image, [mouth], True, (255, 255, 255), round(2 * face.pose.scale))
    lips = MODEL.region == MODEL.region_names.index("lips")
    colors = vertex_colors(face, image)[lips]
    assert (shown_vertices(face, image)[lips] > 0.99).mean() > 0.2 and (colors < 110).mean() > 0.85


def test_what_is_hidden_is_mirrored_and_marked():
    face = posed(50)  # the subject's right half, u < 0.5, turns away
    image = np.full((200, 220, 3), 90, np.uint8)
    x, y = np.round(face.landmarks[14, :2] - (4, 0)).astype(int)  # the cheek that is seen
    image[y - 3 : y + 4, x - 3 : x + 4] = (0, 0, 255)
    texture = uv_texture(face, image, 256)
    red = (texture.image[..., 2] > 180) & (texture.image[..., 1] < 60)
    rows, columns = np.nonzero(red)
    seen = texture.seen[rows, columns] > 0
    assert (columns[seen] > 128).all() and (columns[~seen] < 128).any() and seen.any()
    assert texture.seen[:, :64].mean() < texture.seen[:, 192:].mean() / 2


def test_large_photographs_are_averaged_not_sampled():
    face = posed(0, center=(1000.0, 1000.0), side=1600.0)
    image = np.zeros((2000, 2000, 3), np.uint8)
    image[::2] = 255  # lines of one pixel
    texture = uv_texture(face, image, 128)
    levels = texture.image[texture.seen > 0]
    assert np.abs(levels.astype(int) - 128).max() < 60


@pytest.mark.parametrize("face", [posed(0, center=(-500.0, 90.0)), posed(0, center=(1e6, 1e6))])
def test_a_face_outside_the_photograph_has_no_texture(face):
    with pytest.raises(InvalidInputError, match="texture: expected a face that the image shows, got"):
        uv_texture(face, np.zeros((200, 220, 3), np.uint8))


@pytest.mark.parametrize("size", [0, -1, 1.5, 10**6])
def test_texture_sizes(size):
    with pytest.raises(InvalidInputError, match="texture size: expected"):
        uv_texture(posed(), painted(None), size)
