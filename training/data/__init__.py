"""Data sets: cached synthetic samples (`samples`) and AFLW2000-3D (`aflw2000`)."""
