import numpy as np

from tests.runtime.faces import MODEL, posed


def test_a_frontal_face_shows_its_inner_landmarks_and_a_profile_half_of_them():
    front, left, right = posed(), posed(75), posed(-75)
    assert front.visible[17:].mean() > 0.95 and front.visible.shape == (68,)
    # yaw > 0 turns the face to the image's left: the subject's right side (jaw 0-7, eye 36-41) turns away.
    assert not left.visible[[1, 2, 3, 36, 37, 41]].any() and left.visible[[13, 14, 42, 43, 44, 45]].all()
    assert not right.visible[[15, 14, 13, 44, 45, 46]].any() and right.visible[[3, 2, 36, 37, 38, 39]].all()


def test_vertices_in_front_are_seen_and_mirror_views_mirror_it():
    left, right = posed(40).vertex_visibility, posed(-40).vertex_visibility
    assert left.shape == (len(MODEL.mean),) and 0.3 < left.mean() < 0.9
    assert (left == right[MODEL.mirror]).mean() > 0.99


def test_visibility_is_of_the_face_not_of_the_pixels():
    small, large = posed(50, side=20.0), posed(50, side=3000.0)
    assert np.array_equal(small.visible, large.visible)
    assert (small.vertex_visibility == large.vertex_visibility).mean() > 0.995
