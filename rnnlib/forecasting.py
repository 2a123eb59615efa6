"""Beside the floors, chapter 12: forecasts of time series, how wrong they are, and how sure they may be.

A *forecast* made at the *origin* t for the *horizon* h says what x_{t+h} will be, from x_1 … x_t alone. Many
of them stand in arrays (N, H): one row per origin, one column per horizon 1 … H. Series are (T,).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from rnnlib import datasets
from rnnlib.backend import (
    Array,
    backend_of,
    check_choice,
    check_count,
    check_number,
    check_whole_numbers,
    checked,
)
from rnnlib.equations import implements

# --- forecasts that learn nothing -----------------------------------------------------------------


@implements("eq-forecast-seasonal-naive")
def seasonal_naive(xs: Annotated[Array, "T"], horizon: int, period: int = 1) -> Annotated[Array, "H"]:
    """What was one period ago, or two, … will be again (:eq:`eq-forecast-seasonal-naive`).

    With a period of 1 it is *persistence*: all stays as it is.

    Args:
        xs: the series up to the origin, (T,), with T at least the period.
        horizon: H, how many steps to forecast.
        period: m, the length of a season in steps.

    Returns:
        The forecasts of x_{T+1} … x_{T+H}, (H,).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; a horizon below 1, a period
            outside 1 … T.
    """
    horizon = check_count("seasonal_naive", "horizon", horizon)
    T = int(xs.shape[0])
    period = check_count("seasonal_naive", "period", period, 1, T)
    return xs[[T - period + h % period for h in range(horizon)]]  # (H,)


@implements("eq-forecast-drift")
def drift(xs: Annotated[Array, "T"], horizon: int) -> Annotated[Array, "H"]:
    """The line through the first and the last value, continued (:eq:`eq-forecast-drift`).

    Args:
        xs: the series up to the origin, (T,), with T at least 2.
        horizon: H, how many steps to forecast.

    Returns:
        The forecasts of x_{T+1} … x_{T+H}, (H,).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; a horizon below 1, a series of
            one value.
    """
    horizon = check_count("drift", "horizon", horizon)
    T = int(xs.shape[0])
    if T < 2:
        raise ValueError(f"drift: xs has shape {tuple(xs.shape)}, expected at least 2 values")
    xp = backend_of(xs)
    steps = xp.asarray(xp.arange(horizon, like=xs) + 1, like=xs)  # (H,)
    return xs[-1] + steps * ((xs[-1] - xs[0]) / (T - 1))  # (H,)


# --- what the network should not have to learn ----------------------------------------------------


def _check_period(where: str, name: str, xs: Array, period: int) -> int:
    """A period that a series has at least one difference of."""
    T = int(xs.shape[0])
    if T < 2:
        raise ValueError(f"{where}: {name} has shape {tuple(xs.shape)}, expected at least 2 values")
    return check_count(where, "period", period, 1, T - 1)


@implements("eq-forecast-difference")
def difference(xs: Annotated[Array, "T"], period: int = 1) -> Annotated[Array, "N"]:
    """The change over one period, d_t = x_t - x_{t-m} (:eq:`eq-forecast-difference`).

    Args:
        xs: a series, (T,).
        period: m, from 1 to T - 1.

    Returns:
        d_{m+1} … d_T, (T - m,).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; a period out of range.
    """
    period = _check_period("difference", "xs", xs, period)
    return xs[period:] - xs[:-period]  # (T - m,)


@implements("eq-forecast-integrate")
def integrate(ds: Annotated[Array, "N"], last: Annotated[Array, "M"]) -> Annotated[Array, "N"]:
    """Differences back to values, the inverse of :func:`difference` (:eq:`eq-forecast-integrate`).

    Args:
        ds: the differences that follow, d_{T+1} … d_{T+N}, (N,).
        last: the last m values of the series, x_{T-m+1} … x_T, (M,); its length is the period.

    Returns:
        x_{T+1} … x_{T+N}, (N,). From the second period on they rest on values that came out before.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    xs = list(last)
    for d in ds:
        xs.append(xs[-len(last)] + d)
    return backend_of(ds).stack(xs[len(last) :])  # (N,)


# --- origins and windows --------------------------------------------------------------------------


