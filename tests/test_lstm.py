"""The LSTM and its variants, held to torch.nn, ONNX Runtime, torch's autograd and finite differences."""

from __future__ import annotations

import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import layer_norm as torch_layer_norm
from torch.nn.functional import linear

from rnnlib import lstm
from rnnlib.cell import Cell, arrays_of, map_arrays
from rnnlib.lstm import (
    CoupledLSTMCell,
    LayerNormLSTMCell,
    LSTMCell,
    NoForgetLSTMCell,
    PeepholeLSTMCell,
)
from rnnlib.unroll import unroll
from tests.support import as_torch, example, seeds, sizes, to_numpy

CELLS = (LSTMCell, PeepholeLSTMCell, CoupledLSTMCell, NoForgetLSTMCell, LayerNormLSTMCell)
each_cell = pytest.mark.parametrize("cell_type", CELLS)

STEP_NAMES = ("h_t", "C_t", "d_x_t", "d_h_prev", "d_C_prev")


def random_cell(cell_type, rng, I, H):
    """A cell with random parameters: no bias is 0, no gain 1."""
    arrays = {}
    for field in dataclasses.fields(cell_type):
        if field.name.startswith("W_"):
            arrays[field.name] = rng.normal(size=(H, H + I)) / np.sqrt(H + I)
        elif field.name in ("alpha_h", "beta_h", "alpha_x", "beta_x"):
            arrays[field.name] = rng.normal(size=4 * H)
        elif field.name != "epsilon":
            arrays[field.name] = rng.normal(size=H)
    return cell_type(**arrays)


def random_step(cell_type, n, seed):
    """A cell, x_t, the state (h_{t-1}, C_{t-1}), and a gradient for (h_t, C_t)."""
    rng = np.random.default_rng(seed)
    B, I, H = n["B"], n["I"], n["H"]
    cell = random_cell(cell_type, rng, I, H)
    x_t, h_prev, C_prev = rng.normal(size=(B, I)), rng.normal(size=(B, H)), 2 * rng.normal(size=(B, H))
    return cell, x_t, (h_prev, C_prev), (rng.normal(size=(B, H)), rng.normal(size=(B, H)))


def convert(function, cell, x_t, state, d_state):
    """The arguments of a step with ``function`` applied to every array."""
    return (
        map_arrays(function, cell),
        function(x_t),
        tuple(function(x) for x in state),
        tuple(function(x) for x in d_state),
    )


def there_and_back(cell, x_t, state, d_state):
    """All that a step gives, forward and back, by name."""
    new, cache = cell.step(x_t, state)
    d_x_t, d_prev, d_cell = cell.step_backward(d_state, cache)
    assert type(d_cell) is type(cell)
    return dict(zip(STEP_NAMES, (*new, d_x_t, *d_prev), strict=True)) | arrays_of(d_cell)


def reference_step(cell_type, p, x, h, C):
    """One step of each cell as its paper has it, in torch's words."""
    H = h.shape[1]

    def affine(gate):
        W = p[f"W_{gate}"]
        return linear(h, W[:, :H]) + linear(x, W[:, H:], p[f"b_{gate}"])

    if cell_type is LSTMCell:
        C = torch.sigmoid(affine("f")) * C + torch.sigmoid(affine("i")) * torch.tanh(affine("C"))
        return torch.sigmoid(affine("o")) * torch.tanh(C), C
    if cell_type is PeepholeLSTMCell:
        f = torch.sigmoid(affine("f") + linear(C, torch.diag(p["p_f"])))
        i = torch.sigmoid(affine("i") + linear(C, torch.diag(p["p_i"])))
        C = f * C + i * torch.tanh(affine("C"))
        return torch.sigmoid(affine("o") + linear(C, torch.diag(p["p_o"]))) * torch.tanh(C), C
    if cell_type is CoupledLSTMCell:
        C = torch.lerp(torch.tanh(affine("C")), C, torch.sigmoid(affine("f")))
        return torch.sigmoid(affine("o")) * torch.tanh(C), C
    if cell_type is NoForgetLSTMCell:
        C = torch.addcmul(C, torch.sigmoid(affine("i")), torch.tanh(affine("C")))
        return torch.sigmoid(affine("o")) * torch.tanh(C), C
    W = torch.cat([p[f"W_{gate}"] for gate in "fiCo"])
    b = torch.cat([p[f"b_{gate}"] for gate in "fiCo"])
    from_h = torch_layer_norm(linear(h, W[:, :H]), (4 * H,), p["alpha_h"], p["beta_h"], p["epsilon"])
    from_x = torch_layer_norm(linear(x, W[:, H:]), (4 * H,), p["alpha_x"], p["beta_x"], p["epsilon"])
    f, i, g, o = (from_h + from_x + b).chunk(4, dim=1)
    C = torch.sigmoid(f) * C + torch.sigmoid(i) * torch.tanh(g)
    shown = torch_layer_norm(C, (H,), p["alpha_C"], p["beta_C"], p["epsilon"])
    return torch.sigmoid(o) * torch.tanh(shown), C


def reference(cell, x_t, state, d_state):
    """What :func:`there_and_back` should give, from the reference step and torch's autograd."""
    leaves = as_torch({"x": x_t, "h": state[0], "C": state[1]} | arrays_of(cell), requires_grad=True)
    parameters = leaves | {"epsilon": getattr(cell, "epsilon", None)}
    new = reference_step(type(cell), parameters, leaves["x"], leaves["h"], leaves["C"])
    gradients = torch.autograd.grad(new, list(leaves.values()), [torch.tensor(d) for d in d_state])
    return dict(zip((*STEP_NAMES, *arrays_of(cell)), (*new, *gradients), strict=True))


