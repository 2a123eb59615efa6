"""The gated recurrent unit, both placements of the reset, held to torch, Keras and ONNX."""

from __future__ import annotations

import dataclasses
import math
import os

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from rnnlib import gru
from rnnlib.cell import arrays_of, map_arrays
from rnnlib.gru import GRUCell, ResetAfterGRUCell
from rnnlib.unroll import unroll
from tests.support import as_torch, example, seeds, sizes, to_numpy

CELLS = (GRUCell, ResetAfterGRUCell)


def random_cell(kind: type, rng: np.random.Generator, I: int, H: int, dtype: type = np.float64):
    """A cell with random weights and random biases, none of them 0."""
    shapes = {"W_x": (H, I), "W_h": (H, H)}

    def array(name: str) -> np.ndarray:
        shape = shapes.get(name, (H, H + I) if name.startswith("W") else (H,))
        return np.asarray(rng.normal(size=shape) / math.sqrt(H if name.startswith("W") else 1), dtype=dtype)

    return kind(**{field.name: array(field.name) for field in dataclasses.fields(kind)})


def reference_step(x, h, p):
    """One step, written again from the equations: columns, split weights, torch's own functions."""
    H = h.shape[1]

    def affine(W, b, h):
        return torch.einsum("ij,bj->bi", W[:, :H], h) + torch.einsum("ij,bj->bi", W[:, H:], x) + b

    z = torch.special.expit(affine(p["W_z"], p["b_z"], h))
    r = torch.special.expit(affine(p["W_r"], p["b_r"], h))
    if "W" in p:
        h_tilde = torch.tanh(affine(p["W"], p["b"], torch.mul(r, h)))
    else:
        inside = torch.nn.functional.linear(h, p["W_h"], p["b_h"])
        h_tilde = torch.tanh(torch.nn.functional.linear(x, p["W_x"], p["b_x"]) + torch.mul(r, inside))
    return torch.lerp(h, h_tilde, z)


def torch_weights(cell: ResetAfterGRUCell) -> dict[str, torch.Tensor]:
    """The parameters as torch.nn has them: gates r, z, n, where torch's z is 1 - z of the notes."""
    H = cell.hidden_size
    zeros = np.zeros_like(cell.b_h)
    arrays = {
        "weight_ih": np.concatenate([cell.W_r[:, H:], -cell.W_z[:, H:], cell.W_x]),
        "weight_hh": np.concatenate([cell.W_r[:, :H], -cell.W_z[:, :H], cell.W_h]),
        "bias_ih": np.concatenate([cell.b_r, -cell.b_z, cell.b_x]),
        "bias_hh": np.concatenate([zeros, zeros, cell.b_h]),
    }
    return {name: torch.tensor(x) for name, x in arrays.items()}


def torch_gru(cell: ResetAfterGRUCell) -> torch.nn.GRU:
    weights = {f"{name}_l0": w for name, w in torch_weights(cell).items()}
    reference = torch.nn.GRU(cell.input_size, cell.hidden_size, dtype=weights["weight_ih_l0"].dtype)
    reference.load_state_dict(weights)
    return reference


def backward_through(cell, xs, initial, d_hs):
    """∂L/∂parameters, ∂L/∂xs and ∂L/∂h_0 by step_backward, from the last step to the first."""
    trajectory = unroll(cell, xs, initial)
    total, d_xs, d_h = None, [], np.zeros_like(initial)
    for t in reversed(range(len(xs))):
        d_x_t, (d_h,), d_cell = cell.step_backward((d_h + d_hs[t],), trajectory.caches[t])
        total = d_cell if total is None else map_arrays(np.add, total, d_cell)
        d_xs.append(d_x_t)
    return total, np.stack(d_xs[::-1]), d_h


# --- the equations one by one -------------------------------------------------------------------


@pytest.mark.equation("eq-gru-preactivation", "eq-gru-update", "eq-gru-reset")
@given(sizes("B", "I", "H"), seeds)
def test_gates_agree_with_torch(agree, n, seed):
    x_t, h_prev, W, b = (example("eq-gru-preactivation", seed, n)[k] for k in ("x_t", "h_prev", "W", "b"))
    x, h = torch.tensor(x_t), torch.tensor(h_prev)
    a = torch.nn.functional.linear(torch.hstack([h, x]), torch.tensor(W), torch.tensor(b))
    agree(gru.preactivation, "torch.nn.functional.linear", gru.preactivation(x_t, h_prev, W, b), a)
    agree(gru.update_gate, "torch.special.expit", gru.update_gate(x_t, h_prev, W, b), torch.special.expit(a))
    agree(gru.reset_gate, "torch.special.expit", gru.reset_gate(x_t, h_prev, W, b), torch.special.expit(a))


