"""Samples to learn from, and the cache of rendered ones.

A sample is an image uint8 (W, W, 3), BGR, wider than the crop the network takes (the face's landmark region is its
middle, W / 1.25 pixels), with params float32 (62,) in the image's pixel frame. Rendering is slow and reading is not, so
`SyntheticSamples` renders each sample once into sparse files that grow with the highest index asked for:

    DIRECTORY/NAME/images.u8   (N, W, W, 3)      NAME = generator's version (code, head, assets), seed, size
    DIRECTORY/NAME/params.f32  (N, 62)
    DIRECTORY/NAME/done.u8     (N,)              1 once a sample is whole: an interrupted filling goes on from there

`python -m training.data.samples synthetic:N[:DIRECTORY] [--assets DIR]` fills the cache ahead of a training run.
"""

from __future__ import annotations

import argparse
import errno
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runtime.command import Exit, command
from runtime.errors import ClnError, InvalidInputError
from runtime.files import cache_folder, sha256

logger = logging.getLogger(__name__)

MARGIN = 1.25
"""Side of a sample's image over the crop's: room to turn, shift and scale."""
HELD_OUT_SEED = 1_000_003
"""Added to a generator's seed for samples that are never trained on."""
NUM_PARAMS = 62
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
_CHUNK = 8