def load(module, cell, suffix=""):
    """Give a torch.nn.LSTM or LSTMCell the parameters of a cell; torch's order is i, f, g, o."""
    H = cell.hidden_size
    W = torch.tensor(np.concatenate([cell.W_i, cell.W_f, cell.W_C, cell.W_o]))
    b = torch.tensor(np.concatenate([cell.b_i, cell.b_f, cell.b_C, cell.b_o]))
    with torch.no_grad():
        getattr(module, f"weight_hh{suffix}").copy_(W[:, :H])
        getattr(module, f"weight_ih{suffix}").copy_(W[:, H:])
        getattr(module, f"bias_ih{suffix}").copy_(b)
        getattr(module, f"bias_hh{suffix}").zero_()
    return module


def unload(module, suffix=""):
    """The gradients of a torch.nn.LSTM or LSTMCell under the names of a cell's parameters."""
    W = torch.cat(
        [getattr(module, f"weight_hh{suffix}").grad, getattr(module, f"weight_ih{suffix}").grad], dim=1
    )
    b = getattr(module, f"bias_ih{suffix}").grad
    names = ("i", "f", "C", "o")
    return {f"W_{g}": part for g, part in zip(names, W.chunk(4), strict=True)} | {
        f"b_{g}": part for g, part in zip(names, b.chunk(4), strict=True)
    }


# --- the equations, one by one ----------------------------------------------------------------

GATES = {
    "forget": (lstm.forget_gate, lstm.forget_gate_backward, torch.sigmoid),
    "input": (lstm.input_gate, lstm.input_gate_backward, torch.sigmoid),
    "candidate": (lstm.candidate, lstm.candidate_backward, torch.tanh),
    "output": (lstm.output_gate, lstm.output_gate_backward, torch.sigmoid),
    "preactivation": (lstm.preactivation, lstm.preactivation_backward, lambda a: a),
}


@pytest.mark.equation(
    "eq-lstm-preactivation",
    "eq-lstm-preactivation-backward",
    "eq-lstm-forget",
    "eq-lstm-forget-backward",
    "eq-lstm-input",
    "eq-lstm-input-backward",
    "eq-lstm-candidate",
    "eq-lstm-candidate-backward",
    "eq-lstm-output",
    "eq-lstm-output-backward",
)
@pytest.mark.parametrize("name", GATES)
@given(n=sizes("B", "I", "H"), seed=seeds)
def test_gates_agree_with_torch(agree, name, n, seed):
    forward, backward, squash = GATES[name]
    arguments = list(example(f"eq-lstm-{name}", seed, n).values())
    x_t, h_prev, W, b = (torch.tensor(x, requires_grad=True) for x in arguments)
    a = linear(h_prev, W[:, : n["H"]]) + linear(x_t, W[:, n["H"] :], b)
    expected = squash(a)
    agree(forward, "torch.nn.functional.linear", forward(*arguments), expected)

    d = np.random.default_rng(seed + 1).normal(size=expected.shape)
    see = () if name == "preactivation" else (to_numpy(a),)
    agree(
        backward,
        "torch.autograd",
        backward(d, *see, *arguments[:3]),
        torch.autograd.grad(expected, (x_t, h_prev, W, b), torch.tensor(d)),
    )


@pytest.mark.equation(
    "eq-lstm-peephole-preactivation",
    "eq-lstm-peephole-preactivation-backward",
    "eq-lstm-peephole-forget",
    "eq-lstm-peephole-forget-backward",
    "eq-lstm-peephole-input",
    "eq-lstm-peephole-input-backward",
    "eq-lstm-peephole-output",
    "eq-lstm-peephole-output-backward",
)
@pytest.mark.parametrize("name", ["preactivation", "forget", "input", "output"])
@given(n=sizes("B", "I", "H"), seed=seeds)
def test_gates_with_peepholes_agree_with_torch(agree, name, n, seed):
    function = "peephole_preactivation" if name == "preactivation" else f"peephole_{name}_gate"
    forward, backward = getattr(lstm, function), getattr(lstm, f"{function}_backward")
    arguments = list(example(f"eq-lstm-peephole-{name}", seed, n).values())
    x_t, h_prev, W, b, C, p = (torch.tensor(x, requires_grad=True) for x in arguments)
    a = linear(h_prev, W[:, : n["H"]]) + linear(x_t, W[:, n["H"] :], b) + linear(C, torch.diag(p))
    expected = a if name == "preactivation" else torch.sigmoid(a)
    agree(forward, "torch.nn.functional.linear", forward(*arguments), expected)

    d = np.random.default_rng(seed + 1).normal(size=expected.shape)
    see = () if name == "preactivation" else (to_numpy(a),)
    agree(
        backward,
        "torch.autograd",
        backward(d, *see, *arguments[:3], *arguments[4:]),
        torch.autograd.grad(expected, (x_t, h_prev, W, b, C, p), torch.tensor(d)),
    )


@pytest.mark.equation(
    "eq-lstm-memory",
    "eq-lstm-memory-backward",
    "eq-lstm-hidden",
    "eq-lstm-hidden-backward",
    "eq-lstm-coupled-input",
    "eq-lstm-coupled-input-backward",
    "eq-lstm-noforget-memory",
    "eq-lstm-noforget-memory-backward",
)
@given(sizes("B", "H"), seeds)
def test_the_elementwise_equations_agree_with_torch(agree, n, seed):
    rng = np.random.default_rng(seed)
    f, C, i, g, o, a, d = rng.normal(size=(7, n["B"], n["H"]))
    tf, tC, ti, tg, to, ta = (torch.tensor(v, requires_grad=True) for v in (f, C, i, g, o, a))

    def hold(function, arguments, backward, gradients, expected, leaves):
        agree(function, "torch", function(*arguments), expected)
        actual = gradients if isinstance(gradients, tuple) else (gradients,)
        agree(backward, "torch.autograd", actual, torch.autograd.grad(expected, leaves, torch.tensor(d)))

    hold(
        lstm.memory,
        (f, C, i, g),
        lstm.memory_backward,
        lstm.memory_backward(d, f, C, i, g),
        torch.addcmul(tf * tC, ti, tg),
        (tf, tC, ti, tg),
    )
    hold(
        lstm.hidden_state,
        (o, C),
        lstm.hidden_state_backward,
        lstm.hidden_state_backward(d, o, C),
        to * torch.tanh(tC),
        (to, tC),
    )
    hold(
        lstm.coupled_input_gate,
        (a,),
        lstm.coupled_input_gate_backward,
        lstm.coupled_input_gate_backward(d, a),
        1 - torch.sigmoid(ta),
        (ta,),
    )
    hold(
        lstm.noforget_memory,
        (C, i, g),
        lstm.noforget_memory_backward,
        lstm.noforget_memory_backward(d, i, g),
        torch.addcmul(tC, ti, tg),
        (tC, ti, tg),
    )