def rolling_origins(first: int, stop: int, horizon: int, every: int = 1) -> np.ndarray:
    """The origins of an evaluation whose every target lies before ``stop``.

    Args:
        first: how many values are known at the first origin.
        stop: how many values there are to be forecast or known, in all.
        horizon: H, the longest horizon.
        every: steps from one origin to the next.

    Returns:
        Counts of known values, int64: at the origin n the values x[:n] are known, and x[n : n + H] are
        the targets.

    Raises:
        TypeError, ValueError: not whole numbers of at least 1, or no room for one origin.
    """
    first = check_count("rolling_origins", "first", first)
    horizon = check_count("rolling_origins", "horizon", horizon)
    every = check_count("rolling_origins", "every", every)
    stop = check_count("rolling_origins", "stop", stop, first + horizon)
    return np.arange(first, stop - horizon + 1, every, dtype=np.int64)


@checked
def contexts(xs: Annotated[Array, "T"], origins: np.ndarray, length: int) -> Annotated[Array, "L N"]:
    """The last values known at every origin, time first.

    Args:
        xs: a series, (T,).
        origins: counts of known values, (N,), whole numbers from ``length`` to T.
        length: L, how many values.

    Returns:
        Column i is x[origins[i] - L : origins[i]], (L, N).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; an origin out of range.
    """
    length = check_count("contexts", "length", length)
    origins = check_whole_numbers("contexts", "origins", origins, length, int(xs.shape[0]))
    return xs[origins[None, :] - length + np.arange(length)[:, None]]  # (L, N)


@checked
def outcomes(xs: Annotated[Array, "T"], origins: np.ndarray, horizon: int) -> Annotated[Array, "N H"]:
    """What came after every origin: the targets of its forecasts.

    Args:
        xs: a series, (T,).
        origins: counts of known values, (N,), whole numbers from 0 to T - ``horizon``.
        horizon: H.

    Returns:
        Row i is x[origins[i] : origins[i] + H], (N, H).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; an origin out of range.
    """
    horizon = check_count("outcomes", "horizon", horizon)
    origins = check_whole_numbers("outcomes", "origins", origins, 0, int(xs.shape[0]) - horizon)
    return xs[origins[:, None] + np.arange(horizon)]  # (N, H)


# --- how wrong a forecast is ----------------------------------------------------------------------


@implements("eq-forecast-mae")
def mean_absolute_error(
    ys: Annotated[Array, "N O"], targets: Annotated[Array, "N O"]
) -> Annotated[Array, ""]:
    """The mean size of the errors (:eq:`eq-forecast-mae`), in the unit of the series.

    Args:
        ys: forecasts, (N, O).
        targets: what came, (N, O).

    Returns:
        The mean over both axes, a scalar.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    xp = backend_of(ys)
    return xp.asarray(xp.abs(ys - targets).mean(), like=ys)


@implements("eq-forecast-mae-backward")
def mean_absolute_error_backward(
    d_loss: Annotated[Array, ""], ys: Annotated[Array, "N O"], targets: Annotated[Array, "N O"]
) -> Annotated[Array, "N O"]:
    """The derivative of :func:`mean_absolute_error` (:eq:`eq-forecast-mae-backward`).

    Args:
        d_loss: ∂L/∂loss, a scalar: 1 where the loss is L itself.
        ys: forecasts, (N, O).
        targets: what came, (N, O).

    Returns:
        ∂L/∂ys, (N, O): a sign over N·O, whatever the size of the error; 0 where it is 0.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    one = backend_of(ys).ones_like(ys)
    share = d_loss * (1 / (ys.shape[0] * ys.shape[1]))
    where = backend_of(ys).where
    return share * where(ys > targets, one, where(ys < targets, -one, 0 * one))  # (N, O)


@implements("eq-forecast-scale")
def naive_scale(train: Annotated[Array, "T"], period: int = 1) -> Annotated[Array, ""]:
    """How much a series changes in one period, in the mean (:eq:`eq-forecast-scale`).

    Args:
        train: the training part of a series, (T,), and nothing after it.
        period: m, from 1 to T - 1.

    Returns:
        The mean absolute error of the seasonal naive forecast within the training part, a scalar, in
        the unit of the series.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; a period out of range; a series
            that repeats itself exactly, and so has no scale.
    """
    period = _check_period("naive_scale", "train", train, period)
    scale = backend_of(train).abs(difference.unchecked(train, period)).mean()
    if not scale > 0:
        raise ValueError(
            f"naive_scale: train repeats itself exactly with period {period}, expected some change"
        )
    return backend_of(train).asarray(scale, like=train)