@pytest.mark.equation(
    "eq-gru-candidate", "eq-gru-preactivation-after", "eq-gru-candidate-after", "eq-gru-hidden"
)
@given(sizes("B", "I", "H"), seeds)
def test_candidates_and_state_agree_with_torch(agree, n, seed):
    before = example("eq-gru-candidate", seed, n)
    t = as_torch(before)
    H = n["H"]
    agree(
        gru.candidate,
        "torch.nn.functional.linear",
        gru.candidate(**before),
        torch.tanh(
            torch.nn.functional.linear(t["r_t"] * t["h_prev"], t["W"][:, :H])
            + torch.nn.functional.linear(t["x_t"], t["W"][:, H:], t["b"])
        ),
    )

    after = example("eq-gru-candidate-after", seed, n)
    t = as_torch(after)
    u = torch.nn.functional.linear(t["h_prev"], t["W_h"], t["b_h"])
    a = torch.addcmul(torch.nn.functional.linear(t["x_t"], t["W_x"], t["b_x"]), t["r_t"], u)
    agree(
        gru.preactivation_reset_after,
        "torch.nn.functional.linear",
        gru.preactivation_reset_after(**after),
        (u, a),
    )
    agree(
        gru.candidate_reset_after,
        "torch.nn.functional.linear",
        gru.candidate_reset_after(**after),
        torch.tanh(a),
    )

    between = example("eq-gru-hidden", seed, n)
    t = as_torch(between)
    agree(
        gru.hidden_state,
        "torch.lerp",
        gru.hidden_state(**between),
        torch.lerp(t["h_prev"], t["h_tilde"], t["z_t"]),
    )


@pytest.mark.equation("eq-gru-preactivation-backward", "eq-gru-update-backward", "eq-gru-reset-backward")
@given(sizes("B", "I", "H"), seeds)
def test_local_derivatives_of_the_gates_agree_with_autograd(agree, n, seed):
    rng = np.random.default_rng(seed)
    arguments = example("eq-gru-preactivation", seed, n)
    t = as_torch(arguments, requires_grad=True)
    leaves = [t[k] for k in ("x_t", "h_prev", "W", "b")]
    a = torch.nn.functional.linear(torch.hstack([t["h_prev"], t["x_t"]]), t["W"], t["b"])
    upstream = rng.normal(size=(n["B"], n["H"]))
    x_t, h_prev, W = (arguments[k] for k in ("x_t", "h_prev", "W"))
    agree(
        gru.preactivation_backward,
        "torch.autograd",
        gru.preactivation_backward(upstream, x_t, h_prev, W),
        torch.autograd.grad(a, leaves, torch.tensor(upstream), retain_graph=True),
    )
    expected = torch.autograd.grad(torch.special.expit(a), leaves, torch.tensor(upstream))
    for backward in (gru.update_gate_backward, gru.reset_gate_backward):
        agree(backward, "torch.autograd", backward(upstream, to_numpy(a), x_t, h_prev, W), expected)


@pytest.mark.equation(
    "eq-gru-candidate-backward",
    "eq-gru-preactivation-after-backward",
    "eq-gru-candidate-after-backward",
    "eq-gru-hidden-backward",
)
@given(sizes("B", "I", "H"), seeds)
def test_local_derivatives_of_candidates_and_state_agree_with_autograd(agree, n, seed):
    rng = np.random.default_rng(seed)
    upstream = rng.normal(size=(n["B"], n["H"]))
    H = n["H"]

    arguments = example("eq-gru-candidate", seed, n)
    t = as_torch(arguments, requires_grad=True)
    a = torch.nn.functional.linear(t["r_t"] * t["h_prev"], t["W"][:, :H]) + torch.nn.functional.linear(
        t["x_t"], t["W"][:, H:], t["b"]
    )
    agree(
        gru.candidate_backward,
        "torch.autograd",
        gru.candidate_backward(
            upstream, to_numpy(a), **{k: arguments[k] for k in ("x_t", "h_prev", "r_t", "W")}
        ),
        torch.autograd.grad(
            torch.tanh(a), [t[k] for k in ("x_t", "h_prev", "r_t", "W", "b")], torch.tensor(upstream)
        ),
    )

    arguments = example("eq-gru-candidate-after", seed, n)
    t = as_torch(arguments, requires_grad=True)
    leaves = [t[k] for k in ("x_t", "h_prev", "r_t", "W_x", "b_x", "W_h", "b_h")]
    u = torch.nn.functional.linear(t["h_prev"], t["W_h"], t["b_h"])
    a = torch.addcmul(torch.nn.functional.linear(t["x_t"], t["W_x"], t["b_x"]), t["r_t"], u)
    saved = {k: arguments[k] for k in ("x_t", "h_prev", "r_t", "W_x", "W_h")}
    agree(
        gru.preactivation_reset_after_backward,
        "torch.autograd",
        gru.preactivation_reset_after_backward(upstream, to_numpy(u), **saved),
        torch.autograd.grad(a, leaves, torch.tensor(upstream), retain_graph=True),
    )
    agree(
        gru.candidate_reset_after_backward,
        "torch.autograd",
        gru.candidate_reset_after_backward(upstream, to_numpy(a), to_numpy(u), **saved),
        torch.autograd.grad(torch.tanh(a), leaves, torch.tensor(upstream)),
    )

    h_prev, a_z, h_tilde = (torch.tensor(rng.normal(size=(n["B"], H)), requires_grad=True) for _ in range(3))
    z_t = torch.special.expit(a_z)
    agree(
        gru.hidden_state_backward,
        "torch.autograd",
        gru.hidden_state_backward(upstream, to_numpy(a_z), to_numpy(h_prev), to_numpy(h_tilde)),
        torch.autograd.grad(torch.lerp(h_prev, h_tilde, z_t), [h_prev, z_t, h_tilde], torch.tensor(upstream)),
    )


