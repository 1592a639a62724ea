"""Writes small valid inputs of the three readers, from which the fuzzers start: make_seeds.py FOLDER."""

from __future__ import annotations

import json
import math
import struct
import sys
from pathlib import Path

_SIZES = {"F32": 4, "F16": 2, "I32": 4, "U8": 1}
_TENSORS = {  # a face model of two vertices, one mode of each kind, one triangle
    "mean": ("F32", [2, 3]),
    "shape_basis": ("F16", [1, 2, 3]),
    "expression_basis": ("F32", [1, 2, 3]),
    "shape_sigma": ("F32", [1]),
    "expression_sigma": ("F32", [1]),
    "shape_mirror": ("F32", [1]),
    "expression_mirror": ("F32", [1]),
    "triangles": ("I32", [1, 3]),
    "landmark_triangles": ("I32", [68, 3]),
    "landmark_weights": ("F32", [68, 3]),
    "mirror": ("I32", [2]),
    "uv": ("F32", [2, 2]),
    "region": ("U8", [2]),
}
_MANIFEST = {
    "format": "cln.engine",
    "version": 1,
    "input_size": 128,
    "shape_count": 40,
    "expression_count": 10,
    "face_model": "m",
    "face_model_sha256": "ab",
    "precision": "fp32",
    "builder": "onnx",
    "builder_version": "1",
    "compute_capabilities": ["8.0+"],
    "batch_range": [1, 64],
    "checkpoint_sha256": "cd",
    "onnx_sha256": None,
    "parity": [{"step": "s", "max_params": 1e-6, "max_landmark_px": 2, "crops": 24}],
    "figures": {"nme": 4.5},
}


def face_model() -> bytes:
    """A safetensors file, all zeros but the landmarks' weights, which must sum to 1."""
    header: dict[str, object] = {"__metadata__": {"format": "cln.face_model", "version": "2", "name": "é\n"}}
    body = b""
    for key, (dtype, shape) in _TENSORS.items():
        size = math.prod(shape) * _SIZES[dtype]
        header[key] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + size]}
        body += struct.pack("<204f", *(1.0, 0.0, 0.0) * 68) if key == "landmark_weights" else bytes(size)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def onnx(manifest: bytes) -> bytes:
    """A protobuf with nothing but the metadata; the manifest is short enough for sizes of two bytes."""
    key = b"\x0a\x0ccln.manifest"
    value = b"\x12" + bytes([len(manifest) & 127 | 128, len(manifest) >> 7]) + manifest
    entry = key + value
    return b"\x08\x0a\x72" + bytes([len(entry) & 127 | 128, len(entry) >> 7]) + entry


def main(folder: Path) -> None:
    """Writes FOLDER/READER/seed-N."""
    manifest = json.dumps(_MANIFEST).encode()
    seeds = {
        "face_model": [face_model()],
        "manifest": [manifest, b"O" + onnx(manifest)],  # "O" tells the fuzzer: as ONNX
        "image": [b"P6\n# comment\n3 2\n255\n" + bytes(range(18)), b"P6 1 1 255 abc"],
    }
    for reader, inputs in seeds.items():
        (folder / reader).mkdir(parents=True, exist_ok=True)
        for i, data in enumerate(inputs):
            (folder / reader / f"seed-{i}").write_bytes(data)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
