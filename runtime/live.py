"""A camera's faces in a window: q ends it, s saves the picture; frames per second and milliseconds are shown."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.command import counted
from runtime.drawing import draw_faces, write_text
from runtime.errors import EngineUnavailableError
from runtime.files import write_atomically
from runtime.reconstructor import Reconstructor
from runtime.tracking import Tracker
from runtime.video import read_camera

_TITLE = "cln"
_LARGEST = 1280  # pixels: the longer side of the window as it opens
_PARTS = ("contours", "axes", "box", "id")


class Window(Protocol):
    """Where pictures are shown."""

    def show(self, picture: NDArray[np.uint8]) -> str:
        """Shows a picture; the key that was pressed, or nothing. A window that is closed gives `q`."""
        ...


class ScreenWindow:
    """OpenCV's window."""

    def __init__(self) -> None:
        """Opens it.

        Raises:
            EngineUnavailableError: there is no display, or OpenCV has no windows.
        """
        if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise EngineUnavailableError("--camera: expected a display for the window, found none; run it on a desktop")
        os.environ.setdefault("QT_LOGGING_RULES", "default.warning=false")  # that OpenCV's Qt has no fonts, five times
        self._opened = False
        try:
            cv2.namedWindow(_TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_GUI_NORMAL)
        except cv2.error:
            raise EngineUnavailableError(
                "--camera: expected an OpenCV with windows, got a headless one; run: pip install opencv-python"
            ) from None

    def show(self, picture: NDArray[np.uint8]) -> str:
        """Shows a picture; the key that was pressed."""
        if not self._opened:  # otherwise as small as the toolkit likes
            height, width = picture.shape[:2]
            shrink = min(1.0, _LARGEST / max(height, width))
            cv2.resizeWindow(_TITLE, max(round(shrink * width), 1), max(round(shrink * height), 1))
            self._opened = True
        cv2.imshow(_TITLE, picture)
        key = cv2.waitKey(1)
        if cv2.getWindowProperty(_TITLE, cv2.WND_PROP_VISIBLE) < 1:
            return "q"
        return chr(key & 0xFF) if key >= 0 else ""


def show_camera(
    reconstruct: Reconstructor, source: int | Path, *, out: Path, window: Window | None = None, **options: Any
) -> list[Path]:
    """Shows a camera's faces until q is pressed, or a file's until it ends; the pictures that were saved into `out`.

    Raises:
        InvalidInputError: no camera, or one that stops.
        FileNotFoundError, FileFormatError: the file is missing, or no video.
        EngineUnavailableError: there is no display.
    """
    frames = read_camera(source)
    tracker = Tracker(reconstruct, **options)
    recent: deque[float] = deque(maxlen=30)
    saved: list[Path] = []
    for frame in frames:
        if window is None:
            window = ScreenWindow()  # once the camera is known to work
        started = time.perf_counter()
        faces = tracker(frame.image, frame.time)
        spent = 1000 * (time.perf_counter() - started)
        recent.append(frame.time)
        picture = draw_faces(frame.image, [face.face for face in faces], _PARTS, ids=[face.id for face in faces])
        _write(picture, _text(recent, spent, len(faces)))
        key = window.show(picture)
        if key == "s":
            saved.append(_free_name(out, frame.index))
            write_atomically(saved[-1], cv2.imencode(".png", picture)[1].tobytes())
        if key == "q":
            break
    return saved


def _text(times: deque[float], spent: float, faces: int) -> str:
    passed = times[-1] - times[0]
    rate = (len(times) - 1) / passed if passed > 0 else 0.0
    return f"{rate:.0f} frames/s  {spent:.1f} ms  {counted(faces, 'face')}"


def _write(picture: NDArray[np.uint8], text: str) -> None:
    size = max(picture.shape[0] / 900, 0.4)
    write_text(picture, text, (int(12 * size), int(30 * size)), 0.9 * size)


def _free_name(out: Path, index: int) -> Path:
    path = out / f"camera_{index:06d}.png"
    number = 1
    while os.path.lexists(path):
        number += 1
        path = out / f"camera_{index:06d}-{number}.png"
    return path
