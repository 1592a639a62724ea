"""Alignment and principal modes, exactly symmetric.

A sample set is `(count, M, 3)`; mirroring negates x and exchanges the two sides. Samples are split into their symmetric
and antisymmetric halves about a symmetric mean; principal components of each half are modes whose sign is kept or
flipped by mirroring, so a mirrored face has exactly the mirrored coefficients. It is the same decomposition that the
samples and all their mirror images together would give. A mode is scaled to one standard deviation of its coefficient.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse.linalg import LinearOperator, eigsh

FLIP = np.array([-1.0, 1.0, 1.0])


@dataclass(frozen=True, kw_only=True)
class Modes:
    """Modes of variation, and how well they do.

    `basis (K, M, 3)` mm per standard deviation, `signs (K,)` +1 or -1 under mirroring, `coefficients (count, K)` of the
    samples; `kept` the share of the weighted variance in the modes, `rms` the total in mm per face vertex.
    """

    basis: np.ndarray
    signs: np.ndarray
    coefficients: np.ndarray
    kept: float
    rms: float


def similarity(source: np.ndarray, target: np.ndarray, weight: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Weighted least-squares similarity (Umeyama, 1991): `target ~ scale * source @ rotation + shift`."""
    weight = weight / weight.sum()
    mean_source, mean_target = weight @ source, weight @ target
    a, b = source - mean_source, target - mean_target
    u, singular, vt = np.linalg.svd((a * weight[:, None]).T @ b)
    proper = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = (u * proper) @ vt
    scale = float((singular * proper).sum() / (weight @ (a * a).sum(1)))
    return scale, rotation, mean_target - scale * mean_source @ rotation


def align(samples: np.ndarray, face: np.ndarray, weight: np.ndarray, mirror: np.ndarray) -> tuple[np.ndarray, float]:
    """Remove position, turn and size from each sample, in place, against their symmetric mean.

    Args:
        samples: `(count, M, 3)` float32, changed in place.
        face: The vertices that count, `(N,)`, and `weight (N,)` how much.
        weight: As said.
        mirror: `(M,)`.

    Returns:
        The symmetric mean `(M, 3)` float64, in the samples' average size, and the spread of size that was removed.
    """
    reference = symmetric(samples.mean(0, dtype=np.float64), mirror)
    scales = np.ones(len(samples))
    for _ in range(2):
        for i, sample in enumerate(samples):
            scale, rotation, shift = similarity(sample[face].astype(np.float64), reference[face], weight)
            samples[i] = scale * sample @ rotation + shift
            scales[i] *= scale
        reference = symmetric(samples.mean(0, dtype=np.float64), mirror)
    return reference, float(scales.std() / scales.mean())


def symmetric(points: np.ndarray, mirror: np.ndarray) -> np.ndarray:
    """The symmetric half of `(M, 3)` points or offsets."""
    return (points + points[mirror] * FLIP) / 2.0


def principal_modes(
    offsets: np.ndarray, face: np.ndarray, weight: np.ndarray, mirror: np.ndarray, count: int, seed: int
) -> Modes:
    """The `count` strongest modes of offsets `(samples, M, 3)` about zero, symmetric and antisymmetric ones together.

    Variance is weighed on the `face` vertices by `weight (N,)`; the rest of the head follows by regression.
    """
    root = np.sqrt(weight / weight.sum() * len(face))[:, None]
    flipped = (offsets * FLIP.astype(np.float32))[:, mirror]
    found, total = [], 0.0
    for sign in (1.0, -1.0):
        half = (offsets + np.float32(sign) * flipped) / np.float32(2.0)
        data = (half[:, face] * root).reshape(len(half), -1).astype(np.float64)
        total += (data**2).sum() / len(data)
        values, vectors = _leading(data, count, seed)
        coefficients = data @ vectors
        sigma = np.sqrt((coefficients**2).mean(0))
        coefficients /= sigma
        basis = np.einsum("sk,sm->km", coefficients, half.reshape(len(half), -1), optimize=True) / len(half)
        basis = basis.reshape(count, -1, 3)
        basis = (basis + sign * basis[:, mirror] * FLIP) / 2.0
        found += [(values[k], sign, basis[k], coefficients[:, k]) for k in range(count)]
    found.sort(key=lambda mode: -mode[0])
    chosen = [_oriented(mode) for mode in found[:count]]
    return Modes(
        basis=np.stack([mode[2] for mode in chosen]),
        signs=np.array([mode[1] for mode in chosen], np.float32),
        coefficients=np.stack([mode[3] for mode in chosen], axis=1),
        kept=float(sum(mode[0] for mode in chosen) / total),
        rms=float(np.sqrt(total / len(face))),
    )


def _leading(data: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest eigenvalues of `data' data / samples`, descending, with their vectors as columns."""
    size = data.shape[1]
    covariance = LinearOperator((size, size), matvec=lambda v: data.T @ (data @ v) / len(data), dtype=np.float64)
    start = np.random.default_rng(seed).normal(size=size)
    values, vectors = eigsh(covariance, k=count, v0=start, tol=1e-10)
    return values[::-1], vectors[:, ::-1]


def _oriented(mode: tuple) -> tuple:
    """Fix the arbitrary sign of an eigenvector: the coefficients' third moment, or mean, is positive."""
    value, sign, basis, coefficients = mode
    lean = coefficients.mean() if abs(coefficients.mean()) > 0.05 else (coefficients**3).mean()
    flip = -1.0 if lean < 0.0 else 1.0
    return value, sign, basis * flip, coefficients * flip
