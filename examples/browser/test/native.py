"""Milliseconds of the native network, for `bench.mjs`: `python native.py ENGINE THREADS RUNS` prints a JSON list.

The crop is the same in every run: what it shows changes nothing in the time.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np

from runtime import Reconstructor

engine = Reconstructor(sys.argv[1], threads=int(sys.argv[2])).engine
size = engine.manifest.input_size
crops = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
times = []
for _ in range(int(sys.argv[3]) + 5):
    started = time.perf_counter()
    engine(crops)
    times.append(1000 * (time.perf_counter() - started))
print(json.dumps(times[5:]))
