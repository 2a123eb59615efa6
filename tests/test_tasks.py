"""The synthetic tasks are those of the papers, and their baselines are what a memoryless network reaches."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnnlib import tasks, unroll
from tests.support import seeds

DRAWS = {
    "adding": lambda rng, **more: tasks.adding(20, 5, rng, **more),
    "copy_memory": lambda rng, **more: tasks.copy_memory(7, 5, rng, **more),
    "temporal_order": lambda rng, **more: tasks.temporal_order(20, 5, rng, **more),
    "embedded_reber": lambda rng, **more: tasks.embedded_reber(5, rng, **more),
    "parity": lambda rng, **more: tasks.parity(20, 5, rng, **more),
}


def chi_squared(counts: list[int], probabilities: list[float]) -> float:
    """Pearson's statistic in standard deviations above its mean."""
    n, degrees = sum(counts), len(counts) - 1
    expected = [n * p for p in probabilities]
    statistic = sum((c - e) ** 2 / e for c, e in zip(counts, expected, strict=True))
    return (statistic - degrees) / math.sqrt(2 * degrees)


# --- all tasks --------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@given(seed=seeds)
def test_one_seed_gives_one_batch_and_another_seed_another(draw, seed):
    first, again, other = (draw(np.random.default_rng(s)) for s in (seed, seed, seed + 1))
    for x, y in zip(first, again, strict=True):
        np.testing.assert_array_equal(x, y)
        assert x.dtype == y.dtype
    assert not np.array_equal(first.xs, other.xs)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("name", DRAWS)
def test_the_numbers_have_the_dtype_asked_for_and_float32_otherwise(name, dtype):
    batch = DRAWS[name](np.random.default_rng(0), dtype=dtype)
    assert batch.xs.dtype == dtype
    assert batch.targets.dtype == (dtype if name == "adding" else np.int64)
    assert DRAWS[name](np.random.default_rng(0)).xs.dtype == np.float32


@pytest.mark.parametrize("name", DRAWS)
def test_the_dtype_changes_no_draw(name):
    narrow, wide = (DRAWS[name](np.random.default_rng(3), dtype=d) for d in (np.float32, np.float64))
    np.testing.assert_array_equal(narrow.xs, wide.xs.astype(np.float32))


@pytest.mark.parametrize("name", DRAWS)
def test_a_generator_and_a_floating_dtype_are_needed(name):
    with pytest.raises(TypeError, match=f"{name}: rng is a int, expected a numpy.random.Generator"):
        DRAWS[name](0)
    with pytest.raises(TypeError, match=f"{name}: rng is a RandomState, expected a numpy.random.Generator"):
        DRAWS[name](np.random.RandomState(0))
    for dtype in (np.int64, np.complex64, bool):
        with pytest.raises(TypeError, match=f"{name}: dtype is .*, expected a real floating-point dtype"):
            DRAWS[name](np.random.default_rng(0), dtype=dtype)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda r: tasks.adding(1, 5, r), ValueError, r"adding: length is 1, .* at least 2"),
        (lambda r: tasks.adding(2.0, 5, r), TypeError, r"adding: length is a float"),
        (lambda r: tasks.adding(5, 0, r), ValueError, r"adding: batch_size is 0, .* at least 1"),
        (lambda r: tasks.copy_memory(0, 5, r), ValueError, r"copy_memory: delay is 0, .* at least 1"),
        (lambda r: tasks.copy_memory(5, True, r), TypeError, r"copy_memory: batch_size is a bool"),
        (lambda r: tasks.copy_memory(5, 5, r, symbols=1), ValueError, r"copy_memory: symbols is 1, .* 2"),
        (lambda r: tasks.copy_memory(5, 5, r, count=0), ValueError, r"copy_memory: count is 0, .* 1"),
        (lambda r: tasks.copy_memory_baseline(0), ValueError, r"copy_memory_baseline: delay is 0"),
        (lambda r: tasks.copy_memory_baseline(9, symbols=1), ValueError, r"baseline: symbols is 1, .* 2"),
        (lambda r: tasks.copy_memory_baseline(9, count=0), ValueError, r"baseline: count is 0, .* 1"),
        (lambda r: tasks.temporal_order(9, 5, r), ValueError, r"temporal_order: length is 9, .* at least 10"),
        (lambda r: tasks.temporal_order(10, -1, r), ValueError, r"temporal_order: batch_size is -1"),
        (
            lambda r: tasks.temporal_order(20, 5, r, symbols=4),
            ValueError,
            r"symbols is 4, expected one of 2, 3",
        ),
        (lambda r: tasks.embedded_reber(0, r), ValueError, r"embedded_reber: batch_size is 0"),
    ],
)
def test_an_argument_out_of_range_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call(np.random.default_rng(0))


