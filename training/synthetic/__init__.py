"""Synthetic photographs of faces with full labels: `factory.FaceFactory`."""
