"""The paper's tables, to stand beside ours: NME in percent by |yaw| bins and their mean; of the ablation, means alone.

Source: CLN, BMVC 2022 submission 870, supplementary material; its figures for other methods are those methods' own
publications'. They are of the whole test sets and of networks trained on 300W-LP.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Published:
    """One method's row."""

    method: str
    bins: tuple[float | None, ...] = (None, None, None)
    mean: float | None


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """One of the tables."""

    title: str
    rows: tuple[Published, ...]


def _rows(*lines: tuple[str, float | None, float | None, float | None, float | None]) -> tuple[Published, ...]:
    return tuple(Published(method=method, bins=tuple(bins), mean=mean) for method, *bins, mean in lines)


AFLW_21 = PublishedTable(
    title="AFLW, 21 points, NME %",
    rows=_rows(
        ("CDM", 8.150, 13.020, 16.170, 12.440),
        ("RCPR", 5.430, 6.580, 11.530, 7.850),
        ("ESR", 5.660, 7.120, 11.940, 8.240),
        ("SDM", 4.750, 5.550, 9.340, 6.550),
        ("3DDFA", 5.000, 5.060, 6.740, 5.600),
        ("Yu et al.", 5.940, 6.480, 7.960, None),
        ("DAMDNet", 4.359, 5.209, 6.028, 5.199),
        ("GSRN", 4.253, 5.144, 5.816, 5.073),
        ("MARN", 4.306, 4.965, 5.775, 5.015),
        ("CLN", 3.998, 4.650, 5.309, 4.652),
    ),
)
AFLW2000_68 = PublishedTable(
    title="AFLW2000-3D, 68 points, NME %",
    rows=_rows(
        ("RCPR", 4.260, 5.960, 13.180, 7.800),
        ("ESR", 4.600, 6.700, 12.670, 7.990),
        ("SDM", 3.670, 4.940, 9.760, 6.120),
        ("DEFA", 4.500, 5.560, 7.330, 5.803),
        ("3DDFA", 3.780, 4.540, 7.930, 5.420),
        ("Yu et al.", 3.620, 6.060, 9.560, None),
        ("Nonlinear 3DMM", None, None, None, 4.700),
        ("DAMDNet", 2.907, 3.830, 4.953, 3.897),
        ("GSRN", 2.842, 3.789, 4.804, 3.912),
        ("MARN", 2.989, 3.670, 4.613, 3.757),
        ("CLN", 2.645, 3.477, 4.462, 3.528),
    ),
)
AFLW2000_3D = PublishedTable(
    title="AFLW2000-3D, 3D reconstruction, 3D NME over the 68 points, %",
    rows=_rows(
        ("3DDFA", 4.877, 6.086, 8.437, 6.467),
        ("DAMDNet", 4.672, 5.619, 7.855, 6.049),
        ("MARN", 4.721, 5.535, 7.483, 5.913),
        ("CLN", 4.441, 5.113, 7.176, 5.576),
    ),
)


@dataclass(frozen=True, kw_only=True)
class PublishedAblation:
    """One row of the ablation table."""

    config: str
    """Its config in `training/configs/ablation`."""
    title: str
    aflw2000: float
    aflw: float


ABLATION = (
    PublishedAblation(config="without_cdsda_and_cat", title="without CDSDA and CAT", aflw2000=3.763, aflw=4.992),
    PublishedAblation(config="without_cdsda", title="without CDSDA", aflw2000=3.728, aflw=4.942),
    PublishedAblation(config="without_cat_and_thumbnail", title="without CAT, no-global", aflw2000=3.646, aflw=4.857),
    PublishedAblation(config="without_thumbnail", title="no-global", aflw2000=3.624, aflw=4.868),
    PublishedAblation(config="without_cat", title="without CAT", aflw2000=3.628, aflw=4.845),
    PublishedAblation(config="cln", title="CLN", aflw2000=3.528, aflw=4.652),
)