@pytest.mark.equation("eq-lstm-memory-total")
@given(sizes("B", "H"), seeds)
def test_the_memory_acts_on_the_loss_through_h_and_through_the_next_memory(agree, n, seed):
    rng = np.random.default_rng(seed)
    o_t, C, f_next, written, d_h_t, d_C_next = rng.normal(size=(6, n["B"], n["H"]))
    C_t = torch.tensor(C, requires_grad=True)
    h_t = torch.tensor(o_t) * torch.tanh(C_t)
    C_next = torch.tensor(f_next) * C_t + torch.tensor(written)
    loss = (torch.tensor(d_h_t) * h_t).sum() + (torch.tensor(d_C_next) * C_next).sum()

    _, d_C_from_h = lstm.hidden_state_backward(d_h_t, o_t, C)
    _, d_C_from_next, _, _ = lstm.memory_backward(d_C_next, f_next, C, written, np.ones_like(written))
    agree(
        lstm.memory_total,
        "torch.autograd",
        lstm.memory_total(d_C_from_h, d_C_from_next),
        torch.autograd.grad(loss, C_t)[0],
    )


@pytest.mark.equation("eq-lstm-layernorm-preactivation", "eq-lstm-layernorm-preactivation-backward")
@given(sizes("B", "I", "H"), st.sampled_from((1e-5, 0.1)), seeds)
def test_the_normalised_preactivation_agrees_with_torch(agree, n, epsilon, seed):
    arguments = example("eq-lstm-layernorm-preactivation", seed, n)
    t = as_torch(arguments, requires_grad=True)
    W_h, W_x = t["W"][:, : n["H"]], t["W"][:, n["H"] :]
    shape = (4 * n["H"],)
    expected = (
        torch_layer_norm(linear(t["h_prev"], W_h), shape, t["alpha_h"], t["beta_h"], epsilon)
        + torch_layer_norm(linear(t["x_t"], W_x), shape, t["alpha_x"], t["beta_x"], epsilon)
        + t["b"]
    )
    forward, backward = lstm.layernorm_preactivation, lstm.layernorm_preactivation_backward
    agree(forward, "torch.nn.functional", forward(**arguments, epsilon=epsilon), expected)

    d = np.random.default_rng(seed + 1).normal(size=expected.shape)
    seen = {name: x for name, x in arguments.items() if name not in ("b", "beta_h", "beta_x")}
    agree(
        backward,
        "torch.autograd",
        backward(d, **seen, epsilon=epsilon),
        torch.autograd.grad(expected, list(t.values()), torch.tensor(d)),
    )


@pytest.mark.equation("eq-lstm-layernorm-hidden", "eq-lstm-layernorm-hidden-backward")
@given(sizes("B", "H"), st.sampled_from((1e-5, 0.1)), seeds)
def test_the_hidden_state_from_the_normalised_memory_agrees_with_torch(agree, n, epsilon, seed):
    arguments = example("eq-lstm-layernorm-hidden", seed, n)
    t = as_torch(arguments, requires_grad=True)
    shown = torch_layer_norm(t["C_t"], (n["H"],), t["alpha_C"], t["beta_C"], epsilon)
    expected = t["o_t"] * torch.tanh(shown)
    forward, backward = lstm.layernorm_hidden_state, lstm.layernorm_hidden_state_backward
    agree(forward, "torch.nn.functional", forward(**arguments, epsilon=epsilon), expected)

    d = np.random.default_rng(seed + 1).normal(size=expected.shape)
    agree(
        backward,
        "torch.autograd",
        backward(d, **arguments, epsilon=epsilon),
        torch.autograd.grad(expected, list(t.values()), torch.tensor(d)),
    )


# --- one step ---------------------------------------------------------------------------------


@pytest.mark.equation(
    "eq-lstm-forget",
    "eq-lstm-input",
    "eq-lstm-candidate",
    "eq-lstm-memory",
    "eq-lstm-output",
    "eq-lstm-hidden",
)
@given(sizes("B", "I", "H"), seeds)
def test_one_step_agrees_with_torch_LSTMCell(agree, n, seed):
    cell, x_t, state, d_state = random_step(LSTMCell, n, seed)
    module = load(torch.nn.LSTMCell(n["I"], n["H"], dtype=torch.float64), cell)
    x, h, C = (torch.tensor(v, requires_grad=True) for v in (x_t, *state))
    new = module(x, (h, C))
    torch.autograd.backward(new, [torch.tensor(d) for d in d_state])

    result = there_and_back(cell, x_t, state, d_state)
    expected = dict(zip(STEP_NAMES, (*new, x.grad, h.grad, C.grad), strict=True)) | unload(module)
    agree(LSTMCell.step, "torch.nn.LSTMCell", [result["h_t"], result["C_t"]], list(new))
    agree(LSTMCell.step_backward, "torch.nn.LSTMCell", result, {name: expected[name] for name in result})


@each_cell
@given(n=sizes("B", "I", "H"), seed=seeds)
def test_a_step_and_its_way_back_agree_with_autograd(agree, cell_type, n, seed):
    arguments = random_step(cell_type, n, seed)
    result, expected = there_and_back(*arguments), reference(*arguments)
    for name in ("h_t", "C_t"):
        agree(cell_type.step, "torch", result.pop(name), expected.pop(name))
    agree(cell_type.step_backward, "torch.autograd", result, expected)


