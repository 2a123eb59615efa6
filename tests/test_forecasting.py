"""Forecasts, their errors and their intervals, held to statsmodels, scipy, scikit-learn and torch."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import mean_absolute_error, mean_pinball_loss
from statsmodels.regression.linear_model import OLS
from statsmodels.tsa.arima_process import arma2ma
from statsmodels.tsa.statespace.sarimax import SARIMAX
from statsmodels.tsa.statespace.tools import diff

from rnnlib import forecasting as fc
from tests.support import as_torch, load_module, seeds, sizes

ROOT = Path(__file__).parents[1]


def series_of(seed: int, T: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=T)


# --- forecasts that learn nothing -----------------------------------------------------------------


@pytest.mark.equation("eq-forecast-seasonal-naive")
@given(st.integers(1, 30), st.integers(1, 20), st.integers(1, 12), seeds)
def test_seasonal_naive_is_a_seasonal_random_walk(agree, T, H, m, seed):
    xs = series_of(seed, T + m)
    history = list(xs)
    for _ in range(H):  # one period back, on what has been forecast too
        history.append(history[-m])
    agree(fc.seasonal_naive, "one step at a time", fc.seasonal_naive(xs, H, m), np.array(history[-H:]))


@pytest.mark.equation("eq-forecast-seasonal-naive", "eq-forecast-drift")
def test_the_naive_forecasts_are_those_of_statsmodels(agree):
    xs = series_of(3, 40)
    for m in (1, 7, 12):
        order = {"order": (0, 1, 0)} if m == 1 else {"order": (0, 0, 0), "seasonal_order": (0, 1, 0, m)}
        walk = SARIMAX(xs, **order).smooth([1.0]).forecast(17)
        agree(fc.seasonal_naive, "statsmodels SARIMAX", fc.seasonal_naive(xs, 17, m), walk)
    slope = (xs[-1] - xs[0]) / 39  # the maximum likelihood estimate of the drift
    walk = SARIMAX(xs, order=(0, 1, 0), trend="c").smooth([slope, 1.0]).forecast(17)
    agree(fc.drift, "statsmodels SARIMAX", fc.drift(xs, 17), walk)


@pytest.mark.equation("eq-forecast-drift")
@given(st.integers(2, 30), st.integers(1, 20), seeds)
def test_drift_continues_the_line_through_the_ends(agree, T, H, seed):
    xs = series_of(seed, T)
    line = np.polynomial.Polynomial.fit([1, T], [xs[0], xs[-1]], 1)
    agree(fc.drift, "numpy Polynomial.fit", fc.drift(xs, H), line(np.arange(T + 1, T + H + 1)))


def test_naive_forecasts_refuse_what_they_cannot_do():
    xs = np.ones(3)
    with pytest.raises(
        ValueError, match=r"seasonal_naive: horizon is 0, expected a whole number of at least 1"
    ):
        fc.seasonal_naive(xs, 0)
    with pytest.raises(ValueError, match=r"seasonal_naive: period is 4, expected a whole number from 1 to 3"):
        fc.seasonal_naive(xs, 1, 4)
    with pytest.raises(ValueError, match=r"drift: xs has shape \(1,\), expected at least 2 values"):
        fc.drift(xs[:1], 1)
    with pytest.raises(TypeError, match=r"drift: horizon is a float"):
        fc.drift(xs, 1.0)
    with pytest.raises(ValueError, match=r"seasonal_naive: xs holds NaN"):
        fc.seasonal_naive(np.array([np.nan]), 1)


# --- differences ----------------------------------------------------------------------------------


@pytest.mark.equation("eq-forecast-difference")
@given(st.integers(1, 20), st.integers(1, 12), seeds)
def test_difference_agrees_with_statsmodels(agree, N, m, seed):
    xs = series_of(seed, N + m)
    order = {"k_diff": 1} if m == 1 else {"k_diff": 0, "k_seasonal_diff": 1, "seasonal_periods": m}
    expected = diff(xs, **order)
    agree(fc.difference, "statsmodels diff", fc.difference(xs, m), expected)


@pytest.mark.equation("eq-forecast-integrate")
@given(st.integers(1, 20), st.integers(1, 12), st.integers(0, 5), seeds)
def test_integrate_undoes_difference(agree, N, m, more, seed):
    xs = series_of(seed, N + m + more)
    ds = fc.difference(xs, m)
    agree(fc.integrate, "the series itself", fc.integrate(ds[-N:], xs[: len(xs) - N][-m:]), xs[-N:])
    if m == 1:
        agree(
            fc.integrate,
            "numpy.cumsum",
            fc.integrate(ds[-N:], xs[-N - 1 : -N]),
            xs[-N - 1] + ds[-N:].cumsum(),
        )


def test_difference_refuses_a_period_that_does_not_fit():
    with pytest.raises(ValueError, match=r"difference: period is 3, expected a whole number from 1 to 2"):
        fc.difference(np.ones(3), 3)
    with pytest.raises(ValueError, match=r"difference: xs has shape \(1,\), expected at least 2 values"):
        fc.difference(np.ones(1))


# --- origins and windows --------------------------------------------------------------------------


@given(st.integers(1, 20), st.integers(1, 6), st.integers(0, 20), st.integers(1, 5))
def test_no_origin_sees_its_targets_and_no_target_is_outside(first, H, more, every):
    stop = first + H + more
    origins = fc.rolling_origins(first, stop, H, every)
    assert origins[0] == first
    assert (np.diff(origins) == every).all()
    assert origins[-1] + H <= stop < origins[-1] + H + every
    xs = np.arange(stop, dtype=float)
    known = fc.contexts(xs, origins, first)
    future = fc.outcomes(xs, origins, H)
    assert known.shape == (first, len(origins))
    assert future.shape == (len(origins), H)
    for column, row, n in zip(known.T, future, origins, strict=True):
        np.testing.assert_array_equal(column, xs[:n][-first:])
        np.testing.assert_array_equal(row, xs[n:][:H])


def test_windows_refuse_origins_that_reach_outside():
    xs = np.arange(10.0)
    with pytest.raises(ValueError, match=r"rolling_origins: stop is 5, expected .* of at least 6"):
        fc.rolling_origins(3, 5, 3)
    with pytest.raises(ValueError, match=r"contexts: origins holds 2, expected .* from 3 to 10"):
        fc.contexts(xs, np.array([2, 5]), 3)
    with pytest.raises(ValueError, match=r"outcomes: origins holds 8, expected .* from 0 to 7"):
        fc.outcomes(xs, np.array([8]), 3)
    with pytest.raises(TypeError, match=r"outcomes: origins is a list"):
        fc.outcomes(xs, [1], 3)
    with pytest.raises(TypeError, match=r"contexts: origins has dtype float64"):
        fc.contexts(xs, np.array([4.0]), 3)
    with pytest.raises(ValueError, match=r"contexts: origins has shape \(0,\)"):
        fc.contexts(xs, np.array([], dtype=int), 3)


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.equation("eq-forecast-mae", "eq-forecast-mae-backward")
@given(sizes("N", "O"), seeds)
def test_mean_absolute_error_agrees_with_scikit_learn_and_torch(agree, n, seed):
    rng = np.random.default_rng(seed)
    ys, targets = rng.normal(size=(2, n["N"], n["O"]))
    targets[0, 0] = ys[0, 0]  # the kink
    d_loss = np.asarray(rng.normal())
    found = fc.mean_absolute_error(ys, targets)
    agree(fc.mean_absolute_error, "sklearn mean_absolute_error", found, mean_absolute_error(targets, ys))
    y = torch.tensor(ys, requires_grad=True)
    expected = torch.nn.functional.l1_loss(y, torch.tensor(targets))
    agree(
        fc.mean_absolute_error_backward,
        "torch.nn.functional.l1_loss",
        fc.mean_absolute_error_backward(d_loss, ys, targets),
        torch.autograd.grad(expected, y, torch.tensor(d_loss))[0],
    )


@pytest.mark.equation("eq-forecast-scale", "eq-forecast-mase")
@given(st.integers(2, 20), st.integers(1, 6), seeds)
def test_the_scaled_error_is_one_for_the_naive_forecast_in_training(agree, N, m, seed):
    train = series_of(seed, N + m)
    naive = np.array([fc.seasonal_naive(train[: m + i], 1, m)[0] for i in range(N)])[:, None]
    targets = train[m:, None]
    agree(
        fc.naive_scale,
        "sklearn mean_absolute_error",
        fc.naive_scale(train, m),
        mean_absolute_error(targets, naive),
    )
    agree(
        fc.mean_absolute_scaled_error,
        "its definition",
        fc.mean_absolute_scaled_error(naive, targets, train, m),
        np.asarray(1.0),
    )


@given(st.floats(0.01, 100), st.floats(-100, 100), seeds)
def test_the_scaled_error_does_not_know_the_unit(factor, shift, seed):
    rng = np.random.default_rng(seed)
    ys, targets = rng.normal(size=(2, 5, 3))
    train = rng.normal(size=20)
    first = fc.mean_absolute_scaled_error(ys, targets, train, 4)
    again = fc.mean_absolute_scaled_error(
        factor * ys + shift, factor * targets + shift, factor * train + shift, 4
    )
    assert np.isclose(first, again, rtol=1e-8)


def test_the_scaled_error_of_sktime_s_documentation(agree):
    """The worked example of ``sktime.performance_metrics.forecasting.mean_absolute_scaled_error``."""
    train, truth = np.array([5, 0.5, 4, 6, 3, 5, 2]), np.array([3, -0.5, 2, 7, 2])
    forecast = np.array([2.5, 0.0, 2, 8, 1.25])
    found = fc.mean_absolute_scaled_error(forecast[:, None], truth[:, None], train)
    agree(fc.mean_absolute_scaled_error, "sktime's documentation", found, np.asarray(0.18333333333333335))


def test_a_series_without_change_has_no_scale():
    with pytest.raises(ValueError, match=r"naive_scale: train repeats itself exactly with period 2"):
        fc.naive_scale(np.array([1.0, 2.0, 1.0, 2.0]), 2)
    with pytest.raises(ValueError, match=r"period is 4, expected a whole number from 1 to 3"):
        fc.mean_absolute_scaled_error(np.ones((1, 1)), np.ones((1, 1)), np.arange(4.0), 4)


@pytest.mark.equation("eq-forecast-diebold-mariano")
@given(st.integers(12, 40), st.integers(1, 3), seeds)
def test_diebold_mariano_agrees_with_a_regression_on_a_constant(agree, N, h, seed):
    rng = np.random.default_rng(seed)
    shocks = rng.normal(size=N + 3)
    losses = (
        1 + shocks[3:] + 0.8 * shocks[2:-1] + 0.6 * shocks[1:-2]
    )  # overlapping, so that no estimate is below 0
    others = 0.1 * rng.normal(size=N)
    u = losses - others - (losses - others).mean()
    estimate = u @ u + 2 * sum(u[k:] @ u[:-k] for k in range(1, h))
    assume(estimate > 1e-6)
    fit = OLS(losses - others, np.ones(N)).fit(
        cov_type="HAC", cov_kwds={"maxlags": h - 1, "kernel": "uniform", "use_correction": False}
    )
    agree(fc.diebold_mariano, "statsmodels OLS, HAC", fc.diebold_mariano(losses, others, h), fit.tvalues[0])


def test_diebold_mariano_keeps_its_level():
    """Under equal losses that overlap, it exceeds 1.96 about one time in twenty; without them, far more."""
    rng = np.random.default_rng(0)
    shocks = rng.normal(size=(400, 403))
    losses = shocks[:, 3:] + shocks[:, 2:-1] + shocks[:, 1:-2] + shocks[:, :-3]
    zero = np.zeros(400)
    right = np.mean([abs(fc.diebold_mariano(row, zero, 4)) > 1.96 for row in losses])
    wrong = np.mean([abs(fc.diebold_mariano(row, zero, 1)) > 1.96 for row in losses])
    assert 0.02 < right < 0.09
    assert wrong > 0.2


def test_diebold_mariano_refuses_methods_that_do_not_differ():
    same = np.arange(5.0)
    with pytest.raises(ValueError, match=r"the variance of the differences is estimated as 0"):
        fc.diebold_mariano(same, same)
    with pytest.raises(ValueError, match=r"horizon is 6, expected a whole number from 1 to 5"):
        fc.diebold_mariano(same, same, 6)


# --- errors that feed back ------------------------------------------------------------------------


@pytest.mark.equation("eq-forecast-impulse", "eq-forecast-variance")
@given(st.integers(1, 5), st.integers(1, 12), seeds)
def test_the_variance_of_a_recursive_forecast_is_that_of_statsmodels(agree, P, H, seed):
    rng = np.random.default_rng(seed)
    weights, noise = rng.uniform(-0.9, 0.9, size=P) / P, np.asarray(rng.uniform(0.2, 2))
    psi = arma2ma(np.r_[1, -weights], [1], lags=H)
    agree(fc.impulse_response, "statsmodels arma2ma", fc.impulse_response(weights, H), psi)
    model = SARIMAX(rng.normal(size=30), order=(P, 0, 0))
    forecast = model.smooth(np.r_[weights, noise**2]).get_forecast(H)
    agree(
        fc.forecast_variance,
        "statsmodels SARIMAX",
        fc.forecast_variance(weights, noise, H),
        forecast.var_pred_mean,
    )


@given(st.floats(-0.99, 0.99), st.integers(1, 20))
def test_one_weight_gives_a_geometric_series(phi, H):
    found = fc.forecast_variance(np.array([phi]), np.asarray(2.0), H)
    h = np.arange(1, H + 1)
    np.testing.assert_allclose(found, 4 * (1 - phi ** (2 * h)) / (1 - phi**2), rtol=1e-10)


# --- how sure -------------------------------------------------------------------------------------


@pytest.mark.equation("eq-forecast-gaussian-nll", "eq-forecast-gaussian-nll-backward")
@given(sizes("N", "O"), seeds)
def test_the_gaussian_likelihood_agrees_with_torch_and_scipy(agree, n, seed):
    rng = np.random.default_rng(seed)
    arrays = dict(zip(("means", "log_scales", "targets"), rng.normal(size=(3, n["N"], n["O"])), strict=True))
    d_loss = np.asarray(rng.normal())
    density = stats.norm.logpdf(arrays["targets"], arrays["means"], np.exp(arrays["log_scales"]))
    agree(fc.gaussian_nll, "scipy.stats.norm", fc.gaussian_nll(**arrays), -density.mean())
    t = as_torch(arrays, requires_grad=True)
    expected = torch.nn.functional.gaussian_nll_loss(
        t["means"], t["targets"], (2 * t["log_scales"]).exp(), full=True, eps=0
    )
    agree(fc.gaussian_nll, "torch gaussian_nll_loss", fc.gaussian_nll(**arrays), expected)
    agree(
        fc.gaussian_nll_backward,
        "torch gaussian_nll_loss",
        fc.gaussian_nll_backward(d_loss, **arrays),
        torch.autograd.grad(expected, [t["means"], t["log_scales"]], torch.tensor(d_loss)),
    )


@pytest.mark.equation("eq-forecast-pinball", "eq-forecast-pinball-backward")
@given(sizes("N", "Q"), seeds)
def test_pinball_agrees_with_scikit_learn_and_torch(agree, n, seed):
    rng = np.random.default_rng(seed)
    quantiles, targets = rng.normal(size=(n["N"], n["Q"])), rng.normal(size=n["N"])
    levels, d_loss = rng.uniform(0.01, 0.99, size=n["Q"]), np.asarray(rng.normal())
    expected = np.mean(
        [mean_pinball_loss(targets, q, alpha=tau) for q, tau in zip(quantiles.T, levels, strict=True)]
    )
    agree(fc.pinball, "sklearn mean_pinball_loss", fc.pinball(quantiles, targets, levels), expected)
    q = torch.tensor(quantiles, requires_grad=True)
    errors = torch.tensor(targets)[:, None] - q
    loss = torch.maximum(torch.tensor(levels) * errors, (torch.tensor(levels) - 1) * errors).mean()
    agree(
        fc.pinball_backward,
        "torch.autograd",
        fc.pinball_backward(d_loss, quantiles, targets, levels),
        torch.autograd.grad(loss, q, torch.tensor(d_loss))[0],
    )


@given(st.integers(1, 30), st.floats(0.02, 0.98), seeds)
def test_the_minimum_of_the_pinball_loss_is_a_quantile(N, level, seed):
    targets, levels = series_of(seed, N), np.array([level])

    def loss(q):
        return fc.pinball(np.full((N, 1), q), targets, levels)

    best = min(targets, key=loss)  # piecewise linear: the minimum is at one of its corners
    assert (targets < best).mean() <= level + 1e-12
    assert (targets <= best).mean() >= level - 1e-12
    q = np.quantile(targets, level, method="inverted_cdf")
    assert np.isclose(loss(q), loss(best), rtol=1e-10, atol=1e-12)


def test_the_pinball_gradient_at_the_quantile_itself():
    at = fc.pinball_backward(np.asarray(1.0), np.zeros((1, 1)), np.zeros(1), np.array([0.3]))
    assert at == -0.3


def test_levels_are_between_0_and_1():
    for levels in ([0.0], [1.0], [1.5]):
        with pytest.raises(ValueError, match=r"pinball: levels holds .*, expected numbers between 0 and 1"):
            fc.pinball(np.zeros((2, 1)), np.zeros(2), np.array(levels))
        with pytest.raises(ValueError, match=r"pinball_backward: levels holds"):
            fc.pinball_backward(np.asarray(1.0), np.zeros((2, 1)), np.zeros(2), np.array(levels))


@pytest.mark.equation("eq-forecast-coverage")
@given(sizes("N", "H"), seeds)
def test_coverage_counts(agree, n, seed):
    rng = np.random.default_rng(seed)
    lower, upper, targets = rng.integers(-2, 3, size=(3, n["N"], n["H"])).astype(float)  # ties occur
    counted = [
        sum(lower[i, h] <= targets[i, h] <= upper[i, h] for i in range(n["N"])) / n["N"]
        for h in range(n["H"])
    ]
    agree(fc.coverage, "counting one by one", fc.coverage(lower, upper, targets), np.array(counted))


@pytest.mark.equation("eq-forecast-conformal")
@given(st.integers(1, 40), st.floats(0.03, 0.9), seeds)
def test_the_conformal_radius_is_the_quantile_of_numpy(agree, N, alpha, seed):
    assume(alpha >= 1 / (N + 1))
    scores = np.abs(series_of(seed, N))
    rank = math.ceil((N + 1) * (1 - alpha))
    # Among all N + 1, the new one taken to be larger than any: the smallest that has a share 1 - α below it.
    expected = np.quantile(np.r_[scores, np.inf], 1 - alpha, method="inverted_cdf")
    agree(fc.conformal_radius, "numpy.quantile", fc.conformal_radius(scores, alpha), expected)
    assert (scores <= expected).sum() == rank


def test_the_conformal_promise_is_kept_on_average():
    """Over all orders of the errors, the last is outside with a frequency of at most α, and hardly less."""
    rng = np.random.default_rng(0)
    for N, alpha in ((9, 0.1), (19, 0.1), (19, 0.05), (30, 0.2)):
        misses = [s[-1] > fc.conformal_radius(s[:-1], alpha) for s in rng.exponential(size=(4000, N + 1))]
        expected = 1 - math.ceil(round((N + 1) * (1 - alpha), 9)) / (N + 1)
        assert expected <= alpha + 1e-12
        assert abs(np.mean(misses) - expected) < 4 * math.sqrt(alpha / 4000)


def test_too_few_errors_promise_nothing():
    assert fc.conformal_radius(np.arange(19.0), 0.05) == 18
    assert fc.conformal_radius(np.arange(1.0, 20.0), 0.7) == 6  # 20 (1 - 0.7) rounds to above 6
    with pytest.raises(ValueError, match=r"is 0.04, expected a number from 1/20 to 1 with N = 19"):
        fc.conformal_radius(np.arange(19.0), 0.04)
    with pytest.raises(ValueError, match=r"miscoverage is 1.0"):
        fc.conformal_radius(np.arange(19.0), 1.0)
    with pytest.raises(ValueError, match=r"miscoverage is -0.1, expected a finite number above 0"):
        fc.conformal_radius(np.arange(19.0), -0.1)


# --- the series of the chapter --------------------------------------------------------------------


@pytest.mark.parametrize("series", fc.chapter_series(), ids=lambda s: s.name)
class TestTheSeries:
    def test_forecasts_come_back_to_the_unit_of_the_series(self, series):
        for part in ("validation", "test"):
            origins = series.origins(part)
            truth = fc.outcomes(series.u, origins - series.offset, series.horizon)
            np.testing.assert_allclose(
                series.back(truth, origins), fc.outcomes(series.values, origins, series.horizon), atol=1e-9
            )
            assert series.errors(series.back(truth, origins), origins).max() < 1e-9

    def test_a_forecast_of_no_change_in_u_is_the_mean_change_of_training(self, series):
        origins = series.origins("test")
        found = series.back(np.zeros((len(origins), series.horizon)), origins)
        train = series.z[: series.train_end]
        for row, n in zip(found, origins, strict=True):
            if series.period is None:
                expected = np.full(series.horizon, train.mean())
            else:
                naive = fc.seasonal_naive(series.z[:n], series.horizon, series.period)
                expected = naive + (train[series.period :] - train[: -series.period]).mean()
            inverse = {"identity": np.asarray, "log": np.exp, "sqrt": np.square}[series.transform]
            np.testing.assert_allclose(row, inverse(expected), rtol=1e-10)

    def test_the_future_changes_nothing(self, series):
        """Neither what the network sees, nor the way back, knows a value after the origin."""
        import dataclasses

        changed = series.values.copy()
        changed[series.validation_end :] *= 1.5
        other = dataclasses.replace(series, values=changed)
        assert other.moments == series.moments
        assert other.scale == series.scale
        n = series.validation_end
        np.testing.assert_array_equal(other.u[: n - series.offset], series.u[: n - series.offset])
        u, first = np.ones((1, series.horizon)), np.array([n])
        np.testing.assert_array_equal(other.back(u, first), series.back(u, first))
        later = np.array([n + series.horizon])
        assert series.period is None or not np.allclose(other.back(u, later), series.back(u, later))

    def test_windows_hold_the_steps_and_what_followed_them(self, series):
        xs, targets = series.windows(30, every=7)
        assert xs.shape[0] == 30
        assert targets.shape == (20, xs.shape[1], series.horizon)
        end = series.train_end - series.offset
        for i in range(xs.shape[1]):
            np.testing.assert_array_equal(xs[:, i], series.u[7 * i :][:30])
            for t in range(10, 30):
                np.testing.assert_array_equal(
                    targets[t - 10, i], series.u[7 * i + t + 1 : 7 * i + t + 1 + series.horizon]
                )
        assert end - 7 < 7 * (xs.shape[1] - 1) + 30 + series.horizon <= end

    def test_errors_are_of_forecasts_for_every_origin_and_horizon(self, series):
        origins = series.origins("test")
        with pytest.raises(ValueError, match=r"Series.errors: forecasts has shape \(1, 1\), expected"):
            series.errors(np.zeros((1, 1)), origins)

    def test_the_parts_follow_one_another(self, series):
        validation, test = series.origins("validation"), series.origins("test")
        assert validation[0] == series.train_end
        assert validation[-1] + series.horizon == series.validation_end == test[0]
        assert test[-1] + series.horizon == len(series.values)
        assert (np.diff(test) == 1).all()

    def test_the_mean_of_the_errors_is_the_scaled_error(self, series):
        origins = series.origins("test")
        forecasts = np.stack([fc.drift(series.values[:n], series.horizon) for n in origins])
        truth = fc.outcomes(series.values, origins, series.horizon)
        expected = fc.mean_absolute_scaled_error(
            forecasts, truth, series.values[: series.train_end], series.scale_period
        )
        assert np.isclose(series.errors(forecasts, origins).mean(), expected)


def test_the_parts_of_the_series_are_the_years_that_the_docstring_says():
    from rnnlib import datasets

    sunspots, co2, airline = fc.chapter_series()
    years, months = datasets.sunspots()[0], datasets.mauna_loa_co2().months
    passengers = datasets.airline_passengers()[0]
    assert [years[sunspots.train_end], years[sunspots.validation_end]] == [1910, 1955]
    assert [str(months[n]) for n in (co2.train_end, co2.validation_end)] == ["1987-01", "1993-01"]
    assert [str(passengers[n]) for n in (airline.train_end, airline.validation_end)] == ["1957-01", "1959-01"]


def test_a_forecast_below_the_root_of_zero_is_zero():
    roots = fc.Series("x", np.arange(1.0, 41.0), "sqrt", None, 1, 4, 20, 30)
    mean, std = roots.moments
    found = roots.back(np.array([[-2 * mean, 0.0, mean, std]]) / std, np.array([30]))
    np.testing.assert_allclose(found, np.square([[0.0, mean, 2 * mean, mean + std]]), rtol=1e-12)
    assert found[0, 0] == 0


def test_a_horizon_shorter_than_the_period_comes_back_too():
    xs = np.exp(series_of(5, 40))
    short = fc.Series("x", xs, "log", 4, 4, 3, 20, 30)
    n = short.origins("test")
    truth = fc.outcomes(short.u, n - short.offset, 3)
    np.testing.assert_allclose(short.back(truth, n), fc.outcomes(xs, n, 3), rtol=1e-12)


def test_a_series_that_does_not_fit_is_refused():
    xs = np.arange(1.0, 41.0)
    good = ("x", xs, "log", 4, 4, 4, 20, 30)
    fc.Series(*good)
    for place, value, message in (
        (2, "cube", "transform is 'cube', expected one of 'identity', 'log', 'sqrt'"),
        (5, 5, "horizon is 5, expected a whole number from 1 to 4"),
        (6, 5, "train_end is 5, expected a whole number from 6 to 32"),
        (7, 23, "validation_end is 23, expected a whole number from 24 to 36"),
        (7, 37, "validation_end is 37"),
    ):
        with pytest.raises(ValueError, match=f"Series: {re.escape(message)}"):
            fc.Series(*good[:place], value, *good[place + 1 :])
    for transform, bad in (("log", 0.0), ("sqrt", -1.0), ("identity", np.nan)):
        with pytest.raises(ValueError, match=rf"values holds numbers without a finite {transform}"):
            fc.Series("x", np.r_[xs[:-1], bad], transform, *good[3:])
    with pytest.raises(ValueError, match=r"part is 'train', expected one of 'validation', 'test'"):
        fc.Series(*good).origins("train")


# --- the larger experiment ------------------------------------------------------------------------

FIELDS = {
    "experiment",
    "command",
    "quick",
    "settings",
    "seeds",
    "results",
    "seconds",
    "device",
    "versions",
    "date",
}


def check_record(record: dict) -> None:
    assert set(record) == FIELDS
    assert set(record["versions"]) >= {"python", "torch", "cuda", "numpy", "rnnlib"}
    assert set(record["results"]) == {s.name for s in fc.chapter_series()}
    for result in record["results"].values():
        assert result["own"]["size"] in record["settings"]["sizes"]
        by_size = result["own"]["validation_mase_by_size"]
        assert by_size[str(result["own"]["size"])] == min(by_size.values())
        for kind in ("own", "simulated"):
            rows = result[kind]["per_seed"]
            assert [row["seed"] for row in rows] == record["seeds"]
            values = [row["mase"] for row in rows]
            assert np.isclose(result[kind]["mean"], np.mean(values))
            assert np.isclose(result[kind]["std"], np.std(values, ddof=1))
            # The error is convex, so the mean forecast is no worse than the mean of the errors.
            assert result[kind]["ensemble"]["mase"] <= np.mean(values) + 1e-9


@pytest.fixture(scope="module")
def script():
    return load_module(ROOT / "experiments" / "time_series.py")


def test_the_experiment_runs_quickly_and_is_reproducible(script, tmp_path):
    records = []
    for name in ("first.json", "second.json"):
        assert script.main(["--quick", "--output", str(tmp_path / name)]) == 0
        records.append(json.loads((tmp_path / name).read_text(encoding="utf-8")))
        check_record(records[-1])
        assert records[-1]["quick"]
    assert records[0]["results"] == records[1]["results"]


def test_the_simulated_series_are_none_of_ours_and_forget_their_start(script):
    generator = torch.Generator().manual_seed(0)
    xs = script.simulate(400, 84, generator).numpy()
    assert xs.shape == (84, 400)
    assert np.isfinite(xs).all()
    cycles = xs[:, 200:]
    early, late = cycles[:42].std(), cycles[42:].std()
    assert 0.9 < early / late < 1.1


def test_the_filter_is_a_convolution(script):
    rng = np.random.default_rng(0)
    noise, response = rng.normal(size=(2, 3, 20))
    expected = [np.convolve(a, b)[:20] for a, b in zip(noise, response, strict=True)]
    found = script.filtered(torch.tensor(noise), torch.tensor(response)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-10)


def test_the_committed_record_is_complete():
    record = json.loads((ROOT / "experiments" / "time_series.json").read_text(encoding="utf-8"))
    check_record(record)
    assert not record["quick"]
    assert len(record["seeds"]) >= 5
    assert record["command"] == "python experiments/time_series.py --device cuda"
