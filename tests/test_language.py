"""Language: held to torch, to scipy, and to brute force over all cases, in exact fractions."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Categorical

from rnnlib import datasets, language
from rnnlib.language import Alphabet
from tests.conftest import ROOT
from tests.support import as_torch, example, load_module, seeds, sizes

experiment = load_module(ROOT / "experiments" / "language.py")

temperatures = st.floats(0.2, 5)


def draw(label, seed, n):
    return example(label, seed, n), np.random.default_rng(seed)


def random_probabilities(rng, N, K):
    p = rng.dirichlet(np.ones(K), size=N)
    p[rng.random((N, K)) < 0.2] = 0
    p[:, 0] += 0.01  # no row of zeros
    return p / p.sum(1, keepdims=True)


# --- symbols --------------------------------------------------------------------------------------


@given(st.text(min_size=1))
def test_an_alphabet_encodes_and_decodes_any_text(text):
    alphabet = Alphabet.of(text)
    codes = alphabet.encode(text)
    assert codes.dtype == np.int64
    assert sorted(set(codes.tolist())) == list(range(len(alphabet)))
    assert alphabet.decode(codes) == text
    assert [alphabet.characters[c] for c in codes] == list(text)


def test_an_alphabet_refuses_what_it_does_not_have():
    alphabet = Alphabet.of("banana")
    assert alphabet.characters == "abn"
    assert alphabet.decode([]) == ""
    assert len(alphabet.encode("")) == 0
    with pytest.raises(ValueError, match="'x' at place 2 is not in the alphabet"):
        alphabet.encode("baxa")
    with pytest.raises(ValueError, match="codes holds 3, expected whole numbers from 0 to 2"):
        alphabet.decode([0, 3])
    with pytest.raises(ValueError, match="codes holds -1"):
        alphabet.decode([-1])
    with pytest.raises(TypeError, match="codes has dtype float64"):
        alphabet.decode([0.5])
    with pytest.raises(TypeError, match="text is a bytes"):
        alphabet.encode(b"ba")
    with pytest.raises(ValueError, match=r"use Alphabet\.of"):
        Alphabet("ba")
    with pytest.raises(ValueError, match="at least one character"):
        Alphabet.of("")


# --- the probability of a sequence ----------------------------------------------------------------


@pytest.mark.equation("eq-language-chain", "eq-language-chain-backward")
@given(sizes("T", "B", "K"), seeds)
def test_the_log_probability_of_a_sequence_agrees_with_torch(agree, n, seed):
    arguments, rng = draw("eq-language-chain-backward", seed, n)
    a, d_log_p = 3 * arguments["a"], arguments["d_log_p"]
    targets = rng.integers(0, n["K"], a.shape[:2])
    t = torch.tensor(a, requires_grad=True)
    expected = Categorical(logits=t).log_prob(torch.from_numpy(targets)).sum(0)
    log_p = language.sequence_log_probability(a, targets)
    agree(language.sequence_log_probability, "torch.distributions", log_p, expected)
    expected.backward(torch.from_numpy(d_log_p))
    d_a = language.sequence_log_probability_backward(d_log_p, a, targets)
    agree(language.sequence_log_probability_backward, "torch.autograd", d_a, t.grad)


@pytest.mark.equation("eq-language-embedding", "eq-language-embedding-backward")
@given(sizes("N", "H", "K", high=5), seeds)
def test_an_embedding_is_a_product_with_a_one_hot_input(agree, n, seed):
    arguments, rng = draw("eq-language-embedding-backward", seed, n)
    W_xh, d_rows = arguments["W_xh"], arguments["d_rows"]
    symbols = rng.integers(0, n["K"], n["N"])
    W = torch.tensor(W_xh, requires_grad=True)
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(symbols), n["K"]).double()
    expected = torch.nn.functional.linear(one_hot, W)
    agree(language.embedding, "torch.nn.functional.linear", language.embedding(W_xh, symbols), expected)
    torch.nn.functional.embedding(torch.from_numpy(symbols), W.T).backward(torch.from_numpy(d_rows))
    d_W = language.embedding_backward(d_rows, W_xh, symbols)
    agree(language.embedding_backward, "torch.autograd", d_W, W.grad)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_symbols_that_are_none_are_refused(backend):
    make = np.array if backend == "numpy" else torch.tensor
    W = make([[1.0, 2.0]])
    with pytest.raises(ValueError, match="symbols holds 2, expected whole numbers from 0 to 1"):
        language.embedding(W, make([0, 2]))
    with pytest.raises(ValueError, match="symbols holds -1"):
        language.embedding(W, make([-1]))
    with pytest.raises(TypeError, match="expected an integer dtype"):
        language.embedding(W, make([0.0]))
    with pytest.raises(TypeError, match="symbols is a"):
        language.embedding(W, torch.tensor([0]) if backend == "numpy" else np.array([0]))
    with pytest.raises(TypeError, match="symbols is a int"):
        language.embedding(W, 0)
    for shape in ((), (0,), (1, 1)):
        none = make(np.zeros(shape, int))
        with pytest.raises(ValueError, match=r"symbols has shape .*, expected \(N,\) with N at least 1"):
            language.embedding(W, none)
    with pytest.raises(ValueError, match=r"symbols has shape \(1,\), expected \(2,\)"):
        language.embedding_backward(make([[1.0], [1.0]]), W, make([0]))
    a = make([[[1.0, 2.0]]])
    with pytest.raises(ValueError, match=r"targets has shape \(1, 2\), expected \(1, 1\)"):
        language.sequence_log_probability(a, make([[0, 1]]))
    with pytest.raises(ValueError, match="targets holds 2"):
        language.sequence_log_probability_backward(make([1.0]), a, make([[2]]))


# --- from counts to probabilities -----------------------------------------------------------------


def random_counts(rng, *shape):
    counts = rng.integers(0, 4, shape).astype(float)
    counts[..., 0, :] = 0  # a context that was never seen
    return counts


@pytest.mark.equation("eq-ngram-likelihood")
@given(sizes("N", "K", low=2), seeds)
def test_no_other_distribution_makes_the_counts_likelier(agree, n, seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 9, (n["N"], n["K"])).astype(float)
    p = language.maximum_likelihood(counts)
    assert np.allclose(p.sum(1), 1)
    for row, share in zip(counts, p, strict=True):
        found = scipy.optimize.minimize(
            lambda a, row=row: -row @ (a - np.log(np.exp(a).sum())), np.zeros(n["K"]), tol=1e-12
        ).x
        expected = np.exp(found) / np.exp(found).sum()
        agree(language.maximum_likelihood, "scipy.optimize", share, expected, tolerance=1e-5)
    with pytest.raises(ValueError, match="a row of zeros"):
        language.maximum_likelihood(np.zeros((1, 2)))
    with pytest.raises(ValueError, match="counts holds -1"):
        language.maximum_likelihood(np.array([[-1.0, 2.0]]))


def fractions(rows):
    return [[Fraction(float(x)).limit_denominator(10**6) for x in row] for row in rows]


@pytest.mark.equation("eq-ngram-witten-bell", "eq-ngram-kneser-ney")
@given(sizes("N", "K", low=2), seeds)
def test_smoothed_counts_agree_with_exact_fractions(agree, n, seed):
    rng = np.random.default_rng(seed)
    counts = random_counts(rng, n["N"], n["K"])
    whole = rng.integers(1, 9, counts.shape)
    lower = whole / whole.sum(1, keepdims=True)
    discount = Fraction(int(rng.integers(0, 9)), 8)
    expected = {"witten_bell": [], "kneser_ney": []}
    for row, q in zip(counts.astype(int).tolist(), whole.tolist(), strict=True):
        q = [Fraction(x, sum(q)) for x in q]
        total, kinds = sum(row), sum(c > 0 for c in row)
        if total == 0:
            both = (q, q)
        else:
            both = (
                [(c + kinds * qc) / (total + kinds) for c, qc in zip(row, q, strict=True)],
                [
                    (max(c - discount, 0) + discount * kinds * qc) / total
                    for c, qc in zip(row, q, strict=True)
                ],
            )
        for values, rows in zip(both, expected.values(), strict=True):
            assert sum(values) == 1
            rows.append([float(v) for v in values])
    agree(
        language.witten_bell,
        "exact fractions",
        language.witten_bell(counts, lower),
        np.array(expected["witten_bell"]),
    )
    agree(
        language.kneser_ney,
        "exact fractions",
        language.kneser_ney(counts, lower, float(discount)),
        np.array(expected["kneser_ney"]),
    )


@pytest.mark.equation("eq-ngram-continuation", "eq-ngram-kneser-ney")
@given(st.integers(1, 4), st.integers(2, 5), st.floats(0, 1), seeds)
def test_continuation_counts_keep_the_marginals_of_the_text(A, K, discount, seed):
    """What Kneser and Ney asked for: summed over the symbol before, the counts come out again."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 4, (A, 3, K)).astype(float)  # (a, u, c)
    counts[:, :, 0] += 1
    followed = language.continuation_counts(counts)
    brute = [[sum(counts[a, u, c] > 0 for a in range(A)) for c in range(K)] for u in range(3)]
    assert np.array_equal(followed, brute)
    lower = language.maximum_likelihood(followed)
    p = np.stack([language.kneser_ney(c, lower, discount) for c in counts])
    expected = (counts.sum(2, keepdims=True) * p).sum(0)
    np.testing.assert_allclose(expected, counts.sum(0), rtol=1e-12)


