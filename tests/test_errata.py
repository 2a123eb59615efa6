"""The errata of the notes: every slip shown to fail, every correction held to a reference.

For each erratum on the page one test computes the notes' form and the corrected one, and holds every
number that the page prints for it. The page and the tests must name the same errata.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from rnnlib import bptt, deep, dynamics, gradients, gru, losses, lstm, sharing
from rnnlib.bidirectional import Bidirectional
from rnnlib.cell import arrays_of
from rnnlib.initialisation import orthogonal
from rnnlib.unroll import unroll
from rnnlib.vanilla import VanillaCell, output
from tests.conftest import ROOT

PAGE = (ROOT / "book" / "errata.md").read_text(encoding="utf-8")
KINDS = {"wrong", "imprecise", "conditional", "costly", "left open"}

covered: list[str] = []
"""The errata that have a test, in the order of the tests."""


def erratum(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """This test computes what the page says under this anchor."""

    def register(test: Callable[..., None]) -> Callable[..., None]:
        covered.append(name)
        return test

    return register


def entries() -> dict[str, str]:
    """The text of every erratum on the page by its anchor, in order."""
    parts = re.split(r"^\((erratum-[a-z-]+)\)=$", PAGE, flags=re.MULTILINE)
    return {
        name: re.split(r"^## ", text, flags=re.MULTILINE)[0]
        for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }


def numbers(text: str) -> set[str]:
    """What counts as a number that must be computed: decimals, and whole numbers from 100 on."""
    return set(re.findall(r"\d+\.\d+|\d{3,}", text))


def states(name: str, *texts: str) -> None:
    """The page's "In numbers" says all of these, and no number that is in none of them."""
    paragraph = next(p for p in entries()[name].split("\n\n") if p.startswith("**In numbers.**"))
    for text in texts:
        assert text in paragraph, f"{name}: the page does not say {text}"
    unheld = numbers(paragraph) - set().union(*(numbers(text) for text in texts))
    assert not unheld, f"{name}: no test computes {sorted(unheld)}"


def vector(values: Any, digits: int = 4) -> str:
    """How the page writes a vector."""
    return "(" + r",\ ".join(f"{x:.{digits}f}" for x in np.ravel(values)) + ")"


def matrix(values: Any, digits: int = 4) -> str:
    """How the page writes a matrix."""
    rows = (" & ".join(f"{x:.{digits}f}" for x in row) for row in np.asarray(values))
    return r"\begin{pmatrix} " + r" \\ ".join(rows) + r" \end{pmatrix}"


def distance(actual: Any, right: Any) -> float:
    """‖actual - right‖ / ‖right‖."""
    return float(np.linalg.norm(np.subtract(actual, right)) / np.linalg.norm(right))


# --- the network of chapter 1, and the same written afresh in torch -----------------------------

EXAMPLE = {
    "W_xh": np.array([[1.0], [0.0]]),
    "W_hh": np.array([[0.5, -0.5], [1.0, 0.5]]),
    "b_h": np.array([0.0, 0.1]),
    "W_hy": np.array([[1.0, 1.0]]),
    "b_y": np.array([0.0]),
    "h_0": np.zeros(2),
}
XS = np.array([1.0, 0.0, -1.0]).reshape(3, 1, 1)  # (T, B, I)
CELL = VanillaCell(EXAMPLE["W_xh"], EXAMPLE["W_hh"], EXAMPLE["b_h"])
RUN = unroll(CELL, XS)
A = RUN.along_time("a_t")  # (T, B, H)


class Afresh:
    """The network of chapter 1 in torch, one column per step: what autograd sees."""

    def __init__(self) -> None:
        self.leaves = {name: torch.tensor(a, requires_grad=True) for name, a in EXAMPLE.items()}
        n = self.leaves
        self.hs, self.ys = [n["h_0"]], []
        for x_t in torch.tensor(XS[:, 0]):
            self.hs.append(torch.tanh(n["W_hh"] @ self.hs[-1] + n["W_xh"] @ x_t + n["b_h"]))
            self.ys.append(n["W_hy"] @ self.hs[-1] + n["b_y"])

    def gradient(self, loss: torch.Tensor, name: str) -> np.ndarray:
        """∂loss/∂name by autograd."""
        return torch.autograd.grad(loss, self.leaves[name], retain_graph=True)[0].numpy()


def loss_of_chapter_4(afresh: Afresh) -> torch.Tensor:
    return ((afresh.ys[2] - 1) ** 2).sum() / 2


