"""Small real data sets that ship with the package. Loading needs no network."""

from __future__ import annotations

from importlib import resources

import numpy as np


def sunspots() -> tuple[np.ndarray, np.ndarray]:
    """The yearly mean sunspot number, 1700 to 2008.

    Source: National Geophysical Data Center, as distributed by statsmodels
    (``statsmodels.datasets.sunspots``), public domain.

    Returns:
        ``years`` (309,) int64 and ``numbers`` (309,) float64, without missing values.
    """
    text = resources.files("rnnlib.data").joinpath("sunspots.csv").read_text(encoding="utf-8")
    table = np.genfromtxt(text.splitlines(), delimiter=",", skip_header=1)
    return table[:, 0].astype(np.int64), table[:, 1]