@each_cell
@settings(max_examples=5)  # each compares every entry of every gradient
@given(n=sizes("B", "I", "H", low=2, high=3), seed=seeds)
def test_the_way_back_agrees_with_finite_differences(cell_type, n, seed):
    cell, x_t, state, _ = random_step(cell_type, n, seed)
    names = list(arrays_of(cell))

    class Step(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, h, C, *parameters):
            ctx.cell = dataclasses.replace(cell, **dict(zip(names, parameters, strict=True)))
            new, ctx.cache = ctx.cell.step(x, (h, C))
            return new

        @staticmethod
        def backward(ctx, *d_state):
            d_x_t, d_prev, d_cell = ctx.cell.step_backward(d_state, ctx.cache)
            return d_x_t, *d_prev, *arrays_of(d_cell).values()

    if cell_type is LayerNormLSTMCell:
        cell = dataclasses.replace(cell, epsilon=0.1)
    leaves = [torch.tensor(v, requires_grad=True) for v in (x_t, *state, *arrays_of(cell).values())]
    assert torch.autograd.gradcheck(Step.apply, leaves)


@each_cell
@given(n=sizes("B", "I", "H"), seed=seeds)
def test_the_code_can_itself_be_differentiated(agree, cell_type, n, seed):
    cell, x_t, state, d_state = convert(torch.tensor, *random_step(cell_type, n, seed))
    x, h, C, *parameters = (v.clone().requires_grad_() for v in (x_t, *state, *arrays_of(cell).values()))
    leaf_cell = dataclasses.replace(cell, **dict(zip(arrays_of(cell), parameters, strict=True)))
    new, _ = leaf_cell.step(x, (h, C))
    gradients = torch.autograd.grad(new, [x, h, C, *parameters], d_state)
    agree(
        cell_type.step_backward,
        "torch.autograd of step",
        there_and_back(cell, x_t, state, d_state),
        dict(zip((*STEP_NAMES, *arrays_of(cell)), (*new, *gradients), strict=True)),
    )


@given(sizes("B", "I", "H"), seeds)
def test_the_cache_holds_what_the_equations_give(agree, n, seed):
    cell, x_t, (h_prev, C_prev), _ = random_step(LSTMCell, n, seed)
    (h_t, C_t), cache = cell.step(x_t, (h_prev, C_prev))
    f_t = lstm.forget_gate(x_t, h_prev, cell.W_f, cell.b_f)
    i_t = lstm.input_gate(x_t, h_prev, cell.W_i, cell.b_i)
    C_tilde = lstm.candidate(x_t, h_prev, cell.W_C, cell.b_C)
    o_t = lstm.output_gate(x_t, h_prev, cell.W_o, cell.b_o)
    expected = {"x_t": x_t, "h_prev": h_prev, "C_prev": C_prev}
    expected |= {
        f"a_{gate}": lstm.preactivation(x_t, h_prev, getattr(cell, f"W_{gate}"), getattr(cell, f"b_{gate}"))
        for gate in "fiCo"
    }
    expected |= {"f_t": f_t, "i_t": i_t, "C_tilde": C_tilde, "o_t": o_t}
    expected |= {"C_t": lstm.memory(f_t, C_prev, i_t, C_tilde)}
    expected |= {"h_t": lstm.hidden_state(o_t, expected["C_t"])}
    agree(LSTMCell.step, "the equations", cache._asdict(), expected, tolerance=0)
    assert h_t is cache.h_t
    assert C_t is cache.C_t


# --- how the variants are related -------------------------------------------------------------


@given(sizes("B", "I", "H"), seeds)
def test_without_its_peepholes_the_peephole_cell_is_the_LSTM(agree, n, seed):
    cell, *arguments = random_step(PeepholeLSTMCell, n, seed)
    blind = dataclasses.replace(cell, **{p: np.zeros(n["H"]) for p in ("p_f", "p_i", "p_o")})
    plain = LSTMCell(**{name: x for name, x in arrays_of(cell).items() if not name.startswith("p_")})
    expected = there_and_back(plain, *arguments)
    result = there_and_back(blind, *arguments)
    agree(PeepholeLSTMCell.step, "LSTMCell", {name: result[name] for name in expected}, expected)


@given(sizes("B", "I", "H"), seeds)
def test_the_coupled_cell_is_an_LSTM_with_tied_parameters(agree, n, seed):
    cell, *arguments = random_step(CoupledLSTMCell, n, seed)
    tied = LSTMCell(**arrays_of(cell), W_i=-cell.W_f, b_i=-cell.b_f)
    expected = there_and_back(tied, *arguments)
    expected["W_f"] = expected["W_f"] - expected.pop("W_i")
    expected["b_f"] = expected["b_f"] - expected.pop("b_i")
    agree(CoupledLSTMCell.step_backward, "LSTMCell", there_and_back(cell, *arguments), expected)

    _, cache = cell.step(*arguments[:2])
    _, tied_cache = tied.step(*arguments[:2])
    agree(CoupledLSTMCell.step, "LSTMCell", cache._asdict(), tied_cache._asdict())


@given(sizes("B", "I", "H"), seeds)
def test_the_cell_without_forget_gate_is_torch_LSTMCell_that_never_forgets(agree, n, seed):
    cell, x_t, state, _ = random_step(NoForgetLSTMCell, n, seed)
    H = n["H"]
    kept = LSTMCell(**arrays_of(cell), W_f=np.zeros_like(cell.W_i), b_f=np.full(H, 1e4))
    module = load(torch.nn.LSTMCell(n["I"], H, dtype=torch.float64), kept)
    agree(
        NoForgetLSTMCell.step,
        "torch.nn.LSTMCell",
        list(cell.step(x_t, state)[0]),
        list(module(torch.tensor(x_t), tuple(torch.tensor(s) for s in state))),
    )