@implements("eq-forecast-mase")
def mean_absolute_scaled_error(
    ys: Annotated[Array, "N O"],
    targets: Annotated[Array, "N O"],
    train: Annotated[Array, "T"],
    period: int = 1,
) -> Annotated[Array, ""]:
    """The mean absolute error in units of :func:`naive_scale` (:eq:`eq-forecast-mase`), without a unit.

    Args:
        ys: forecasts, (N, O).
        targets: what came, (N, O).
        train: the training part of the series, (T,).
        period: m, from 1 to T - 1.

    Returns:
        The error, a scalar: 1 for forecasts as wrong as the seasonal naive ones were in training.

    Raises:
        TypeError, ValueError: as :func:`mean_absolute_error` and :func:`naive_scale`.

    Hyndman and Koehler (2006).
    """
    period = _check_period("mean_absolute_scaled_error", "train", train, period)
    return mean_absolute_error.unchecked(ys, targets) / naive_scale.unchecked(train, period)


@implements("eq-forecast-diebold-mariano")
def diebold_mariano(
    losses: Annotated[Array, "N"], others: Annotated[Array, "N"], horizon: int = 1
) -> Annotated[Array, ""]:
    """How many standard errors one forecast is worse than another (:eq:`eq-forecast-diebold-mariano`).

    Args:
        losses: the loss of the first method at every origin, (N,), origins one step apart.
        others: the loss of the second at the same origins, (N,).
        horizon: h, from 1 to N; errors less than h steps apart share some of their future, and so
            their covariances count.

    Returns:
        The mean difference over its standard error, a scalar: near 0 for equal methods, negative where
        the first is better.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; a horizon out of range; an
            estimate of the variance that is not above 0.

    Diebold and Mariano (1995), with their rectangular window.
    """
    N = int(losses.shape[0])
    horizon = check_count("diebold_mariano", "horizon", horizon, 1, N)
    xp = backend_of(losses)
    differences = losses - others  # (N,)
    mean = differences.mean()
    u = differences - mean  # (N,)
    variance = (u * u).sum() / N
    for lag in range(1, horizon):
        variance = variance + 2 * (u[lag:] * u[:-lag]).sum() / N
    if not variance > 0:
        raise ValueError(
            f"diebold_mariano: the variance of the differences is estimated as {float(variance):.3g}, "
            "expected a number above 0: there are too few origins for this horizon, or no differences"
        )
    return xp.asarray(mean / xp.sqrt(variance / N), like=losses)


# --- errors that feed back ------------------------------------------------------------------------


@implements("eq-forecast-impulse")
def impulse_response(weights: Annotated[Array, "P"], horizon: int) -> Annotated[Array, "H"]:
    """What a shock of size 1 leaves after 0, 1, … steps (:eq:`eq-forecast-impulse`).

    Args:
        weights: φ_1 … φ_P of the linear recursion x_t = Σ φ_i x_{t-i} + ε_t, (P,).
        horizon: H, how many steps.

    Returns:
        ψ_0 … ψ_{H-1}, (H,); for one weight ψ_j = φ^j.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; a horizon below 1.
    """
    horizon = check_count("impulse_response", "horizon", horizon)
    xp = backend_of(weights)
    psi = [xp.ones_like(weights[0])]
    for j in range(1, horizon):
        psi.append(sum(weights[i] * psi[j - 1 - i] for i in range(min(j, len(weights)))))
    return xp.stack(psi)  # (H,)


@implements("eq-forecast-variance")
def forecast_variance(
    weights: Annotated[Array, "P"], noise: Annotated[Array, ""], horizon: int
) -> Annotated[Array, "H"]:
    """How the error of a recursive forecast grows with the horizon (:eq:`eq-forecast-variance`).

    Args:
        weights: φ_1 … φ_P of a linear recursion, known exactly, (P,).
        noise: σ, the standard deviation of its shocks, a scalar.
        horizon: H, the longest horizon.

    Returns:
        The variance of the error at the horizons 1 … H, σ² (ψ_0² + … + ψ_{h-1}²), (H,).

    Raises:
        TypeError, ValueError: as :func:`impulse_response`.
    """
    horizon = check_count("forecast_variance", "horizon", horizon)
    psi = impulse_response.unchecked(weights, horizon)  # (H,)
    sums = [(psi[: h + 1] ** 2).sum() for h in range(psi.shape[0])]
    return noise**2 * backend_of(psi).stack(sums)  # (H,)