# --- adding -----------------------------------------------------------------------------------


@given(length=st.integers(2, 31), batch_size=st.integers(1, 7), seed=seeds)
def test_adding_marks_one_number_in_each_half_and_asks_for_their_sum(length, batch_size, seed):
    xs, targets = tasks.adding(length, batch_size, np.random.default_rng(seed), dtype=np.float64)
    assert xs.shape == (length, batch_size, 2)
    assert targets.shape == (batch_size,)
    for b in range(batch_size):
        values, markers = xs[:, b, 0], xs[:, b, 1]
        assert ((values >= 0) & (values <= 1)).all()
        assert set(markers) <= {0.0, 1.0}
        first, second = np.flatnonzero(markers)
        assert first < length // 2 <= second
        assert targets[b] == values[first] + values[second]


@pytest.mark.parametrize("length", [2, 7, 10])
def test_every_step_of_a_half_is_marked_equally_often(length):
    xs, _ = tasks.adding(length, 20_000, np.random.default_rng(1))
    counts = xs[:, :, 1].sum(1)
    half = length // 2
    for part in (counts[:half], counts[half:]):
        assert (part > 0).all()
        if len(part) > 1:
            assert abs(chi_squared(list(part), [1 / len(part)] * len(part))) < 4


def test_the_numbers_to_add_are_uniform():
    values = tasks.adding(10, 5000, np.random.default_rng(2), dtype=np.float64).xs[:, :, 0].ravel()
    counts, _ = np.histogram(values, bins=20, range=(0, 1))
    assert abs(chi_squared(list(counts), [1 / 20] * 20)) < 4


def test_the_baseline_of_adding_is_the_error_of_the_best_constant():
    assert tasks.adding_baseline() == pytest.approx(1 / 6, abs=0)
    # On a grid of midpoints the integral of (x + y - c)² is exact but for n⁻².
    x = (np.arange(1000) + 0.5) / 1000
    sums = x[:, None] + x
    assert ((sums - 1) ** 2).mean() == pytest.approx(tasks.adding_baseline(), rel=1e-5)
    for constant in (0.9, 1.1):
        assert ((sums - constant) ** 2).mean() > tasks.adding_baseline() + 0.009

    targets = tasks.adding(10, 200_000, np.random.default_rng(0), dtype=np.float64).targets
    errors = (targets - 1) ** 2
    assert errors.mean() == pytest.approx(1 / 6, abs=4 * errors.std() / math.sqrt(len(errors)))


# --- copying ----------------------------------------------------------------------------------


@given(
    delay=st.integers(1, 20),
    batch_size=st.integers(1, 5),
    symbols=st.integers(2, 9),
    count=st.integers(1, 12),
    seed=seeds,
)
def test_copying_repeats_the_symbols_after_the_delimiter(delay, batch_size, symbols, count, seed):
    rng = np.random.default_rng(seed)
    xs, targets = tasks.copy_memory(delay, batch_size, rng, symbols=symbols, count=count)
    T = delay + 2 * count
    assert xs.shape == (T, batch_size, symbols + 2)
    assert targets.shape == (T, batch_size)
    assert set(np.unique(xs)) == {0.0, 1.0}
    assert (xs.sum(-1) == 1).all()
    shown = xs.argmax(-1)
    for b in range(batch_size):
        remembered = list(shown[:count, b])
        assert max(remembered) < symbols
        assert list(shown[count:, b]) == [symbols] * (delay - 1) + [symbols + 1] + [symbols] * count
        assert list(targets[:, b]) == [symbols] * (delay + count) + remembered


def test_the_published_setting_of_copying_has_ten_classes_and_t_plus_twenty_steps():
    xs, targets = tasks.copy_memory(100, 3, np.random.default_rng(0))
    assert xs.shape == (120, 3, 10)
    assert (targets[:110] == 8).all()
    assert (targets[110:] < 8).all()