def onnx_lstm(cell, xs, initial, input_forget=0):
    """The outputs of ONNX Runtime's LSTM; its orders are i, o, f, c and, for peepholes, i, o, f."""
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    H = cell.hidden_size
    W = np.concatenate([cell.W_i, cell.W_o, cell.W_f, cell.W_C])
    b = np.concatenate([cell.b_i, cell.b_o, cell.b_f, cell.b_C])
    peepholes = [getattr(cell, p, np.zeros(H, W.dtype)) for p in ("p_i", "p_o", "p_f")]
    feeds = {
        "X": xs,
        "W": W[None, :, H:],
        "R": W[None, :, :H],
        "B": np.concatenate([b, np.zeros_like(b)])[None],
        "h_0": initial[0][None],
        "C_0": initial[1][None],
        "P": np.concatenate(peepholes)[None],
    }
    node = onnx.helper.make_node(
        "LSTM",
        ["X", "W", "R", "B", "", "h_0", "C_0", "P"],
        ["Y", "Y_h", "Y_c"],
        hidden_size=H,
        input_forget=input_forget,
    )
    real = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [node],
        "lstm",
        [onnx.helper.make_tensor_value_info(name, real, x.shape) for name, x in feeds.items()],
        [onnx.helper.make_tensor_value_info(name, real, None) for name in ("Y", "Y_c")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    hs, C_T = session.run(["Y", "Y_c"], {name: np.ascontiguousarray(x) for name, x in feeds.items()})
    return [hs[:, 0], C_T[0]]


@pytest.mark.equation(
    "eq-lstm-peephole-forget", "eq-lstm-peephole-input", "eq-lstm-peephole-output", "eq-lstm-coupled-input"
)
@pytest.mark.parametrize("cell_type", [LSTMCell, PeepholeLSTMCell, CoupledLSTMCell])
@pytest.mark.parametrize("seed", range(4))
def test_a_sequence_agrees_with_ONNX_Runtime(agree, cell_type, seed):
    rng = np.random.default_rng(seed)
    T, B, I, H = rng.integers(1, 6, size=4)
    cell = map_arrays(np.float32, random_cell(cell_type, rng, I, H))
    xs = np.float32(rng.normal(size=(T, B, I)))
    initial = np.float32(rng.normal(size=(B, H))), np.float32(rng.normal(size=(B, H)))
    run = unroll(cell, xs, initial)
    if cell_type is CoupledLSTMCell:  # ONNX keeps the input gate's parameters and sets f = 1 - i
        tied = LSTMCell(**arrays_of(cell), W_i=-cell.W_f, b_i=-cell.b_f)
        blank = dataclasses.replace(tied, W_f=np.zeros_like(cell.W_f), b_f=np.zeros_like(cell.b_f))
        expected = onnx_lstm(blank, xs, initial, input_forget=1)
    else:
        expected = onnx_lstm(cell, xs, initial)
    agree(cell_type.step, "ONNX Runtime", [run.hs, run.final[1]], expected, dtype="float32")


# --- along a sequence -------------------------------------------------------------------------


@given(sizes("T", "B", "I", "H"), seeds)
def test_a_sequence_agrees_with_torch_LSTM(agree, n, seed):
    rng = np.random.default_rng(seed)
    cell = random_cell(LSTMCell, rng, n["I"], n["H"])
    xs = rng.normal(size=(n["T"], n["B"], n["I"]))
    initial = tuple(rng.normal(size=(n["B"], n["H"])) for _ in range(2))
    module = load(torch.nn.LSTM(n["I"], n["H"], dtype=torch.float64), cell, "_l0")
    hs, (h_T, C_T) = module(torch.tensor(xs), tuple(torch.tensor(s)[None] for s in initial))
    run = unroll(cell, xs, initial)
    agree(LSTMCell.step, "torch.nn.LSTM", [run.hs, *run.final], [hs, h_T[0], C_T[0]])
    agree(LSTMCell.step, "torch.nn.LSTM", run.along_time("h_t"), hs)


@given(sizes("T", "B", "I", "H"), seeds)
def test_sequences_of_different_length_agree_with_torch_LSTM(agree, n, seed):
    rng = np.random.default_rng(seed)
    cell = random_cell(LSTMCell, rng, n["I"], n["H"])
    xs = rng.normal(size=(n["T"], n["B"], n["I"]))
    lengths = rng.integers(1, n["T"] + 1, size=n["B"])
    lengths[0] = n["T"]
    module = load(torch.nn.LSTM(n["I"], n["H"], dtype=torch.float64), cell, "_l0")
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        torch.tensor(xs), torch.tensor(lengths), enforce_sorted=False
    )
    hs, (h_T, C_T) = module(packed)
    run = unroll(cell, xs, lengths=lengths)
    agree(
        LSTMCell.step,
        "torch.nn.LSTM, packed",
        [run.hs, *run.final],
        [torch.nn.utils.rnn.pad_packed_sequence(hs)[0], h_T[0], C_T[0]],
    )


@each_cell
def test_a_sequence_of_no_step_leaves_the_state_alone(cell_type):
    rng = np.random.default_rng(11)
    cell = random_cell(cell_type, rng, 2, 3)
    initial = rng.normal(size=(2, 3)), rng.normal(size=(2, 3))
    run = unroll(cell, rng.normal(size=(4, 2, 2)), initial, lengths=[0, 4])
    assert not run.hs[:, 0].any()
    for final, first in zip(run.final, initial, strict=True):
        assert np.array_equal(final[0], first[0])
        assert not np.isclose(final[1], first[1]).any()


