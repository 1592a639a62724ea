"""Reconstructors in workers: one in each process, one for several threads; what a pickle of one says."""

import multiprocessing
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest

from runtime import Reconstructor

IMAGE = np.full((80, 80, 3), 90, np.uint8)
BOXES = [(10, 10, 40, 40)]
_reconstruct = None


def start(engine):
    global _reconstruct
    _reconstruct = Reconstructor(engine, threads=1)


def landmarks(image):
    return _reconstruct(image, BOXES)[0]  # faces are pickled on their way back


@pytest.mark.parametrize("method", sorted(set(multiprocessing.get_all_start_methods()) & {"fork", "spawn"}))
def test_one_in_each_process(engine_file, method):
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context, initializer=start, initargs=(engine_file,)) as pool:
        faces = list(pool.map(landmarks, [IMAGE] * 4, timeout=120))
    with Reconstructor(engine_file) as reconstruct:
        expected = reconstruct(IMAGE, BOXES)[0]
    assert all(np.array_equal(face.landmarks, expected.landmarks) for face in faces)


def test_one_for_several_threads(engine_file):
    with Reconstructor(engine_file) as reconstruct, ThreadPoolExecutor(4) as pool:
        expected = reconstruct(IMAGE, BOXES)[0].landmarks
        for faces in pool.map(lambda _: reconstruct(IMAGE, BOXES), range(40)):
            assert np.array_equal(faces[0].landmarks, expected)


def test_a_pickle_is_refused_with_what_to_do_instead(engine_file):
    with Reconstructor(engine_file) as reconstruct:
        for thing in (reconstruct, reconstruct.engine):
            with pytest.raises(TypeError, match="make one in each process"):
                pickle.dumps(thing)


def test_an_import_prints_nothing():
    said = subprocess.run([sys.executable, "-W", "error", "-c", "import runtime"], capture_output=True, check=True)
    assert said.stdout == said.stderr == b""
