"""Surroundings are blurred part by part, and the face stays as it is."""

import numpy as np

from benchmarks.context import PARTS, blurred


def test_parts_make_up_all_around_the_face() -> None:
    size, points = 128, np.full((68, 2), [64.0, 60.0])
    points[[0, 16, 8, 27, 19, 24]] = [[40, 60], [88, 60], [64, 90], [64, 55], [52, 45], [76, 45]]
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    changed = {part: (blurred(image, points, part) != image).any(axis=2) for part in PARTS}
    assert not changed["nothing"].any() and not changed["all around"][55:85, 58:70].any()
    assert changed["below"][100:, 64].mean() > 0.9 and changed["above"][:30, 64].mean() > 0.9
    assert changed["sides"][70, :30].mean() > 0.9 and changed["sides"][70, 100:].mean() > 0.9
    parts = np.stack([changed["below"], changed["above"], changed["sides"]])
    assert parts.sum(axis=0).max() == 1 and np.array_equal(parts.any(axis=0), changed["all around"])