D_Y = output(RUN.hs[2], EXAMPLE["W_hy"], EXAMPLE["b_y"]) - 1  # (B, O), of the loss above
D_HS = np.zeros((3, 1, 2))  # (T, B, H)
D_HS[2] = D_Y @ EXAMPLE["W_hy"]


def jacobian(function: Callable[[torch.Tensor], torch.Tensor], at: Any) -> np.ndarray:
    """A Jacobian by autograd, a row for each output."""
    return torch.autograd.functional.jacobian(function, torch.tensor(at)).numpy()


def step_of_example(t: int) -> Callable[[torch.Tensor], torch.Tensor]:
    n, x_t = {name: torch.tensor(a) for name, a in EXAMPLE.items()}, torch.tensor(XS[t - 1, 0])
    return lambda h: torch.tanh(n["W_hh"] @ h + n["W_xh"] @ x_t + n["b_h"])


# --- section 1 ----------------------------------------------------------------------------------


@erratum("erratum-output")
def test_the_output_is_no_distribution_before_a_softmax(agree):
    y = np.array([[2.0, 0.0, -1.0]])  # (B, O)
    assert y.sum() == 1
    assert y.min() < 0
    p = losses.softmax(y)
    agree(losses.softmax, "torch.softmax", p, torch.softmax(torch.tensor(y), 1))
    assert p.min() > 0
    assert np.isclose(p.sum(), 1)
    states("erratum-output", "$y_t = (2,\\ 0,\\ -1)$", vector(p))


# --- section 2 ----------------------------------------------------------------------------------


@erratum("erratum-biases")
def test_shared_weights_with_biases_of_each_step_do_not_treat_all_steps_alike():
    untied = sharing.untie(
        sharing.SharedNetwork(
            *(EXAMPLE[n] for n in ("W_xh", "W_hh")), np.zeros(2), EXAMPLE["W_hy"], EXAMPLE["b_y"]
        ),
        2,
    )
    own_biases = sharing.UnsharedNetwork(
        untied.W_xh, untied.W_hh, np.array([[0.0, 0.0], [0.0, 0.5]]), untied.W_hy, untied.b_y
    )
    xs = np.array([1.0, 0.0]).reshape(2, 1, 1)
    later = sharing.shift(xs)
    now, moved = (sharing.unshared(own_biases, x)[0] for x in (xs, later))
    assert distance(moved[1], now[0]) > 0.5
    shared_now, shared_moved = (sharing.unshared(untied, x)[0] for x in (xs, later))
    assert np.array_equal(shared_moved[1], shared_now[0])

    def count(steps):
        """The notes' list is shared, the biases are not."""
        return 2 * 2 + 2 * 1 + 1 * 2 + steps * (2 + 1)

    arrays = arrays_of(untied)
    assert count(2) == sum(a[0].size if n.startswith("W") else a.size for n, a in arrays.items())
    shared = sharing.shared_parameters(1, 2, 1)
    network = torch.nn.RNN(1, 2, bias=False), torch.nn.Linear(2, 1)
    assert shared == sum(p.numel() for module in network for p in module.parameters()) + 2
    states(
        "erratum-biases",
        "$b_h^{(2)} = (0,\\ 0.5)$",
        vector(now[0]),
        vector(moved[1]),
        f"{shared} parameters",
        f"{count(3)} at $T = 3$",
        f"{count(100)} at $T = 100$",
    )


# --- section 3 ----------------------------------------------------------------------------------


@erratum("erratum-initial-state")
def test_the_first_state_matters_and_has_a_gradient_of_its_own(agree):
    other = unroll(CELL, XS, np.ones((1, 2)))
    assert distance(other.hs[-1], RUN.hs[-1]) > 0.2
    afresh = Afresh()
    agree("unroll.unroll", "torch.autograd", RUN.hs[-1, 0], afresh.hs[-1])
    d_h_0 = bptt.bptt(CELL, RUN, D_HS).d_initial[0][0]
    agree(bptt.bptt, "torch.autograd", d_h_0, afresh.gradient(loss_of_chapter_4(afresh), "h_0"))
    assert np.linalg.norm(d_h_0) > 0.3
    states(
        "erratum-initial-state",
        vector(RUN.hs[-1]),
        vector(other.hs[-1]),
        vector(d_h_0),
    )


# --- section 4 ----------------------------------------------------------------------------------