# --- forecasts that say how sure they are ---------------------------------------------------------

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


@implements("eq-forecast-gaussian-nll")
def gaussian_nll(
    means: Annotated[Array, "N O"], log_scales: Annotated[Array, "N O"], targets: Annotated[Array, "N O"]
) -> Annotated[Array, ""]:
    """Minus the mean log-density of what came, under a normal law (:eq:`eq-forecast-gaussian-nll`).

    Args:
        means: μ, (N, O).
        log_scales: s = log σ, (N, O), any real number.
        targets: what came, (N, O).

    Returns:
        The mean of ½ log 2π + s + ½ ((target - μ) e^{-s})² over both axes, a scalar, in nats.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    xp = backend_of(means)
    z = (targets - means) * xp.exp(-log_scales)  # (N, O)
    return xp.asarray((_HALF_LOG_2PI + log_scales + 0.5 * z * z).mean(), like=means)


@implements("eq-forecast-gaussian-nll-backward")
def gaussian_nll_backward(
    d_loss: Annotated[Array, ""],
    means: Annotated[Array, "N O"],
    log_scales: Annotated[Array, "N O"],
    targets: Annotated[Array, "N O"],
) -> tuple[Annotated[Array, "N O"], Annotated[Array, "N O"]]:
    """The derivatives of :func:`gaussian_nll` (:eq:`eq-forecast-gaussian-nll-backward`).

    Args:
        d_loss: ∂L/∂loss, a scalar: 1 where the loss is L itself.
        means: μ, (N, O).
        log_scales: s = log σ, (N, O).
        targets: what came, (N, O).

    Returns:
        ``d_means`` and ``d_log_scales``, both (N, O).

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    share = d_loss * (1 / (means.shape[0] * means.shape[1]))
    inverse = backend_of(means).exp(-log_scales)  # (N, O), 1/σ
    z = (targets - means) * inverse  # (N, O)
    return -share * z * inverse, share * (1 - z * z)


def _check_levels(where: str, levels: Array) -> None:
    for extreme in backend_of(levels).extremes(levels) or ():
        if not 0 < extreme < 1:
            raise ValueError(f"{where}: levels holds {extreme}, expected numbers between 0 and 1")


@implements("eq-forecast-pinball")
def pinball(
    quantiles: Annotated[Array, "N Q"], targets: Annotated[Array, "N"], levels: Annotated[Array, "Q"]
) -> Annotated[Array, ""]:
    """The loss whose minimum is at the quantile (:eq:`eq-forecast-pinball`).

    Args:
        quantiles: forecasts of the quantiles, (N, Q).
        targets: what came, (N,).
        levels: τ, the share of outcomes that should lie below each quantile, (Q,), between 0 and 1.

    Returns:
        The mean over both axes, a scalar, in the unit of the series: τ per unit that the outcome lies
        above, 1 - τ per unit below. At the level ½ it is half the absolute error.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; levels outside 0 to 1.
    """
    _check_levels("pinball", levels)
    xp = backend_of(quantiles)
    errors = targets[:, None] - quantiles  # (N, Q)
    return xp.asarray(xp.where(errors >= 0, levels * errors, (levels - 1) * errors).mean(), like=quantiles)


@implements("eq-forecast-pinball-backward")
def pinball_backward(
    d_loss: Annotated[Array, ""],
    quantiles: Annotated[Array, "N Q"],
    targets: Annotated[Array, "N"],
    levels: Annotated[Array, "Q"],
) -> Annotated[Array, "N Q"]:
    """The derivative of :func:`pinball` (:eq:`eq-forecast-pinball-backward`).

    Args:
        d_loss: ∂L/∂loss, a scalar: 1 where the loss is L itself.
        quantiles: forecasts of the quantiles, (N, Q).
        targets: what came, (N,).
        levels: τ, (Q,), between 0 and 1.

    Returns:
        ∂L/∂quantiles, (N, Q): -τ where the outcome lies at the quantile or above, 1 - τ below it, over
        N·Q.

    Raises:
        TypeError, ValueError: as :func:`pinball`.
    """
    _check_levels("pinball_backward", levels)
    share = d_loss * (1 / (quantiles.shape[0] * quantiles.shape[1]))
    same = backend_of(quantiles).zeros_like(quantiles)  # (N, Q)
    errors = targets[:, None] - quantiles  # (N, Q)
    return share * backend_of(quantiles).where(errors >= 0, same - levels, same + (1 - levels))  # (N, Q)