def test_the_symbols_to_copy_are_uniform_and_independent():
    targets = tasks.copy_memory(1, 40_000, np.random.default_rng(4), symbols=3, count=2).targets[-2:]
    pairs = Counter(map(tuple, targets.T.tolist()))
    counts = [pairs[p] for p in itertools.product(range(3), repeat=2)]
    assert abs(chi_squared(counts, [1 / 9] * 9)) < 4


@pytest.mark.parametrize(
    ("delay", "symbols", "count"), [(100, 8, 10), (1, 2, 1), (7, 5, 3)], ids=["published", "least", "other"]
)
def test_the_baseline_of_copying_is_the_loss_of_the_memoryless_strategy(delay, symbols, count):
    baseline = tasks.copy_memory_baseline(delay, symbols=symbols, count=count)
    # The strategy: certain of the blank up to and including the delimiter, uniform over S after it.
    rng = np.random.default_rng(0)
    targets = tasks.copy_memory(delay, 500, rng, symbols=symbols, count=count).targets
    p = np.zeros((len(targets), symbols + 2))
    p[: delay + count, symbols] = 1
    p[delay + count :, :symbols] = 1 / symbols
    chosen = p[np.arange(len(targets))[:, None], targets]
    assert -np.log(chosen).mean() == pytest.approx(baseline, rel=1e-12)
    # No other distribution over the answers does better on average: its cross-entropy is larger.
    q = np.random.default_rng(1).dirichlet(np.ones(symbols))
    assert -np.log(q).mean() * count / len(targets) > baseline


def test_the_published_number_of_the_baseline_of_copying():
    """Arjovsky, Shah and Bengio (2016): 10 log(8) / (T + 20)."""
    assert tasks.copy_memory_baseline(100) == pytest.approx(10 * math.log(8) / 120, rel=1e-15)


# --- temporal order ---------------------------------------------------------------------------


def temporal_strings(xs: np.ndarray) -> list[str]:
    assert set(np.unique(xs)) == {0.0, 1.0}
    assert (xs.sum(-1) == 1).all()
    return ["".join("abcdXYEB"[i] for i in column) for column in xs.argmax(-1).T]


@given(length=st.integers(10, 130), symbols=st.sampled_from([2, 3]), seed=seeds)
def test_temporal_order_names_the_order_of_the_relevant_symbols(length, symbols, seed):
    xs, targets = tasks.temporal_order(length, 6, np.random.default_rng(seed), symbols=symbols)
    assert xs.shape == (length, 6, 8)
    assert targets.shape == (6,)
    orders = ["".join(order) for order in itertools.product("XY", repeat=symbols)]
    for string, target in zip(temporal_strings(xs), targets, strict=True):
        assert re.fullmatch(rf"E([abcd]*[XY]){{{symbols}}}[abcd]*B", string)
        assert "".join(s for s in string if s in "XY") == orders[target]


@pytest.mark.parametrize(
    ("symbols", "length", "ranges"),
    [
        (2, 100, [(10, 20), (50, 60)]),  # experiment 6a
        (3, 100, [(10, 20), (33, 43), (66, 76)]),  # experiment 6b
        (2, 50, [(5, 10), (25, 30)]),
        (3, 10, [(1, 2), (3, 4), (6, 7)]),
        (2, 15, [(1, 3), (7, 9)]),
    ],
)
def test_the_relevant_symbols_stand_anywhere_in_their_ranges_and_nowhere_else(symbols, length, ranges):
    xs, _ = tasks.temporal_order(length, 4000, np.random.default_rng(5), symbols=symbols)
    positions = np.array([[m.start() for m in re.finditer("[XY]", s)] for s in temporal_strings(xs)])
    for column, (low, high) in zip(positions.T, ranges, strict=True):
        counts = np.bincount(column - low)
        assert len(counts) == high - low + 1
        assert abs(chi_squared(list(counts), [1 / len(counts)] * len(counts))) < 4


@pytest.mark.parametrize("symbols", [2, 3])
def test_the_classes_and_the_distractors_of_temporal_order_are_balanced(symbols):
    xs, targets = tasks.temporal_order(20, 20_000, np.random.default_rng(6), symbols=symbols)
    counts = np.bincount(targets)
    assert len(counts) == 2**symbols
    assert abs(chi_squared(list(counts), [1 / len(counts)] * len(counts))) < 4
    distractors = xs.sum((0, 1))[:4]
    assert abs(chi_squared(list(distractors), [1 / 4] * 4)) < 4


