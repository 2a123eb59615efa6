"""Attention: scores, weights and context, held to torch, with their derivatives, and what they refuse."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnnlib import attention
from rnnlib.unroll import mask_from_lengths
from tests.conftest import ROOT
from tests.support import as_torch, example, gradients_of, load_module, relative_error, seeds, sizes, to_numpy

DIMS = ("T", "B", "S", "Q", "K", "A", "V")


def additive_in_torch(q, k, W_q, W_k, b_e, v_e):
    """The additive score of every pair, one pair at a time."""
    linear = torch.nn.functional.linear
    rows = [
        [
            torch.stack(
                [torch.tanh(linear(q[t, b], W_q) + linear(k[s, b], W_k) + b_e) @ v_e for s in range(len(k))]
            )
            for b in range(q.shape[1])
        ]
        for t in range(len(q))
    ]
    return torch.stack([torch.stack(row) for row in rows])


@pytest.mark.equation("eq-attention-additive", "eq-attention-additive-backward")
@given(sizes(*DIMS, high=4), seeds)
def test_additive_scores_agree_with_every_pair_by_itself(agree, n, seed):
    arguments = example("eq-attention-additive", seed, n)
    upstream = np.random.default_rng(seed).normal(size=(n["T"], n["B"], n["S"]))
    expected = additive_in_torch(**as_torch(arguments)).numpy()
    agree(attention.additive_scores, "torch", attention.additive_scores(**arguments), expected)
    agree(
        attention.additive_scores_backward,
        "torch.autograd",
        attention.additive_scores_backward(upstream, **arguments),
        gradients_of(additive_in_torch, arguments, upstream),
    )


@pytest.mark.equation("eq-attention-additive")
def test_additive_scores_are_those_of_the_layer_of_bahdanau_by_torch_modules():
    """The same score from torch.nn.Linear layers, broadcast over all pairs."""
    torch.manual_seed(0)
    of_query, of_key, readout = (
        torch.nn.Linear(*n, bias=b) for n, b in (((3, 5), 0), ((4, 5), 1), ((5, 1), 0))
    )
    q, k = torch.randn(6, 2, 3), torch.randn(7, 2, 4)
    expected = readout(torch.tanh(of_query(q)[:, None] + of_key(k)))[..., 0].transpose(1, 2)
    found = attention.additive_scores(q, k, of_query.weight, of_key.weight, of_key.bias, readout.weight[0])
    torch.testing.assert_close(found, expected)


@pytest.mark.equation("eq-attention-dot", "eq-attention-dot-backward")
@given(sizes(*DIMS), seeds)
def test_dot_scores_agree_with_autograd_and_with_every_pair_by_itself(agree, n, seed):
    arguments = example("eq-attention-dot", seed, n)
    q, k = arguments["q"], arguments["k"]
    upstream = np.random.default_rng(seed).normal(size=(n["T"], n["B"], n["S"]))
    expected = np.array(
        [[[q_tb.dot(k_sb) for k_sb in k[:, b]] for b, q_tb in enumerate(q_t)] for q_t in q]
    ) / np.sqrt(n["K"])
    agree(attention.dot_scores, "brute force", attention.dot_scores(**arguments), expected)

    def in_torch(q, k):
        return torch.matmul(q.transpose(0, 1), k.permute(1, 2, 0)).transpose(0, 1) / n["K"] ** 0.5

    agree(
        attention.dot_scores_backward,
        "torch.autograd",
        attention.dot_scores_backward(upstream, **arguments),
        gradients_of(in_torch, arguments, upstream),
    )


def some_mask(rng: np.random.Generator, S: int, B: int) -> np.ndarray:
    """Lengths of at least 1 as a mask, (S, B)."""
    return (np.arange(S)[:, None] < rng.integers(1, S + 1, B)).astype(float)


@pytest.mark.equation("eq-attention-weights", "eq-attention-weights-backward")
@given(sizes("T", "B", "S"), seeds, st.booleans())
def test_weights_agree_with_the_softmax_over_the_steps_that_exist(agree, n, seed, masked):
    rng = np.random.default_rng(seed)
    e = 3 * rng.normal(size=(n["T"], n["B"], n["S"]))
    mask = some_mask(rng, n["S"], n["B"]) if masked else None
    alpha = attention.attention_weights(e, mask)
    expected = np.zeros_like(e)
    for b in range(n["B"]):
        there = slice(None) if mask is None else mask[:, b] == 1
        expected[:, b, there] = scipy.special.softmax(e[:, b, there], axis=1)
    agree(attention.attention_weights, "scipy.special", alpha, expected)
    assert mask is None or not alpha[:, mask.T == 0].any()  # 0 exactly
    upstream = rng.normal(size=e.shape)

    def in_torch(e):
        infinite = e if mask is None else e.masked_fill(torch.tensor(mask.T == 0), -torch.inf)
        return torch.softmax(infinite, 2)

    agree(
        attention.attention_weights_backward,
        "torch.autograd",
        attention.attention_weights_backward(upstream, alpha),
        gradients_of(in_torch, {"e": e}, upstream)[0],
    )


@pytest.mark.equation("eq-attention-weights")
def test_a_mask_gives_finite_gradients_on_torch():
    e = torch.tensor([[[1.0, 1e4, -1e30]]], requires_grad=True)
    alpha = attention.attention_weights(e, torch.tensor([[1.0], [0.0], [1.0]]))
    torch.testing.assert_close(alpha, torch.tensor([[[1.0, 0.0, 0.0]]]))
    alpha[0, 0, 0].backward()
    assert torch.isfinite(e.grad).all()


@pytest.mark.equation("eq-attention-context", "eq-attention-context-backward")
@given(sizes(*DIMS), seeds)
def test_the_context_agrees_with_a_sum_and_with_autograd(agree, n, seed):
    arguments = example("eq-attention-context", seed, n)
    alpha, v = arguments["alpha"], arguments["v"]
    expected = sum(alpha[:, :, s, None] * v[s] for s in range(n["S"]))
    agree(attention.context, "brute force", attention.context(**arguments), expected)
    upstream = np.random.default_rng(seed).normal(size=expected.shape)

    def in_torch(alpha, v):
        return torch.matmul(alpha.transpose(0, 1), v.transpose(0, 1)).transpose(0, 1)

    agree(
        attention.context_backward,
        "torch.autograd",
        attention.context_backward(upstream, **arguments),
        gradients_of(in_torch, arguments, upstream),
    )


@pytest.mark.equation("eq-attention-dot", "eq-attention-weights", "eq-attention-context")
@given(sizes(*DIMS), seeds, st.booleans())
def test_the_three_stages_are_torchs_scaled_dot_product_attention(agree, n, seed, masked):
    rng = np.random.default_rng(seed)
    q, k, v = (rng.normal(size=(n[s], n["B"], n[d])) for s, d in (("T", "K"), ("S", "K"), ("S", "V")))
    mask = some_mask(rng, n["S"], n["B"]) if masked else None
    upstream = rng.normal(size=(n["T"], n["B"], n["V"]))
    leaves = as_torch({"q": q, "k": k, "v": v}, requires_grad=True)
    bool_mask = None if mask is None else torch.tensor(mask.T[:, None] == 1)  # (B, 1, S)
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(x.transpose(0, 1) for x in leaves.values()), attn_mask=bool_mask
    ).transpose(0, 1)
    d_q, d_k, d_v = torch.autograd.grad(expected, list(leaves.values()), torch.tensor(upstream))

    alpha = attention.attention_weights(attention.dot_scores(q, k), mask)
    told = attention.context(alpha, v)
    d_alpha, ours_v = attention.context_backward(upstream, alpha, v)
    ours_q, ours_k = attention.dot_scores_backward(attention.attention_weights_backward(d_alpha, alpha), q, k)
    agree(attention.context, "torch.nn.functional", told, to_numpy(expected))
    agree(
        attention.dot_scores_backward,
        "torch.nn.functional",
        [ours_q, ours_k, ours_v],
        [g.numpy() for g in (d_q, d_k, d_v)],
    )


@pytest.mark.equation("eq-attention-weights")
@given(sizes("T", "B", "S"), seeds)
def test_the_weights_do_not_change_when_all_scores_of_a_step_rise(n, seed):
    rng = np.random.default_rng(seed)
    e = rng.normal(size=(n["T"], n["B"], n["S"]))
    raised = e + 700 * rng.normal(size=(n["T"], n["B"], 1))
    found, expected = attention.attention_weights(raised), attention.attention_weights(e)
    assert relative_error(found, expected) < 1e-10
    np.testing.assert_allclose(found.sum(2), 1, rtol=1e-12)


@pytest.mark.equation("eq-attention-context")
def test_what_is_behind_the_end_of_a_source_cannot_be_seen():
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(3, 2, 4)), rng.normal(size=(5, 2, 4))
    mask = mask_from_lengths([5, 2], k)
    changed = k.copy()
    changed[2:, 1] = 1e3 * rng.normal(size=(3, 4))

    def told(k, mask):
        return attention.context(attention.attention_weights(attention.dot_scores(q, k), mask), k)

    np.testing.assert_array_equal(told(changed, mask), told(k, mask))
    alone = attention.context(
        attention.attention_weights(attention.dot_scores(q[:, 1:], k[:2, 1:])), k[:2, 1:]
    )
    np.testing.assert_allclose(told(k, mask)[:, 1:], alone, rtol=1e-13)


REFUSED = {
    "keys of another size": (
        lambda q, k, e: attention.dot_scores(q, k[..., :2]),
        ValueError,
        r"dot_scores: k has shape \(5, 2, 2\), expected \(S, B, K\) = \(5, 2, 4\) with .*K = 4 set by q",
    ),
    "a source of another batch": (
        lambda q, k, e: attention.context(e, k[:, :1]),
        ValueError,
        r"context: v has shape \(5, 1, 4\), expected \(S, B, V\)",
    ),
    "a mask as long as the target": (
        lambda q, k, e: attention.attention_weights(e, np.ones((3, 2))),
        ValueError,
        r"attention_weights: mask has shape \(3, 2\), expected \(S, B\) = \(5, 2\)",
    ),
    "a mask of other numbers": (
        lambda q, k, e: attention.attention_weights(e, np.full((5, 2), 0.5)),
        ValueError,
        r"attention_weights: mask has entries other than 0 and 1",
    ),
    "a source of no steps": (
        lambda q, k, e: attention.attention_weights(e, np.ones((5, 2)) * [1.0, 0.0]),
        ValueError,
        r"attention_weights: mask is 0 at all 5 steps of sequence 1, expected at least one 1",
    ),
    "a mask of whole numbers": (
        lambda q, k, e: attention.attention_weights(e, np.ones((5, 2), int)),
        TypeError,
        r"attention_weights: mask has dtype int64",
    ),
    "scores that hold NaN": (
        lambda q, k, e: attention.attention_weights(e * np.nan),
        ValueError,
        r"attention_weights: e holds NaN",
    ),
    "lists": (
        lambda q, k, e: attention.dot_scores(q.tolist(), k),
        TypeError,
        r"dot_scores: q is a list, expected a numpy.ndarray or a torch.Tensor",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_refused_with_a_sentence(call, error, message):
    rng = np.random.default_rng(0)
    q, k, e = rng.normal(size=(3, 2, 4)), rng.normal(size=(5, 2, 4)), rng.normal(size=(3, 2, 5))
    with pytest.raises(error, match=message):
        call(q, k, e)


# --- the experiment -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def script():
    return load_module(ROOT / "experiments" / "attention.py")


def check_record(record: dict[str, Any]) -> None:
    longest, lengths = record["settings"]["longest"], record["lengths"]
    assert lengths == list(range(1, longest * 3 // 2 + 1))
    assert record["results"].keys() == {"additive", "dot", "none"}
    for rows in record["results"].values():
        for row in rows:
            symbols, strings = np.array(row["symbols"]), np.array(row["strings"])
            assert symbols.shape == strings.shape == (len(lengths),)
            assert (strings >= 0).all()
            assert (strings <= symbols).all()
            assert (symbols <= 1).all()


def test_the_experiment_runs_quickly_and_is_reproducible(script, tmp_path):
    records = []
    for name in ("first.json", "second.json"):
        assert script.main(["--quick", "--output", str(tmp_path / name)]) == 0
        records.append(json.loads((tmp_path / name).read_text(encoding="utf-8")))
        check_record(records[-1])
        assert records[-1]["quick"]
    assert records[0]["results"] == records[1]["results"]


def test_the_committed_record_is_complete():
    record = json.loads((ROOT / "experiments" / "attention.json").read_text(encoding="utf-8"))
    check_record(record)
    assert not record["quick"]
    assert all(len(rows) >= 5 for rows in record["results"].values())
    assert record["command"] == "python experiments/attention.py"
