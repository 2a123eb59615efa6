"""Heads and losses, held to torch.nn.functional and to torch's autograd."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from rnnlib import losses
from rnnlib.unroll import mask_from_lengths
from tests.support import as_torch, example, seeds, sizes, to_numpy

EXTREME = np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [1e4, 1e4, -1e4], [3.0, 2.0, 1.0]])


def scalar(value: float, dtype: str = "float64") -> np.ndarray:
    return np.asarray(value, dtype=dtype)


def random_mask(rng: np.random.Generator, N: int) -> np.ndarray | None:
    """Zeros and ones with at least one 1, or None now and then."""
    if rng.uniform() < 0.25:
        return None
    mask = (rng.uniform(size=N) < 0.6).astype(np.float64)
    mask[rng.integers(N)] = 1
    return mask


def kept(mask: np.ndarray | None, N: int) -> torch.Tensor:
    return torch.ones(N, dtype=torch.bool) if mask is None else torch.tensor(mask > 0)


# --- sequences as rows --------------------------------------------------------------------------


@given(sizes("T", "B", "K"), seeds)
def test_rows_put_the_steps_below_each_other(n, seed):
    T, B, K = n["T"], n["B"], n["K"]
    x = np.random.default_rng(seed).normal(size=(T, B, K))
    flat = losses.rows(x)
    assert flat.shape == (T * B, K)
    for t in range(T):
        for b in range(B):
            np.testing.assert_array_equal(flat[t * B + b], x[t, b])
    np.testing.assert_array_equal(flat.reshape(x.shape), x)
    np.testing.assert_array_equal(losses.rows(x[:, :, 0]), flat[:, 0])
    torch.testing.assert_close(losses.rows(torch.tensor(x)), torch.flatten(torch.tensor(x), 0, 1))
    assert losses.rows(x[:, :, 0] > 0).dtype == bool


def test_rows_refuse_what_is_no_sequence():
    with pytest.raises(ValueError, match=r"rows: x has shape \(3,\), expected \(T, B, K\) or \(T, B\)"):
        losses.rows(np.ones(3))
    with pytest.raises(ValueError, match=r"rows: x has shape \(1, 1, 1, 1\)"):
        losses.rows(np.ones((1, 1, 1, 1)))
    with pytest.raises(TypeError, match=r"rows: x is a list, expected a numpy.ndarray or a torch.Tensor"):
        losses.rows([[1.0]])


@pytest.mark.equation("eq-losses-readout", "eq-losses-readout-backward")
@given(sizes("T", "B", "H", "O"), seeds)
def test_linear_readout_agrees_with_torch_linear(agree, n, seed):
    arguments = example("eq-losses-readout", seed, n)
    t = as_torch(arguments, requires_grad=True)
    expected = F.linear(t["hs"], t["W_hy"], t["b_y"])
    d_ys = np.random.default_rng(seed).normal(size=tuple(expected.shape))
    agree(losses.linear_readout, "torch.nn.functional.linear", losses.linear_readout(**arguments), expected)
    agree(
        losses.linear_readout_backward,
        "torch.autograd",
        losses.linear_readout_backward(d_ys, arguments["hs"], arguments["W_hy"]),
        torch.autograd.grad(expected, [t["hs"], t["W_hy"], t["b_y"]], torch.tensor(d_ys)),
    )


# --- values and gradients -----------------------------------------------------------------------


@pytest.mark.equation("eq-losses-masked-mean", "eq-losses-masked-mean-backward")
@given(st.integers(1, 9), seeds)
def test_masked_mean_agrees_with_torch(agree, N, seed):
    rng = np.random.default_rng(seed)
    values, mask, d_mean = rng.normal(size=N), random_mask(rng, N), scalar(rng.normal())
    v = torch.tensor(values, requires_grad=True)
    expected = torch.masked_select(v, kept(mask, N)).mean()
    agree(losses.masked_mean, "torch.masked_select", losses.masked_mean(values, mask), expected)
    agree(
        losses.masked_mean_backward,
        "torch.autograd",
        losses.masked_mean_backward(d_mean, values, mask),
        torch.autograd.grad(expected, v, torch.tensor(d_mean))[0],
    )


@pytest.mark.equation("eq-losses-mse", "eq-losses-mse-backward")
@given(sizes("N", "O"), seeds)
def test_mean_squared_error_agrees_with_torch(agree, n, seed):
    rng = np.random.default_rng(seed)
    ys, targets = rng.normal(size=(2, n["N"], n["O"]))
    mask, d_loss = random_mask(rng, n["N"]), scalar(rng.normal())
    y = torch.tensor(ys, requires_grad=True)
    rows = kept(mask, n["N"])
    expected = F.mse_loss(y[rows], torch.tensor(targets)[rows])
    agree(
        losses.mean_squared_error,
        "torch.nn.functional.mse_loss",
        losses.mean_squared_error(ys, targets, mask),
        expected,
    )
    agree(
        losses.mean_squared_error_backward,
        "torch.nn.functional.mse_loss",
        losses.mean_squared_error_backward(d_loss, ys, targets, mask),
        torch.autograd.grad(expected, y, torch.tensor(d_loss))[0],
    )


@pytest.mark.equation(
    "eq-losses-softmax",
    "eq-losses-softmax-backward",
    "eq-losses-log-softmax",
    "eq-losses-log-softmax-backward",
)
@given(sizes("N", "K"), seeds)
def test_softmax_and_its_logarithm_agree_with_torch(agree, n, seed):
    a = 3 * example("eq-losses-softmax", seed, n)["a"]
    upstream = np.random.default_rng(seed).normal(size=a.shape)
    t = torch.tensor(a, requires_grad=True)
    pairs = (
        (losses.softmax, losses.softmax_backward, "softmax"),
        (losses.log_softmax, losses.log_softmax_backward, "log_softmax"),
    )
    for forward, backward, name in pairs:
        expected = getattr(F, name)(t, dim=1)
        agree(forward, f"torch.nn.functional.{name}", forward(a), expected)
        agree(
            backward,
            f"torch.nn.functional.{name}",
            backward(upstream, to_numpy(expected)),
            torch.autograd.grad(expected, t, torch.tensor(upstream))[0],
        )


@pytest.mark.equation("eq-losses-cross-entropy", "eq-losses-cross-entropy-backward")
@given(sizes("N", "K"), seeds, st.sampled_from(["int64", "int32", "uint8"]))
def test_cross_entropy_agrees_with_torch(agree, n, seed, dtype):
    rng = np.random.default_rng(seed)
    N, K = n["N"], n["K"]
    a, targets = 3 * rng.normal(size=(N, K)), rng.integers(0, K, size=N).astype(dtype)
    mask, d_loss = random_mask(rng, N), scalar(rng.normal())
    t = torch.tensor(a, requires_grad=True)
    ignored = torch.where(kept(mask, N), torch.tensor(targets.astype(np.int64)), -100)
    expected = F.cross_entropy(t, ignored, ignore_index=-100)
    agree(
        losses.cross_entropy,
        "torch.nn.functional.cross_entropy",
        losses.cross_entropy(a, targets, mask),
        expected,
    )
    agree(
        losses.cross_entropy_backward,
        "torch.nn.functional.cross_entropy",
        losses.cross_entropy_backward(d_loss, a, targets, mask),
        torch.autograd.grad(expected, t, torch.tensor(d_loss))[0],
    )


@pytest.mark.equation("eq-losses-binary-cross-entropy", "eq-losses-binary-cross-entropy-backward")
@given(sizes("N", "K"), seeds, st.booleans())
def test_binary_cross_entropy_agrees_with_torch(agree, n, seed, hard):
    rng = np.random.default_rng(seed)
    a, targets = 3 * rng.normal(size=(n["N"], n["K"])), rng.uniform(size=(n["N"], n["K"]))
    targets = np.round(targets) if hard else targets
    mask, d_loss = random_mask(rng, n["N"]), scalar(rng.normal())
    t = torch.tensor(a, requires_grad=True)
    rows = kept(mask, n["N"])
    expected = F.binary_cross_entropy_with_logits(t[rows], torch.tensor(targets)[rows])
    agree(
        losses.binary_cross_entropy,
        "torch.nn.functional.binary_cross_entropy_with_logits",
        losses.binary_cross_entropy(a, targets, mask),
        expected,
    )
    agree(
        losses.binary_cross_entropy_backward,
        "torch.nn.functional.binary_cross_entropy_with_logits",
        losses.binary_cross_entropy_backward(d_loss, a, targets, mask),
        torch.autograd.grad(expected, t, torch.tensor(d_loss))[0],
    )


@pytest.mark.equation(
    "eq-losses-perplexity", "eq-losses-perplexity-backward", "eq-losses-bits", "eq-losses-bits-backward"
)
@given(st.floats(0, 20), st.floats(-3, 3))
def test_perplexity_and_bits_agree_with_torch(agree, value, upstream):
    loss = torch.tensor(value, dtype=torch.float64, requires_grad=True)
    d = torch.tensor(upstream, dtype=torch.float64)
    for forward, backward, expected in (
        (losses.perplexity, lambda: losses.perplexity_backward(scalar(upstream), scalar(value)), loss.exp()),
        (
            losses.bits_per_symbol,
            lambda: losses.bits_per_symbol_backward(scalar(upstream)),
            torch.log2(torch.exp(loss)),
        ),
    ):
        agree(forward, "torch", forward(scalar(value)), expected)
        agree(
            f"losses.{forward.__name__}_backward",
            "torch.autograd",
            backward(),
            torch.autograd.grad(expected, loss, d)[0],
        )


@pytest.mark.equation("eq-losses-cross-entropy", "eq-losses-perplexity", "eq-losses-bits")
@pytest.mark.parametrize("K", [1, 2, 5, 1024])
def test_guessing_among_K_classes_has_perplexity_K(K):
    loss = losses.cross_entropy(np.full((3, K), 0.7), np.array([0, K - 1, K // 2]))
    assert loss == pytest.approx(math.log(K), abs=1e-12)
    assert losses.perplexity(loss) == pytest.approx(K)
    assert losses.bits_per_symbol(loss) == pytest.approx(math.log2(K), abs=1e-12)


# --- sequences ----------------------------------------------------------------------------------


@pytest.mark.equation("eq-losses-mse", "eq-losses-mse-backward", "eq-losses-cross-entropy")
@given(sizes("T", "B", "K"), seeds)
def test_losses_of_sequences_average_over_the_steps_that_exist(agree, n, seed):
    rng = np.random.default_rng(seed)
    T, B, K = n["T"], n["B"], n["K"]
    ys, targets = rng.normal(size=(2, T, B, K))
    classes = rng.integers(0, K, size=(T, B))
    lengths = rng.integers(0, T + 1, size=B)
    lengths[0] = T
    mask = mask_from_lengths(lengths, ys)
    rows = losses.rows

    steps = [(t, b) for b in range(B) for t in range(lengths[b])]
    squares = torch.stack([F.mse_loss(torch.tensor(ys[s]), torch.tensor(targets[s])) for s in steps])
    loss = losses.mean_squared_error(rows(ys), rows(targets), rows(mask))
    agree(losses.mean_squared_error, "torch, step by step", loss, squares.mean())
    nats = torch.stack(
        [F.cross_entropy(torch.tensor(ys[s])[None], torch.tensor(classes[s])[None]) for s in steps]
    )
    loss = losses.cross_entropy(rows(ys), rows(classes), rows(mask))
    agree(losses.cross_entropy, "torch, step by step", loss, nats.mean())

    d_ys = losses.mean_squared_error_backward(scalar(1), rows(ys), rows(targets), rows(mask))
    d_ys = d_ys.reshape(ys.shape)
    for b in range(B):
        assert not d_ys[lengths[b] :, b].any()
        assert d_ys[: lengths[b], b].all()


def test_rows_that_do_not_count_have_no_influence():
    values, mask = np.array([1.0, np.inf, 3.0]), np.array([1.0, 0.0, 1.0])
    assert losses.masked_mean(values, mask) == 2
    np.testing.assert_array_equal(
        losses.masked_mean_backward(scalar(1), values, mask), np.array([0.5, 0.0, 0.5])
    )


# --- numbers at the edge ------------------------------------------------------------------------


@pytest.mark.parametrize("make", [np.asarray, torch.tensor])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_extreme_logits_give_finite_numbers(agree, make, dtype):
    a = make(EXTREME.astype(dtype))
    reference = torch.tensor(EXTREME, requires_grad=True)
    classes = np.array([0, 2, 1, 2])
    one = make(scalar(1, dtype))

    p = losses.softmax(a)
    agree(losses.softmax, "torch.nn.functional.softmax", p, F.softmax(reference, 1), dtype=dtype)
    log_p = losses.log_softmax(a)
    expected = F.log_softmax(reference, 1)
    agree(losses.log_softmax, "torch.nn.functional.log_softmax", log_p, expected, dtype=dtype)

    expected = F.cross_entropy(reference, torch.tensor(classes))
    name = "torch.nn.functional.cross_entropy"
    agree(losses.cross_entropy, name, losses.cross_entropy(a, make(classes)), expected, dtype=dtype)
    agree(
        losses.cross_entropy_backward,
        name,
        losses.cross_entropy_backward(one, a, make(classes)),
        torch.autograd.grad(expected, reference)[0],
        dtype=dtype,
    )
    yes = np.array([[1, 0, 1], [0, 1, 0], [0, 1, 1], [1, 1, 0]])
    expected = F.binary_cross_entropy_with_logits(reference, torch.tensor(yes, dtype=torch.float64))
    targets = make(yes.astype(dtype))
    name = "torch.nn.functional.binary_cross_entropy_with_logits"
    agree(losses.binary_cross_entropy, name, losses.binary_cross_entropy(a, targets), expected, dtype=dtype)
    agree(
        losses.binary_cross_entropy_backward,
        name,
        losses.binary_cross_entropy_backward(one, a, targets),
        torch.autograd.grad(expected, reference)[0],
        dtype=dtype,
    )


def test_gradients_of_confident_answers_keep_their_digits():
    small = math.exp(-50) / (1 + math.exp(-50))
    exact = {"rtol": 1e-14, "atol": 0}
    d_a = losses.cross_entropy_backward(scalar(1), np.array([[50.0, 0.0]]), np.array([0]))
    np.testing.assert_allclose(d_a, [[-small, small]], **exact)
    a, targets = np.array([[50.0, -50.0]]), np.array([[1.0, 0.0]])
    np.testing.assert_allclose(
        losses.binary_cross_entropy_backward(scalar(2), a, targets), [[-small, small]], **exact
    )
    np.testing.assert_allclose(losses.binary_cross_entropy(a, targets), math.log1p(math.exp(-50)), **exact)


def test_one_class_and_one_row():
    a, targets = np.array([[-3.0]]), np.array([0])
    assert losses.softmax(a) == 1
    assert losses.log_softmax(a) == 0
    assert losses.cross_entropy(a, targets) == 0
    assert losses.cross_entropy_backward(scalar(1), a, targets) == 0
    assert losses.binary_cross_entropy(a, np.zeros((1, 1))) == pytest.approx(math.log1p(math.exp(-3)))
    assert losses.binary_cross_entropy_backward(scalar(1), 0 * a, np.zeros((1, 1))) == 0.5
    assert losses.mean_squared_error(a, 0 * a) == 9
    assert losses.mean_squared_error_backward(scalar(1), a, 0 * a) == -6


def test_autograd_through_the_losses_is_right_where_logits_tie():
    a = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    classes, yes = torch.tensor([0, 2]), torch.tensor([[1.0, 0.0, 0.25]] * 2, dtype=torch.float64)
    one = torch.ones((), dtype=torch.float64)
    for loss, backward in (
        (losses.cross_entropy(a, classes), losses.cross_entropy_backward(one, a.detach(), classes)),
        (losses.binary_cross_entropy(a, yes), losses.binary_cross_entropy_backward(one, a.detach(), yes)),
    ):
        torch.testing.assert_close(torch.autograd.grad(loss, a)[0], backward, rtol=1e-13, atol=1e-15)


@given(sizes("N", "K"), seeds)
def test_numpy_and_torch_give_the_same_numbers(n, seed):
    rng = np.random.default_rng(seed)
    a, ys = rng.normal(size=(2, n["N"], n["K"]))
    classes, yes = rng.integers(0, n["K"], size=n["N"]), rng.uniform(size=ys.shape)
    mask, d = random_mask(rng, n["N"]), scalar(rng.normal())

    def everything(make):
        m = None if mask is None else make(mask)
        return [
            losses.mean_squared_error(make(a), make(ys), m),
            losses.mean_squared_error_backward(make(d), make(a), make(ys), m),
            losses.cross_entropy(make(a), make(classes), m),
            losses.cross_entropy_backward(make(d), make(a), make(classes), m),
            losses.binary_cross_entropy(make(a), make(yes), m),
            losses.binary_cross_entropy_backward(make(d), make(a), make(yes), m),
            losses.softmax(make(a)),
            losses.softmax_backward(make(ys), make(yes)),
            losses.log_softmax(make(a)),
            losses.log_softmax_backward(make(ys), make(a)),
            losses.perplexity(make(d)),
            losses.perplexity_backward(make(d), make(d)),
            losses.bits_per_symbol(make(d)),
            losses.bits_per_symbol_backward(make(d)),
        ]

    for x, t in zip(everything(np.asarray), everything(torch.tensor), strict=True):
        assert isinstance(x, np.ndarray)
        assert isinstance(t, torch.Tensor)
        np.testing.assert_allclose(x, t, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_dtype_is_kept_and_small_dtypes_agree(agree, dtype, masked):
    rng = np.random.default_rng(1)
    a, ys, yes = rng.normal(size=(3, 70, 5))
    yes, classes = np.abs(yes) / np.abs(yes).max(), rng.integers(0, 5, size=70)
    mask = (rng.uniform(size=70) < 0.5).astype(np.float64) if masked else None
    rows = kept(mask, 70)

    t = torch.tensor(a, requires_grad=True)
    loss, d = torch.tensor(1.5, dtype=torch.float64, requires_grad=True), torch.tensor(1.5)
    mse = F.mse_loss(t[rows], torch.tensor(ys)[rows])
    ce = F.cross_entropy(t[rows], torch.tensor(classes)[rows])
    bce = F.binary_cross_entropy_with_logits(t[rows], torch.tensor(yes)[rows])
    upstream = torch.tensor(ys)
    references = {
        "mean_squared_error": ("mse_loss", mse, t, d),
        "cross_entropy": ("cross_entropy", ce, t, d),
        "binary_cross_entropy": ("binary_cross_entropy_with_logits", bce, t, d),
        "softmax": ("softmax", F.softmax(t, 1), t, upstream),
        "log_softmax": ("log_softmax", F.log_softmax(t, 1), t, upstream),
        "perplexity": ("exp", torch.exp(loss), loss, d),
        "bits_per_symbol": ("log2", torch.log2(torch.exp(loss)), loss, d),
    }

    def everything(make):
        m, d, x = None if mask is None else make(mask), make(np.asarray(1.5)), make(a)
        c = classes if isinstance(x, np.ndarray) else torch.tensor(classes)
        p, log_p = losses.softmax(x), losses.log_softmax(x)
        return {
            "mean_squared_error": (
                losses.mean_squared_error(x, make(ys), m),
                losses.mean_squared_error_backward(d, x, make(ys), m),
            ),
            "cross_entropy": (losses.cross_entropy(x, c, m), losses.cross_entropy_backward(d, x, c, m)),
            "binary_cross_entropy": (
                losses.binary_cross_entropy(x, make(yes), m),
                losses.binary_cross_entropy_backward(d, x, make(yes), m),
            ),
            "softmax": (p, losses.softmax_backward(make(ys), p)),
            "log_softmax": (log_p, losses.log_softmax_backward(make(ys), log_p)),
            "perplexity": (losses.perplexity(d), losses.perplexity_backward(d, d)),
            "bits_per_symbol": (losses.bits_per_symbol(d), losses.bits_per_symbol_backward(d)),
        }

    makers = [lambda v: torch.tensor(v, dtype=getattr(torch, dtype))]
    if dtype != "bfloat16":
        makers.append(lambda v: v.astype(dtype))
    for make in makers:
        for name, (value, gradient) in everything(make).items():
            assert str(value.dtype).removeprefix("torch.") == dtype, name
            assert str(gradient.dtype).removeprefix("torch.") == dtype, name
            reference, expected, leaf, d_expected = references[name]
            agree(f"losses.{name}", f"torch {reference} in float64", value, expected, dtype=dtype)
            (d_leaf,) = torch.autograd.grad(expected, leaf, d_expected.to(torch.float64), retain_graph=True)
            agree(f"losses.{name}_backward", "torch.autograd in float64", gradient, d_leaf, dtype=dtype)


@pytest.mark.parametrize("make", [np.ones, torch.ones])
def test_more_rows_than_float16_can_count(make):
    N = 70_000  # the largest float16 is 65504
    half = np.float16 if make is np.ones else torch.float16
    values, mask = make(N, dtype=half), make(N, dtype=half)
    one = make((), dtype=half)
    assert losses.masked_mean(values, mask) == 1
    for m in (None, mask):
        assert float(losses.masked_mean_backward(one, values, m)[0]) == pytest.approx(1 / N, rel=1e-2)


def test_everything_stays_on_the_device_of_the_input():
    a = torch.ones(4, 3, device="meta")
    classes, one = torch.zeros(4, dtype=torch.int64, device="meta"), torch.ones((), device="meta")
    results = [
        losses.mean_squared_error(a, a),
        losses.mean_squared_error_backward(one, a, a),
        losses.softmax(a),
        losses.log_softmax(a),
        losses.cross_entropy(a, classes),
        losses.cross_entropy_backward(one, a, classes),
        losses.binary_cross_entropy(a, a),
        losses.binary_cross_entropy_backward(one, a, a),
        losses.perplexity(one),
        losses.bits_per_symbol(one),
        losses.linear_readout(a[None], a, a[:, 0]),
    ]
    assert {x.device.type for x in results} == {"meta"}
    assert tuple(results[-1].shape) == (1, 4, 4)


def test_strided_views_give_the_same_numbers():
    rng = np.random.default_rng(0)
    wide, classes = rng.normal(size=(5, 8)), rng.integers(0, 4, size=10)
    a, c, mask = wide[:, ::2], classes[::2], np.ones(10)[::2]
    assert not a.flags.c_contiguous
    solid = np.ascontiguousarray
    for loss, targets in (
        (losses.cross_entropy, c),
        (losses.mean_squared_error, wide[:, 1::2]),
        (losses.binary_cross_entropy, np.round(np.abs(wide[:, 1::2]) / 5)),
    ):
        np.testing.assert_allclose(
            loss(a, targets, mask), loss(solid(a), solid(targets), solid(mask)), rtol=1e-14
        )


def test_unchecked_losses_pass_a_NaN_on():
    a = np.array([[np.nan, 0.0]])
    for loss, targets in (
        (losses.cross_entropy, np.array([1])),
        (losses.mean_squared_error, np.zeros((1, 2))),
        (losses.binary_cross_entropy, np.zeros((1, 2))),
    ):
        assert np.isnan(loss.unchecked(a, targets))


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("make", [np.asarray, torch.tensor])
@pytest.mark.parametrize("loss", [losses.cross_entropy, lambda *args: losses.cross_entropy_backward(*args)])
def test_targets_that_are_no_classes_are_refused(make, loss):
    a = make(np.ones((2, 3)))
    arguments = [] if loss is losses.cross_entropy else [make(scalar(1))]

    def call(targets):
        return loss(*arguments, a, targets)

    with pytest.raises(ValueError, match=r"targets holds 3, expected whole numbers from 0 to 2"):
        call(make(np.array([0, 3])))
    with pytest.raises(ValueError, match=r"targets holds -1, expected whole numbers from 0 to 2"):
        call(make(np.array([-1, 0])))
    with pytest.raises(ValueError, match=r"targets has shape \(1,\), expected \(2,\)"):
        call(make(np.array([0])))
    with pytest.raises(ValueError, match=r"targets has shape \(2, 1\), expected \(2,\)"):
        call(make(np.array([[0], [1]])))
    with pytest.raises(TypeError, match=r"targets has dtype .*float64, expected an integer dtype"):
        call(make(np.array([0.0, 1.0])))
    with pytest.raises(TypeError, match=r"targets has dtype .*bool, expected an integer dtype"):
        call(make(np.array([True, False])))
    with pytest.raises(TypeError, match=r"targets has dtype .*complex128, expected an integer dtype"):
        call(make(np.array([0j, 0j])))
    with pytest.raises(TypeError, match=r"targets is a list, expected a (ndarray|Tensor) like"):
        call([0, 1])
    with pytest.raises(TypeError, match=r"targets is a (ndarray|Tensor), expected a (ndarray|Tensor)"):
        call(np.array([0, 1]) if make is torch.tensor else torch.tensor([0, 1]))
    call(make(np.array([0, 2])))


def test_classes_on_another_device_are_refused():
    with pytest.raises(ValueError, match="targets is on meta, expected cpu like the others"):
        losses.cross_entropy(torch.ones(1, 2), torch.zeros(1, dtype=torch.int64, device="meta"))


@pytest.mark.parametrize("make", [np.asarray, torch.tensor])
def test_masks_that_do_not_fit_are_refused(make):
    one, x, v = make(scalar(1)), make(np.ones((2, 3))), make(np.ones(2))
    classes = make(np.array([0, 1]))
    calls = {
        "masked_mean": lambda mask: losses.masked_mean(v, mask),
        "masked_mean_backward": lambda mask: losses.masked_mean_backward(one, v, mask),
        "mean_squared_error": lambda mask: losses.mean_squared_error(x, x, mask),
        "mean_squared_error_backward": lambda mask: losses.mean_squared_error_backward(one, x, x, mask),
        "cross_entropy": lambda mask: losses.cross_entropy(x, classes, mask),
        "cross_entropy_backward": lambda mask: losses.cross_entropy_backward(one, x, classes, mask=mask),
        "binary_cross_entropy": lambda mask: losses.binary_cross_entropy(x, x, mask),
        "binary_cross_entropy_backward": lambda mask: losses.binary_cross_entropy_backward(one, x, x, mask),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=rf"{name}: mask is 0 at all 2 rows, expected at least one 1"):
            call(make(np.zeros(2)))
        with pytest.raises(ValueError, match=rf"{name}: mask has entries other than 0 and 1"):
            call(make(np.array([1.0, 0.5])))
        with pytest.raises(ValueError, match=rf"{name}: mask has entries other than 0 and 1"):
            call(make(np.array([1.0, np.nan])))
        with pytest.raises(ValueError, match=rf"{name}: mask has shape \(3,\), expected \(N\) = \(2,\)"):
            call(make(np.ones(3)))
        with pytest.raises(TypeError, match=rf"{name}: mask has dtype .*bool, expected a real"):
            call(make(np.array([True, True])))
        with pytest.raises(TypeError, match=rf"{name}: .* has dtype .*float64 but mask has .*float32"):
            call(make(np.ones(2, np.float32)))
        call(make(np.array([0.0, 1.0])))


def test_rows_that_do_not_fit_are_refused():
    x = np.ones((2, 3))
    with pytest.raises(ValueError, match=r"targets has shape \(2, 1\), expected \(N, O\) = \(2, 3\)"):
        losses.mean_squared_error(x, x[:, :1])
    with pytest.raises(ValueError, match=r"ys has shape \(1, 2, 3\), expected 2 dimensions \(N, O\)"):
        losses.mean_squared_error(x[None], x[None])
    with pytest.raises(ValueError, match=r"targets has shape \(2,\), expected 2 dimensions \(N, K\)"):
        losses.binary_cross_entropy(x, x[:, 0])
    with pytest.raises(ValueError, match=r"targets holds 2.0, expected probabilities from 0 to 1"):
        losses.binary_cross_entropy(x, 2 * x)
    with pytest.raises(ValueError, match=r"targets holds -1.0, expected probabilities from 0 to 1"):
        losses.binary_cross_entropy_backward(scalar(1), x, -x)
    with pytest.raises(TypeError, match=r"a has dtype int64, expected a real floating-point dtype"):
        losses.softmax(np.ones((2, 3), int))
    with pytest.raises(TypeError, match=r"a has dtype complex128, expected a real floating-point dtype"):
        losses.log_softmax(np.ones((2, 3), complex))
    with pytest.raises(ValueError, match=r"a holds NaN, first at index \(0, 1\)"):
        losses.cross_entropy(np.array([[0.0, np.nan]]), np.array([0]))
    with pytest.raises(TypeError, match=r"d_loss is a float, expected a numpy.ndarray or a torch.Tensor"):
        losses.mean_squared_error_backward(1.0, x, x)
    with pytest.raises(ValueError, match=r"W_hy has shape \(4, 2\), expected \(O, H\) = \(4, 3\)"):
        losses.linear_readout(x[None], np.ones((4, 2)), np.ones(4))
