"""Damaged and odd files for every reader: `make hostile`."""