@pytest.mark.equation("eq-lstm-memory-total")
@given(sizes("T", "B", "I", "H"), seeds)
def test_the_way_back_through_time_agrees_with_torch_LSTM(agree, n, seed):
    rng = np.random.default_rng(seed)
    T, B, I, H = n["T"], n["B"], n["I"], n["H"]
    cell = random_cell(LSTMCell, rng, I, H)
    xs, d_hs = rng.normal(size=(T, B, I)), rng.normal(size=(T, B, H))
    initial = rng.normal(size=(B, H)), rng.normal(size=(B, H))
    d_h, d_C = rng.normal(size=(B, H)), rng.normal(size=(B, H))

    module = load(torch.nn.LSTM(I, H, dtype=torch.float64), cell, "_l0")
    t_xs, t_h, t_C = (torch.tensor(v, requires_grad=True) for v in (xs, *initial))
    hs, (h_T, C_T) = module(t_xs, (t_h[None], t_C[None]))
    torch.autograd.backward((hs, h_T[0], C_T[0]), [torch.tensor(d) for d in (d_hs, d_h, d_C)])

    d_xs, d_cell, d_state = [], map_arrays(np.zeros_like, cell), (d_h, d_C)
    for cache, d_h_t in zip(reversed(unroll(cell, xs, initial).caches), d_hs[::-1], strict=True):
        d_x_t, d_state, immediate = cell.step_backward((d_state[0] + d_h_t, d_state[1]), cache)
        d_xs.insert(0, d_x_t)
        d_cell = map_arrays(np.add, d_cell, immediate)
    result = {"xs": np.stack(d_xs), "h_0": d_state[0], "C_0": d_state[1]} | arrays_of(d_cell)
    expected = {"xs": t_xs.grad, "h_0": t_h.grad, "C_0": t_C.grad} | unload(module, "_l0")
    agree(LSTMCell.step_backward, "torch.nn.LSTM", result, {name: expected[name] for name in result})


def back_to_the_first_memory(cell, T, d_C):
    """∂L/∂C_0 for a given ∂L/∂C_T and no other gradient."""
    xs = np.zeros((T, 1, cell.input_size))
    d_state = np.zeros_like(d_C), d_C
    for cache in reversed(unroll(cell, xs).caches):
        _, d_state, _ = cell.step_backward(d_state, cache)
    return d_state[1]


@pytest.mark.equation("eq-lstm-noforget-memory-backward")
def test_the_carousel_carries_an_error_unchanged_over_a_thousand_steps():
    rng = np.random.default_rng(2)
    cell = random_cell(NoForgetLSTMCell, rng, 2, 3)
    deaf = map_arrays(lambda x: np.where(np.arange(x.shape[-1]) < 3, 0.0, x) if x.ndim == 2 else x, cell)
    d_C = rng.normal(size=(1, 3))
    assert np.array_equal(back_to_the_first_memory(deaf, 1000, d_C), d_C)


@pytest.mark.parametrize("bias", [0.0, 1.0, 2.0, -1.0])
@pytest.mark.parametrize("cell_type", [LSTMCell, CoupledLSTMCell])
def test_the_forget_bias_sets_how_fast_an_error_fades(agree, cell_type, bias):
    H = 3
    blank = map_arrays(np.zeros_like, random_cell(cell_type, np.random.default_rng(0), 2, H))
    d_C = np.array([[1.0, -2.0, 0.5]])
    expected = d_C / (1 + math.exp(-bias)) ** 50
    result = back_to_the_first_memory(lstm.with_forget_bias(blank, bias), 50, d_C)
    agree(lstm.with_forget_bias, "closed form", result / expected, np.ones((1, H)))


@each_cell
def test_a_long_sequence_stays_finite(cell_type):
    rng = np.random.default_rng(4)
    cell = random_cell(cell_type, rng, 2, 4)
    run = unroll(cell, rng.normal(size=(3000, 1, 2)))
    assert np.isfinite(run.final[1]).all()
    assert np.abs(run.hs).max() <= 1
    assert len(np.unique(run.hs[:, 0, 0])) == 3000


# --- numbers at the edge ----------------------------------------------------------------------


@pytest.mark.parametrize("a", [-700.0, -40.0, 40.0, 700.0])
@pytest.mark.parametrize("framework", [np.asarray, torch.tensor])
def test_the_derivative_of_a_saturated_gate_keeps_its_digits(agree, framework, a):
    e = math.exp(-abs(a))
    slope = e / (1 + e) ** 2
    one, zero, a_t, W = (framework(np.array(x)) for x in ([[1.0]], [[0.0]], [[a]], [[0.0, 1.0]]))
    for backward in (lstm.forget_gate_backward, lstm.input_gate_backward, lstm.output_gate_backward):
        d_x_t, _, _, d_b = backward(one, a_t, one, zero, W)
        agree(backward, "closed form", [to_numpy(d_x_t)[0] / slope, to_numpy(d_b) / slope], [[1.0], [1.0]])
    for backward in (
        lstm.peephole_forget_gate_backward,
        lstm.peephole_input_gate_backward,
        lstm.peephole_output_gate_backward,
    ):
        *_, d_p = backward(one, a_t, one, zero, W, one, one[0])
        agree(backward, "closed form", to_numpy(d_p) / slope, [1.0])
    backward = lstm.coupled_input_gate_backward
    agree(backward, "closed form", to_numpy(backward(one, a_t)) / -slope, [[1.0]])
    i_t = e / (1 + e) if a > 0 else 1 / (1 + e)
    agree(lstm.coupled_input_gate, "closed form", to_numpy(lstm.coupled_input_gate(a_t)) / i_t, [[1.0]])


@pytest.mark.parametrize("a", [-40.0, 40.0])
def test_a_step_back_through_saturated_gates_keeps_its_digits(agree, a):
    e = math.exp(-abs(a))
    slope = e / (1 + e) ** 2
    blank = LSTMCell(*np.zeros((4, 1, 2)), *np.zeros((4, 1)))
    one = np.ones((1, 1))
    for gate, gain in {"f": 1.0, "i": math.tanh(0.5), "o": None}.items():
        cell = dataclasses.replace(blank, b_C=np.array([0.5]), **{f"b_{gate}": np.array([a])})
        (_, C_t), cache = cell.step(one, (one, one))
        if gate == "o":
            d_state, gain = (one, 0 * one), math.tanh(C_t.item())
        else:
            d_state = (0 * one, one)
        *_, d_cell = cell.step_backward(d_state, cache)
        d_b = getattr(d_cell, f"b_{gate}")
        agree(LSTMCell.step_backward, "closed form", d_b / (slope * gain), [1.0])