# --- the cells ----------------------------------------------------------------------------------


@given(st.sampled_from(CELLS), sizes("B", "I", "H"), seeds)
def test_a_step_is_the_equations_in_order(kind, n, seed):
    rng = np.random.default_rng(seed)
    cell = random_cell(kind, rng, n["I"], n["H"])
    x_t, h_prev = rng.normal(size=(n["B"], n["I"])), rng.normal(size=(n["B"], n["H"]))
    (h_t,), cache = cell.step(x_t, (h_prev,))

    z_t = gru.update_gate(x_t, h_prev, cell.W_z, cell.b_z)
    r_t = gru.reset_gate(x_t, h_prev, cell.W_r, cell.b_r)
    values = {
        "x_t": x_t,
        "h_prev": h_prev,
        "a_z": gru.preactivation(x_t, h_prev, cell.W_z, cell.b_z),
        "z_t": z_t,
        "a_r": gru.preactivation(x_t, h_prev, cell.W_r, cell.b_r),
        "r_t": r_t,
    }
    if kind is GRUCell:
        values["a_h"] = gru.preactivation(x_t, r_t * h_prev, cell.W, cell.b)
        values["h_tilde"] = gru.candidate(x_t, h_prev, r_t, cell.W, cell.b)
    else:
        weights = (cell.W_x, cell.b_x, cell.W_h, cell.b_h)
        values["u_t"], values["a_h"] = gru.preactivation_reset_after(x_t, h_prev, r_t, *weights)
        values["h_tilde"] = gru.candidate_reset_after(x_t, h_prev, r_t, *weights)
    values["h_t"] = gru.hidden_state(h_prev, z_t, values["h_tilde"])
    assert list(values) == list(cache._fields)
    for name, expected in values.items():
        np.testing.assert_array_equal(getattr(cache, name), expected, err_msg=name)
    assert h_t is cache.h_t
    assert (cell.input_size, cell.hidden_size) == (n["I"], n["H"])


@pytest.mark.equation("eq-gru-update", "eq-gru-reset", "eq-gru-candidate-after", "eq-gru-hidden")
@given(sizes("B", "I", "H"), seeds)
def test_reset_after_agrees_with_torch_GRUCell(agree, n, seed):
    rng = np.random.default_rng(seed)
    cell = random_cell(ResetAfterGRUCell, rng, n["I"], n["H"])
    x_t, h_prev, d_h_t = (rng.normal(size=(n["B"], k)) for k in (n["I"], n["H"], n["H"]))
    reference = torch.nn.GRUCell(n["I"], n["H"], dtype=torch.float64)
    reference.load_state_dict(torch_weights(cell))

    (h_t,), cache = cell.step(x_t, (h_prev,))
    d_x_t, (d_h_prev,), d_cell = cell.step_backward((d_h_t,), cache)
    x, h = (torch.tensor(v, requires_grad=True) for v in (x_t, h_prev))
    expected = reference(x, h)
    agree(ResetAfterGRUCell.step, "torch.nn.GRUCell", h_t, expected)

    expected.backward(torch.tensor(d_h_t))
    d = torch_weights(d_cell)  # the signs of the derivatives turn as those of the parameters do
    H = n["H"]
    agree(
        ResetAfterGRUCell.step_backward,
        "torch.nn.GRUCell",
        [d_x_t, d_h_prev, d["weight_ih"], d["weight_hh"], d["bias_ih"], d["bias_hh"][2 * H :]],
        [
            x.grad,
            h.grad,
            reference.weight_ih.grad,
            reference.weight_hh.grad,
            reference.bias_ih.grad,
            reference.bias_hh.grad[2 * H :],
        ],
    )


@given(st.sampled_from(CELLS), sizes("B", "I", "H"), seeds)
def test_a_step_and_its_backward_agree_with_autograd(agree, kind, n, seed):
    rng = np.random.default_rng(seed)
    cell = random_cell(kind, rng, n["I"], n["H"])
    x_t, h_prev, d_h_t = (rng.normal(size=(n["B"], k)) for k in (n["I"], n["H"], n["H"]))
    (h_t,), cache = cell.step(x_t, (h_prev,))
    d_x_t, (d_h_prev,), d_cell = cell.step_backward((d_h_t,), cache)

    p = as_torch(arrays_of(cell), requires_grad=True)
    x, h = (torch.tensor(v, requires_grad=True) for v in (x_t, h_prev))
    expected = reference_step(x, h, p)
    agree(kind.step, "torch, rewritten", h_t, expected)
    d_x, d_h, *d_p = torch.autograd.grad(expected, [x, h, *p.values()], torch.tensor(d_h_t))
    assert type(d_cell) is kind
    agree(
        kind.step_backward,
        "torch.autograd",
        {"x_t": d_x_t, "h_prev": d_h_prev, **arrays_of(d_cell)},
        {"x_t": d_x, "h_prev": d_h, **dict(zip(p, d_p, strict=True))},
    )