@pytest.mark.equation("eq-ngram-discount")
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 5))
def test_the_discount_is_where_leaving_one_out_is_likeliest(agree, once, twice, more):
    counts = np.array([1.0] * once + [2.0] * twice + [3.0] * more)
    found = scipy.optimize.minimize_scalar(
        lambda D: -once * math.log(D) - 2 * twice * math.log(1 - D),
        bounds=(1e-9, 1 - 1e-9),
        method="bounded",
        options={"xatol": 1e-10},
    ).x
    D = language.estimated_discount(counts)
    agree(language.estimated_discount, "scipy.optimize", D, np.array(found), tolerance=1e-6)
    with pytest.raises(ValueError, match="no entry of counts is 1"):
        language.estimated_discount(np.array([2.0]))


def test_a_discount_out_of_range_is_refused():
    ones = np.ones((1, 2))
    for wrong in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="expected a number from 0 to 1"):
            language.kneser_ney(ones, ones / 2, wrong)
    with pytest.raises(TypeError, match="discount is a str"):
        language.kneser_ney(ones, ones / 2, "1")
    for function in (language.witten_bell, lambda c, q: language.kneser_ney(c, q, 0.5)):
        with pytest.raises(ValueError, match=r"counts holds -1\.0, expected no number below 0"):
            function(-ones, ones / 2)


