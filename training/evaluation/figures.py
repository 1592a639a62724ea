"""What a report shows beside its table: CED curves as PNG and CSV, and the worst faces of a set on one sheet.

A curve's CSV has a column of thresholds (percent of NME) and one of each set (percent of its faces at or under it). A
NaN among a set's errors is a face without an answer: it counts, and no threshold reaches it.
On a sheet the label is green, the answer red; both are in the crop of the true region.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.drawing import CONTOURS
from runtime.errors import EngineUnavailableError
from runtime.face_model import LANDMARKS
from runtime.files import write_atomically
from runtime.image import read_image
from runtime.roi import Roi, crop
from training.evaluation.metrics import CED_LIMIT, ced, ced_curve

WORST = 24
_TILE, _CAPTION, _COLUMNS = 256, 22, 6
_TRUTH, _ANSWER, _BETWEEN = (60, 220, 60), (60, 60, 255), (200, 200, 200)
_LEGEND = (("label", _TRUTH), ("answer", _ANSWER))
DETECTED = " (detector)"
"""After a set's name: the curve of the same faces with a detector's regions, drawn dashed in the set's colour."""
_SUBPIXEL_BITS = 4
_STEPS = 161


@dataclass(frozen=True, kw_only=True, eq=False)
class Tile:
    """One face of a sheet; points (K, 2) in the image's pixels, float64."""

    image_path: Path
    roi: Roi
    truth: NDArray[np.floating]
    answer: NDArray[np.floating]
    caption: str


def ced_csv(errors: Mapping[str, NDArray[np.float64]]) -> str:
    """The curves of each set's errors (F,) in percent."""
    thresholds = np.linspace(0.0, CED_LIMIT, _STEPS)
    shares = np.stack([ced_curve(values, thresholds) for values in errors.values()], axis=1)  # (T, sets)
    rows = [
        [f"{threshold:.2f}", *(f"{share:.3f}" for share in row)]
        for threshold, row in zip(thresholds, shares, strict=True)
    ]
    return _csv([["nme_percent", *errors], *rows])


def ced_figures_csv(errors: Mapping[str, NDArray[np.float64]]) -> str:
    """Faces, area and failure rate of each set's curve."""
    rows = [["data", "faces", f"area_to_{CED_LIMIT:g}", f"failure_rate_at_{CED_LIMIT:g}_percent"]]
    for name, values in errors.items():
        figures = ced(values)
        rows.append([name, str(len(values)), f"{figures.area:.4f}", f"{figures.failure_rate:.3f}"])
    return _csv(rows)


def _csv(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def load_pyplot() -> ModuleType:
    """Matplotlib's pyplot, drawing into files.

    Raises:
        EngineUnavailableError: Matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise EngineUnavailableError(
            "plotting: expected the package matplotlib, found none; run: pip install matplotlib"
        ) from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def plot_ced(path: Path, errors: Mapping[str, NDArray[np.float64]]) -> None:
    """Draw the curves into a PNG.

    Raises:
        EngineUnavailableError: Matplotlib is not installed.
    """
    pyplot = load_pyplot()
    figure, axes = pyplot.subplots(figsize=(6, 4.5 + 0.2 * len(errors)), layout="constrained")
    sets = list(dict.fromkeys(name.removesuffix(DETECTED) for name in errors))
    for name, values in errors.items():
        colour = f"C{sets.index(name.removesuffix(DETECTED))}"
        style = "--" if name.endswith(DETECTED) else "-"
        figures = ced(values)
        label = f"{name}: area {figures.area:.3f}, failures {figures.failure_rate:.1f} %"
        # A step at each error, drawn to the limit.
        steps = np.concatenate([[0.0], np.sort(values[values <= CED_LIMIT]), [CED_LIMIT]])
        axes.step(steps, ced_curve(values, steps), style, color=colour, where="post", label=label, clip_on=False)
    title = f"Cumulative error distribution; failures are above {CED_LIMIT:g} %"
    axes.set(xlabel="NME, %", ylabel="faces with at most this NME, %", xlim=(0, CED_LIMIT), ylim=(0, 100), title=title)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize="small")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    pyplot.close(figure)
    write_atomically(path, content.getvalue())


def write_sheet(path: Path, tiles: Sequence[Tile]) -> None:
    """Draw a sheet of faces into an image file, a legend under it."""
    drawn = [_draw(tile) for tile in tiles]
    blank = np.zeros_like(drawn[0])
    drawn += [blank] * (-len(drawn) % min(_COLUMNS, len(drawn)))
    width = min(_COLUMNS, len(tiles))
    rows = [np.hstack(drawn[start : start + width]) for start in range(0, len(drawn), width)]
    rows.append(_legend(rows[0].shape[1]))
    write_atomically(path, cv2.imencode(path.suffix, np.vstack(rows))[1].tobytes())


def _legend(width: int) -> NDArray[np.uint8]:
    strip = np.zeros((_CAPTION, width, 3), np.uint8)
    for number, (text, colour) in enumerate(_LEGEND):
        _write(strip, text, 4 + 60 * number, colour)
    return strip


def _write(strip: NDArray[np.uint8], text: str, x: int, colour: tuple[int, int, int]) -> None:
    cv2.putText(strip, text, (x, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)


def _draw(tile: Tile) -> NDArray[np.uint8]:
    image = crop(read_image(tile.image_path), [tile.roi], _TILE)[0]
    truth, answer = (_fixed_point(tile.roi.to_crop(points, _TILE)) for points in (tile.truth, tile.answer))
    if len(truth) != LANDMARKS:
        pairs = list(np.stack([truth, answer], axis=1))
        cv2.polylines(image, pairs, False, _BETWEEN, 1, cv2.LINE_AA, _SUBPIXEL_BITS)
    for at, colour in ((truth, _TRUTH), (answer, _ANSWER)):
        if len(at) == LANDMARKS:
            for first, last, closed in CONTOURS:
                line = at[first : last + 1].reshape(-1, 1, 2)
                cv2.polylines(image, [line], closed, colour, 1, cv2.LINE_AA, _SUBPIXEL_BITS)
        else:
            cv2.polylines(image, list(at.reshape(-1, 1, 2)), True, colour, 4, cv2.LINE_AA, _SUBPIXEL_BITS)
    strip = np.zeros((_CAPTION, _TILE, 3), np.uint8)
    _write(strip, tile.caption, 4, (255, 255, 255))
    return np.vstack([image, strip])


def _fixed_point(points: NDArray[np.floating]) -> NDArray[np.int32]:
    """A tile's points (K, 2) as OpenCV draws parts of pixels; those far outside are moved near."""
    return np.round(np.clip(points, -_TILE, 2 * _TILE) * (1 << _SUBPIXEL_BITS)).astype(np.int32)