@given(st.sampled_from(CELLS), sizes("B", "I", "H", high=3), seeds)
def test_a_step_backward_agrees_with_finite_differences(agree, kind, n, seed):
    rng = np.random.default_rng(seed)
    cell = random_cell(kind, rng, n["I"], n["H"])
    x_t, h_prev, d_h_t = (rng.normal(size=(n["B"], k)) for k in (n["I"], n["H"], n["H"]))
    _, cache = cell.step(x_t, (h_prev,))
    d_x_t, (d_h_prev,), d_cell = cell.step_backward((d_h_t,), cache)

    def loss(x, h, parameters):
        ((h_t,), _) = kind(**parameters).step(x, (h,))
        return float((h_t * d_h_t).sum())

    parameters = arrays_of(cell)
    directions = {k: rng.normal(size=v.shape) for k, v in parameters.items()}
    d_x, d_h = rng.normal(size=x_t.shape), rng.normal(size=h_prev.shape)
    e = 1e-5
    slope = (
        loss(x_t + e * d_x, h_prev + e * d_h, {k: v + e * directions[k] for k, v in parameters.items()})
        - loss(x_t - e * d_x, h_prev - e * d_h, {k: v - e * directions[k] for k, v in parameters.items()})
    ) / (2 * e)
    analytic = (d_x_t * d_x).sum() + (d_h_prev * d_h).sum()
    analytic += sum((getattr(d_cell, k) * v).sum() for k, v in directions.items())
    agree(kind.step_backward, "central differences", analytic, slope, tolerance=1e-7)


# --- along a sequence ---------------------------------------------------------------------------


@given(sizes("T", "B", "I", "H"), seeds)
def test_reset_after_agrees_with_torch_GRU_on_sequences_of_different_lengths(agree, n, seed):
    rng = np.random.default_rng(seed)
    cell = random_cell(ResetAfterGRUCell, rng, n["I"], n["H"])
    xs, h_0 = rng.normal(size=(n["T"], n["B"], n["I"])), rng.normal(size=(n["B"], n["H"]))
    lengths = rng.integers(1, n["T"] + 1, size=n["B"])
    trajectory = unroll(cell, xs, h_0, lengths)

    packed = pack_padded_sequence(torch.tensor(xs), torch.tensor(lengths), enforce_sorted=False)
    out, final = torch_gru(cell)(packed, torch.tensor(h_0)[None])
    hs, _ = pad_packed_sequence(out, total_length=n["T"])
    agree("unroll.unroll(ResetAfterGRUCell)", "torch.nn.GRU", trajectory.hs, hs)
    agree("unroll.unroll(ResetAfterGRUCell)", "torch.nn.GRU", trajectory.final[0], final[0])


@given(sizes("T", "B", "I", "H"), seeds)
def test_reset_after_backward_along_a_sequence_agrees_with_torch_GRU(agree, n, seed):
    rng = np.random.default_rng(seed)
    cell = random_cell(ResetAfterGRUCell, rng, n["I"], n["H"])
    xs, h_0 = rng.normal(size=(n["T"], n["B"], n["I"])), rng.normal(size=(n["B"], n["H"]))
    d_hs = rng.normal(size=(n["T"], n["B"], n["H"]))
    d_cell, d_xs, d_h_0 = backward_through(cell, xs, h_0, d_hs)

    reference = torch_gru(cell)
    x, h = torch.tensor(xs, requires_grad=True), torch.tensor(h_0[None], requires_grad=True)
    reference(x, h)[0].backward(torch.tensor(d_hs))
    d, H = torch_weights(d_cell), n["H"]
    agree(
        ResetAfterGRUCell.step_backward,
        "torch.nn.GRU",
        [d_xs, d_h_0, d["weight_ih"], d["weight_hh"], d["bias_ih"], d["bias_hh"][2 * H :]],
        [
            x.grad,
            h.grad[0],
            reference.weight_ih_l0.grad,
            reference.weight_hh_l0.grad,
            reference.bias_ih_l0.grad,
            reference.bias_hh_l0.grad[2 * H :],
        ],
    )


@given(st.sampled_from(CELLS), sizes("T", "B", "I", "H"), seeds)
def test_lengths_agree_with_each_sequence_run_alone(kind, n, seed):
    rng = np.random.default_rng(seed)
    cell = random_cell(kind, rng, n["I"], n["H"])
    xs, h_0 = rng.normal(size=(n["T"], n["B"], n["I"])), rng.normal(size=(n["B"], n["H"]))
    lengths = rng.integers(0, n["T"] + 1, size=n["B"])
    trajectory = unroll(cell, xs, h_0, lengths)
    for b, length in enumerate(lengths):
        h, p = torch.tensor(h_0[b : b + 1]), as_torch(arrays_of(cell))
        for t in range(length):
            h = reference_step(torch.tensor(xs[t, b : b + 1]), h, p)
            np.testing.assert_allclose(trajectory.hs[t, b], h[0], rtol=1e-10, atol=1e-12)
        assert not trajectory.hs[length:, b].any()
        np.testing.assert_allclose(trajectory.final[0][b], h[0], rtol=1e-10, atol=1e-12)


