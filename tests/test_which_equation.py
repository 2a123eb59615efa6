"""The page "Which equation for which task": every pairing right, every claim that can be computed true."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from rnnlib import bptt, equations, forecasting, gradients, lstm
from rnnlib.bidirectional import Bidirectional
from rnnlib.cell import arrays_of
from rnnlib.initialisation import random_vanilla_cell
from rnnlib.unroll import unroll
from tests.conftest import ROOT

PAGE = (ROOT / "book" / "which_equation.md").read_text(encoding="utf-8")
LINK = r"\{py:func\}`(?:[^`<]+) <([^`>]+)>`"
PAIRS = sorted(set(re.findall(r"\{eq\}`([^`]+)` " + LINK, PAGE)))


@pytest.mark.parametrize(("label", "function"), PAIRS)
def test_the_function_beside_an_equation_is_the_one_that_computes_it(label, function):
    assert equations.equation(label).qualified_name == function


def test_almost_every_equation_on_the_page_has_its_function_beside_it():
    labels = re.findall(r"\{eq\}`([^`]+)`", PAGE)
    alone = [label for label in labels if label not in dict(PAIRS)]
    assert alone == ["eq-vanilla-ridge"]
    assert len(labels) > 50


def test_every_link_to_a_function_shows_its_name():
    links = re.findall(r"\{py:func\}`([^`<]+) <([^`>]+)>`", PAGE)
    assert len(links) > 50
    for shown, target in links:
        assert target == f"rnnlib.{shown}"


def test_every_anchor_that_is_linked_on_the_page_exists():
    assert set(re.findall(r"\]\(#([a-z-]+)\)", PAGE)) == set(re.findall(r"^\(([a-z-]+)\)=$", PAGE, re.M))


class TestTheClaims:
    def test_the_last_state_is_the_final_one_not_the_last_row(self):
        rng = np.random.default_rng(0)
        cell, xs = random_vanilla_cell(rng, 2, 3, 0.9), rng.normal(size=(5, 2, 2))
        run = unroll(cell, xs, lengths=[5, 3])
        assert (run.hs[-1, 1] == 0).all()
        assert np.allclose(run.final[0][1], unroll(cell, xs[:3, 1:]).hs[-1, 0], rtol=1e-13)

    def test_the_leftward_half_of_the_last_row_has_read_one_input(self):
        rng = np.random.default_rng(1)
        cell, xs = random_vanilla_cell(rng, 2, 3, 0.9), rng.normal(size=(5, 1, 2))
        both = Bidirectional((cell, cell)).forward(xs)
        assert np.array_equal(both.hs[-1, :, 3:], unroll(cell, xs[-1:]).hs[-1])
        assert np.array_equal(both.final[1][0], unroll(cell, xs[::-1]).hs[-1])

    def test_the_gradient_goes_from_the_decoder_to_the_encoder_through_the_state_alone(self, agree):
        rng = np.random.default_rng(2)
        encoder, decoder = (random_vanilla_cell(rng, 2, 4, 0.9, bias_scale=0.3) for _ in range(2))
        source, target = rng.normal(size=(6, 3, 2)), rng.normal(size=(4, 3, 2))
        d_hs = rng.normal(size=(4, 3, 4))
        read = unroll(encoder, source)
        written = unroll(decoder, target, read.final)
        d_initial = bptt.bptt(decoder, written, d_hs).d_initial
        ours = bptt.bptt(encoder, read, np.zeros_like(read.hs), d_initial).d_cell

        leaves = {name: torch.tensor(a, requires_grad=True) for name, a in arrays_of(encoder).items()}
        h = torch.zeros(3, 4, dtype=torch.float64)
        for x_t in torch.tensor(source):
            h = torch.tanh(x_t @ leaves["W_xh"].T + h @ leaves["W_hh"].T + leaves["b_h"])
        loss = torch.zeros((), dtype=torch.float64)
        W_xh, W_hh, b_h = (torch.tensor(a) for a in (decoder.W_xh, decoder.W_hh, decoder.b_h))
        for x_t, d_h_t in zip(torch.tensor(target), torch.tensor(d_hs), strict=True):
            h = torch.tanh(x_t @ W_xh.T + h @ W_hh.T + b_h)
            loss = loss + (d_h_t * h).sum()
        found = torch.autograd.grad(loss, list(leaves.values()))
        agree(bptt.bptt, "torch.autograd", arrays_of(ours), dict(zip(leaves, found, strict=True)))

    def test_a_memory_alone_shrinks_by_the_forget_gate(self):
        one, zero = np.ones((1, 1)), np.zeros((1, 1))
        for bias, left in ((0.0, "0.1"), (1.0, "4.4"), (2.0, "28.1")):
            nothing = lstm.LSTMCell(*(np.zeros((1, 2)) for _ in range(4)), *(np.zeros(1) for _ in range(4)))
            run = unroll(lstm.with_forget_bias(nothing, bias), np.zeros((10, 1, 1)), (zero, one))
            said = f"{100 * run.final[1].item():.1f}"
            assert said == left
            assert f"{said} % at" in PAGE

    def test_the_gradients_of_the_losses_for_forecasts(self):
        rng = np.random.default_rng(3)
        one, y, s, target, tau = np.ones(()), *rng.normal(size=(3, 1, 4)), rng.uniform(size=4)
        found = forecasting.mean_absolute_error_backward(one, y, target)
        assert np.allclose(found, np.sign(y - target) / 4)
        d_mean, d_log_scale = forecasting.gaussian_nll_backward(one, y, s, target)
        z = (target - y) / np.exp(s)
        assert np.allclose(d_mean, -z / (4 * np.exp(s)))
        assert np.allclose(d_log_scale, (1 - z**2) / 4)
        found = forecasting.pinball_backward(one, y, target[0, :1], tau)
        assert np.allclose(found, ((target[0, 0] < y) - tau) / 4)
        for formula in (
            r"\frac{1}{O} \operatorname{sign}(y - \hat y)",
            r"-\frac{z}{O \sigma}",
            r"\frac{1}{O} (1 - z^2)",
            r"\frac{1}{Q} ([\hat y < y] - \tau)",
        ):
            assert f"${formula}$" in PAGE

    def test_clipping_refuses_what_it_cannot_mend(self):
        with pytest.raises(ValueError, match=r"NaN|not finite"):
            gradients.clip_by_norm([np.array([1.0, np.nan])], 1.0)