# --- intervals, and whether they hold what they promise -------------------------------------------


@implements("eq-forecast-coverage")
def coverage(
    lower: Annotated[Array, "N H"], upper: Annotated[Array, "N H"], targets: Annotated[Array, "N H"]
) -> Annotated[Array, "H"]:
    """The share of outcomes inside their intervals (:eq:`eq-forecast-coverage`), by horizon.

    Args:
        lower: lower ends, (N, H).
        upper: upper ends, (N, H).
        targets: what came, (N, H); an outcome at an end is inside.

    Returns:
        The share over the N origins, (H,), from 0 to 1.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`.
    """
    xp = backend_of(lower)
    inside = (lower <= targets) & (targets <= upper)  # (N, H)
    return xp.where(inside, xp.ones_like(targets), xp.zeros_like(targets)).mean(0)  # (H,)


@implements("eq-forecast-conformal")
def conformal_radius(scores: Annotated[Array, "N"], miscoverage: float) -> Annotated[Array, ""]:
    """How far an interval must reach, from the errors on other data (:eq:`eq-forecast-conformal`).

    Args:
        scores: the size of N errors that the model was not fitted to, (N,).
        miscoverage: α, the share of outcomes that may lie outside, at least 1 / (N + 1) and below 1.

    Returns:
        The ⌈(N + 1)(1 - α)⌉-th smallest score, a scalar. If the next error comes from the same urn as
        the N, it is larger with a probability of at most α.

    Raises:
        TypeError, ValueError: see :func:`rnnlib.backend.check_arrays`; a miscoverage out of range: N
            errors can say nothing about one rarer than 1 in N + 1.

    Vovk, Gammerman and Shafer (2005).
    """
    N = int(scores.shape[0])
    alpha = check_number("conformal_radius", "miscoverage", miscoverage)
    rank = math.ceil(round((N + 1) * (1 - alpha), 9))  # 20 (1 - 0.7) is 6, not 6.000000000000001
    if not 1 <= rank <= N:
        raise ValueError(
            f"conformal_radius: miscoverage is {alpha}, expected a number from 1/{N + 1} to 1 with "
            f"N = {N} set by scores"
        )
    return scores[scores.argsort()][rank - 1]


# --- the three series of the chapter --------------------------------------------------------------

TRANSFORMS = ("identity", "log", "sqrt")
"""The names accepted wherever an argument is called ``transform``."""