class Samples(Protocol):
    """What a training run reads."""

    size: int
    """Side W of the images."""

    def __len__(self) -> int:
        """Number of samples."""

    def batch(self, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Images uint8 (B, W, W, 3) and params float32 (B, 62)."""


class Factory(Protocol):
    """What renders: deterministic in its seed and the index."""

    def sample(self, index: int) -> Any:
        """An object with `image` and `params`."""


def face_factory(size: int, seed: int, assets: Path | None = None) -> Factory:
    """The synthetic faces' renderer (a function of a module, so that worker processes can be given it)."""
    from training.synthetic.factory import FaceFactory

    return FaceFactory(size=size, seed=seed, assets=assets)


def factory_version(assets: Path | None = None) -> str:
    """Names what the renderer makes, by code, head and assets: another version's images are not mixed with these.

    Raises:
        FileFormatError: `assets` is no folder of assets.
    """
    from training.synthetic.factory import FACTORY_VERSION
    from training.synthetic.head import HEAD_PATH
    from training.synthetic.library import assets_digest

    name = f"v{FACTORY_VERSION}-head{sha256(HEAD_PATH.read_bytes())[:8]}"
    return name if assets is None else f"{name}-assets{assets_digest(assets)}"


class SyntheticSamples:
    """`count` rendered faces, cached in a directory; call `fill` before the first `batch`."""

    def __init__(
        self,
        count: int,
        directory: str | os.PathLike[str],
        *,
        size: int = 160,
        seed: int = 0,
        assets: Path | None = None,
        version: str | None = None,
        make_factory: Callable[[int, int], Factory] | None = None,
    ) -> None:
        """Open or make the cache's files.

        Args:
            count: Number of samples.
            directory: Where caches lie; each generator, seed and size has its own folder there.
            size: Side of the images.
            seed: The generator's.
            assets: A folder of CC0 assets that the faces are rendered with (`training.synthetic.library`).
            version: The generator's; the default asks it.
            make_factory: Makes the generator of a size and a seed, in a worker process too; the default is the faces'.
        """
        if count < 1:
            raise InvalidInputError(f"Expected at least one sample, got {count}.")
        self.size, self.seed = size, seed
        self._count = count
        self._make_factory = make_factory or partial(face_factory, assets=assets)
        name = f"{version or factory_version(assets)}-seed{seed}-{size}px"
        self.folder = Path(directory) / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self._images, self._params, self._done = open_cache(self.folder, count, size)

    def __len__(self) -> int:
        """Number of samples."""
        return self._count

    def missing(self) -> NDArray[np.int64]:
        """Indices that are not rendered yet."""
        return np.flatnonzero(self._done[: self._count] == 0)

    def fill(self, *, workers: int = 0, progress: bool = True) -> None:
        """Render what is missing, in `workers` processes of one thread each, or here with 0.

        Raises:
            OSError: There is no space for all of it; none is taken then.
            ClnError: A process ended by itself; what was rendered is kept.
        """
        from tqdm import tqdm

        missing = self.missing()
        if not len(missing):
            return
        _reserve(self.folder, self._count, self.size)
        logger.info("rendering %d of %d samples into %s", len(missing), self._count, self.folder)
        with tqdm(total=len(missing), unit="face", desc="rendering", disable=None if progress else True) as bar:
            for done in self._render(missing, workers):
                bar.update(done)

    def batch(self, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Images uint8 (B, W, W, 3) and params float32 (B, 62).

        Raises:
            InvalidInputError: One of them was not rendered yet.
        """
        if not self._done[indices].all():
            raise InvalidInputError(f"{self.folder}: samples are not rendered yet; call fill() first.")
        return torch.from_numpy(self._images[indices]), torch.from_numpy(self._params[indices])

    def _render(self, missing: NDArray[np.int64], workers: int) -> Iterator[int]:
        chunks = np.array_split(missing, -(-len(missing) // _CHUNK))
        setup = (self.folder, self._count, self.size, self.seed, self._make_factory)
        if workers < 1:
            worker = _Renderer(*setup)
            yield from (worker.render(chunk) for chunk in chunks)
            return
        spawn = multiprocessing.get_context("spawn")
        with _single_threaded():
            pool = ProcessPoolExecutor(workers, mp_context=spawn, initializer=_start_worker, initargs=setup)
            try:
                for done in as_completed([pool.submit(_render_in_worker, chunk) for chunk in chunks]):
                    yield done.result()
            except BrokenProcessPool:
                raise ClnError(
                    f"{self.folder}: a rendering process ended by itself, for want of memory or of disk space; "
                    "what was rendered is kept, so free some and run again, or give fewer workers"
                ) from None
            finally:
                pool.shutdown(cancel_futures=True)


def open_cache(folder: Path, count: int, size: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Memory maps of images, params and marks of at least `count` samples; new parts of the files are sparse zeros."""
    arrays = []
    for path, dtype, shape, needed in _layout(folder, count, size):
        path.touch()
        if path.stat().st_size < needed:
            os.truncate(path, needed)
        arrays.append(np.memmap(path, dtype=dtype, mode="r+", shape=(count, *shape)))
    return arrays[0], arrays[1], arrays[2]


def _layout(folder: Path, count: int, size: int) -> list[tuple[Path, Any, tuple[int, ...], int]]:
    """Path, type, shape of a sample, and bytes of all, of each file."""
    files: list[tuple[str, Any, tuple[int, ...]]] = [
        ("images.u8", np.uint8, (size, size, 3)),
        ("params.f32", np.float32, (NUM_PARAMS,)),
        ("done.u8", np.uint8, ()),
    ]
    return [
        (folder / name, dtype, shape, count * int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize)
        for name, dtype, shape in files
    ]


def _reserve(folder: Path, count: int, size: int) -> None:
    """Takes the files' space before it is written: a full disk under a memory map would kill the process instead.

    Raises:
        OSError: There is too little.
    """
    layout = _layout(folder, count, size)
    needed = sum(bytes for *_, bytes in layout)
    # Blocks of 512 bytes are what is taken already; Windows does not tell.
    held = sum(getattr(path.stat(), "st_blocks", 0) * 512 for path, *_ in layout)
    free = shutil.disk_usage(folder).free
    logger.info("%d samples take %.2f GB in %s; %.2f GB are free", count, needed / 1e9, folder, free / 1e9)
    missing = max(needed - held, 0)
    if missing > free:
        raise OSError(
            errno.ENOSPC, f"{count} samples need {missing / 1e6:.1f} MB more, {free / 1e6:.1f} MB are free", str(folder)
        )
    if hasattr(os, "posix_fallocate"):
        for path, *_, bytes in layout:
            with open(path, "r+b") as file:
                try:
                    os.posix_fallocate(file.fileno(), 0, bytes)
                except OSError as error:
                    if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # file systems that cannot
                        raise OSError(error.errno, error.strerror, str(path)) from None


class _Renderer:
    """Renders samples into the cache's files; one in each process."""

    def __init__(
        self, folder: Path, count: int, size: int, seed: int, make_factory: Callable[[int, int], Factory]
    ) -> None:
        self.images, self.params, self.done = open_cache(folder, count, size)
        self.factory = make_factory(size, seed)

    def render(self, indices: NDArray[np.int64]) -> int:
        for index in indices:
            sample = self.factory.sample(int(index))
            self.images[index], self.params[index] = sample.image, sample.params
            self.done[index] = 1  # last, so that a mark is never ahead of its sample
        return len(indices)


_renderer: _Renderer | None = None  # of this worker process


def _start_worker(*setup: Any) -> None:
    global _renderer
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends the pool
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    _renderer = _Renderer(*setup)


def _render_in_worker(indices: NDArray[np.int64]) -> int:
    assert _renderer is not None
    return _renderer.render(indices)


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Processes started inside use one thread for each numeric library: they share the cores already."""
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def default_cache() -> Path:
    """The user's cache folder for rendered samples; without a home, one for temporary files."""
    return cache_folder("synthetic") or Path(tempfile.gettempdir()) / "cln" / "synthetic"


def parse_synthetic(text: str) -> tuple[int, Path]:
    """`synthetic:N` or `synthetic:N:DIRECTORY` -> N and the directory.

    Raises:
        InvalidInputError: It is neither.
    """
    kind, _, rest = text.partition(":")
    number, _, folder = rest.partition(":")
    if kind != "synthetic" or not number.isdecimal() or int(number) < 1:
        raise InvalidInputError(f"Expected synthetic:N or synthetic:N:DIRECTORY with N > 0, got '{text}'.")
    return int(number), Path(folder) if folder else default_cache()


def image_size(crop_size: int) -> int:
    """Side of a sample's image for crops of `crop_size` pixels."""
    return round(crop_size * MARGIN)


@command(interrupted="what was rendered is kept")
def main(arguments: list[str] | None = None) -> int:
    """Fill a cache from the command line; 0, 2 after an error's one line, 130 if interrupted."""
    parser = argparse.ArgumentParser(prog="python -m training.data.samples", description="Render synthetic samples.")
    parser.add_argument("data", help="synthetic:N or synthetic:N:DIRECTORY")
    parser.add_argument("--assets", type=Path, help="folder of CC0 assets to render with (default: none)")
    parser.add_argument("--crop-size", type=int, default=128, help="the network's input size (default: 128)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--held-out", action="store_true", help="render samples that are kept out of training instead")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    seed = options.seed + (HELD_OUT_SEED if options.held_out else 0)
    count, directory = parse_synthetic(options.data)
    size = image_size(options.crop_size)
    samples = SyntheticSamples(count, directory, size=size, seed=seed, assets=options.assets)
    samples.fill(workers=options.workers)
    return Exit.DONE


if __name__ == "__main__":
    sys.exit(main())