def keras_gru(cell, reset_after: bool, dtype: str):
    """A Keras layer with the parameters of a cell: gates z, r, h, where Keras' z is 1 - z."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    keras = pytest.importorskip("keras")
    H = cell.hidden_size
    if reset_after:
        W_x, W_h = cell.W_x, cell.W_h
        b = np.stack(
            [
                np.concatenate([-cell.b_z, cell.b_r, cell.b_x]),
                np.concatenate([0 * cell.b_z, 0 * cell.b_r, cell.b_h]),
            ]
        )
    else:
        W_x, W_h = cell.W[:, H:], cell.W[:, :H]
        b = np.concatenate([-cell.b_z, cell.b_r, cell.b])
    layer = keras.layers.GRU(
        H,
        activation=jax.numpy.tanh,  # Keras' own rounds to float32
        reset_after=reset_after,
        return_sequences=True,
        dtype=dtype,
        kernel_initializer="zeros",  # set below; what Keras would draw JAX would compile for every shape
        recurrent_initializer="zeros",
    )
    layer.build((None, None, cell.input_size))
    layer.set_weights(
        [
            np.concatenate([-cell.W_z[:, H:], cell.W_r[:, H:], W_x]).T,
            np.concatenate([-cell.W_z[:, :H], cell.W_r[:, :H], W_h]).T,
            b,
        ]
    )
    return layer


@pytest.mark.equation("eq-gru-update", "eq-gru-reset", "eq-gru-candidate", "eq-gru-hidden")
@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize(("dtype", "T", "B", "I", "H"), [("float64", 7, 3, 2, 4), ("float32", 5, 2, 3, 3)])
def test_sequences_agree_with_keras(agree, kind, dtype, T, B, I, H):
    rng = np.random.default_rng(8)
    cell = random_cell(kind, rng, I, H, dtype)
    xs, h_0 = rng.normal(size=(T, B, I)).astype(dtype), rng.normal(size=(B, H)).astype(dtype)
    layer = keras_gru(cell, kind is ResetAfterGRUCell, dtype)
    expected = np.asarray(layer(xs.transpose(1, 0, 2), initial_state=h_0)).transpose(1, 0, 2)
    assert expected.dtype == dtype
    agree(
        f"unroll.unroll({kind.__name__})",
        "keras.layers.GRU",
        unroll(cell, xs, h_0).hs,
        expected,
        dtype=dtype,
    )


def onnx_gru(cell, dtype: str):
    """An ONNX model of a cell and its weights: gates z, r, h, where ONNX' z is 1 - z."""
    onnx = pytest.importorskip("onnx")
    H = cell.hidden_size
    after = isinstance(cell, ResetAfterGRUCell)
    W_x, W_h = (cell.W_x, cell.W_h) if after else (cell.W[:, H:], cell.W[:, :H])
    b_x, b_h = (cell.b_x, cell.b_h) if after else (cell.b, 0 * cell.b)
    weights = {
        "W": np.concatenate([-cell.W_z[:, H:], cell.W_r[:, H:], W_x])[None],
        "R": np.concatenate([-cell.W_z[:, :H], cell.W_r[:, :H], W_h])[None],
        "b": np.concatenate([-cell.b_z, cell.b_r, b_x, 0 * cell.b_z, 0 * cell.b_r, b_h])[None],
    }
    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    inputs = [
        onnx.helper.make_tensor_value_info(name, element, None) for name in ("xs", "W", "R", "b", "h_0")
    ]
    node = onnx.helper.make_node(
        "GRU",
        ["xs", "W", "R", "b", "", "h_0"],
        ["hs", "final"],
        hidden_size=H,
        linear_before_reset=int(after),
    )
    outputs = [onnx.helper.make_tensor_value_info(name, element, None) for name in ("hs", "final")]
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "gru", inputs, outputs),
        opset_imports=[onnx.helper.make_opsetid("", 17)],
        ir_version=9,
    )
    return model, weights


@pytest.mark.equation("eq-gru-update", "eq-gru-reset", "eq-gru-candidate", "eq-gru-hidden")
@pytest.mark.parametrize("kind", CELLS)
@given(sizes("T", "B", "I", "H"), seeds)
def test_sequences_agree_with_the_onnx_reference(agree, kind, n, seed):
    rng = np.random.default_rng(seed)
    cell = random_cell(kind, rng, n["I"], n["H"])
    xs, h_0 = rng.normal(size=(n["T"], n["B"], n["I"])), rng.normal(size=(n["B"], n["H"]))
    model, weights = onnx_gru(cell, "float64")
    evaluator = pytest.importorskip("onnx.reference").ReferenceEvaluator(model)
    hs, final = evaluator.run(None, {"xs": xs, "h_0": h_0[None], **weights})
    trajectory = unroll(cell, xs, h_0)
    name = f"unroll.unroll({kind.__name__})"
    agree(name, "onnx.reference", [trajectory.hs, trajectory.final[0]], [hs[:, 0], final[0]])


@pytest.mark.parametrize("kind", CELLS)
def test_float32_sequences_agree_with_onnxruntime(agree, kind):
    onnxruntime = pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(5)
    cell = random_cell(kind, rng, 3, 4, np.float32)
    xs, h_0 = rng.normal(size=(9, 2, 3)).astype(np.float32), rng.normal(size=(2, 4)).astype(np.float32)
    model, weights = onnx_gru(cell, "float32")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    hs, final = session.run(None, {"xs": xs, "h_0": h_0[None], **weights})
    trajectory = unroll(cell, xs, h_0)
    agree(
        f"unroll.unroll({kind.__name__})",
        "onnxruntime",
        [trajectory.hs, trajectory.final[0]],
        [hs[:, 0], final[0]],
        dtype="float32",
    )


