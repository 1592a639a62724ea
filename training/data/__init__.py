"""Data sets: `samples` (cached synthetic ones), `mat_faces` (300W-LP, AFLW2000-3D), `packed` (3DDFA), `points`, `aflw`.

`catalog` opens any of them as `KIND:DIR`; `basel` turns their labels into params; `aflw2000` serves the evaluation.
"""
