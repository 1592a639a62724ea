"""What an image file says of itself before it is decoded: its format, its size, and how it is to be turned.

Formats: JPEG, PNG, WebP, AVIF, HEIC, TIFF, BMP, GIF, JPEG 2000, PNM. The turn is EXIF's orientation (JPEG, PNG, WebP,
TIFF), or the `irot` and `imir` properties of AVIF and HEIC (ISO/IEC 23008-12, 6.5.10 and 6.5.12); the others have none.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_JPEG_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD9))
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ORIENTATION_TAG, _WIDTH_TAG, _HEIGHT_TAG = 274, 256, 257
_MAX_BOXES = 1000
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")


@dataclass(frozen=True, kw_only=True)
class Header:
    """What the file says."""

    format: str
    width: int  # as stored
    height: int
    orientation: int = 1  # EXIF's, 1 to 8
    turns: tuple[tuple[str, int], ...] = ()
    """Of AVIF and HEIC, in order: ("irot", quarter turns anticlockwise), ("imir", 0 upside down, 1 left to right)."""

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height once the image is turned."""
        quarters = sum(number for kind, number in self.turns if kind == "irot")
        if self.orientation >= 5 or quarters % 2:
            return self.height, self.width
        return self.width, self.height


def read_header(data: bytes) -> Header | None:
    """The header of a file's content (or of its beginning); nothing where it is of no known format, or damaged."""
    try:
        for magic, read in _READERS:
            if data.startswith(magic):
                return read(data)
        if data[4:8] == b"ftyp":
            return _of_heif(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _of_webp(data)
    except (struct.error, LookupError, ValueError):
        pass
    return None


def _of_jpeg(data: bytes) -> Header | None:
    orientation, position = 1, 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xFF or marker in _JPEG_WITHOUT_LENGTH:
            position += 1 if marker == 0xFF else 2
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        if marker == 0xE1 and data[position + 4 : position + 10] == b"Exif\0\0" and orientation == 1:
            orientation = _exif_orientation(data[position + 10 : position + 2 + length])
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, position + 5)
            return Header(format="JPEG", width=width, height=height, orientation=orientation)
        position += 2 + length
    return None


def _of_png(data: bytes) -> Header:
    width, height = struct.unpack_from(">II", data, 16)
    orientation, position = 1, 8
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"eXIf":
            orientation = _exif_orientation(data[position + 8 : position + 8 + length])
        position += 12 + length
    return Header(format="PNG", width=width, height=height, orientation=orientation)


def _of_webp(data: bytes) -> Header | None:
    size: tuple[int, ...] | None = None
    orientation, position = 1, 12
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        body = position + 8
        if kind == b"VP8X":
            size = tuple(1 + int.from_bytes(data[body + at : body + at + 3], "little") for at in (4, 7))
        elif kind == b"VP8L" and size is None:
            (bits,) = struct.unpack_from("<I", data, body + 1)
            size = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        elif kind == b"VP8 " and size is None:
            size = tuple(value & 0x3FFF for value in struct.unpack_from("<HH", data, body + 6))
        elif kind == b"EXIF":
            exif = data[body : body + length]
            orientation = _exif_orientation(exif.removeprefix(b"Exif\0\0"))
        position = body + length + (length & 1)
    return Header(format="WebP", width=size[0], height=size[1], orientation=orientation) if size else None


def _of_tiff(data: bytes) -> Header:
    tags = _tiff_tags(data)
    return Header(
        format="TIFF", width=tags[_WIDTH_TAG], height=tags[_HEIGHT_TAG], orientation=_valid(tags.get(_ORIENTATION_TAG))
    )


def _exif_orientation(tiff: bytes) -> int:
    try:
        return _valid(_tiff_tags(tiff).get(_ORIENTATION_TAG))
    except (struct.error, ValueError):
        return 1


def _valid(orientation: int | None) -> int:
    return orientation if orientation is not None and 1 <= orientation <= 8 else 1


def _tiff_tags(data: bytes) -> dict[int, int]:
    """The short and long tags of a TIFF structure's first directory."""
    order = {b"II": "<", b"MM": ">"}[data[:2]] if data[:2] in (b"II", b"MM") else ""
    if not order:
        raise ValueError("no TIFF")
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    tags = {}
    for i in range(count):
        tag, kind = struct.unpack_from(f"{order}HH", data, start + 2 + 12 * i)
        if kind in (3, 4):
            (tags[tag],) = struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", data, start + 10 + 12 * i)
    if not data.startswith((b"II*\0", b"MM\0*")):
        raise ValueError("no TIFF")
    return tags