@erratum("erratum-special")
def test_ordinary_backpropagation_through_layers_gives_the_same_gradient(agree):
    network = sharing.SharedNetwork(*(EXAMPLE[n] for n in ("W_xh", "W_hh", "b_h", "W_hy", "b_y")))
    layers = sharing.untie(network, 3)  # a feed-forward network of three layers
    hs, _ = sharing.unshared(layers, XS)
    d_ys = np.zeros((3, 1, 1))
    d_ys[2] = D_Y
    d_as = sharing.unshared_backward(layers, XS, hs, d_ys)
    d_layers = sharing.step_gradients(layers, XS, hs, d_as, d_ys)
    summed = sharing.shared_gradient(d_layers).W_hh
    by_time = bptt.bptt(CELL, RUN, D_HS).d_cell.W_hh
    assert np.allclose(summed, by_time, rtol=0, atol=1e-15)
    afresh = Afresh()
    agree(
        sharing.shared_gradient, "torch.autograd", summed, afresh.gradient(loss_of_chapter_4(afresh), "W_hh")
    )
    states(
        "erratum-special",
        matrix(d_layers.W_hh[1]),
        matrix(d_layers.W_hh[2]),
        matrix(by_time),
    )


@erratum("erratum-loss-sum")
def test_a_loss_of_two_outputs_at_once_is_no_sum_over_steps(agree):
    def loss(ys):
        return ((ys[2] - ys[0]) ** 2).sum() / 2

    afresh = Afresh()
    ys = torch.stack(afresh.ys)
    hessian = torch.autograd.functional.hessian(loss, ys.detach()).reshape(3, 3)
    assert hessian[0, 2] == -1  # of a sum of L_t(y_t) it would be 0
    d_ys = np.zeros((3, 1, 1))
    d_ys[2] = ys[2].item() - ys[0].item()
    d_ys[0] = -d_ys[2]
    d_hs = losses.linear_readout_backward(d_ys, RUN.hs, EXAMPLE["W_hy"])[0]
    right = bptt.bptt(CELL, RUN, d_hs).d_cell.b_h
    agree(bptt.bptt, "torch.autograd", right, afresh.gradient(loss(ys), "b_h"))

    def each(y):
        return (y - 1) ** 2 / 2

    total = afresh.gradient(each(ys).sum(), "b_h")
    mean = afresh.gradient(each(ys).mean(), "b_h")
    assert np.allclose(total, 3 * mean, rtol=1e-14)
    states(
        "erratum-loss-sum",
        f"is ${hessian[0, 2]:.0f}$",
        vector(right),
        vector(total),
        vector(mean),
    )


@erratum("erratum-readout-gradient")
def test_the_double_sum_is_zero_for_the_readout_weights(agree):
    """∂h_k/∂W_hy is zero: no state depends on the readout."""
    afresh = Afresh()
    rows = [torch.autograd.grad(h.sum(), afresh.leaves["W_hy"], allow_unused=True)[0] for h in afresh.hs[1:]]
    assert rows == [None, None, None]  # torch finds no path at all
    d_ys = np.zeros((3, 1, 1))
    d_ys[2] = D_Y
    right = losses.linear_readout_backward(d_ys, RUN.hs, EXAMPLE["W_hy"])[1]
    reference = afresh.gradient(loss_of_chapter_4(afresh), "W_hy")
    agree(losses.linear_readout_backward, "torch.autograd", right, reference)
    states("erratum-readout-gradient", vector(right))


@erratum("erratum-immediate")
def test_the_last_factor_must_be_the_immediate_derivative(agree):
    def chain(T):
        """h_t = w h_{t-1}, L = h_T, with w = 3: the notes' sum with total derivatives, and the gradient."""
        cell = VanillaCell(np.zeros((1, 1)), np.array([[3.0]]), np.zeros(1), "identity")
        run = unroll(cell, np.zeros((T, 1, 1)), np.ones((1, 1)))
        last = np.zeros((T, 1, 1))
        last[-1] = 1.0
        w = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
        hs = [torch.ones((), dtype=torch.float64)]
        for _ in range(T):
            hs.append(w * hs[-1])
        totals = [torch.autograd.grad(h, w, retain_graph=True)[0].item() for h in hs[1:]]
        as_totals = sum(3.0 ** (T - k) * total for k, total in enumerate(totals, start=1))
        return as_totals, bptt.double_sum(cell, run, last).W_hh.item(), totals[-1]

    wrong, right, reference = chain(2)
    agree(bptt.double_sum, "torch.autograd", right, reference)
    assert (wrong, right) == (9, 6)
    for T in (3, 10):
        more, right_T, reference = chain(T)
        agree(bptt.double_sum, "torch.autograd", right_T, reference)
        assert np.isclose(more / right_T, (T + 1) / 2, rtol=1e-13)
    states("erratum-immediate", f"gives {wrong:.0f}", f"is {right:.0f}", f"{more / right_T:.1f} times")