# --- n-grams over a whole text --------------------------------------------------------------------


def brute_force_ngram(text, order, K, smoothing):
    """p(c | u) by dictionaries and exact fractions, straight from the definition."""

    def pieces(k):
        return Counter(tuple(text[i : i + k]) for i in range(len(text) - k + 1))

    tables = {order: pieces(order)}
    for k in range(order - 1, 0, -1):
        if smoothing == "witten-bell":
            tables[k] = pieces(k)
        else:
            tables[k] = Counter(g[1:] for g in tables[k + 1])
    discounts = {}
    for k, table in tables.items():
        n1, n2 = (sum(v == r for v in table.values()) for r in (1, 2))
        discounts[k] = Fraction(n1, n1 + 2 * n2) if n1 else Fraction(1, 2)

    def p(c, u):
        lower = p(c, u[1:]) if u else Fraction(1, K)
        table = tables[len(u) + 1]
        row = {g[-1]: v for g, v in table.items() if g[:-1] == u}
        if not row:
            return lower
        if smoothing == "witten-bell":
            return (row.get(c, 0) + len(row) * lower) / (sum(row.values()) + len(row))
        D = discounts[len(u) + 1]
        return (max(row.get(c, 0) - D, 0) + D * len(row) * lower) / sum(row.values())

    return p