@pytest.mark.parametrize("kind", CELLS)
def test_a_long_sequence_stays_between_its_candidates(kind):
    rng = np.random.default_rng(1)
    cell = random_cell(kind, rng, 2, 3)
    hs = unroll(cell, 3 * rng.normal(size=(2000, 2, 2))).hs
    assert np.abs(hs).max() <= 1  # every state is a weighted mean of 0 and values of tanh
    assert np.abs(hs[-100:]).max() > 0.1


# --- the two placements of the reset ------------------------------------------------------------


@pytest.mark.equation("eq-gru-candidate", "eq-gru-candidate-after", "eq-gru-hidden")
def test_the_worked_example_of_the_two_placements():
    x_t = np.zeros((1, 1))
    h_prev, r_t = np.array([[0.5, -0.5]]), np.array([[0.9, 0.1]])
    W_h, W_x, b = np.array([[0.0, 2.0], [2.0, 0.0]]), np.zeros((2, 1)), np.zeros(2)
    before = gru.candidate(x_t, h_prev, r_t, np.hstack([W_h, W_x]), b)
    after = gru.candidate_reset_after(x_t, h_prev, r_t, W_x, b, W_h, b)
    np.testing.assert_allclose(before, [[-0.0997, 0.7163]], atol=5e-5)
    np.testing.assert_allclose(after, [[-0.7163, 0.0997]], atol=5e-5)

    z_t = np.full((1, 2), 0.5)
    np.testing.assert_allclose(gru.hidden_state(h_prev, z_t, before), [[0.2002, 0.1081]], atol=5e-5)
    np.testing.assert_allclose(gru.hidden_state(h_prev, z_t, after), [[-0.1081, -0.2002]], atol=5e-5)


@given(sizes("B", "I", "H"), seeds, st.sampled_from(["constant reset", "diagonal W_h"]))
def test_the_placements_agree_where_reset_and_product_commute(n, seed, why):
    rng = np.random.default_rng(seed)
    B, I, H = n["B"], n["I"], n["H"]
    x_t, h_prev = rng.normal(size=(B, I)), rng.normal(size=(B, H))
    W_x, W_h, b = rng.normal(size=(H, I)), rng.normal(size=(H, H)), rng.normal(size=H)
    r_t = rng.uniform(size=(B, H))
    if why == "constant reset":
        r_t = r_t[:, :1] * np.ones((1, H))
    else:
        W_h = np.diag(np.diag(W_h))
    np.testing.assert_allclose(
        gru.candidate(x_t, h_prev, r_t, np.hstack([W_h, W_x]), b),
        gru.candidate_reset_after(x_t, h_prev, r_t, W_x, b, W_h, np.zeros(H)),
        rtol=1e-12,
        atol=1e-14,
    )


# --- numbers at the edge ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("array", [np.array, torch.tensor])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_saturated_gates_keep_or_replace_the_state_exactly(kind, array, dtype):
    cell = random_cell(kind, np.random.default_rng(3), 2, 3, dtype)
    x_t = np.random.default_rng(4).normal(size=(2, 2)).astype(dtype)
    h_prev = np.random.default_rng(5).normal(size=(2, 3)).astype(dtype)
    for bias in (1e4, -1e4):
        b = np.full(3, bias, dtype)
        saturated = map_arrays(array, dataclasses.replace(cell, b_z=b, b_r=b))
        (h_t,), cache = saturated.step(array(x_t), (array(h_prev),))
        np.testing.assert_array_equal(h_t, cache.h_tilde if bias > 0 else h_prev)
        _, (d_h_prev,), d_cell = saturated.step_backward((array(np.ones((2, 3), dtype)),), cache)
        for d in (d_cell.W_z, d_cell.b_z, d_cell.W_r, d_cell.b_r):
            assert not d.any()
        if bias < 0:
            np.testing.assert_array_equal(d_h_prev, np.ones((2, 3)))


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("a", [-700.0, -60.0, -40.0, -2.0, 2.0, 40.0, 60.0, 700.0])
def test_derivatives_of_saturated_gates_keep_their_digits(kind, a):
    def array(values: list) -> np.ndarray | torch.Tensor:
        return np.array(values) if kind == "numpy" else torch.tensor(values, dtype=torch.float64)

    def equals(value: float):
        return pytest.approx(value, rel=1e-13, abs=0)

    # σ'(a), σ(a) and σ(-a) from exp(-|a|), which is far above the smallest number.
    e = math.exp(-abs(a))
    small, large = e / (1 + e), 1 / (1 + e)
    one, zero = array([[1.0]]), array([[0.0]])
    b = array([a])

    W = array([[0.0, 0.0]])
    h_prev = array([[0.5]])
    cells = (
        GRUCell(W, b, W, b, array([[1.0, 0.0]]), array([0.25])),
        ResetAfterGRUCell(W, b, W, b, zero, array([0.25]), one, array([0.125])),
    )
    for cell in cells:
        _, cache = cell.step(zero, (h_prev,))
        _, (d_h_prev,), d_cell = cell.step_backward((one,), cache)
        z, carried = (large, small) if a > 0 else (small, large)
        inside = 0.5 if isinstance(cell, GRUCell) else 0.625
        h_tilde = math.tanh(0.25 + z * inside)  # r_t equals z_t here
        d_a = z * (1 - h_tilde**2)
        assert float(d_cell.b_z[0]) == equals((h_tilde - 0.5) * small * large)
        assert float(d_cell.b_r[0]) == equals(d_a * inside * small * large)
        assert float(d_h_prev[0, 0]) == equals(carried + d_a * z)

    # With the candidate blind to the state, what is left of it is 1 - z_t, however small.
    blind = GRUCell(W, b, W, b, W, array([0.25]))
    _, cache = blind.step(zero, (h_prev,))
    _, (d_h_prev,), _ = blind.step_backward((one,), cache)
    assert float(d_h_prev[0, 0]) == equals(carried)