def back(step: Callable[[int, np.ndarray], np.ndarray]) -> np.ndarray:
    """∂L/∂W_hh of the example; ``step`` carries a gradient from h_t to h_{t-1}, rightly or not."""
    d_h, d_W_hh = D_HS[2, 0], np.zeros((2, 2))
    for t in (3, 2, 1):
        d_a = d_h * (1 - np.tanh(A[t - 1, 0]) ** 2)
        d_W_hh = d_W_hh + np.outer(d_a, h_before(t)[0])
        d_h = step(t, d_h)
    return d_W_hh


def h_before(t: int) -> np.ndarray:
    return RUN.hs[t - 2] if t > 1 else np.zeros((1, 2))  # (B, H)


@erratum("erratum-jacobian")
def test_the_slope_belongs_at_the_preactivation(agree):
    W_hh = EXAMPLE["W_hh"]
    right, reference = gradients.step_jacobian(A[2], W_hh)[0], jacobian(step_of_example(3), RUN.hs[1, 0])
    agree(gradients.step_jacobian, "torch.autograd", right, reference)
    notes = gradients.step_jacobian_notes(RUN.hs[1], W_hh)[0].T  # the layout forgiven
    assert distance(notes, reference) > 0.5
    at_a_i = gradients.step_jacobian_notes(A[2], W_hh)[0].T
    assert np.allclose(at_a_i, reference, rtol=0, atol=1e-15)

    afresh = Afresh()
    gradient = afresh.gradient(loss_of_chapter_4(afresh), "W_hh")
    good = back(lambda t, d: gradients.step_jacobian(A[t - 1], W_hh)[0].T @ d)
    bad = back(lambda t, d: gradients.step_jacobian_notes(h_before(t), W_hh)[0] @ d)
    agree(gradients.step_jacobian, "torch.autograd", good, gradient)
    assert distance(bad, gradient) > 0.3

    def step_of_a(a):
        return torch.tensor(W_hh) @ torch.tanh(a) + torch.tensor(EXAMPLE["W_xh"]) @ torch.tensor(XS[2, 0])

    other_state = jacobian(step_of_a, A[1, 0])
    agree(
        gradients.preactivation_jacobian,
        "torch.autograd",
        gradients.preactivation_jacobian(A[1], W_hh)[0],
        other_state,
    )
    assert np.allclose(gradients.step_jacobian_notes(A[1], W_hh.T)[0], other_state, rtol=0, atol=1e-15)
    states(
        "erratum-jacobian",
        matrix(right),
        matrix(notes),
        matrix(gradient),
        matrix(bad),
        f"wrong by {distance(bad, gradient):.0%}".replace("%", " %"),
    )


@erratum("erratum-layout")
def test_transposed_factors_do_not_fit_into_a_chain_of_rows(agree):
    W_hh = EXAMPLE["W_hh"]
    J_2, J_3 = (gradients.step_jacobian(A[t - 1], W_hh)[0] for t in (2, 3))
    two_steps = jacobian(lambda h: step_of_example(3)(step_of_example(2)(h)), RUN.hs[0, 0])
    right = gradients.jacobian_product(np.stack([J_2[None], J_3[None]]))[0]
    agree(gradients.jacobian_product, "torch.autograd", right, two_steps)
    assert distance(J_2 @ J_3, two_steps) > 0.5
    assert np.allclose(J_2.T @ J_3.T, two_steps.T, rtol=0, atol=1e-15)

    afresh = Afresh()
    gradient = afresh.gradient(loss_of_chapter_4(afresh), "W_hh")
    # A row times a transposed factor, dᵀ Jᵀ, is the column J d.
    mixed = back(lambda t, d: gradients.step_jacobian(A[t - 1], W_hh)[0] @ d)
    assert distance(mixed, gradient) > 0.3
    states(
        "erratum-layout",
        matrix(right),
        matrix(J_2 @ J_3),
        matrix(gradient),
        matrix(mixed),
        f"wrong by {distance(mixed, gradient):.0%}".replace("%", " %"),
    )