def _of_gif(data: bytes) -> Header:
    width, height = struct.unpack_from("<HH", data, 6)
    return Header(format="GIF", width=width, height=height)


def _of_bmp(data: bytes) -> Header:
    width, height = struct.unpack_from("<ii" if struct.unpack_from("<I", data, 14)[0] > 12 else "<HH", data, 18)
    return Header(format="BMP", width=abs(width), height=abs(height))


def _of_jp2(data: bytes) -> Header:
    start = data.index(b"ihdr") + 4
    height, width = struct.unpack_from(">II", data, start)
    return Header(format="JPEG 2000", width=width, height=height)


def _of_codestream(data: bytes) -> Header:
    right, bottom, left, top = struct.unpack_from(">IIII", data, 8)
    return Header(format="JPEG 2000", width=right - left, height=bottom - top)


def _of_pnm(data: bytes) -> Header | None:
    words: list[bytes] = []
    for line in data[:4096].split(b"\n"):
        words += line.partition(b"#")[0].split()
        if len(words) >= 3:
            return Header(format="PNM", width=int(words[1]), height=int(words[2]))
    return None


def _of_heif(data: bytes) -> Header | None:
    """AVIF or HEIC: the primary item's properties."""
    (length,) = struct.unpack_from(">I", data, 0)
    brands = {data[8:12], *(data[i : i + 4] for i in range(16, min(length, 256), 4))}
    if brands & {b"avif", b"avis"}:
        name = "AVIF"
    elif brands.intersection(_HEIC_BRANDS):
        name = "HEIC"
    else:
        return None
    meta = _box(data, b"meta")
    inner = meta[4:]
    primary = _primary_item(_box(inner, b"pitm"))
    properties = list(_boxes(_box(_box(inner, b"iprp"), b"ipco")))
    size: tuple[int, int] | None = None
    turns = []
    for number in _associations(_box(_box(inner, b"iprp"), b"ipma"), primary):
        kind, body = properties[number - 1]
        if kind == b"ispe":
            size = (_number(body, 4), _number(body, 8))
        elif kind == b"irot":
            turns.append(("irot", body[0] & 3))
        elif kind == b"imir":
            turns.append(("imir", body[0] & 1))
    return Header(format=name, width=size[0], height=size[1], turns=tuple(turns)) if size else None


def _number(data: bytes, place: int) -> int:
    return int(struct.unpack_from(">I", data, place)[0])


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = 0
    for _ in range(_MAX_BOXES):
        if position + 8 > len(data):
            return
        length, kind = struct.unpack_from(">I4s", data, position)
        head = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, position + 8)
            head = 16
        end = position + length if length else len(data)
        if end < position + head:
            raise ValueError("box")
        yield kind, data[position + head : end]
        position = end


def _box(data: bytes, wanted: bytes) -> bytes:
    for kind, body in _boxes(data):
        if kind == wanted:
            return body
    raise ValueError(f"no box {wanted!r}")


def _primary_item(pitm: bytes) -> int:
    return int(struct.unpack_from(">I" if pitm[0] else ">H", pitm, 4)[0])


def _associations(ipma: bytes, item: int) -> list[int]:
    """Numbers (from 1) of an item's properties, in order."""
    wide_item, wide_index = ipma[0] > 0, ipma[3] & 1
    (count,) = struct.unpack_from(">I", ipma, 4)
    position = 8
    for _ in range(count):
        (number,) = struct.unpack_from(">I" if wide_item else ">H", ipma, position)
        position += 4 if wide_item else 2
        size = ipma[position]
        position += 1
        if number == item:
            layout = f">{size}{'H' if wide_index else 'B'}"
            return [value & (0x7FFF if wide_index else 0x7F) for value in struct.unpack_from(layout, ipma, position)]
        position += size * (2 if wide_index else 1)
    return []


_READERS = (
    (b"\xff\xd8\xff", _of_jpeg),
    (b"\x89PNG\r\n\x1a\n", _of_png),
    (b"II*\0", _of_tiff),
    (b"MM\0*", _of_tiff),
    (b"GIF87a", _of_gif),
    (b"GIF89a", _of_gif),
    (b"BM", _of_bmp),
    (b"\0\0\0\x0cjP  \r\n\x87\n", _of_jp2),
    (b"\xff\x4f\xff\x51", _of_codestream),
    *((f"P{i}".encode() + space, _of_pnm) for i in range(1, 7) for space in (b" ", b"\t", b"\r", b"\n")),
)
