"""The vanilla network, held to torch.nn.RNN and to torch's autograd."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnnlib import activations, vanilla
from rnnlib.cell import replace_unchecked
from rnnlib.vanilla import VanillaCell
from tests.support import as_torch, example, random_cell, seeds, sizes, torch_activation


@pytest.mark.equation("eq-vanilla-preactivation", "eq-vanilla-hidden")
@given(sizes("B", "I", "H"), seeds)
def test_one_step_agrees_with_torch_RNNCell(agree, n, seed):
    rng = np.random.default_rng(seed)
    cell = random_cell(rng, n["I"], n["H"])
    x_t, h_prev = rng.normal(size=(n["B"], n["I"])), rng.normal(size=(n["B"], n["H"]))

    reference = torch.nn.RNNCell(n["I"], n["H"], dtype=torch.float64)
    with torch.no_grad():
        reference.weight_ih.copy_(torch.tensor(cell.W_xh))
        reference.weight_hh.copy_(torch.tensor(cell.W_hh))
        reference.bias_ih.copy_(torch.tensor(cell.b_h))
        reference.bias_hh.zero_()

    a_t = vanilla.preactivation(x_t, h_prev, cell.W_xh, cell.W_hh, cell.b_h)
    agree(
        vanilla.hidden_state,
        "torch.nn.RNNCell",
        vanilla.hidden_state(a_t),
        reference(torch.tensor(x_t), torch.tensor(h_prev)),
    )


@pytest.mark.equation("eq-vanilla-output")
@given(sizes("B", "H", "O"), seeds)
def test_output_agrees_with_torch_linear(agree, n, seed):
    arguments = example("eq-vanilla-output", seed, n)
    t = as_torch(arguments)
    agree(
        vanilla.output,
        "torch.nn.functional.linear",
        vanilla.output(**arguments),
        torch.nn.functional.linear(t["h_t"], t["W_hy"], t["b_y"]),
    )


@pytest.mark.equation(
    "eq-vanilla-preactivation-backward", "eq-vanilla-hidden-backward", "eq-vanilla-output-backward"
)
@given(sizes("B", "I", "H", "O"), st.sampled_from(activations.ACTIVATIONS), seeds)
def test_local_derivatives_agree_with_autograd(agree, n, activation, seed):
    rng = np.random.default_rng(seed)

    arguments = example("eq-vanilla-preactivation", seed, n)
    t = as_torch(arguments, requires_grad=True)
    a_t = torch.nn.functional.linear(t["x_t"], t["W_xh"], t["b_h"]) + torch.mm(t["h_prev"], t["W_hh"].t())
    d_a_t = rng.normal(size=tuple(a_t.shape))
    agree(
        vanilla.preactivation_backward,
        "torch.autograd",
        vanilla.preactivation_backward(d_a_t, **{k: v for k, v in arguments.items() if k != "b_h"}),
        torch.autograd.grad(
            a_t, [t[k] for k in ("x_t", "h_prev", "W_xh", "W_hh", "b_h")], torch.tensor(d_a_t)
        ),
    )

    a = torch.tensor(rng.normal(size=(n["B"], n["H"])), requires_grad=True)
    d_h_t = rng.normal(size=(n["B"], n["H"]))
    agree(
        vanilla.hidden_state_backward,
        "torch.autograd",
        vanilla.hidden_state_backward(d_h_t, a.detach().numpy(), activation),
        torch.autograd.grad(torch_activation(activation)(a), a, torch.tensor(d_h_t))[0],
    )

    arguments = example("eq-vanilla-output", seed, n)
    t = as_torch(arguments, requires_grad=True)
    d_y_t = rng.normal(size=(n["B"], n["O"]))
    agree(
        vanilla.output_backward,
        "torch.autograd",
        vanilla.output_backward(d_y_t, arguments["h_t"], arguments["W_hy"]),
        torch.autograd.grad(
            torch.nn.functional.linear(t["h_t"], t["W_hy"], t["b_y"]),
            [t["h_t"], t["W_hy"], t["b_y"]],
            torch.tensor(d_y_t),
        ),
    )


@given(sizes("B", "I", "H"), st.sampled_from(activations.ACTIVATIONS), seeds)
def test_a_step_backward_agrees_with_autograd(agree, n, activation, seed):
    rng = np.random.default_rng(seed)
    cell = random_cell(rng, n["I"], n["H"], activation)
    x_t, h_prev = rng.normal(size=(n["B"], n["I"])), rng.normal(size=(n["B"], n["H"]))
    d_h_t = rng.normal(size=(n["B"], n["H"]))
    _, cache = cell.step(x_t, (h_prev,))
    d_x_t, (d_h_prev,), d_cell = cell.step_backward((d_h_t,), cache)

    x, h, W_xh, W_hh, b_h = (
        torch.tensor(v, requires_grad=True) for v in (x_t, h_prev, cell.W_xh, cell.W_hh, cell.b_h)
    )
    h_t = torch_activation(activation)(
        torch.nn.functional.linear(h, W_hh) + torch.nn.functional.linear(x, W_xh, b_h)
    )
    agree(
        VanillaCell.step_backward,
        "torch.autograd",
        [d_x_t, d_h_prev, d_cell.W_xh, d_cell.W_hh, d_cell.b_h],
        torch.autograd.grad(h_t, [x, h, W_xh, W_hh, b_h], torch.tensor(d_h_t)),
    )


def test_a_cell_refuses_what_does_not_fit():
    W = np.ones((2, 2))
    with pytest.raises(ValueError, match=r"W_hh has shape \(2, 3\), expected \(H, H\) = \(2, 2\)"):
        VanillaCell(W, np.ones((2, 3)), np.ones(2))
    with pytest.raises(ValueError, match="activation is 'softsign', expected one of 'tanh'"):
        VanillaCell(W, W, np.ones(2), activation="softsign")
    with pytest.raises(dataclasses.FrozenInstanceError):
        VanillaCell(W, W, np.ones(2)).W_xh = W


def test_a_record_of_gradients_may_hold_what_parameters_may_not():
    W = np.ones((2, 2))
    cell = VanillaCell(W, W, np.ones(2))
    gradient = replace_unchecked(cell, b_h=np.array([np.nan, np.inf]))
    assert np.isnan(gradient.b_h[0])
    assert gradient.W_xh is W
    assert gradient.activation == "tanh"
    with pytest.raises(TypeError, match="VanillaCell has no field b_x"):
        replace_unchecked(cell, b_x=W)


def test_a_cell_knows_its_sizes():
    cell = random_cell(np.random.default_rng(0), 3, 5)
    assert (cell.input_size, cell.hidden_size) == (3, 5)