@erratum("erratum-double-sum")
def test_the_double_sum_costs_the_square_of_what_the_recursion_does(agree):
    def counted(T):
        rng = np.random.default_rng(T)
        meter = bptt.Meter()
        cell = meter.watch(VanillaCell(*(0.5 * rng.normal(size=s) for s in ((3, 2), (3, 3), 3))))
        run, d_hs = unroll(cell, rng.normal(size=(T, 2, 2))), rng.normal(size=(T, 2, 3))
        fast = bptt.bptt(cell, run, d_hs).d_cell.W_hh
        recursion = meter.steps_back
        agree(bptt.double_sum, "the recursion", bptt.double_sum(cell, run, d_hs).W_hh, fast)
        return recursion, meter.steps_back - recursion

    for T in (1, 5, 10):
        assert counted(T) == (T, T * (T + 1) // 2)
    recursion, double = counted(100)
    afresh = sum(t - k for t in range(1, 101) for k in range(1, t + 1))  # every product formed anew
    assert afresh == 99 * 100 * 101 // 6
    states(
        "erratum-double-sum",
        f"{recursion} steps back",
        f"{double} steps back",
        f"{afresh} factors",
        "$T = 100$",
    )


# --- section 5 ----------------------------------------------------------------------------------


@erratum("erratum-sigma")
def test_the_sigma_of_a_gate_is_the_logistic_function(agree):
    reference = torch.nn.LSTMCell(1, 1, dtype=torch.float64)
    with torch.no_grad():
        for p in reference.parameters():
            p.zero_()
        reference.bias_ih[1] = -1.0  # order i, f, C̃, o
    zero, one = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    _, C_torch = reference(zero, (zero, one))
    f = lstm.forget_gate(np.zeros((1, 1)), np.zeros((1, 1)), np.zeros((1, 2)), np.array([-1.0]))
    C = lstm.memory(f, np.ones((1, 1)), np.full((1, 1), 0.5), np.zeros((1, 1)))
    agree(lstm.memory, "torch.nn", C, C_torch)
    with_tanh = np.tanh(-1.0)  # σ as section 1 reads it; the candidate is 0, so C_t = f_t
    assert with_tanh < 0 < C.item()
    states("erratum-sigma", f"${C.item():.4f}$", f"${with_tanh:.4f}$")


@erratum("erratum-concatenation")
def test_the_two_vectors_stand_one_above_the_other_the_state_first(agree):
    h, x = torch.tensor([[0.3], [-0.2]]).double(), torch.tensor([[0.5]]).double()
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        torch.hstack([h, x])
    W = torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.5, 1.0]]).double()
    reference = torch.sigmoid(W @ torch.vstack([h, x]))
    f = lstm.forget_gate(x.T.numpy(), h.T.numpy(), W.numpy(), np.zeros(2))
    agree(lstm.forget_gate, "torch.sigmoid", f, reference.T)
    # With H = I the wrong order fits as well, and nothing complains.
    one, zero, W = np.ones((1, 1)), np.zeros((1, 1)), np.array([[1.0, -1.0]])
    right = lstm.forget_gate(zero, one, W, np.zeros(1)).item()
    swapped = lstm.forget_gate(one, zero, W, np.zeros(1)).item()
    assert np.isclose(right, torch.sigmoid(torch.tensor(1.0, dtype=torch.float64)).item())
    states("erratum-concatenation", f"${right:.4f}$", f"${swapped:.4f}$")


def products_in_series(cell: Any) -> int:
    """How many matrix products lie one behind the other between h_{t-1} and h_t."""
    state = tuple(dynamics.traced(np.full((1, 2), 0.3), name) for name in cell.state_names)
    (h_t, *_), _ = cell.step(np.ones((1, 1)), state)
    longest: dict[Any, int] = {}
    for node in dynamics.computation_graph(h_t).nodes:
        longest[node] = (node.name == "matmul") + max((longest[p] for p in node.parents), default=0)
    return longest[h_t.node]


@erratum("erratum-gru-simpler")
def test_a_gru_has_fewer_parameters_but_two_products_in_series():
    rng = np.random.default_rng(0)

    def draw(*shapes):
        return (rng.normal(size=shape) for shape in shapes)

    W, b = (2, 3), 2
    lstm_cell, gru_cell = lstm.LSTMCell(*draw(W, W, W, W, b, b, b, b)), gru.GRUCell(*draw(W, b, W, b, W, b))
    counts = [sum(a.size for a in arrays_of(cell).values()) for cell in (lstm_cell, gru_cell)]
    assert counts == [4 * 2 * 4, 3 * 2 * 4]
    assert counts == [
        sum(p.numel() for p in m(1, 2).parameters()) - n * 2
        for m, n in ((torch.nn.LSTM, 4), (torch.nn.GRU, 3))
    ]
    assert products_in_series(lstm_cell) == 1
    assert products_in_series(gru_cell) == 2
    after = gru.ResetAfterGRUCell(*draw(W, b, W, b, (2, 1), b, (2, 2), b))
    assert products_in_series(after) == 1
    states("erratum-gru-simpler", f"{counts[0]} and {counts[1]} parameters", "two products", "one product")