@pytest.mark.parametrize("smoothing", ["kneser-ney", "witten-bell"])
@given(st.integers(1, 4), st.integers(2, 3), st.integers(4, 40), seeds)
def test_an_ngram_agrees_with_brute_force(agree, smoothing, order, K, T, seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, K, T)
    model = language.ngram(codes, order, K, smoothing)
    p = brute_force_ngram(codes.tolist(), order, K, smoothing)
    contexts = np.array(list(itertools.product(range(K), repeat=order - 1)), np.int64)
    contexts = contexts.reshape(K ** (order - 1), order - 1)
    expected = [[float(p(c, tuple(u))) for c in range(K)] for u in contexts.tolist()]
    found = model.distributions(contexts)
    agree(f"language.ngram({smoothing})", "exact fractions", found, np.array(expected), dtype="float64")
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-12)
    assert (found > 0).all()

    other = rng.integers(0, K, 12)
    log_p = model.log_probabilities(other)
    windows = np.lib.stride_tricks.sliding_window_view(other, order)
    np.testing.assert_allclose(
        np.exp(log_p), [float(p(w[-1], tuple(w[:-1]))) for w in windows.tolist()], rtol=1e-12
    )
    if order > 1:  # a longer context changes nothing, a shorter one leaves levels out
        longer = np.concatenate([np.zeros((len(contexts), 2), np.int64), contexts], axis=1)
        np.testing.assert_array_equal(model.distributions(longer), found)
        shorter = model.distributions(contexts[:, 1:])
        expected = [[float(p(c, tuple(u[1:]))) for c in range(K)] for u in contexts.tolist()]
        np.testing.assert_allclose(shorter, expected, rtol=1e-12)


def test_an_ngram_tells_what_it_holds():
    codes = Alphabet.of("ab").encode("aababbb")
    model = language.ngram(codes, 2, 2)
    assert model.entries == 4 + 2
    assert model.discounts == (0.0 + 0.5, 1 / 3)  # counts 2, 2: none is 1; pieces aa, ba once, ab, bb twice
    assert language.ngram(codes, 2, 2, "witten-bell").discounts == (0.0, 0.0)


def test_an_ngram_of_bad_arguments_is_refused():
    codes = np.array([0, 1, 0, 1])
    with pytest.raises(ValueError, match="too long for 78 symbols"):
        language.ngram(codes, 11, 78)
    with pytest.raises(ValueError, match=r"codes has shape \(4,\), expected \(N,\) with N at least 5"):
        language.ngram(codes, 5, 2)
    with pytest.raises(ValueError, match="size is 1"):
        language.ngram(codes, 2, 1)
    with pytest.raises(ValueError, match="smoothing is 'none'"):
        language.ngram(codes, 2, 2, "none")
    with pytest.raises(TypeError, match="codes has dtype float64"):
        language.ngram(codes * 1.0, 2, 2)
    with pytest.raises(TypeError, match="codes is a list"):
        language.ngram([0, 1], 2, 2)
    model = language.ngram(codes, 2, 2)
    with pytest.raises(ValueError, match="codes holds 2"):
        model.log_probabilities(np.array([0, 2]))
    with pytest.raises(ValueError, match="N at least 2"):
        model.log_probabilities(np.array([0]))
    with pytest.raises(ValueError, match=r"contexts has shape \(1,\), expected \(N, M\)"):
        model.distributions(np.array([0]))
    with pytest.raises(TypeError, match="contexts is a list"):
        model.distributions([[0]])
    with pytest.raises(ValueError, match="contexts holds 2"):
        model.distributions(np.array([[2]]))


# --- batches that follow each other ---------------------------------------------------------------


@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 60), seeds)
def test_streams_go_on_where_they_stopped(B, T, extra, seed):
    codes = np.random.default_rng(seed).integers(0, 9, B * T + 1 + extra)
    count = language.stream_steps(len(codes), B, T)
    batches = [language.stream_batch(codes, step, B, T) for step in range(count)]
    assert [b.fresh for b in batches] == [True] + [False] * (count - 1)
    inputs = np.concatenate([b.inputs for b in batches])  # (count T, B)
    targets = np.concatenate([b.targets for b in batches])
    length = (len(codes) - 1) // B
    for b in range(B):
        stream = codes[b * length : b * length + count * T + 1]
        np.testing.assert_array_equal(inputs[:, b], stream[:-1])
        np.testing.assert_array_equal(targets[:, b], stream[1:])
    assert length - count * T < T  # no whole batch is left out
    again = language.stream_batch(codes, count, B, T)
    assert again.fresh
    np.testing.assert_array_equal(again.inputs, batches[0].inputs)
    with pytest.raises(ValueError, match="expected more than"):
        language.stream_batch(codes[: B * T], 0, B, T)
    with pytest.raises(ValueError, match="step is -1"):
        language.stream_batch(codes, -1, B, T)


# --- drawing from a distribution ------------------------------------------------------------------


