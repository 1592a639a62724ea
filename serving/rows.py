"""Faces as rows of a Parquet file: a row a face, of a video a row a face and frame.

    path        the photograph or video, as `serving.storage` names it
    face        number in the picture, 0 for the best; null in the one row of a file without faces, or with an error
    box         x, y, w, h, image pixels             score       the detector's
    roi         centre x, y, side, angle             crop_size   pixels: with params, what gives the mesh again
    params      float32 (62)                         landmarks   float32 (68, 3), image pixels
    yaw, pitch, roll  degrees                        visible     bool (68): landmarks that the face does not hide itself
    frame, time, id   of a video: number and seconds of the frame, and the face's number over the video; else null
    error       why the photograph was skipped; null otherwise

The file's metadata says what made it: `cln.engine_sha256`, `cln.face_model_sha256`, `cln.manifest` (JSON).
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from runtime.errors import FileFormatError
from runtime.face import Face
from runtime.face_model import FaceModel
from runtime.roi import Roi

PART = "part-"
SUFFIX = ".parquet"

SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        ("face", pa.int32()),
        ("box", pa.list_(pa.float64())),
        ("score", pa.float64()),
        ("roi", pa.list_(pa.float64())),
        ("crop_size", pa.int32()),
        ("params", pa.list_(pa.float32())),
        ("landmarks", pa.list_(pa.list_(pa.float32()))),
        ("yaw", pa.float64()),
        ("pitch", pa.float64()),
        ("roll", pa.float64()),
        ("visible", pa.list_(pa.bool_())),
        ("frame", pa.int64()),
        ("time", pa.float64()),
        ("id", pa.int64()),
        ("error", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What made a file of results."""

    engine_sha256: str
    face_model_sha256: str
    manifest: str  # JSON

    def metadata(self) -> dict[str, str]:
        """As a Parquet file's metadata."""
        return {
            "cln.engine_sha256": self.engine_sha256,
            "cln.face_model_sha256": self.face_model_sha256,
            "cln.manifest": self.manifest,
        }

    @classmethod
    def read(cls, schema: Any) -> Origin | None:
        """Of a Parquet file's schema; None if the file is not ours."""
        values = {key.decode(): value.decode(errors="replace") for key, value in (schema.metadata or {}).items()}
        try:
            return cls(
                engine_sha256=values["cln.engine_sha256"],
                face_model_sha256=values["cln.face_model_sha256"],
                manifest=values["cln.manifest"],
            )
        except KeyError:
            return None


def rows_of(path: str, faces: Sequence[Face], error: str | None = None) -> list[dict[str, Any]]:
    """A photograph's rows: one a face, or one that says that there are none or why it was skipped."""
    if not faces:
        return [dict.fromkeys(SCHEMA.names) | {"path": path, "error": error}]
    return [row_of(path, number, face) for number, face in enumerate(faces)]


def row_of(
    path: str, number: int, face: Face, *, frame: int | None = None, time: float | None = None, track: int | None = None
) -> dict[str, Any]:
    """A face's row."""
    return {
        "path": path,
        "face": number,
        "box": [float(v) for v in face.box],
        "score": float(face.score),
        "roi": [face.roi.center_x, face.roi.center_y, face.roi.side, face.roi.angle],
        "crop_size": face.crop_size,
        "params": face.params,
        "landmarks": list(face.landmarks),
        "yaw": face.pose.yaw,
        "pitch": face.pose.pitch,
        "roll": face.pose.roll,
        "visible": face.visible,
        "frame": frame,
        "time": time,
        "id": track,
        "error": None,
    }


def table_of(rows: Sequence[Mapping[str, Any]], origin: Origin | None = None) -> Any:
    """Rows as a PyArrow table."""
    table = pa.Table.from_pylist(list(rows), schema=SCHEMA)
    return table if origin is None else table.replace_schema_metadata(origin.metadata())


def face_of(row: Mapping[str, Any], model: FaceModel) -> Face:
    """The face of a row that has one, with its mesh, pose and savers.

    Raises:
        FileFormatError: the row has no face.
    """
    if row.get("face") is None:
        raise FileFormatError(f"{row.get('path')}: expected a row with a face, got one without")
    center_x, center_y, side, angle = row["roi"]
    return Face(
        box=tuple(row["box"]),
        score=row["score"],
        roi=Roi(center_x=center_x, center_y=center_y, side=side, angle=angle),
        crop_size=row["crop_size"],
        params=np.asarray(row["params"], dtype=np.float32),
        landmarks=np.asarray([np.asarray(point) for point in row["landmarks"]], dtype=np.float32),
        model=model,
    )


def to_bytes(table: Any) -> bytes:
    """A table as the content of a Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