@erratum("erratum-gru")
def test_the_same_numbers_mean_another_network_to_torch(agree):
    """H = 2, no weights but W_h, gates set by their biases."""
    h, W_h = np.array([[0.5, -0.5]]), np.array([[0.0, 2.0], [2.0, 0.0]])
    b_r = np.log([9.0, 1 / 9])  # r = (0.9, 0.1)
    x, W_x, off = np.zeros((1, 1)), np.zeros((2, 1)), np.zeros((2, 3))

    def notes(b_z):
        return gru.GRUCell(off, b_z, off, b_r, np.hstack([W_h, W_x]), np.zeros(2)).step(x, (h,))[0][0]

    def after(b_z):
        cell = gru.ResetAfterGRUCell(off, b_z, off, b_r, W_x, np.zeros(2), W_h, np.zeros(2))
        return cell.step(x, (h,))[0][0]

    def by_torch(b_z):
        """The same numbers, put where torch has the gates of the same names: r, z, n."""
        cell = torch.nn.GRUCell(1, 2, dtype=torch.float64)
        with torch.no_grad():
            for p in cell.parameters():
                p.zero_()
            cell.weight_hh[4:] = torch.tensor(W_h)
            cell.bias_ih[:2], cell.bias_ih[2:4] = torch.tensor(b_r), torch.tensor(b_z)
            return cell(torch.tensor(x), torch.tensor(h)).numpy()

    ours, torchs = notes(np.zeros(2)), by_torch(np.zeros(2))
    assert distance(ours, torchs) > 1
    agree("gru.ResetAfterGRUCell", "torch.nn", after(np.zeros(2)), torchs)
    z = gru.update_gate(x, h, off, np.full(2, -2.0))[0, 0]
    swapped = by_torch(np.full(2, -2.0))
    assert distance(after(np.full(2, -2.0)), swapped) > 0.5
    agree("gru.ResetAfterGRUCell", "torch.nn", after(np.full(2, 2.0)), swapped)  # W_z, b_z negated
    r = gru.reset_gate(x, h, off, b_r)
    states(
        "erratum-gru",
        "$h_{t-1} = (0.5,\\ -0.5)$",
        f"$r_t = {vector(r, 1)}$",
        "$z_t = (0.5,\\ 0.5)$",
        vector(ours),
        vector(torchs),
        f"${z:.4f}$",
        f"${1 - z:.4f}$",
    )


# --- section 6 ----------------------------------------------------------------------------------


@erratum("erratum-bound")
def test_the_bound_with_the_slope_at_the_state_is_no_bound(agree):
    W, b, h = np.array([[1.0]]), np.array([-0.9]), np.array([[0.9]])
    a = h @ W.T + b
    actual = abs(jacobian(lambda h: torch.tanh(torch.tensor(W) @ h + torch.tensor(b)), h[0]).item())
    notes = gradients.spectral_norm(W) * (1 - np.tanh(h.item()) ** 2)
    assert actual > 2 * notes
    right = gradients.step_bound(a, W)
    agree(gradients.step_bound, "torch.autograd", right.actual[0], actual)
    assert actual <= right.bound[0] == 1
    states(
        "erratum-bound", "$h_{t-1} = 0.9$", "$b_h = -0.9$", f"derivative is ${actual:.0f}$", f"${notes:.4f}$"
    )