@dataclass(frozen=True)
class Series:
    """A series with its parts, and the way to the numbers that a network works on and back.

    The network sees x transformed (``z``), differenced over a period where there is one (``d``), and
    standardised by the mean and the standard deviation of the training part alone (``u``).

    Attributes:
        name: what it is.
        values: the series in its own unit, (T,).
        transform: ``"identity"``, ``"log"`` or ``"sqrt"``, what is done first.
        period: the period of the seasonal difference, or None for no difference.
        scale_period: the period of :func:`naive_scale`.
        horizon: H, how far to forecast; no longer than the period.
        train_end: the number of values in the training part.
        validation_end: the number of values in training and validation; the rest is the test.
    """

    name: str
    values: np.ndarray
    transform: str
    period: int | None
    scale_period: int
    horizon: int
    train_end: int
    validation_end: int

    def __post_init__(self) -> None:
        check_choice("Series", "transform", self.transform, TRANSFORMS)
        with np.errstate(divide="ignore", invalid="ignore"):
            if not np.isfinite(self.z).all():
                raise ValueError(f"Series: values holds numbers without a finite {self.transform}")
        T = len(self.values)
        horizon = check_count("Series", "horizon", self.horizon, 1, self.period)
        end = check_count("Series", "train_end", self.train_end, 2 + self.offset, T - 2 * horizon)
        check_count("Series", "validation_end", self.validation_end, end + horizon, T - horizon)

    @property
    def offset(self) -> int:
        """How many values the difference costs; ``d[i]`` belongs to ``values[i + offset]``."""
        return self.period or 0

    @property
    def z(self) -> np.ndarray:
        """The transformed values, (T,)."""
        values = np.asarray(self.values, dtype=np.float64)
        if self.transform == "sqrt":
            return np.sqrt(values)
        return np.log(values) if self.transform == "log" else values

    @property
    def d(self) -> np.ndarray:
        """The seasonal differences of ``z`` (T - period,), or ``z`` itself."""
        return self.z if self.period is None else difference(self.z, self.period)

    @property
    def moments(self) -> tuple[float, float]:
        """Mean and standard deviation of ``d`` in the training part."""
        train = self.d[: self.train_end - self.offset]
        return float(train.mean()), float(train.std())

    @property
    def u(self) -> np.ndarray:
        """The standardised ``d`` that the network sees, (T - offset,)."""
        mean, std = self.moments
        return (self.d - mean) / std

    @property
    def scale(self) -> float:
        """:func:`naive_scale` of the training part."""
        return float(naive_scale(self.values[: self.train_end], self.scale_period))

    def origins(self, part: str) -> np.ndarray:
        """The rolling origins of the part ``"validation"`` or ``"test"``; all targets lie within it."""
        check_choice("Series.origins", "part", part, ("validation", "test"))
        if part == "validation":
            return rolling_origins(self.train_end, self.validation_end, self.horizon)
        return rolling_origins(self.validation_end, len(self.values), self.horizon)

    def windows(self, length: int, every: int = 4) -> tuple[np.ndarray, np.ndarray]:
        """Overlapping windows of ``u`` in the training part, to train on, and the targets of their steps.

        The first third of a window has no targets: there a network knows too little to forecast.

        Args:
            length: L, how many values a window has.
            every: steps from one window to the next.

        Returns:
            Windows, time first, (L, B), and for each of their last T' = L - ⌊L/3⌋ steps the H values that
            follow it, (T', B, H).

        Raises:
            TypeError, ValueError: see :func:`rolling_origins`; a training part without room for a window.
        """
        ends = rolling_origins(length, self.train_end - self.offset, self.horizon, every)  # (B,)
        targets = [outcomes(self.u, ends - length + t + 1, self.horizon) for t in range(length // 3, length)]
        return contexts(self.u, ends, length), np.stack(targets)

    def untransform(self, z: np.ndarray) -> np.ndarray:
        """The transformation undone; below the root of 0 there is 0.

        Args:
            z: transformed values, of any shape.

        Returns:
            The same in the unit of the series.
        """
        if self.transform == "sqrt":
            return np.maximum(z, 0) ** 2
        return np.exp(z) if self.transform == "log" else z

    def back(self, u: np.ndarray, origins: np.ndarray) -> np.ndarray:
        """Forecasts of ``u`` as forecasts of the series.

        No step on the way reverses an order, so quantiles become quantiles, and a median a median.

        Args:
            u: forecasts, or ends of intervals, (N, H).
            origins: counts of known values, (N,).

        Returns:
            The same in the unit of the series, (N, H).

        Raises:
            TypeError, ValueError: see :func:`contexts`.
        """
        mean, std = self.moments
        z = mean + std * u  # (N, H)
        if self.period is not None:
            z = z + contexts(self.z, origins, self.period).T[:, : self.horizon]  # what was a period before
        return self.untransform(z)

    def errors(self, forecasts: np.ndarray, origins: np.ndarray) -> np.ndarray:
        """The absolute scaled error of every forecast, (N, H); its mean is the MASE.

        Args:
            forecasts: in the unit of the series, (N, H).
            origins: counts of known values, (N,).

        Returns:
            The distance of forecast and outcome in units of :attr:`scale`, (N, H).

        Raises:
            TypeError, ValueError: see :func:`outcomes`; forecasts of another shape than (N, H).
        """
        expected = (len(origins), self.horizon)
        if forecasts.shape != expected:
            raise ValueError(f"Series.errors: forecasts has shape {forecasts.shape}, expected {expected}")
        return np.abs(forecasts - outcomes(self.values, origins, self.horizon)) / self.scale


def chapter_series() -> tuple[Series, Series, Series]:
    """The sunspots, the carbon dioxide and the airline passengers, divided in time.

    Training, validation and test: sunspots 1700-1909, 1910-1954, 1955-2008; carbon dioxide March 1958 to
    December 1986, 1987 to 1992, 1993 to 2001; passengers 1949-1956, 1957-1958, 1959-1960.

    Returns:
        The three.
    """
    sunspots, co2, airline = (
        datasets.sunspots()[1],
        datasets.mauna_loa_co2().ppm,
        datasets.airline_passengers()[1],
    )
    return (
        Series("sunspots", sunspots, "sqrt", None, 1, 11, 210, 255),
        Series("carbon dioxide", co2, "identity", 12, 12, 12, 346, 418),
        Series("passengers", airline, "log", 12, 12, 12, 96, 120),
    )
