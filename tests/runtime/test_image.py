"""The table of docs/formats.md, row by row."""

import io
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from runtime import EngineUnavailableError, FileFormatError, image, read_image
from runtime.image import IMAGE_SUFFIXES, decode_image, decode_noted, upright_size
from runtime.image_header import read_header
from training.data.files import image_height

pillow_heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
pillow_heif.register_heif_opener()

PICTURE = Image.open("examples/astronaut.jpg").convert("RGB").resize((96, 64))
# format: suffixes, whether a file says how it is turned, options of Pillow's writer, and the error that they allow
FORMATS = {
    "JPEG": ((".jpg", ".jpeg", ".jpe", ".jfif"), True, {"quality": 95}, 4),
    "PNG": ((".png",), True, {}, 0),
    "WebP": ((".webp",), True, {"lossless": True}, 0),
    "AVIF": ((".avif",), True, {"quality": 95}, 4),
    "HEIF": ((".heic", ".heif"), True, {"quality": 95}, 4),
    "TIFF": ((".tif", ".tiff"), True, {}, 0),
    "BMP": ((".bmp",), False, {}, 0),
    "GIF": ((".gif",), False, {}, 12),  # 256 colours
    "JPEG2000": ((".jp2",), False, {}, 0),
    "PPM": ((".ppm", ".pnm"), False, {}, 0),
}
ROWS = [(name, turn) for name, (_, turns, *_) in FORMATS.items() for turn in range(1, 9 if turns else 2)]


def encoded(name, picture, **options):
    buffer = io.BytesIO()
    picture.save(buffer, name, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("name", "turn"), ROWS)
def test_every_format_is_read_upright(name, turn, tmp_path):
    exif = Image.Exif()
    exif[274] = turn
    suffixes, turns, options, allowed = FORMATS[name]
    file = tmp_path / f"a{suffixes[0]}"
    file.write_bytes(encoded(name, PICTURE, **options, **({"exif": exif.tobytes()} if turns else {})))
    expected = PICTURE.copy()
    expected.getexif()[274] = turn
    expected = np.asarray(ImageOps.exif_transpose(expected))[..., ::-1].astype(int)
    got = read_image(file)
    assert got.shape == expected.shape and got.dtype == np.uint8 and got.flags.c_contiguous
    assert np.abs(got - expected).mean() <= allowed
    assert upright_size(file) == got.shape[1::-1] and image_height(file) == len(got)


def test_a_frame_headers_turn_behind_much_else_is_found(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=exif, icc_profile=b"x" * 200_000)
    assert upright_size(tmp_path / "a.jpg") == (20, 30)


def test_the_documents_table_lists_what_is_read():
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \|", Path("docs/formats.md").read_text(), re.MULTILINE)
    table = {suffix: row for row in rows for suffix in re.findall(r"`(\.\w+)`", row[1])}
    assert table.keys() == set(IMAGE_SUFFIXES)
    for suffixes, turns, *_ in FORMATS.values():
        for suffix in suffixes:
            assert (table[suffix][2] != "–") == turns, suffix


@pytest.mark.parametrize(
    ("name", "picture", "expected"),
    [
        ("PNG", Image.fromarray(np.array([[0x1234, 0xFFFF]], np.uint16)), [0x12, 0xFF]),  # the upper 8 bits
        ("TIFF", Image.fromarray(np.array([[0x1234, 0xFFFF]], np.uint16)), [0x12, 0xFF]),
        ("PNG", Image.fromarray(np.array([[[9, 9, 9, 0], [255, 255, 255, 128]]], np.uint8)), [9, 255]),  # no alpha
        ("PNG", Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1"), [0, 255]),
        ("PNG", Image.fromarray(np.array([[[7, 7, 7], [99, 99, 99]]], np.uint8)).quantize(2), [7, 99]),
        ("JPEG", Image.new("CMYK", (2, 1), (0, 0, 0, 0)), [255, 255]),
        ("JPEG", Image.new("L", (2, 1), 77), [77, 77]),
    ],
)
def test_other_colours_and_depths(name, picture, expected):
    got = decode_image(encoded(name, picture), name="x")
    assert got.shape == (1, 2, 3) and got[0, :, 0].tolist() == expected


def test_of_several_pictures_the_first_is_read():
    pages = [Image.new("RGB", (8, 8), (v, v, v)) for v in (40, 200)]
    for name in ("GIF", "TIFF", "WebP", "AVIF"):
        options = {"lossless": True} if name == "WebP" else {}
        data = encoded(name, pages[0], save_all=True, append_images=pages[1:], **options)
        assert abs(int(decode_image(data, name=name)[4, 4, 0]) - 40) < 4, name


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "got 0 bytes that OpenCV cannot decode; docs/formats.md"),
        (b"P7\nWIDTH 1\n", "docs/formats.md lists"),
        (b"\xff\xd8\xff\xe0 no image", "cannot decode"),
        (encoded("JPEG", PICTURE)[:-300], r"\(JPEG\) that OpenCV cannot decode; the file is damaged or cut off"),
        (encoded("HEIF", PICTURE)[:-300], "HEIC.*damaged or cut off"),
        (b"P6 33000 33000 255\n", "with sides of 1..32766 pixels .* got 33000 x 33000"),
        (b"P6 20000 20000 255\n", "at most 200 million in all, got 20000 x 20000; scale it down"),
    ],
)
def test_what_is_refused_says_why(data, message):
    with pytest.raises(FileFormatError, match=f"^x.jpg: expected an image.*{message}"):
        decode_image(data, name="x.jpg")


def test_a_jpeg_that_its_decoder_patches_up_is_noted(capfd):
    data = encoded("JPEG", PICTURE)
    patched, notes = decode_noted(data[: len(data) // 2] + b"\xff\xd9", name="x.jpg")
    assert patched.shape == (64, 96, 3)
    assert len(notes) == 1 and "damaged" in notes[0] and "premature end of data segment" in notes[0]
    assert decode_noted(data, name="x.jpg")[1] == () and capfd.readouterr().err == ""


def test_heic_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(image, "_heif_package", lambda: None)
    with pytest.raises(EngineUnavailableError, match=r"pip install 'cln\[heic\]'"):
        decode_image(encoded("HEIF", PICTURE), name="x.heic")


def test_a_decoder_that_turns_avif_itself_is_not_helped(monkeypatch):
    exif = Image.Exif()
    exif[274] = 6
    data = encoded("AVIF", PICTURE, exif=exif)
    upright = np.full((96, 64, 3), 5, np.uint8)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: upright)
    assert decode_image(data, name="x").shape == upright.shape


def test_a_tiff_that_does_not_say_its_width_has_no_header():
    assert read_header(b"II*\0" + (8).to_bytes(4, "little") + (0).to_bytes(2, "little")) is None