# --- parity -----------------------------------------------------------------------------------


@given(length=st.integers(1, 60), seed=seeds)
def test_parity_is_whether_the_ones_so_far_are_odd_in_number(length, seed):
    xs, targets = tasks.parity(length, 4, np.random.default_rng(seed))
    assert xs.shape == (length, 4, 1)
    assert targets.shape == (length, 4)
    for t, b in itertools.product(range(length), range(4)):
        assert targets[t, b] == Counter(xs[: t + 1, b, 0].tolist())[1.0] % 2


def test_bits_of_parity_are_fair_coins():
    xs, targets = tasks.parity(50, 400, np.random.default_rng(1))
    assert set(np.unique(xs)) == {0.0, 1.0}
    assert abs(xs.mean() - 0.5) < 4 * 0.5 / math.sqrt(20_000)
    assert abs(targets[-1].mean() - 0.5) < 4 * 0.5 / math.sqrt(400)


# --- reversal ---------------------------------------------------------------------------------


@given(length=st.integers(1, 30), symbols=st.integers(2, 12), seed=seeds)
def test_reversal_asks_for_the_string_backwards_and_an_end(length, symbols, seed):
    source, target = tasks.reversal(length, 5, np.random.default_rng(seed), symbols=symbols)
    assert source.shape == (length, 5)
    assert target.shape == (length + 1, 5)
    for read, written in zip(source.T.tolist(), target.T.tolist(), strict=True):
        assert written == [*reversed(read), symbols]
        assert all(0 <= s < symbols for s in read)
    again, _ = tasks.reversal(length, 5, np.random.default_rng(seed), symbols=symbols)
    np.testing.assert_array_equal(again, source)


def test_all_symbols_of_reversal_are_equally_likely():
    source, _ = tasks.reversal(20, 1000, np.random.default_rng(2), symbols=7)
    assert abs(chi_squared(list(np.bincount(source.ravel())), [1 / 7] * 7)) < 4


def test_reversal_refuses_what_it_cannot_draw():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"reversal: length is 0, expected"):
        tasks.reversal(0, 1, rng)
    with pytest.raises(ValueError, match=r"reversal: symbols is 1, expected a whole number of at least 2"):
        tasks.reversal(3, 1, rng, symbols=1)
    with pytest.raises(TypeError, match=r"reversal: rng is a int"):
        tasks.reversal(3, 1, 0)


# --- the embedded Reber grammar ---------------------------------------------------------------

# The grammar, written as an expression: what leads from the lower loop to the end, and the whole.
LOWER = r"(?:T*VPX)*T*V(?:V|PS)"
REBER = rf"B(?:TS*X(?:S|X{LOWER})|P{LOWER})E"
EMBEDDED = re.compile(rf"B(?:T{REBER}T|P{REBER}P)E")


def strings_up_to(length: int) -> list[str]:
    """All strings of the grammar up to a length, by extending the prefixes that are legal."""
    complete, prefixes = [], [""]
    for _ in range(length):
        prefixes = [p + s for p in prefixes for s in tasks.embedded_reber_next(p)]
        complete += [p for p in prefixes if tasks.embedded_reber_next(p) == ""]
    return complete


def reber_strings(batch: tasks.ReberBatch) -> list[str]:
    strings = []
    for b, length in enumerate(batch.lengths):
        ids = [*batch.xs[:length, b].argmax(-1), batch.targets[length - 1, b]]
        strings.append("".join("BTSXPVE"[i] for i in ids))
    return strings


def test_the_grammar_accepts_what_the_expression_accepts():
    """Every string of up to seven symbols inside the frame, legal or not."""
    found = set()
    for n in range(8):
        for inner in itertools.product("BTSXPVE", repeat=n) if n < 6 else framed(n):
            string = f"BT{''.join(inner)}TE"
            assert tasks.is_embedded_reber(string) == bool(EMBEDDED.fullmatch(string)), string
            found |= {string} if EMBEDDED.fullmatch(string) else set()
    assert {"BTBTXSETE", "BTBPVVETE", "BTBTSXSETE", "BTBTSSXSETE", "BTBPTVVETE", "BTBPVPSETE"} <= found


def framed(n: int):
    """Inner strings that begin with B and end with E, of n symbols."""
    return (("B", *middle, "E") for middle in itertools.product("TSXPV", repeat=n - 2))