@pytest.mark.equation("eq-language-temperature")
@given(sizes("N", "K"), temperatures, seeds)
def test_temperature_agrees_with_torch_and_has_its_limits(agree, n, temperature, seed):
    a = 3 * example("eq-language-temperature", seed, n)["a"]
    expected = torch.softmax(torch.tensor(a) / temperature, 1)
    agree(
        language.temperature_softmax, "torch.softmax", language.temperature_softmax(a, temperature), expected
    )
    hot = language.temperature_softmax(a, 1e9)
    np.testing.assert_allclose(hot, 1 / n["K"], atol=1e-7)
    cold = language.temperature_softmax(a + 1e9, 1e-300)  # (a + 1e9) / τ alone would overflow
    np.testing.assert_array_equal(cold, np.eye(n["K"])[a.argmax(1)])
    for wrong in (0, -1.0, math.inf):
        with pytest.raises(ValueError, match="temperature is"):
            language.temperature_softmax(a, wrong)


@pytest.mark.equation("eq-language-entropy", "eq-language-entropy-backward")
@given(sizes("N", "K"), seeds)
def test_entropy_agrees_with_scipy_and_torch(agree, n, seed):
    arguments, _ = draw("eq-language-entropy-backward", seed, n)
    a, d_H = 2 * arguments["a"], arguments["d_H"]
    H = language.entropy(a)
    agree(language.entropy, "scipy.stats.entropy", H, scipy.stats.entropy(np.exp(a), axis=1))
    t = torch.tensor(a, requires_grad=True)
    Categorical(logits=t).entropy().backward(torch.tensor(d_H))
    agree(language.entropy_backward, "torch.autograd", language.entropy_backward(d_H, a), t.grad)


@pytest.mark.equation("eq-language-entropy-slope")
@given(sizes("N", "K"), temperatures, seeds)
def test_the_slope_of_the_entropy_agrees_with_autograd(agree, n, temperature, seed):
    a = 2 * example("eq-language-entropy-slope", seed, n)["a"]
    tau = torch.full((n["N"],), temperature, dtype=torch.float64, requires_grad=True)
    Categorical(logits=torch.tensor(a) / tau[:, None]).entropy().sum().backward()
    slope = language.entropy_slope(a, temperature)
    agree(language.entropy_slope, "torch.autograd", slope, tau.grad, tolerance=1e-9)
    assert (slope >= 0).all()


@pytest.mark.equation("eq-language-top-k")
@given(sizes("N", "K"), seeds)
def test_top_k_agrees_with_torch(agree, n, seed):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(n["K"]), size=n["N"])
    k = int(rng.integers(1, n["K"] + 1))
    values, places = torch.tensor(p).topk(k, dim=1)
    expected = torch.zeros_like(torch.tensor(p)).scatter(1, places, values)
    agree(language.top_k, "torch.topk", language.top_k(p, k), expected / expected.sum(1, keepdim=True))
    with pytest.raises(ValueError, match="k is 0"):
        language.top_k(p, 0)
    with pytest.raises(ValueError, match=f"k is {n['K'] + 1}"):
        language.top_k(p, n["K"] + 1)


def test_of_equally_likely_symbols_the_first_are_kept():
    p = np.array([[0.2, 0.3, 0.2, 0.3]])
    np.testing.assert_allclose(language.top_k(p, 1), [[0, 1, 0, 0]])
    np.testing.assert_allclose(language.top_k(p, 3), [[0.25, 0.375, 0, 0.375]])
    np.testing.assert_allclose(language.top_p(p, 0.65), [[0.25, 0.375, 0, 0.375]])


@pytest.mark.equation("eq-language-top-p")
@given(sizes("N", "K"), st.floats(0.01, 1), seeds)
def test_top_p_agrees_with_brute_force(agree, n, mass, seed):
    p = np.random.default_rng(seed).dirichlet(np.ones(n["K"]), size=n["N"])
    expected = np.zeros_like(p)
    for row, kept in zip(p, expected, strict=True):
        so_far = 0.0
        for k in sorted(range(n["K"]), key=lambda k: -row[k]):
            if so_far >= mass:
                break
            kept[k] = row[k]
            so_far += row[k]
    found = language.top_p(p, mass)
    agree(language.top_p, "brute force", found, expected / expected.sum(1, keepdims=True))
    with pytest.raises(ValueError, match="mass is"):
        language.top_p(p, 1.5)
    with pytest.raises(ValueError, match="mass is"):
        language.top_p(p, 0)


