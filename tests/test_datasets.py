"""The data that ship with the package are what the book says they are."""

from __future__ import annotations

import hashlib
from importlib import resources

import numpy as np
import statsmodels.api as sm

from rnnlib import datasets
from tests.conftest import ROOT


def test_the_sunspots_are_those_of_statsmodels():
    years, numbers = datasets.sunspots()
    reference = sm.datasets.sunspots.load_pandas().data
    np.testing.assert_array_equal(years, reference["YEAR"].to_numpy().astype(int))
    np.testing.assert_array_equal(numbers, reference["SUNACTIVITY"].to_numpy())
    assert years.dtype == np.int64
    assert numbers.dtype == np.float64
    assert not np.isnan(numbers).any()


def test_the_checksum_in_the_book_is_the_files():
    content = resources.files("rnnlib.data").joinpath("sunspots.csv").read_bytes()
    page = (ROOT / "book" / "data.md").read_text(encoding="utf-8")
    assert hashlib.sha256(content).hexdigest() in page