def test_the_grammar_generates_what_the_expression_accepts():
    strings = strings_up_to(18)
    assert len(strings) == len(set(strings)) > 200
    assert all(EMBEDDED.fullmatch(s) for s in strings)
    assert sorted({len(s) for s in strings}) == list(range(9, 19))


@pytest.mark.parametrize(
    "string",
    [
        "",
        "B",
        "BTBTXSE",
        "BTBTXSEPE",
        "BPBTXSETE",
        "BTBTXSETEE",
        "BTBTXSET",
        "btbtxsete",
        "BTBSXSETE",
        "BTXTE",
    ],
)
def test_a_string_of_another_grammar_is_none_of_this_one(string):
    assert not tasks.is_embedded_reber(string)
    assert not EMBEDDED.fullmatch(string)


def test_what_may_come_next_follows_from_the_complete_strings():
    strings = strings_up_to(16)
    follows: dict[str, set[str]] = {}
    for string in strings:
        for n in range(len(string)):
            follows.setdefault(string[:n], set()).add(string[n])
    for prefix, expected in follows.items():
        if len(prefix) <= 8:  # from here at least one completion of every kind is short enough
            assert set(tasks.embedded_reber_next(prefix)) == expected, prefix
    assert tasks.embedded_reber_next("BPBTXSE") == "P"
    assert tasks.embedded_reber_next("BTBTXSE") == "T"
    assert tasks.embedded_reber_next("BTBTXSETE") == ""


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("T", r"prefix has 'T' at position 0, expected 'B'"),
        ("BTBX", r"prefix has 'X' at position 3, expected 'T' or 'P'"),
        ("BPBTXSET", r"prefix has 'T' at position 7, expected 'P'"),
        ("BTBTXSETEB", r"prefix has 'B' at position 9, expected no more symbols"),
    ],
)
def test_a_prefix_that_begins_no_string_is_refused_with_its_position(prefix, message):
    with pytest.raises(ValueError, match=message):
        tasks.embedded_reber_next(prefix)


@given(batch_size=st.integers(1, 9), seed=seeds)
def test_a_reber_batch_holds_strings_their_next_symbols_and_what_is_legal(batch_size, seed):
    batch = tasks.embedded_reber(batch_size, np.random.default_rng(seed))
    T = batch.xs.shape[0]
    assert batch.xs.shape == batch.legal.shape == (T, batch_size, 7)
    assert batch.targets.shape == (T, batch_size)
    assert batch.lengths.shape == (batch_size,)
    assert batch.lengths.dtype == np.int64
    assert batch.legal.dtype == np.bool_
    assert batch.lengths.max() == T
    for b, string in enumerate(reber_strings(batch)):
        assert EMBEDDED.fullmatch(string)
        length = batch.lengths[b]
        assert length == len(string) - 1
        assert (batch.xs[:length, b].sum(-1) == 1).all()
        assert ["BTSXPVE"[i] for i in batch.targets[:length, b]] == list(string[1:])
        for t in range(length):
            legal = {"BTSXPVE"[i] for i in np.flatnonzero(batch.legal[t, b])}
            assert legal == set(tasks.embedded_reber_next(string[: t + 1]))
            assert 1 <= len(legal) <= 2
        assert not batch.xs[length:, b].any()
        assert not batch.targets[length:, b].any()
        assert not batch.legal[length:, b].any()


def test_the_lengths_of_a_reber_batch_make_the_mask_of_its_steps():
    batch = tasks.embedded_reber(20, np.random.default_rng(0))
    mask = unroll.mask_from_lengths(batch.lengths, batch.xs)
    np.testing.assert_array_equal(mask, batch.xs.sum(-1))


def test_strings_come_with_the_probability_of_their_choices():
    """A string has probability 2 to the minus number of choices on its way."""
    strings = reber_strings(tasks.embedded_reber(40_000, np.random.default_rng(7)))
    counts = Counter(strings)

    def probability(string: str) -> float:
        return math.prod(1 / len(tasks.embedded_reber_next(string[:n])) for n in range(len(string)))

    short = strings_up_to(12)
    probabilities = [probability(s) for s in short]
    observed = [counts[s] for s in short]
    rest = len(strings) - sum(observed)
    assert abs(chi_squared([*observed, rest], [*probabilities, 1 - sum(probabilities)])) < 4
    assert sum(probabilities) > 0.5