@erratum("erratum-vanish")
def test_a_small_norm_at_one_step_is_not_enough_and_a_small_norm_is_not_needed(agree):
    # One unit, w = 3, inputs that make the slopes of the steps 1/6 and 1 in turn.
    w, bend = 3.0, np.sqrt(5 / 6)
    xs = np.tile([np.arctanh(bend), -w * bend], 10).reshape(20, 1, 1)
    unit = VanillaCell(np.ones((1, 1)), np.array([[w]]), np.zeros(1))
    run = unroll(unit, xs)
    steps = gradients.state_jacobians(unit, run)[:, 0, 0, 0]
    assert np.allclose(steps, np.tile([0.5, 3.0], 10))

    def to_the_end(h):
        for x in xs[:, 0, 0]:
            h = torch.tanh(w * h + x)
        return h

    product = gradients.jacobian_product(gradients.state_jacobians(unit, run))[0]
    agree(gradients.jacobian_product, "torch.autograd", product, jacobian(to_the_end, np.zeros(1)))
    grows = product.item()

    W = np.array([[0.9, 1.0], [0.0, 0.9]])
    powers = gradients.power_bounds(W, 200)
    assert not gradients.must_vanish(W, "identity")  # says nothing
    agree(gradients.spectral_norm, "numpy.linalg.norm", powers.actual[1], np.linalg.norm(W, 2))
    agree(
        gradients.spectral_norm,
        "numpy.linalg.norm",
        powers.actual[200],
        np.linalg.norm(np.linalg.matrix_power(W, 200), 2),
    )
    peak = int(np.argmax(powers.actual))
    assert powers.actual[200] < 1e-6
    calm = VanillaCell(np.ones((2, 1)), 0.6 * W, np.zeros(2))
    assert gradients.must_vanish(calm.W_hh)  # says: whatever the inputs
    run = unroll(calm, np.random.default_rng(0).normal(size=(100, 1, 1)))
    assert gradients.product_norms(gradients.state_jacobians(calm, run))[-1, 0] < 1e-3
    states(
        "erratum-vanish",
        f"$0.5 \\cdot 3 = {0.5 * 3}$",
        f"${grows:.2f}$",
        r"$W = \begin{pmatrix} 0.9 & 1 \\ 0 & 0.9 \end{pmatrix}$",
        f"norm ${powers.actual[1]:.4f}$",
        f"${powers.actual[peak]:.4f}$ at the power {peak}",
        f"${powers.actual[200] * 1e7:.1f} \\cdot 10^{{-7}}$ at the power 200",
    )


@erratum("erratum-explode")
def test_a_norm_above_one_does_not_make_gradients_explode(agree):
    W = np.array([[0.0, 2.0], [0.0, 0.0]])
    step = gradients.step_jacobian(np.zeros((1, 2)), W, "identity")[0]
    agree(
        gradients.step_jacobian, "torch.autograd", step, jacobian(lambda h: torch.tensor(W) @ h, np.zeros(2))
    )
    norm = gradients.spectral_norm(step)
    two = jacobian(lambda h: torch.tensor(W) @ (torch.tensor(W) @ h), np.zeros(2))
    assert (two == 0).all()
    assert norm == 2
    assert gradients.may_explode(W, "identity")  # necessary, and no more
    powers = gradients.power_bounds(W, 2)
    assert (powers.actual == [1, 2, 0]).all()
    assert (powers.lower == [1, 0, 0]).all()
    assert (powers.upper == [1, 2, 4]).all()
    states("erratum-explode", f"norm {norm:.0f}", "square is zero")


# --- section 7 ----------------------------------------------------------------------------------


@erratum("erratum-bidirectional")
def test_both_directions_need_a_wider_readout_and_the_end_of_the_sequence(agree):
    both = Bidirectional((CELL, CELL))
    states_of = both.forward(XS).hs
    reference = torch.nn.RNN(1, 2, bidirectional=True, dtype=torch.float64)
    with torch.no_grad():
        for suffix in ("", "_reverse"):
            getattr(reference, f"weight_ih_l0{suffix}").copy_(torch.tensor(EXAMPLE["W_xh"]))
            getattr(reference, f"weight_hh_l0{suffix}").copy_(torch.tensor(EXAMPLE["W_hh"]))
            getattr(reference, f"bias_ih_l0{suffix}").copy_(torch.tensor(EXAMPLE["b_h"]))
            getattr(reference, f"bias_hh_l0{suffix}").zero_()
        agree("bidirectional.Bidirectional", "torch.nn", states_of, reference(torch.tensor(XS))[0])
    with pytest.raises(ValueError, match="W_hy"):
        output(states_of[0], EXAMPLE["W_hy"], EXAMPLE["b_y"])
    output(states_of[0], np.ones((1, 4)), EXAMPLE["b_y"])

    changed = XS.copy()
    changed[2] = 1.0
    after = both.forward(changed).hs
    assert np.array_equal(after[0, 0, :2], states_of[0, 0, :2])  # →h_1 has not seen x_3
    assert distance(after[0, 0, 2:], states_of[0, 0, 2:]) > 0.5
    states(
        "erratum-bidirectional",
        f"$\\overleftarrow{{h_1}} = {vector(states_of[0, 0, 2:])}$",
        vector(after[0, 0, 2:]),
        f"$\\overrightarrow{{h_1}} = {vector(states_of[0, 0, :2])}$",
    )


# --- section 8 ----------------------------------------------------------------------------------


