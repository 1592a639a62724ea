"""Text and tables as people's programs write them: encodings, separators, headers.

Spreadsheets save with a byte-order mark, in UTF-16, in a Windows code page, with semicolons or tabs between the cells,
decimal commas beside these, empty cells behind the last and empty lines below. All of that is read as what it means.
"""

from __future__ import annotations

import codecs
import csv
import os
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.errors import FileFormatError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16's, which it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SEPARATORS = ",;\t"


def read_text(path: Path) -> str:
    """A text file in any Unicode encoding that has a byte-order mark, in UTF-8, or else in Windows' code page 1252.

    Raises:
        FileFormatError: It is none of these.
        OSError: It can't be read.
    """
    data = path.read_bytes()
    encodings = [name for mark, name in _MARKS if data.startswith(mark)][:1] or ["utf-8", "cp1252"]
    for encoding in encodings:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise FileFormatError(
        f"{path}: expected text in UTF-8 or with a byte-order mark, got other bytes; save it as UTF-8."
    )


def read_table(path: Path, width: int) -> list[tuple[str, NDArray[np.float64]]]:
    """Lines `file, number, …` of a table; NaN for empty cells. A first line without a number is a header.

    Raises:
        FileFormatError: A line has another number of numbers, or it is no text.
        FileNotFoundError: There is no such file.
    """
    lines = read_text(path).splitlines()
    if lines and lines[0].lower().startswith("sep="):  # tells spreadsheets the separator
        lines[0] = ""
    separator = _separator(lines, width)
    comma = separator != "," and any("," in line for line in lines)
    rows, first = [], True
    try:
        for number, cells in enumerate(csv.reader(lines, delimiter=separator), start=1):
            cells = [cell.strip() for cell in cells]
            while len(cells) > width + 1 and not cells[-1]:
                cells.pop()
            if not any(cells):
                continue
            values = _numbers(cells[1:], comma=comma)
            named = first and any(cells[1:]) and not any(_is_number(cell, comma=comma) for cell in cells[1:])
            first = False
            if named:
                continue
            if values is None or len(values) != width or np.isinf(values).any() or not cells[0]:
                raise FileFormatError(
                    f"{path}, line {number}: expected a file name and {width} numbers, got {len(cells)} cells."
                )
            rows.append((_posix(cells[0]), values))
    except csv.Error as error:
        raise FileFormatError(f"{path}: expected a table of cells with '{separator}' between, got {error}.") from None
    return rows


def _separator(lines: list[str], width: int) -> str:
    """What cuts most lines into a name and `width` numbers."""
    fits = Counter({s: sum(line.count(s) >= width for line in lines) for s in _SEPARATORS})
    return max(_SEPARATORS[::-1], key=lambda s: (fits[s], s == ","))


def _numbers(cells: list[str], *, comma: bool) -> NDArray[np.float64] | None:
    try:
        return np.array([float(_point(cell, comma=comma)) if cell else np.nan for cell in cells], dtype=np.float64)
    except ValueError:
        return None


def _is_number(cell: str, *, comma: bool) -> bool:
    try:
        float(_point(cell, comma=comma))
    except ValueError:
        return False
    return True


def _point(cell: str, *, comma: bool) -> str:
    return cell.replace(",", ".") if comma else cell


def _posix(name: str) -> str:
    """A name in one spelling: no `./` before it, no backslashes where they separate folders."""
    parts = name.replace("\\", "/").split("/")
    return "/".join(part for i, part in enumerate(parts) if part not in (".",) and (part or i == 0))


def find_named(folder: Path, name: str) -> Path:
    """The file of a name, also where the file system has it in another composition of accents (macOS' decomposed)."""
    path = folder / name
    if path.is_file() or name.isascii():
        return path
    wanted = unicodedata.normalize("NFC", path.name)
    if path.parent.is_dir():
        for entry in os.listdir(path.parent):
            if unicodedata.normalize("NFC", entry) == wanted:
                return path.parent / entry
    return path
