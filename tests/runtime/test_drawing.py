import numpy as np
import pytest

from runtime import InvalidInputError
from runtime.drawing import DRAWERS, draw_faces, draw_landmarks, draw_mesh
from tests.runtime.faces import posed

GREY = np.full((200, 220, 3), 128, dtype=np.uint8)


@pytest.mark.parametrize("part", DRAWERS)
def test_each_part_draws_something_and_leaves_the_photo_alone(part):
    canvas = draw_faces(GREY, [posed(20)], [part])
    changed = (canvas != 128).any(axis=2)
    assert 0.0005 < changed.mean() < 0.6 and (GREY == 128).all() and canvas.shape == GREY.shape


def test_hidden_landmarks_are_hollow():
    face = posed(75, center=(300.0, 300.0), side=580.0)
    canvas = draw_faces(np.zeros((600, 600, 3), np.uint8), [face], ["points"])
    x, y = np.round(face.landmarks[:, :2]).astype(int).T
    filled = canvas[y, x, 2] > 100
    apart = [
        i for i in range(68) if np.sort(np.linalg.norm(face.landmarks[:, :2] - face.landmarks[i, :2], axis=1))[1] > 9
    ]
    assert len(apart) > 20 and 0 < face.visible[apart].sum() < len(apart)
    assert np.array_equal(filled[apart], face.visible[apart])


def test_the_larger_face_is_drawn_over_the_smaller_one():
    near, far = posed(0, side=200.0), posed(0, side=60.0)
    both = [draw_faces(GREY, faces, ["mesh"]) for faces in ([near, far], [far, near])]
    assert np.array_equal(*both) and np.array_equal(draw_faces(both[0], [], []), both[0])


@pytest.mark.parametrize("center", [(-5000.0, 10.0), (1e8, 1e8), (0.0, 0.0), (219.0, 199.0)])
def test_faces_at_the_edge_and_far_outside_are_drawn_as_far_as_they_show(center):
    canvas = draw_faces(GREY, [posed(10, center=center)], DRAWERS)
    assert (canvas != 128).any() == (abs(center[0]) < 1000)


def test_the_old_ways_still_draw():
    face = posed()
    assert np.array_equal(draw_mesh(GREY, [face]), draw_faces(GREY, [face], ["mesh"]))
    assert np.array_equal(draw_landmarks(GREY, [face]), draw_faces(GREY, [face], ["contours"]))


def test_an_unknown_part_names_the_nearest():
    with pytest.raises(InvalidInputError, match=r"draw: expected names of .*'contuors'; did you mean 'contours'\?"):
        draw_faces(GREY, [], ["contuors"])