@erratum("erratum-deep")
def test_the_layers_above_the_first_read_states_not_inputs(agree):
    above = VanillaCell(np.array([[0.3, -0.4], [0.1, 0.2]]), EXAMPLE["W_hh"], EXAMPLE["b_h"])
    with pytest.raises(ValueError, match=r"layers\[1\] has input_size 1, expected 2"):
        deep.Stack((CELL, CELL))
    stack = deep.Stack((CELL, above))
    reference = torch.nn.RNN(1, 2, 2, dtype=torch.float64)
    with torch.no_grad():
        for l, cell in enumerate(stack.layers):
            getattr(reference, f"weight_ih_l{l}").copy_(torch.tensor(cell.W_xh))
            getattr(reference, f"weight_hh_l{l}").copy_(torch.tensor(cell.W_hh))
            getattr(reference, f"bias_ih_l{l}").copy_(torch.tensor(cell.b_h))
            getattr(reference, f"bias_hh_l{l}").zero_()
        agree("deep.Stack", "torch.nn", stack.forward(XS).hs, reference(torch.tensor(XS))[0])
    shapes = [cell.W_xh.shape for cell in stack.layers]
    right = sum(a.size for cell in stack.layers for a in arrays_of(cell).values())
    as_in_layer_1 = 2 * sum(a.size for a in arrays_of(CELL).values())
    assert shapes == [(2, 1), (2, 2)]
    assert (as_in_layer_1, right) == (16, 18)
    states("erratum-deep", "$2 \\times 1$", "$2 \\times 2$", f"{right} parameters", f"not {as_in_layer_1}")


# --- the last sentence --------------------------------------------------------------------------


@erratum("erratum-long-lags")
def test_all_that_the_notes_name_does_not_carry_a_gradient_far(agree):
    """Shared parameters, unrolling and backpropagation through time, with W_hh = 0.9 Q."""
    rng = np.random.default_rng(0)
    W = 0.9 * orthogonal(rng, 8, 8)
    linear = VanillaCell(np.ones((8, 1)), W, np.zeros(8), "identity")
    xs = rng.normal(size=(100, 1, 1))
    d = rng.normal(size=(1, 8))
    jacobians = gradients.state_jacobians(linear, unroll(linear, xs))
    lags = gradients.gradient_norms(d, jacobians)[:, 0]
    left = lags[100] / lags[0]
    assert np.isclose(left, 0.9**100)

    h_0 = torch.zeros(8, dtype=torch.float64, requires_grad=True)
    h = h_0
    for x in torch.tensor(xs[:, 0]):
        h = torch.tensor(W) @ h + x
    (reference,) = torch.autograd.grad(h, h_0, torch.tensor(d[0]))
    agree(gradients.gradient_norms, "torch.autograd", lags[100] * 1e5, reference.norm() * 1e5)
    bent = VanillaCell(linear.W_xh, W, linear.b_h)
    assert gradients.must_vanish(bent.W_hh)
    with_tanh = gradients.gradient_norms(d, gradients.state_jacobians(bent, unroll(bent, xs)))[:, 0]
    assert with_tanh[100] < lags[100]
    states("erratum-long-lags", "$W_{hh} = 0.9\\, Q$", f"$0.9^{{100}} = {left * 1e5:.1f} \\cdot 10^{{-5}}$")


# --- the page and the tests together ------------------------------------------------------------


def test_the_page_and_the_tests_name_the_same_errata():
    assert list(entries()) == covered
    assert len(set(covered)) == len(covered)


def test_the_table_lists_every_erratum_with_its_section_and_kind():
    rows = re.findall(
        r"^\| \[[^\]]+\]\(#(erratum-[a-z-]+)\) \| ([^|]+) \| ([^|]+) \|$", PAGE, flags=re.MULTILINE
    )
    assert [name for name, _, _ in rows] == covered
    for name, section, kind in rows:
        assert kind in KINDS, f"{name}: {kind!r}"
        place = f"Section {section}" if section.isdigit() else section.capitalize()
        assert f"\n*{place}; {kind}.*\n" in entries()[name], name


@pytest.mark.parametrize("name", covered)
def test_an_erratum_says_what_the_notes_say_what_is_right_why_and_where_the_book_treats_it(name):
    text = entries()[name]
    for part in ("**The notes**", "**Right**", "**Why.**", "**In numbers.**", "**In the book:**"):
        assert text.count(part) == 1, f"{name}: {part} stands there {text.count(part)} times"
    where = text.split("**In the book:**")[1]
    assert "{eq}`" in where or "](" in where, f"{name}: no link into the book"