@pytest.mark.parametrize("array", [np.array, torch.tensor])
@pytest.mark.parametrize("a", [-300.0, -20.0, 1.0, 20.0, 300.0])
def test_derivatives_of_a_saturated_candidate_keep_their_digits(array, a):
    one = array(np.ones((1, 1)))
    W, a_h = array(np.zeros((1, 2))), array(np.array([[a]]))
    expected = pytest.approx(4 * math.exp(-2 * abs(a)) / (1 + math.exp(-2 * abs(a))) ** 2, rel=1e-13, abs=0)
    *_, d_b = gru.candidate_backward(one, a_h, one, one, one, W)
    assert float(d_b[0]) == expected
    _, _, _, _, d_b_x, _, _ = gru.candidate_reset_after_backward(one, a_h, one, one, one, one, one, one)
    assert float(d_b_x[0]) == expected


@pytest.mark.parametrize("kind", CELLS)
@given(sizes("B", "I", "H"), seeds)
def test_numpy_and_torch_give_the_same_numbers(kind, n, seed):
    rng = np.random.default_rng(seed)
    cell = random_cell(kind, rng, n["I"], n["H"])
    x_t, h_prev, d_h_t = (rng.normal(size=(n["B"], k)) for k in (n["I"], n["H"], n["H"]))
    (h_t,), cache = cell.step(x_t, (h_prev,))
    d_x_t, (d_h_prev,), d_cell = cell.step_backward((d_h_t,), cache)

    twin = map_arrays(torch.tensor, cell)
    (h,), torch_cache = twin.step(torch.tensor(x_t), (torch.tensor(h_prev),))
    d_x, (d_h,), d_twin = twin.step_backward((torch.tensor(d_h_t),), torch_cache)
    pairs = [(h_t, h), (d_x_t, d_x), (d_h_prev, d_h)]
    pairs += [(v, getattr(d_twin, k)) for k, v in arrays_of(d_cell).items()]
    for actual, expected in pairs:
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_dtype_is_kept_forward_and_backward(agree, kind, dtype):
    rng = np.random.default_rng(6)
    wide = random_cell(kind, rng, 3, 4)
    x_t, h_prev, d_h_t = (rng.normal(size=(2, k)) for k in (3, 4, 4))
    p = as_torch(arrays_of(wide), requires_grad=True)
    x, h = (torch.tensor(v, requires_grad=True) for v in (x_t, h_prev))
    expected = reference_step(x, h, p)
    d_x, d_h, *d_p = torch.autograd.grad(expected, [x, h, *p.values()], torch.tensor(d_h_t))

    makers = [lambda v: torch.tensor(v, dtype=getattr(torch, dtype))]
    if dtype != "bfloat16":
        makers.append(lambda v: v.astype(dtype))
    for make in makers:
        cell = map_arrays(make, wide)
        (h_t,), cache = cell.step(make(x_t), (make(h_prev),))
        d_x_t, (d_h_prev,), d_cell = cell.step_backward((make(d_h_t),), cache)
        results = [h_t, d_x_t, d_h_prev, *arrays_of(d_cell).values()]
        assert {str(v.dtype).removeprefix("torch.") for v in (*cache, *results)} == {dtype}
        agree(
            kind.step_backward,
            "torch.autograd in float64",
            results,
            [v.to(torch.float64) for v in (expected, d_x, d_h, *d_p)],
            dtype=dtype,
        )


@pytest.mark.parametrize("kind", CELLS)
def test_everything_stays_on_the_device_of_the_input(kind):
    cell = map_arrays(
        lambda v: torch.tensor(v, device="meta"), random_cell(kind, np.random.default_rng(0), 2, 3)
    )
    (h_t,), cache = cell.step(
        torch.ones(4, 2, device="meta", dtype=torch.float64),
        (torch.ones(4, 3, device="meta", dtype=torch.float64),),
    )
    d_x_t, (d_h_prev,), d_cell = cell.step_backward((h_t,), cache)
    results = [h_t, d_x_t, d_h_prev, *arrays_of(d_cell).values()]
    assert {v.device.type for v in results} == {"meta"}
    assert [tuple(v.shape) for v in results[:3]] == [(4, 3), (4, 2), (4, 3)]


