"""Synthetic photographs of faces with exact labels: `factory.FaceFactory`."""
