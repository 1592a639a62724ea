"""Other projects' face models as files of this one: `python -m runtime.face_model convert SOURCE --out FILE`."""