@pytest.mark.parametrize("kind", CELLS)
def test_strided_views_give_the_same_numbers(kind):
    rng = np.random.default_rng(2)
    cell = random_cell(kind, rng, 2, 3)
    x_t, h_prev, d_h_t = (rng.normal(size=(4, k)) for k in (2, 3, 3))

    def strided(v: np.ndarray) -> np.ndarray:
        view = np.repeat(v, 2, axis=-1)[..., ::2]
        assert not view.flags.c_contiguous
        return view

    views = map_arrays(strided, cell)
    (h_t,), cache = cell.step(x_t, (h_prev,))
    (same,), view_cache = views.step(strided(x_t), (strided(h_prev),))
    np.testing.assert_allclose(same, h_t, rtol=1e-14)
    d_x_t, _, d_cell = cell.step_backward((d_h_t,), cache)
    d_x_same, _, d_same = views.step_backward((strided(d_h_t),), view_cache)
    np.testing.assert_allclose(d_x_same, d_x_t, rtol=1e-13)
    for name, expected in arrays_of(d_cell).items():
        np.testing.assert_allclose(getattr(d_same, name), expected, rtol=1e-13, err_msg=name)


@pytest.mark.parametrize("kind", CELLS)
def test_a_NaN_is_passed_on_and_stays_in_its_row(kind):
    cell = random_cell(kind, np.random.default_rng(0), 2, 3)
    x_t = np.ones((2, 2))
    x_t[1, 0] = np.nan
    (h_t,), cache = cell.step(x_t, (np.zeros((2, 3)),))
    assert np.isfinite(h_t[0]).all()
    assert np.isnan(h_t[1]).all()
    _, (d_h_prev,), d_cell = cell.step_backward((np.ones((2, 3)),), cache)
    assert np.isfinite(d_h_prev[0]).all()
    assert np.isnan(d_h_prev[1]).all()
    assert np.isnan(d_cell.W_z).all()


# --- what is refused ----------------------------------------------------------------------------


def test_functions_refuse_what_does_not_fit():
    x_t, h_prev, W, b = np.ones((2, 1)), np.ones((2, 3)), np.ones((3, 4)), np.ones(3)
    with pytest.raises(
        ValueError, match=r"update_gate: W_z has shape \(3, 3\), expected \(H, H\+I\) = \(3, 4\)"
    ):
        gru.update_gate(x_t, h_prev, np.ones((3, 3)), b)
    with pytest.raises(
        ValueError, match=r"reset_gate: h_prev has shape \(1, 3\), expected \(B, H\) = \(2, 3\)"
    ):
        gru.reset_gate(x_t, h_prev[:1], W, b)
    with pytest.raises(ValueError, match=r"candidate: r_t has shape \(2, 1\), expected \(B, H\)"):
        gru.candidate(x_t, h_prev, np.ones((2, 1)), W, b)
    with pytest.raises(ValueError, match=r"hidden_state: z_t has shape \(3,\), expected 2 dimensions"):
        gru.hidden_state(h_prev, np.ones(3), h_prev)
    with pytest.raises(ValueError, match=r"candidate_reset_after: W_h has shape \(3, 4\)"):
        gru.candidate_reset_after(x_t, h_prev, h_prev, np.ones((3, 1)), b, W, b)
    with pytest.raises(TypeError, match="x_t has dtype int64, expected a real floating-point dtype"):
        gru.preactivation(np.ones((2, 1), int), h_prev, W, b)
    with pytest.raises(TypeError, match="W_z has dtype complex128, expected a real floating-point dtype"):
        gru.update_gate(x_t, h_prev, W.astype(complex), b)
    with pytest.raises(TypeError, match=r"x_t is a ndarray but b_r is a Tensor"):
        gru.reset_gate(x_t, h_prev, W, torch.ones(3, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"a_z holds NaN, first at index \(0, 0\)"):
        gru.hidden_state_backward(h_prev, np.nan * h_prev, h_prev, h_prev)


def test_cells_refuse_what_does_not_fit():
    W, b = np.ones((2, 5)), np.ones(2)
    with pytest.raises(ValueError, match=r"GRUCell: W_r has shape \(2, 4\), expected \(H, H\+I\) = \(2, 5\)"):
        GRUCell(W, b, W[:, :4], b, W, b)
    with pytest.raises(
        ValueError, match=r"GRUCell: W_z has shape \(2, 2\), expected \(H, H\+I\) with I at least 1"
    ):
        GRUCell(W[:, :2], b, W[:, :2], b, W[:, :2], b)
    with pytest.raises(ValueError, match=r"GRUCell: b has shape \(3,\), expected \(H\) = \(2,\)"):
        GRUCell(W, b, W, b, W, np.ones(3))
    with pytest.raises(
        ValueError, match=r"ResetAfterGRUCell: W_z has shape \(2, 5\), expected \(H, H\+I\) = \(2, 4\)"
    ):
        ResetAfterGRUCell(W, b, W, b, np.ones((2, 2)), b, np.ones((2, 2)), b)
    with pytest.raises(dataclasses.FrozenInstanceError):
        GRUCell(W, b, W, b, W, b).W = W