@each_cell
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("framework", [np.asarray, torch.tensor])
def test_saturated_gates_give_finite_numbers_and_no_warning(cell_type, framework, dtype):
    cell, *arguments = random_step(cell_type, {"B": 3, "I": 2, "H": 4}, seed=8)
    signs = np.array([1e4, -1e4, 1e4, -1e4])
    saturated = {name: signs for name in arrays_of(cell) if name.startswith("b_")}
    cell = dataclasses.replace(cell, **saturated)
    arguments = convert(lambda x: framework(x.astype(dtype)), cell, *arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = there_and_back(*arguments)
    for name, x in result.items():
        assert str(x.dtype).removeprefix("torch.") == dtype, name
        assert np.isfinite(to_numpy(x)).all(), name
    # Shut gates pass nothing on; open ones pass everything.
    C_prev, C_t = to_numpy(arguments[2][1]), to_numpy(result["C_t"])
    if cell_type is NoForgetLSTMCell:
        assert np.array_equal(C_t[:, 1::2], C_prev[:, 1::2])
    elif cell_type is CoupledLSTMCell:
        assert np.array_equal(C_t[:, ::2], C_prev[:, ::2])
        # On some processors NumPy's tanh of half precision stops at 0.9985: https://github.com/numpy/numpy/issues/30821
        np.testing.assert_allclose(C_t[:, 1::2], -np.ones((3, 2)), rtol=4 * np.finfo(dtype).eps)
    else:
        assert not C_t[:, 1::2].any()
    assert not to_numpy(result["h_t"])[:, 1::2].any()


@each_cell
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_dtype_is_kept(agree, cell_type, dtype):
    arguments = random_step(cell_type, {"B": 3, "I": 4, "H": 5}, seed=6)
    expected = reference(*arguments)
    for framework in (np.asarray, torch.tensor):
        result = there_and_back(*convert(lambda x, f=framework: f(x.astype(dtype)), *arguments))
        assert {str(x.dtype).removeprefix("torch.") for x in result.values()} == {dtype}
        agree(cell_type.step_backward, "torch.autograd, float64", result, expected, dtype=dtype)


@each_cell
def test_bfloat16_is_kept(agree, cell_type):
    arguments = random_step(cell_type, {"B": 3, "I": 4, "H": 5}, seed=6)
    result = there_and_back(*convert(lambda x: torch.tensor(x).bfloat16(), *arguments))
    assert {x.dtype for x in result.values()} == {torch.bfloat16}
    agree(cell_type.step_backward, "torch.autograd, float64", result, reference(*arguments), dtype="bfloat16")


@each_cell
def test_the_device_is_kept(cell_type):
    arguments = random_step(cell_type, {"B": 3, "I": 4, "H": 5}, seed=6)
    result = there_and_back(*convert(lambda x: torch.tensor(x, device="meta"), *arguments))
    expected = there_and_back(*arguments)
    assert {name: tuple(x.shape) for name, x in result.items()} == {
        name: x.shape for name, x in expected.items()
    }
    assert {x.device.type for x in result.values()} == {"meta"}


@each_cell
@given(n=sizes("B", "I", "H"), seed=seeds)
def test_numpy_and_torch_give_the_same_numbers(agree, cell_type, n, seed):
    arguments = random_step(cell_type, n, seed)
    result = there_and_back(*convert(torch.tensor, *arguments))
    agree(cell_type.step_backward, "NumPy", result, there_and_back(*arguments))


@each_cell
def test_views_give_the_numbers_of_copies(agree, cell_type):
    def view(x):
        wide = np.zeros((2 * x.shape[0], *x.shape[1:]), order="F")
        wide[::2] = x
        return wide[::2]

    arguments = random_step(cell_type, {"B": 3, "I": 4, "H": 5}, seed=6)
    views = convert(view, *arguments)
    assert not views[1].flags.c_contiguous
    agree(cell_type.step_backward, "contiguous arrays", there_and_back(*views), there_and_back(*arguments))


@each_cell
def test_a_nan_in_one_example_reaches_its_state_and_no_other(cell_type):
    cell, x_t, state, _ = random_step(cell_type, {"B": 3, "I": 2, "H": 4}, seed=1)
    x_t[1, 0] = np.nan
    (h_t, C_t), _ = cell.step(x_t, state)
    for new in (h_t, C_t):
        assert np.isnan(new[1]).all()
        assert np.isfinite(new[[0, 2]]).all()


# --- parameters, and what is refused ----------------------------------------------------------


@each_cell
def test_a_cell_knows_its_sizes_and_its_state(cell_type):
    cell: Cell = random_cell(cell_type, np.random.default_rng(0), 2, 5)
    assert (cell.input_size, cell.hidden_size, cell.state_names) == (2, 5, ("h", "C"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        cell.W_C = cell.W_C


@given(sizes("I", "H"), seeds)
def test_a_matrix_is_its_two_parts(n, seed):
    W = np.random.default_rng(seed).normal(size=(n["H"], n["H"] + n["I"]))
    W_h, W_x = lstm.split(W)
    assert np.array_equal(W_h, W[:, : n["H"]])
    assert np.array_equal(W_x, W[:, n["H"] :])
    assert np.shares_memory(W, W_h)
    assert np.array_equal(lstm.whole(W_h, W_x), W)
    assert torch.equal(lstm.whole(*lstm.split(torch.tensor(W))), torch.tensor(W))


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(
        ValueError, match=r"split: W has shape \(3, 3\), expected \(H, H\+I\) with I at least 1"
    ):
        lstm.split(np.ones((3, 3)))
    with pytest.raises(ValueError, match=r"W_x has shape \(3, 1\), expected \(H, I\) = \(2, 1\)"):
        lstm.whole(np.ones((2, 2)), np.ones((3, 1)))


@pytest.mark.parametrize("cell_type", [LSTMCell, PeepholeLSTMCell, LayerNormLSTMCell])
def test_one_product_serves_all_gates(agree, cell_type):
    cell, x_t, (h_prev, _), _ = random_step(cell_type, {"B": 2, "I": 3, "H": 4}, seed=3)
    W, b = lstm.stacked(cell)
    a_t = np.concatenate([h_prev, x_t], axis=1) @ W.T + b
    expected = [
        lstm.preactivation(x_t, h_prev, getattr(cell, f"W_{gate}"), getattr(cell, f"b_{gate}"))
        for gate in "fiCo"
    ]
    agree(lstm.stacked, "gate by gate", a_t, np.concatenate(expected, axis=1))


@pytest.mark.parametrize("cell_type", [CoupledLSTMCell, NoForgetLSTMCell])
def test_a_cell_without_all_gates_is_not_stacked(cell_type):
    cell = random_cell(cell_type, np.random.default_rng(0), 2, 3)
    with pytest.raises(TypeError, match=rf"stacked: cell is a {cell_type.__name__}, expected an LSTMCell"):
        lstm.stacked(cell)


@pytest.mark.parametrize("cell_type", [LSTMCell, PeepholeLSTMCell, CoupledLSTMCell, LayerNormLSTMCell])
def test_the_forget_bias_is_set_and_nothing_else(cell_type):
    cell = map_arrays(np.float32, random_cell(cell_type, np.random.default_rng(0), 2, 3))
    biased = lstm.with_forget_bias(cell, 1.5)
    assert type(biased) is cell_type
    assert biased.b_f.dtype == np.float32
    assert np.array_equal(biased.b_f, [1.5, 1.5, 1.5])
    for name, x in arrays_of(cell).items():
        assert name == "b_f" or getattr(biased, name) is x


def test_a_forget_bias_that_makes_no_sense_is_refused():
    rng = np.random.default_rng(0)
    for bias in (math.inf, math.nan):
        with pytest.raises(
            ValueError, match=r"with_forget_bias: bias is (inf|nan), expected a finite number"
        ):
            lstm.with_forget_bias(random_cell(LSTMCell, rng, 2, 3), bias)
    with pytest.raises(
        TypeError, match=r"cell is a NoForgetLSTMCell, expected an LSTM cell with a forget gate"
    ):
        lstm.with_forget_bias(random_cell(NoForgetLSTMCell, rng, 2, 3), 1.0)


@each_cell
def test_a_cell_refuses_what_does_not_fit(cell_type):
    cell = random_cell(cell_type, np.random.default_rng(0), 3, 2)
    name = cell_type.__name__
    for field, x in arrays_of(cell).items():
        wrong = {field: np.ones((*x.shape[:-1], x.shape[-1] + 1))}
        with pytest.raises(ValueError, match=rf"{name}: \w+ has shape .*, expected \("):
            dataclasses.replace(cell, **wrong)
        with pytest.raises(TypeError, match=rf"{name}: .* has dtype complex128"):
            dataclasses.replace(cell, **{field: x + 0j})
        with pytest.raises(
            TypeError, match=rf"{name}: {field} has dtype int64, expected a real floating-point"
        ):
            dataclasses.replace(cell, **{field: np.ones(x.shape, dtype=np.int64)})
        with pytest.raises(TypeError, match=rf"{name}: .* float64 but \w+ has float32|float32 but"):
            dataclasses.replace(cell, **{field: x.astype(np.float32)})
        with pytest.raises(ValueError, match=rf"{name}: {field} holds NaN"):
            dataclasses.replace(cell, **{field: np.full_like(x, np.nan)})
        with pytest.raises(TypeError, match=rf"{name}: {field} is a list, expected a numpy.ndarray"):
            dataclasses.replace(cell, **{field: x.tolist()})
        with pytest.raises(TypeError, match="expected all arrays of one kind"):
            dataclasses.replace(cell, **{field: torch.tensor(x)})


def test_the_messages_name_what_came_and_what_was_expected():
    W, b = np.ones((2, 5)), np.ones(2)
    with pytest.raises(
        ValueError, match=r"LSTMCell: W_i has shape \(2, 4\), expected \(H, H\+I\) = \(2, 5\)"
    ):
        LSTMCell(W, W[:, :4], W, W, b, b, b, b)
    with pytest.raises(
        ValueError, match=r"LSTMCell: W_\w has shape \(2, 2\), expected \(H, H\+I\) with I at"
    ):
        LSTMCell(*[W[:, :2]] * 4, b, b, b, b)
    with pytest.raises(ValueError, match=r"LSTMCell: W_C has shape \(2,\), expected .*\(H, H\+I\)"):
        LSTMCell(W, W, b, W, b, b, b, b)
    with pytest.raises(ValueError, match=r"p_o has shape \(3,\), expected \(H\) = \(2,\)"):
        PeepholeLSTMCell(W, W, W, W, b, b, b, b, b, b, np.ones(3))
    gains = np.ones((4, 8))
    with pytest.raises(ValueError, match=r"alpha_h has shape \(7,\), expected \(4H\) = \(8,\)"):
        LayerNormLSTMCell(W, W, W, W, b, b, b, b, np.ones(7), *gains[1:], b, b)
    with pytest.raises(
        ValueError, match=r"LayerNormLSTMCell: epsilon is 0.0, expected a finite number above 0"
    ):
        LayerNormLSTMCell(W, W, W, W, b, b, b, b, *gains, b, b, epsilon=0.0)


def test_a_sequence_of_the_wrong_width_is_refused():
    cell = random_cell(LSTMCell, np.random.default_rng(0), 3, 2)
    with pytest.raises(ValueError, match=r"has shape \(2, 5\), expected \(H, H\+I\) = \(2, 6\) with H = 2"):
        unroll(cell, np.ones((2, 1, 4)))
    with pytest.raises(ValueError, match=r"has 1 arrays, expected 2: \(h_0, C_0\)"):
        unroll(cell, np.ones((2, 1, 3)), np.ones((1, 2)))