@pytest.mark.equation("eq-language-sample")
@given(sizes("N", "K"), seeds)
def test_a_sample_is_where_the_cumulated_probability_passes_u(agree, n, seed):
    rng = np.random.default_rng(seed)
    p, u = random_probabilities(rng, n["N"], n["K"]), rng.random(n["N"])
    places = torch.searchsorted(torch.tensor(p).cumsum(1), torch.tensor(u)[:, None], right=True)[:, 0]
    expected = np.eye(n["K"])[places.numpy().clip(0, n["K"] - 1)]
    agree(language.sample, "torch.searchsorted", language.sample(p, u), expected)


def test_samples_have_their_frequencies_and_the_impossible_never_comes():
    rng = np.random.default_rng(0)
    p = np.array([0.0, 0.4, 0.0, 0.1, 0.3, 0.2, 0.0])
    drawn = language.sample(np.tile(p, (20000, 1)), rng.random(20000)).sum(0)
    possible = p > 0
    assert not drawn[~possible].any()
    assert scipy.stats.chisquare(drawn[possible], 20000 * p[possible]).pvalue > 0.01
    edges = np.array([0.0, 1 - 2**-53])
    np.testing.assert_array_equal(language.sample(np.tile(p, (2, 1)), edges).argmax(1), [1, 5])
    third = np.array([[1 / 3, 1 / 3, 1 / 3, 0.0]] * 2)
    np.testing.assert_array_equal(language.sample(third, edges).argmax(1), [0, 2])
    tenth = np.array([[0.1] * 10 + [0.0]])
    assert np.cumsum(tenth)[-1] == edges[1]  # and not 1
    np.testing.assert_array_equal(language.sample(tenth, edges[1:]).argmax(1), [9])
    for wrong in (-0.1, 1.0):
        with pytest.raises(ValueError, match=r"expected numbers in \[0, 1\)"):
            language.sample(p[None], np.array([wrong]))


@pytest.mark.equation("eq-language-correlation")
@given(st.integers(3, 9), st.integers(1, 5), seeds)
def test_the_correlation_agrees_with_scipy(agree, T, H, seed):
    rng = np.random.default_rng(seed)
    hs, feature = rng.normal(size=(T, H)), rng.normal(size=T)
    expected = np.array([scipy.stats.pearsonr(h, feature).statistic for h in hs.T])
    agree(
        language.unit_correlations, "scipy.stats.pearsonr", language.unit_correlations(hs, feature), expected
    )
    assert not language.unit_correlations(np.ones((T, H)), feature).any()
    assert not language.unit_correlations(hs, np.ones(T)).any()


# --- texts from a model ---------------------------------------------------------------------------


class TinyModel:
    """A model of three symbols that depends on the last two: a table of logits."""

    K = 3

    def __init__(self, seed):
        a = 2 * np.random.default_rng(seed).normal(size=(self.K, self.K, self.K))
        self.log_p = np.log(np.exp(a) / np.exp(a).sum(2, keepdims=True))

    def step(self, last, before):
        return self.log_p[before, last], last

    def score(self, text, before, first):
        total = 0.0
        for symbol in text:
            total += self.log_p[before, first, symbol]
            before, first = first, symbol
        return total


def take(state, rows):
    return state[rows]


@given(st.integers(1, 4), seeds)
def test_a_beam_that_holds_everything_finds_the_likeliest_text(length, seed):
    model = TinyModel(seed)
    texts = list(itertools.product(range(3), repeat=length))
    scores = np.array([model.score(text, 1, 2) for text in texts])
    state = np.array([1])
    found = language.beam_search(model.step, state, 2, width=3**length, length=length, take=take)
    assert len(found) == 3**length
    np.testing.assert_allclose([h.log_probability for h in found], np.sort(scores)[::-1], rtol=1e-12)
    assert tuple(found[0].symbols) == texts[scores.argmax()]
    for hypothesis in found:
        expected = model.score(hypothesis.symbols, 1, 2)
        assert hypothesis.log_probability == pytest.approx(expected, rel=1e-12)

    greedy, before, last = [], 1, 2
    for _ in range(length):
        greedy.append(int(model.log_p[before, last].argmax()))
        before, last = last, greedy[-1]
    (one,) = language.beam_search(model.step, state, 2, width=1, length=length, take=take)
    assert one.symbols.tolist() == greedy
    two = language.beam_search(model.step, state, 2, width=2, length=length, take=take)
    assert len(two) == 2
    assert two[0].log_probability <= scores.max() + 1e-12


