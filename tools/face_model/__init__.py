"""What `tools/make_face_model.py` is made of: MakeHuman's CC0 data in, the face model and the full head out."""
