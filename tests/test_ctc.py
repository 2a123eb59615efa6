"""Connectionist temporal classification, held to all paths one by one, to torch, and to differences."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rnnlib import ctc
from tests.support import seeds


def softmax(a: np.ndarray) -> np.ndarray:
    e = np.exp(a - a.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def said(path: tuple[int, ...], blank: int) -> tuple[int, ...]:
    """What a path says, by itertools: one of each run, no blanks."""
    return tuple(k for k, _ in itertools.groupby(path) if k != blank)


def by_force(y: np.ndarray, blank: int) -> dict[tuple[int, ...], float]:
    """The probability of every labelling that T steps can say, path by path."""
    T, K = y.shape
    found: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(K), repeat=T):
        labels = said(path, blank)
        found[labels] = found.get(labels, 0.0) + math.prod(y[t, k] for t, k in enumerate(path))
    return found


class Batch:
    """Random logits, lengths and labellings, all of them possible, as most losses want them."""

    def __init__(self, seed: int, T: int = 7, B: int = 4, K: int = 4, blank: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.blank = blank
        self.a = 2 * rng.normal(size=(T, B, K))
        self.log_y = np.log(softmax(self.a))
        self.lengths = rng.integers(1, T + 1, B).tolist()
        self.d_loss = rng.normal(size=B)
        labels = [k for k in range(K) if k != blank]
        self.targets: list[list[int]] = []
        for n in self.lengths:
            target: list[int] = []
            while len(target) + sum(p == q for p, q in itertools.pairwise(target)) < rng.integers(0, n + 1):
                target.append(int(rng.choice(labels)))
            while len(target) + sum(p == q for p, q in itertools.pairwise(target)) > n:
                target.pop()
            self.targets.append(target)

    def torch_loss(self) -> tuple[torch.Tensor, torch.Tensor]:
        a = torch.tensor(self.a, requires_grad=True)
        loss = torch.nn.functional.ctc_loss(
            torch.log_softmax(a, 2),
            torch.tensor([k for target in self.targets for k in target], dtype=torch.long),
            torch.tensor(self.lengths),
            torch.tensor([len(target) for target in self.targets]),
            blank=self.blank,
            reduction="none",
        )
        return a, loss


blanks = st.integers(0, 3)


# --- paths and labellings ---------------------------------------------------------------------


@pytest.mark.equation("eq-ctc-collapse")
@given(st.lists(st.integers(0, 3), max_size=12), blanks)
def test_a_path_collapses_to_one_of_each_run_without_blanks(path, blank):
    assert ctc.collapse(path, blank) == list(said(tuple(path), blank))


def test_the_examples_of_the_chapter():
    assert ctc.collapse([0, 1, 1, 0, 2]) == [1, 2]
    assert ctc.collapse([1, 1]) == [1]
    assert ctc.collapse([1, 0, 1]) == [1, 1]
    assert ctc.collapse(np.array([2, 0, 2]), blank=2) == [0]


@pytest.mark.equation("eq-ctc-path")
@given(seeds)
def test_the_probability_of_a_path_is_the_product_of_its_steps(agree, seed):
    rng = np.random.default_rng(seed)
    y = softmax(rng.normal(size=(6, 3)))
    path = rng.integers(0, 3, 6)
    expected = math.log(math.prod(y[t, k] for t, k in enumerate(path)))
    agree(ctc.path_log_probability, "the product", ctc.path_log_probability(np.log(y), path), expected)


@pytest.mark.equation("eq-ctc-extend")
@given(st.lists(st.integers(1, 4), max_size=6))
def test_an_extended_labelling_has_blanks_around_every_label(labels):
    extended = ctc.extend(labels)
    assert len(extended) == 2 * len(labels) + 1
    assert extended[1::2] == labels
    assert set(extended[::2]) == {0}
    assert ctc.collapse(extended) == labels


@pytest.mark.equation("eq-ctc-steps")
@given(st.lists(st.integers(1, 2), max_size=4))
def test_no_shorter_path_says_the_labelling(labels):
    needed = ctc.steps_needed(labels)
    for T in range(needed):
        assert tuple(labels) not in {said(p, 0) for p in itertools.product(range(3), repeat=T)}
    assert tuple(labels) in {said(p, 0) for p in itertools.product(range(3), repeat=needed)}


# --- forward and backward ---------------------------------------------------------------------


@pytest.mark.equation("eq-ctc-probability")
@given(seeds, st.integers(1, 6), st.integers(2, 3), st.integers(0, 1))
def test_every_labelling_has_the_probability_of_all_its_paths(agree, seed, T, K, blank):
    rng = np.random.default_rng(seed)
    y = softmax(2 * rng.normal(size=(T, K)))
    expected = by_force(y, blank)
    for labels, p in expected.items():
        found = ctc.log_probability(np.log(y)[:, None], [labels], blank=blank)
        agree(ctc.log_probability, "all paths", np.exp(found), np.array([p]))
    assert np.isclose(sum(expected.values()), 1)


@pytest.mark.equation("eq-ctc-alpha", "eq-ctc-beta")
@given(seeds, blanks)
def test_alpha_and_beta_count_beginnings_and_ends_of_paths(agree, seed, blank):
    rng = np.random.default_rng(seed)
    T, K = 5, 4
    y = softmax(rng.normal(size=(T, K)))
    labels = rng.choice([k for k in range(K) if k != blank], rng.integers(0, 3)).tolist()
    extended = [blank]
    for label in labels:
        extended += [label, blank]
    S = len(extended)
    walks = {(s,): True for s in range(min(2, S))}
    expected_alpha = np.zeros((T, S))
    complete = []
    for t in range(T):
        for walk in walks:
            expected_alpha[t, walk[-1]] += math.prod(y[i, extended[s]] for i, s in enumerate(walk))
        if t == T - 1:
            complete = [w for w in walks if w[-1] >= S - 2]
            break
        walks = {
            (*walk, s): True
            for walk in walks
            for s in range(walk[-1], min(walk[-1] + 3, S))
            # a jump of two may leave out a blank between different labels, and nothing else
            if s < walk[-1] + 2 or (s % 2 == 1 and extended[s] != extended[s - 2])
        }
    alpha = np.exp(ctc.forward_variables(np.log(y)[:, None], [labels], blank=blank))[:, 0]
    agree(ctc.forward_variables, "all walks", alpha, expected_alpha)

    # α β at (t, s) is the probability of the complete walks that pass there.
    expected = np.zeros((T, S))
    for walk in complete:
        p = math.prod(y[i, extended[s]] for i, s in enumerate(walk))
        for t, s in enumerate(walk):
            expected[t, s] += p
    beta = np.exp(ctc.backward_variables(np.log(y)[:, None], [labels], blank=blank))[:, 0]
    agree(ctc.backward_variables, "all walks", alpha * beta, expected)
    if complete:
        assert np.array_equal(beta[-1], [float(s >= S - 2) for s in range(S)])


@given(seeds, blanks)
def test_the_sum_of_alpha_beta_is_the_same_at_every_step(seed, blank):
    case = Batch(seed, blank=blank)
    given_ = (case.log_y, case.targets, case.lengths, blank)
    alpha, beta = ctc.forward_variables(*given_), ctc.backward_variables(*given_)
    joint = np.exp(alpha + beta).sum(2)  # (T, B)
    p = np.exp(ctc.log_probability(*given_))
    for b, n in enumerate(case.lengths):
        np.testing.assert_allclose(joint[:n, b], p[b], rtol=1e-12)
        assert (alpha[n:, b] == -np.inf).all()
        assert (beta[n:, b] == -np.inf).all()


@pytest.mark.equation("eq-ctc-posterior")
@given(seeds)
def test_the_posterior_is_the_share_of_the_paths_with_a_symbol_at_a_step(agree, seed):
    rng = np.random.default_rng(seed)
    y = softmax(rng.normal(size=(5, 3)))
    labels = rng.integers(1, 3, rng.integers(0, 3)).tolist()
    expected = np.zeros((5, 3))
    for path in itertools.product(range(3), repeat=5):
        if said(path, 0) == tuple(labels):
            for t, k in enumerate(path):
                expected[t, k] += math.prod(y[i, s] for i, s in enumerate(path))
    gamma = ctc.posterior(np.log(y)[:, None], [labels])[:, 0]
    agree(ctc.posterior, "all paths", gamma, expected / expected[0].sum())


@given(seeds)
def test_the_posterior_of_a_batch_sums_to_one_within_each_sequence(seed):
    case = Batch(seed)
    sums = ctc.posterior(case.log_y, case.targets, case.lengths).sum(2)
    for b, n in enumerate(case.lengths):
        np.testing.assert_allclose(sums[:n, b], 1, rtol=1e-12)
        assert not sums[n:, b].any()
    assert not ctc.posterior(case.log_y[:1], [[1, 1]] * 4).any()  # impossible


def test_what_never_happens_has_no_probability():
    with np.errstate(divide="ignore"):
        log_y = np.log(np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]))[:, None]
    np.testing.assert_allclose(ctc.log_probability(log_y, [[1]]), np.log(0.5))
    assert ctc.log_probability(log_y, [[2]]) == -np.inf
    assert ctc.log_probability(torch.tensor(log_y), [[2]]) == -np.inf


# --- the loss ---------------------------------------------------------------------------------


@pytest.mark.equation("eq-ctc-loss", "eq-ctc-loss-backward")
@given(seeds, blanks)
def test_the_loss_and_its_gradient_agree_with_torch(agree, seed, blank):
    case = Batch(seed, blank=blank)
    a, expected = case.torch_loss()
    loss = ctc.ctc_loss(case.a, case.targets, case.lengths, blank)
    agree(ctc.ctc_loss, "torch.nn.CTCLoss", loss, expected)
    (expected * torch.tensor(case.d_loss)).sum().backward()
    d_a = ctc.ctc_loss_backward(case.d_loss, case.a, case.targets, case.lengths, blank)
    agree(ctc.ctc_loss_backward, "torch.autograd", d_a, a.grad)
    for b, n in enumerate(case.lengths):
        assert not d_a[n:, b].any()


def test_the_gradient_agrees_with_differences(agree):
    case = Batch(3)
    step, expected = 1e-6, np.zeros(case.a.shape)
    for i in np.ndindex(case.a.shape):
        e = np.zeros(case.a.shape)
        e[i] = step
        up, down = (ctc.ctc_loss(case.a + x, case.targets, case.lengths) @ case.d_loss for x in (e, -e))
        expected[i] = (up - down) / (2 * step)
    found = ctc.ctc_loss_backward(case.d_loss, case.a, case.targets, case.lengths)
    agree(ctc.ctc_loss_backward, "differences", found, expected, tolerance=1e-7)


def test_long_sequences_do_not_underflow(agree):
    rng = np.random.default_rng(0)
    case = Batch(0, T=600, B=2, K=5)
    case.targets, case.lengths = [rng.integers(1, 5, 60).tolist(), [1]], [600, 599]
    a, expected = case.torch_loss()
    loss = ctc.ctc_loss(case.a, case.targets, case.lengths)
    assert loss.min() > 400  # exp(-loss) is far below what a power of ten can say in float32
    agree(ctc.ctc_loss, "torch.nn.CTCLoss", loss, expected)
    expected.sum().backward()
    d_a = ctc.ctc_loss_backward(np.ones(2), case.a, case.targets, case.lengths)
    agree(ctc.ctc_loss_backward, "torch.autograd", d_a, a.grad)
    single = ctc.ctc_loss(case.a.astype(np.float32), case.targets, case.lengths)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, loss, rtol=1e-5)


def test_padding_changes_nothing():
    case = Batch(5)
    behind = np.arange(7)[:, None] >= np.array(case.lengths)
    moved = np.where(behind[:, :, None], 1e3, case.a)
    args = (case.targets, case.lengths)
    np.testing.assert_array_equal(ctc.ctc_loss(moved, *args), ctc.ctc_loss(case.a, *args))
    np.testing.assert_array_equal(
        ctc.ctc_loss_backward(case.d_loss, moved, *args), ctc.ctc_loss_backward(case.d_loss, case.a, *args)
    )


def test_an_impossible_labelling_has_infinite_loss_and_no_gradient():
    a = np.random.default_rng(0).normal(size=(3, 2, 3))
    targets = [[1, 1, 2], [1, 2]]  # the first needs four steps
    loss = ctc.ctc_loss(a, targets)
    assert loss[0] == np.inf
    assert np.isfinite(loss[1])
    theirs = torch.nn.functional.ctc_loss(
        torch.log_softmax(torch.tensor(a), 2),
        torch.tensor([1, 1, 2, 1, 2]),
        torch.tensor([3, 3]),
        torch.tensor([3, 2]),
        reduction="none",
    )
    np.testing.assert_allclose(loss, theirs)
    with pytest.raises(ValueError, match=r"ctc_loss_backward: targets\[0\] needs 4 steps but has 3"):
        ctc.ctc_loss_backward(np.ones(2), a, targets)
    with pytest.raises(ValueError, match=r"targets\[1\] needs 2 steps but has 1"):
        ctc.ctc_loss_backward(np.ones(2), a, [[1], [1, 2]], [3, 1])
    d_a = ctc.ctc_loss_backward.unchecked(np.ones(2), a, targets)
    assert np.isnan(d_a[:, 0]).all()
    assert np.isfinite(d_a[:, 1]).all()


def test_numpy_and_torch_give_the_same():
    case = Batch(8)
    args = (case.targets, case.lengths)
    for function in (ctc.forward_variables, ctc.backward_variables, ctc.posterior, ctc.log_probability):
        ours, theirs = function(case.log_y, *args), function(torch.tensor(case.log_y), *args)
        np.testing.assert_allclose(theirs.numpy(), ours, rtol=1e-12)


# --- decoding ---------------------------------------------------------------------------------


@pytest.mark.equation("eq-ctc-best-path")
@given(seeds)
def test_the_best_path_is_the_most_probable_of_all_paths(seed):
    y = softmax(np.random.default_rng(seed).normal(size=(5, 3)))
    paths = itertools.product(range(3), repeat=5)
    best = max(paths, key=lambda path: math.prod(y[t, k] for t, k in enumerate(path)))
    assert ctc.best_path(np.log(y)[:, None]) == [list(said(best, 0))]
    shorter = ctc.best_path(np.log(y)[:, None], lengths=[2], blank=1)
    assert shorter == [list(said(tuple(y[:2].argmax(1)), 1))]


@pytest.mark.equation("eq-ctc-prefix")
@given(seeds, st.integers(1, 5), st.integers(0, 1))
def test_the_whole_search_finds_the_most_probable_labelling(agree, seed, T, blank):
    y = softmax(2 * np.random.default_rng(seed).normal(size=(T, 3)))
    expected = by_force(y, blank)
    labels, log_p = ctc.beam_search(np.log(y), blank=blank)
    best = max(expected, key=expected.__getitem__)
    assert tuple(labels) == best
    agree(ctc.beam_search, "all paths", np.exp(log_p), expected[best])
    for width in (1, 2, 5):
        narrow, log_q = ctc.beam_search(np.log(y), width, blank)
        assert math.exp(log_q) <= expected[tuple(narrow)] + 1e-12


def test_a_label_is_said_again_only_after_a_blank():
    log_y = np.log(np.array([[0.1, 0.9], [0.9, 0.1], [0.1, 0.9]]))
    labels, log_p = ctc.beam_search(log_y)
    assert labels == [1, 1]
    assert math.exp(log_p) == pytest.approx(0.9**3)  # by the one path a, blank, a


def test_the_best_path_need_not_say_the_most_probable_labelling():
    log_y = np.log(np.array([[0.6, 0.4], [0.6, 0.4]]))
    assert ctc.best_path(log_y[:, None]) == [[]]
    labels, log_p = ctc.beam_search(log_y)
    assert labels == [1]
    assert math.exp(log_p) == pytest.approx(0.64)
    assert ctc.beam_search(log_y, width=1)[0] == []  # too narrow
    assert ctc.beam_search(torch.tensor(log_y))[0] == [1]


# --- how wrong --------------------------------------------------------------------------------


def edits_by_search(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    """Breadth first: all sequences one edit away, two edits away, …"""
    symbols, reached, distance = sorted(set(second)), {first}, 0
    while second not in reached:
        following = set()
        for s in reached:
            for i in range(len(s) + 1):
                following |= {(*s[:i], k, *s[i:]) for k in symbols}
                if i < len(s):
                    following.add((*s[:i], *s[i + 1 :]))
                    following |= {(*s[:i], k, *s[i + 1 :]) for k in symbols}
        reached, distance = reached | following, distance + 1
    return distance


labels_ = st.lists(st.integers(0, 2), max_size=3)


@pytest.mark.equation("eq-ctc-edit-distance")
@given(labels_, labels_)
def test_the_edit_distance_is_the_fewest_edits(first, second):
    distance = ctc.edit_distance(first, second)
    assert distance == edits_by_search(tuple(first), tuple(second))
    assert distance == ctc.edit_distance(second, first)


def test_a_known_edit_distance():
    kitten, sitting = ([ord(c) for c in word] for word in ("kitten", "sitting"))
    assert ctc.edit_distance(kitten, sitting) == 3  # Levenshtein's textbook example
    assert ctc.edit_distance([], [1, 2]) == 2
    assert ctc.edit_distance([1, 2, 3], [1, 2, 3]) == 0


@pytest.mark.equation("eq-ctc-error-rate")
def test_the_label_error_rate_weighs_sequences_by_their_labels():
    assert ctc.label_error_rate([[1, 2], [3]], [[1, 2, 3], [4]]) == 2 / 4
    assert ctc.label_error_rate([[1, 2, 3]], [[1]]) == 2
    with pytest.raises(ValueError, match="answers has 1 entries, expected 2 set by targets"):
        ctc.label_error_rate([[1]], [[1], [2]])
    with pytest.raises(ValueError, match="targets holds no label"):
        ctc.label_error_rate([[1]], [[]])
    with pytest.raises(TypeError, match="answers is a int, expected a sequence of label sequences"):
        ctc.label_error_rate(1, [[1]])
    with pytest.raises(TypeError, match="targets is a str, expected a sequence of label sequences"):
        ctc.label_error_rate([[1]], "1")


# --- bad input --------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused():
    a = np.zeros((4, 2, 3))
    cases = [
        (ValueError, r"targets has 1 entries, expected B = 2", ([[1]],), {}),
        (ValueError, r"targets\[1\]\[0\] is 0, the blank", ([[1], [0]],), {}),
        (ValueError, r"targets\[0\]\[1\] is 3, expected a whole number from 0 to 2", ([[1, 3], [1]],), {}),
        (TypeError, r"targets\[0\]\[0\] is a float", ([[1.0], [1]],), {}),
        (TypeError, r"targets\[0\] is a int, expected a sequence of whole numbers", ([1, 2],), {}),
        (TypeError, r"targets is a int, expected B = 2 sequences", (3,), {}),
        (ValueError, r"lengths has 1 entries, expected B = 2", ([[1], [1]], [4]), {}),
        (ValueError, r"lengths\[1\] is 5, expected a whole number from 1 to 4", ([[1], [1]], [4, 5]), {}),
        (ValueError, r"lengths\[0\] is 0, expected a whole number from 1 to 4", ([[1], [1]], [0, 4]), {}),
        (ValueError, r"blank is 3, expected a whole number from 0 to 2", ([[1], [1]],), {"blank": 3}),
    ]
    functions = (ctc.forward_variables, ctc.backward_variables, ctc.log_probability, ctc.ctc_loss)
    for error, message, args, kwargs in cases:
        for function in functions:
            with pytest.raises(error, match=f"{function.__name__}: {message}"):
                function(a, *args, **kwargs)
    with pytest.raises(ValueError, match="a holds NaN"):
        ctc.ctc_loss(np.full((4, 2, 3), np.nan), [[1], [1]])
    with pytest.raises(ValueError, match="path has 2 entries, expected T = 4"):
        ctc.path_log_probability(a[:, 0], [1, 2])
    with pytest.raises(ValueError, match=r"extend: labels\[1\] is 2, the blank"):
        ctc.extend([1, 2], blank=2)
    with pytest.raises(TypeError, match="collapse: path is a str, expected a sequence"):
        ctc.collapse("aab")
    with pytest.raises(ValueError, match="beam_search: width is 0"):
        ctc.beam_search(a[:, 0], width=0)