@given(st.integers(1, 5), st.integers(1, 4), temperatures, seeds)
def test_a_text_is_drawn_symbol_by_symbol(T, N, temperature, seed):
    model, rng = TinyModel(seed), np.random.default_rng(seed)
    first, before, u = rng.integers(0, 3, N), rng.integers(0, 3, N), rng.random((T, N))
    drawn = language.generate(model.step, before, first, u, temperature=temperature)
    assert drawn.shape == (T, N)
    for n in range(N):
        b, l = before[n], first[n]
        for t in range(T):
            p = np.exp(model.log_p[b, l] / temperature)
            expected = int(np.searchsorted(np.cumsum(p / p.sum()), u[t, n], side="right"))
            assert drawn[t, n] == expected
            b, l = l, expected
    likeliest = language.generate(model.step, before, first, u, k=1)
    np.testing.assert_array_equal(likeliest[0], model.log_p[before, first].argmax(1))
    np.testing.assert_array_equal(language.generate(model.step, before, first, u, mass=1e-6), likeliest)
    np.testing.assert_array_equal(
        language.generate(model.step, before, first, u, temperature=1e-6), likeliest
    )


def test_what_cannot_be_generated_is_refused():
    model, u = TinyModel(0), np.zeros((2, 1))
    with pytest.raises(ValueError, match=r"first has shape \(2,\), expected \(1,\) set by u"):
        language.generate(model.step, np.array([0]), np.array([0, 1]), u)
    with pytest.raises(TypeError, match="first has dtype float64"):
        language.generate(model.step, np.array([0]), np.array([0.0]), u)
    with pytest.raises(ValueError, match="width is 0"):
        language.beam_search(model.step, np.array([0]), 0, width=0, length=1, take=take)
    with pytest.raises(ValueError, match="length is 0"):
        language.beam_search(model.step, np.array([0]), 0, width=1, length=0, take=take)


# --- the larger experiment ------------------------------------------------------------------------

FIELDS = {
    "experiment",
    "command",
    "date",
    "device",
    "versions",
    "quick",
    "precision",
    "settings",
    "parameters",
    "seeds",
    "results",
    "test_bits_mean",
    "test_bits_sd",
}


def test_the_experiment_runs_and_writes_its_record(tmp_path, capsys):
    path = tmp_path / "record.json"
    experiment.main(["--quick", "--seeds", "0", "1", "--output", str(path)])
    capsys.readouterr()
    record = json.loads(path.read_text(encoding="utf-8"))
    assert set(record) == FIELDS
    assert record["quick"] is True
    assert record["command"] == "python experiments/language.py --device cpu --seeds 0 1 --quick"
    assert [r["seed"] for r in record["results"]] == record["seeds"] == [0, 1]
    bits = [r["test_bits"] for r in record["results"]]
    assert all(0 < b < 2 * math.log2(78) for b in bits)
    assert record["test_bits_mean"] == pytest.approx(np.mean(bits))
    assert record["test_bits_sd"] == pytest.approx(np.std(bits, ddof=1))


def test_the_committed_record_is_of_the_full_experiment():
    record = json.loads((ROOT / "experiments" / "language.json").read_text(encoding="utf-8"))
    assert set(record) == FIELDS
    assert record["quick"] is False
    assert record["settings"] == experiment.FULL
    assert len(record["seeds"]) >= 5
    assert [r["seed"] for r in record["results"]] == record["seeds"]
    assert record["test_bits_mean"] == pytest.approx(np.mean([r["test_bits"] for r in record["results"]]))


def test_the_shipped_text_has_the_alphabet_that_the_chapter_counts():
    text = datasets.shakespeare()
    assert len(Alphabet.of(text.train)) == 78
    for part in text:
        assert Alphabet.of(text.train).decode(Alphabet.of(text.train).encode(part)) == part


def test_functions_of_torch_stay_differentiable():
    a = as_torch(example("eq-language-entropy", 3, {"N": 2, "K": 4}), requires_grad=True)["a"]
    p = language.top_p(language.top_k(language.temperature_softmax(a, 0.7), 3), 1.0)
    (p * p).sum().backward()
    assert torch.isfinite(a.grad).all()
    assert a.grad.abs().sum() > 0
