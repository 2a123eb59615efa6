"""The loops over time as kernels for a GPU, in Triton: what :mod:`rnnlib.engine.fused` launches.

One program of a kernel takes ``ROWS`` sequences of the batch and walks all their steps. The rows of a
batch never meet, so programs never wait for each other. Inside a program the threads share a step: its units
in blocks of ``UNITS``, and of each product ``INNER`` terms at a time. A barrier between the writing of a
state and its reading in the next step is all the order there is.

- ``plan`` (T + 1, 2) holds, in walking order, how many sequences have a row in a step and which row is its
  first. Its first entry is (0, 0): before the first step no sequence has one.
- Matrices lie row by row without gaps. Indices have 64 bits, since N times 4H may need more than 32.
- Rows and units beyond the last are masked, so no size has to be a multiple of anything.
- Numbers are stored in one type (``float32``, ``float16``, …); ``SUM`` is the type they are computed in.
- Where a number is replaced, a barrier stands before the store too: a thread may have to read what
  another one overwrites.
"""

import triton
import triton.language as tl

# --- the arithmetic of the gates --------------------------------------------------------------


@triton.jit
def _logistic(x):
    e = tl.exp(-tl.abs(x))  # cannot overflow
    return tl.where(x < 0, e, 1.0) / (1.0 + e)  # the comparison is false for NaN, and e is NaN then


@triton.jit
def _tanh(x):
    """Tanh: near 0, where 1 - e loses digits, by the fractions of Cephes (Moshier), which are exact there."""
    z = x * x
    if x.dtype == tl.float64:
        over = (-9.64399179425052238628e-1 * z - 9.92877231001918586564e1) * z - 1.61468768441708447952e3
        under = ((z + 1.12811678491632931402e2) * z + 2.23548839060100448583e3) * z + 4.84406305325125486048e3
        near = x + x * z * (over / under)
    else:
        p = (-5.70498872745e-3 * z + 2.06390887954e-2) * z - 5.37397155531e-2
        near = x + x * z * ((p * z + 1.33314422036e-1) * z - 3.33332819422e-1)
    e = tl.exp(-2.0 * tl.abs(x))
    far = (1.0 - e) / (1.0 + e)
    return tl.where(tl.abs(x) < 0.625, near, tl.where(x < 0, -far, far))


# --- what the loops share ---------------------------------------------------------------------


@triton.jit
def _batch(ROWS: tl.constexpr):
    """The sequences of this program, (ROWS,)."""
    return tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)


@triton.jit
def _block(first, size: tl.constexpr):
    """The numbers from first on, (size,)."""
    return first + tl.arange(0, size).to(tl.int64)


@triton.jit
def _units(first, there, H: tl.constexpr, UNITS: tl.constexpr):
    """The units from first on, (UNITS,), and which of the numbers of these rows there are, (ROWS, UNITS)."""
    u = _block(first, UNITS)
    return u, there[:, None] & (u < H)[None, :]


@triton.jit
def _rows(plan, n, b):
    """The rows of the sequences in step n of the walk, (ROWS,), and which of them there are."""
    return tl.load(plan + 2 * n + 1) + b, b < tl.load(plan + 2 * n)


@triton.jit
def _before(plan, n, b, initial, states, H: tl.constexpr):
    """Where the state lies from which step n starts: pointers to its rows, (ROWS,)."""
    row, there = _rows(plan, n - 1, b)
    return tl.where(there, states + row * H, initial + b * H)


@triton.jit
def _add_product(
    sums,
    left,
    there,
    right,
    inside,
    down: tl.constexpr,
    K: tl.constexpr,
    INNER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Add a matrix product of K terms to sums (ROWS, UNITS).

    left (ROWS,) points to the rows of the one matrix, right (UNITS,) to the tops of the columns of the other,
    whose numbers are ``down`` apart.
    """
    # While a tile is multiplied the next is on its way. Other loops must not be overlapped like that:
    # a step reads what the step before it has written.
    for first in tl.range(0, K, INNER, num_stages=3):
        k = _block(first, INNER)
        a = tl.load(left[:, None] + k[None, :], there[:, None] & (k < K)[None, :], 0.0)  # (ROWS, INNER)
        w = tl.load(right[None, :] + down * k[:, None], inside[None, :] & (k < K)[:, None], 0.0)
        sums = tl.dot(a, w, sums, input_precision=PRECISION, out_dtype=sums.dtype)
    return sums


# --- forward ----------------------------------------------------------------------------------
# slab holds the input product, (N, G · H), and is overwritten with the gates. Row u of the weights makes
# unit u, so the numbers of a column of the product lie one after the other.


@triton.jit(do_not_specialize=["T"])
def rnn(
    plan,
    T,
    hs,
    h_0,
    W,
    H: tl.constexpr,
    RELU: tl.constexpr,
    SUM: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    INNER: tl.constexpr,
):
    """The vanilla network; ``hs`` holds the input product, and is overwritten with the states."""
    b = _batch(ROWS)
    for n in range(1, T + 1):
        row, there = _rows(plan, n, b)
        before = _before(plan, n, b, h_0, hs, H)
        for first in range(0, H, UNITS):
            u, mask = _units(first, there, H, UNITS)
            place = hs + row[:, None] * H + u[None, :]
            a = tl.load(place, mask, 0.0).to(SUM)  # (ROWS, UNITS)
            a = _add_product(a, before, there, W + u * H, u < H, 1, H, INNER, PRECISION)
            h = tl.where(a < 0, 0.0, a) if RELU else _tanh(a)  # NaN stays
            tl.debug_barrier()
            tl.store(place, h, mask)
        tl.debug_barrier()


@triton.jit(do_not_specialize=["T"])
def lstm(
    plan,
    T,
    slab,
    hs,
    Cs,
    h_0,
    C_0,
    W,
    H: tl.constexpr,
    KEEP: tl.constexpr,
    SUM: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    INNER: tl.constexpr,
):
    """The LSTM. If not ``KEEP``, gates are not written, and ``C_0`` is overwritten with the last memories."""
    b = _batch(ROWS)
    for n in range(1, T + 1):
        row, there = _rows(plan, n, b)
        before = _before(plan, n, b, h_0, hs, H)
        if KEEP:
            C_before = _before(plan, n, b, C_0, Cs, H)
            C_after = Cs + row * H
        else:
            C_before = C_0 + b * H
            C_after = C_before
        for first in range(0, H, UNITS):
            u, mask = _units(first, there, H, UNITS)
            place = slab + row[:, None] * (4 * H) + u[None, :]
            i = tl.load(place, mask, 0.0).to(SUM)  # (ROWS, UNITS)
            f = tl.load(place + H, mask, 0.0).to(SUM)
            C_tilde = tl.load(place + 2 * H, mask, 0.0).to(SUM)
            o = tl.load(place + 3 * H, mask, 0.0).to(SUM)
            C_prev = tl.load(C_before[:, None] + u[None, :], mask, 0.0).to(SUM)
            w = W + u * H
            i = _add_product(i, before, there, w, u < H, 1, H, INNER, PRECISION)
            f = _add_product(f, before, there, w + H * H, u < H, 1, H, INNER, PRECISION)
            C_tilde = _add_product(C_tilde, before, there, w + 2 * H * H, u < H, 1, H, INNER, PRECISION)
            o = _add_product(o, before, there, w + 3 * H * H, u < H, 1, H, INNER, PRECISION)
            i, f, C_tilde, o = _logistic(i), _logistic(f), _tanh(C_tilde), _logistic(o)
            C = f * C_prev + i * C_tilde
            tl.debug_barrier()
            if KEEP:
                tl.store(place, i, mask)
                tl.store(place + H, f, mask)
                tl.store(place + 2 * H, C_tilde, mask)
                tl.store(place + 3 * H, o, mask)
            tl.store(C_after[:, None] + u[None, :], C, mask)
            tl.store(hs + row[:, None] * H + u[None, :], o * _tanh(C), mask)
        tl.debug_barrier()


@triton.jit(do_not_specialize=["T"])
def gru(
    plan,
    T,
    slab,
    hs,
    us,
    h_0,
    W,
    b_h,
    H: tl.constexpr,
    KEEP: tl.constexpr,
    SUM: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    INNER: tl.constexpr,
):
    """The GRU whose reset acts after the product, with the bias ``b_h`` inside it, or None."""
    b = _batch(ROWS)
    for n in range(1, T + 1):
        row, there = _rows(plan, n, b)
        before = _before(plan, n, b, h_0, hs, H)
        for first in range(0, H, UNITS):
            j, mask = _units(first, there, H, UNITS)
            place = slab + row[:, None] * (3 * H) + j[None, :]
            r = tl.load(place, mask, 0.0).to(SUM)  # (ROWS, UNITS)
            z = tl.load(place + H, mask, 0.0).to(SUM)
            a_h = tl.load(place + 2 * H, mask, 0.0).to(SUM)
            h_prev = tl.load(before[:, None] + j[None, :], mask, 0.0).to(SUM)
            u = tl.full((ROWS, UNITS), 0.0, SUM)
            if b_h is not None:
                u += tl.load(b_h + j, j < H, 0.0).to(SUM)[None, :]
            w = W + j * H
            r = _logistic(_add_product(r, before, there, w, j < H, 1, H, INNER, PRECISION))
            z = _logistic(_add_product(z, before, there, w + H * H, j < H, 1, H, INNER, PRECISION))
            u = _add_product(u, before, there, w + 2 * H * H, j < H, 1, H, INNER, PRECISION)
            h_tilde = _tanh(a_h + r * u)
            tl.debug_barrier()
            if KEEP:
                tl.store(place, r, mask)
                tl.store(place + H, z, mask)
                tl.store(place + 2 * H, h_tilde, mask)
                tl.store(us + row[:, None] * H + j[None, :], u, mask)
            tl.store(hs + row[:, None] * H + j[None, :], h_tilde + z * (h_prev - h_tilde), mask)
        tl.debug_barrier()


@triton.jit(do_not_specialize=["T"])
def gru_reset_before(
    plan,
    T,
    slab,
    hs,
    h_0,
    W,
    reset,
    H: tl.constexpr,
    SUM: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    INNER: tl.constexpr,
):
    """The GRU whose reset acts before the product; ``reset`` (B, H) is room for r ⊙ h of a step."""
    b = _batch(ROWS)
    for n in range(1, T + 1):
        row, there = _rows(plan, n, b)
        before = _before(plan, n, b, h_0, hs, H)
        for first in range(0, H, UNITS):
            u, mask = _units(first, there, H, UNITS)
            place = slab + row[:, None] * (3 * H) + u[None, :]
            r = tl.load(place, mask, 0.0).to(SUM)  # (ROWS, UNITS)
            z = tl.load(place + H, mask, 0.0).to(SUM)
            h_prev = tl.load(before[:, None] + u[None, :], mask, 0.0).to(SUM)
            w = W + u * H
            r = _logistic(_add_product(r, before, there, w, u < H, 1, H, INNER, PRECISION))
            z = _logistic(_add_product(z, before, there, w + H * H, u < H, 1, H, INNER, PRECISION))
            tl.debug_barrier()
            tl.store(place, r, mask)
            tl.store(place + H, z, mask)
            tl.store(reset + b[:, None] * H + u[None, :], r * h_prev, mask)
        tl.debug_barrier()  # the next product needs the whole of r ⊙ h
        for first in range(0, H, UNITS):
            u, mask = _units(first, there, H, UNITS)
            place = slab + row[:, None] * (3 * H) + u[None, :]
            z = tl.load(place + H, mask, 0.0).to(SUM)  # (ROWS, UNITS)
            a_h = tl.load(place + 2 * H, mask, 0.0).to(SUM)
            h_prev = tl.load(before[:, None] + u[None, :], mask, 0.0).to(SUM)
            w = W + (2 * H + u) * H
            a_h = _add_product(a_h, reset + b * H, there, w, u < H, 1, H, INNER, PRECISION)
            h_tilde = _tanh(a_h)
            tl.debug_barrier()
            tl.store(place + 2 * H, h_tilde, mask)
            tl.store(hs + row[:, None] * H + u[None, :], h_tilde + z * (h_prev - h_tilde), mask)
        tl.debug_barrier()


# --- back -------------------------------------------------------------------------------------
# d_h (B, H) and d_C (B, H), of the type SUM, hold the gradients of the states behind a step, and are
# overwritten with those before it. d_hs is None where nothing comes from the outputs. Now column u of the
# weights makes unit u: its numbers are H apart.


@triton.jit
def _d_state(d_h, d_hs, row, b, u, mask, H: tl.constexpr):
    """∂L/∂h of this step, (ROWS, UNITS): from the steps behind, and from the outputs."""
    d = tl.load(d_h + b[:, None] * H + u[None, :], mask, 0.0)
    if d_hs is not None:
        d += tl.load(d_hs + row[:, None] * H + u[None, :], mask, 0.0).to(d.dtype)
    return d


@triton.jit(do_not_specialize=["T"])
def rnn_back(
    plan,
    T,
    d_hs,
    d_h,
    W,
    hs,
    d_a,
    H: tl.constexpr,
    RELU: tl.constexpr,
    SUM: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    INNER: tl.constexpr,
):
    """The derivatives of :func:`rnn`: ``d_a`` (N, H)."""
    b = _batch(ROWS)
    for m in range(T):
        row, there = _rows(plan, T - m, b)
        for first in range(0, H, UNITS):
            u, mask = _units(first, there, H, UNITS)
            d_h_t = _d_state(d_h, d_hs, row, b, u, mask, H)
            place = row[:, None] * H + u[None, :]
            h = tl.load(hs + place, mask, 0.0).to(SUM)  # (ROWS, UNITS)
            slope = tl.where(h <= 0, 0.0, 1.0) if RELU else 1.0 - h * h
            tl.store(d_a + place, d_h_t * slope, mask)
        tl.debug_barrier()
        for first in range(0, H, UNITS):
            u, mask = _units(first, there, H, UNITS)
            d = tl.full((ROWS, UNITS), 0.0, SUM)
            d = _add_product(d, d_a + row * H, there, W + u, u < H, H, H, INNER, PRECISION)
            tl.store(d_h + b[:, None] * H + u[None, :], d, mask)
        tl.debug_barrier()


@triton.jit(do_not_specialize=["T"])
def lstm_back(
    plan,
    T,
    d_hs,
    d_h,
    d_C,
    C_0,
    W,
    gates,
    Cs,
    d_a,
    H: tl.constexpr,
    SUM: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    INNER: tl.constexpr,
):
    """The derivatives of :func:`lstm`: ``d_a`` (N, 4H)."""
    b = _batch(ROWS)
    for m in range(T):
        row, there = _rows(plan, T - m, b)
        C_before = _before(plan, T - m, b, C_0, Cs, H)
        for first in range(0, H, UNITS):
            u, mask = _units(first, there, H, UNITS)
            place = row[:, None] * (4 * H) + u[None, :]
            i = tl.load(gates + place, mask, 0.0).to(SUM)  # (ROWS, UNITS)
            f = tl.load(gates + place + H, mask, 0.0).to(SUM)
            C_tilde = tl.load(gates + place + 2 * H, mask, 0.0).to(SUM)
            o = tl.load(gates + place + 3 * H, mask, 0.0).to(SUM)
            tanh_C = _tanh(tl.load(Cs + row[:, None] * H + u[None, :], mask, 0.0).to(SUM))
            C_prev = tl.load(C_before[:, None] + u[None, :], mask, 0.0).to(SUM)
            d_h_t = _d_state(d_h, d_hs, row, b, u, mask, H)
            at = d_C + b[:, None] * H + u[None, :]
            d_C_t = tl.load(at, mask, 0.0) + d_h_t * (o * (1.0 - tanh_C * tanh_C))
            tl.store(d_a + place, d_C_t * (C_tilde * i * (1.0 - i)), mask)
            tl.store(d_a + place + H, d_C_t * (C_prev * f * (1.0 - f)), mask)
            tl.store(d_a + place + 2 * H, d_C_t * (i * (1.0 - C_tilde * C_tilde)), mask)
            tl.store(d_a + place + 3 * H, d_h_t * (tanh_C * o * (1.0 - o)), mask)
            tl.debug_barrier()
            tl.store(at, d_C_t * f, mask)
        tl.debug_barrier()
        for first in range(0, H, UNITS):
            u, mask = _units(first, there, H, UNITS)
            d = tl.full((ROWS, UNITS), 0.0, SUM)
            d = _add_product(d, d_a + row * (4 * H), there, W + u, u < H, H, 4 * H, INNER, PRECISION)
            tl.store(d_h + b[:, None] * H + u[None, :], d, mask)
        tl.debug_barrier()


@triton.jit(do_not_specialize=["T"])
def gru_back(
    plan,
    T,
    d_hs,
    d_h,
    h_0,
    W,
    gates,
    hs,
    us,
    d_a,
    d_u,
    H: tl.constexpr,
    SUM: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    INNER: tl.constexpr,
):
    """The derivatives of :func:`gru`: ``d_a`` (N, 3H) on the side of the inputs, and ``d_u`` (N, H)."""
    b = _batch(ROWS)
    for m in range(T):
        row, there = _rows(plan, T - m, b)
        before = _before(plan, T - m, b, h_0, hs, H)
        for first in range(0, H, UNITS):
            j, mask = _units(first, there, H, UNITS)
            place = row[:, None] * (3 * H) + j[None, :]
            r = tl.load(gates + place, mask, 0.0).to(SUM)  # (ROWS, UNITS)
            z = tl.load(gates + place + H, mask, 0.0).to(SUM)
            h_tilde = tl.load(gates + place + 2 * H, mask, 0.0).to(SUM)
            u = tl.load(us + row[:, None] * H + j[None, :], mask, 0.0).to(SUM)
            h_prev = tl.load(before[:, None] + j[None, :], mask, 0.0).to(SUM)
            d_h_t = _d_state(d_h, d_hs, row, b, j, mask, H)
            d_a_h = d_h_t * ((1.0 - z) * (1.0 - h_tilde * h_tilde))
            tl.store(d_a + place, d_a_h * (u * r * (1.0 - r)), mask)
            tl.store(d_a + place + H, d_h_t * ((h_prev - h_tilde) * z * (1.0 - z)), mask)
            tl.store(d_a + place + 2 * H, d_a_h, mask)
            tl.store(d_u + row[:, None] * H + j[None, :], d_a_h * r, mask)
        tl.debug_barrier()
        for first in range(0, H, UNITS):
            j, mask = _units(first, there, H, UNITS)
            z = tl.load(gates + row[:, None] * (3 * H) + H + j[None, :], mask, 0.0).to(SUM)
            d = _d_state(d_h, d_hs, row, b, j, mask, H) * z
            w = W + j
            d = _add_product(d, d_a + row * (3 * H), there, w, j < H, H, 2 * H, INNER, PRECISION)
            d = _add_product(d, d_u + row * H, there, w + 2 * H * H, j < H, H, H, INNER, PRECISION)
            tl.debug_barrier()
            tl.store(d_h + b[:, None] * H + j[None, :], d, mask)
        tl.debug_barrier()


@triton.jit(do_not_specialize=["T"])
def gru_reset_before_back(
    plan,
    T,
    d_hs,
    d_h,
    h_0,
    W,
    gates,
    hs,
    d_a,
    H: tl.constexpr,
    SUM: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    INNER: tl.constexpr,
):
    """The derivatives of :func:`gru_reset_before`: ``d_a`` (N, 3H)."""
    b = _batch(ROWS)
    for m in range(T):
        row, there = _rows(plan, T - m, b)
        before = _before(plan, T - m, b, h_0, hs, H)
        for first in range(0, H, UNITS):
            u, mask = _units(first, there, H, UNITS)
            place = row[:, None] * (3 * H) + u[None, :]
            z = tl.load(gates + place + H, mask, 0.0).to(SUM)  # (ROWS, UNITS)
            h_tilde = tl.load(gates + place + 2 * H, mask, 0.0).to(SUM)
            h_prev = tl.load(before[:, None] + u[None, :], mask, 0.0).to(SUM)
            d_h_t = _d_state(d_h, d_hs, row, b, u, mask, H)
            tl.store(d_a + place + H, d_h_t * ((h_prev - h_tilde) * z * (1.0 - z)), mask)
            tl.store(d_a + place + 2 * H, d_h_t * ((1.0 - z) * (1.0 - h_tilde * h_tilde)), mask)
        tl.debug_barrier()
        for first in range(0, H, UNITS):
            u, mask = _units(first, there, H, UNITS)
            place = row[:, None] * (3 * H) + u[None, :]
            r = tl.load(gates + place, mask, 0.0).to(SUM)  # (ROWS, UNITS)
            z = tl.load(gates + place + H, mask, 0.0).to(SUM)
            h_prev = tl.load(before[:, None] + u[None, :], mask, 0.0).to(SUM)
            d_h_t = _d_state(d_h, d_hs, row, b, u, mask, H)
            d_reset = tl.full((ROWS, UNITS), 0.0, SUM)  # the derivative by r ⊙ h_{t-1}
            left, w = d_a + row * (3 * H) + 2 * H, W + 2 * H * H + u
            d_reset = _add_product(d_reset, left, there, w, u < H, H, H, INNER, PRECISION)
            tl.debug_barrier()
            tl.store(d_a + place, d_reset * (h_prev * r * (1.0 - r)), mask)
            tl.store(d_h + b[:, None] * H + u[None, :], d_h_t * z + d_reset * r, mask)
        tl.debug_barrier()
        for first in range(0, H, UNITS):
            u, mask = _units(first, there, H, UNITS)
            at = d_h + b[:, None] * H + u[None, :]
            d = tl.load(at, mask, 0.0)  # (ROWS, UNITS)
            d = _add_product(d, d_a + row * (3 * H), there, W + u, u < H, H, 2 * H, INNER, PRECISION)
            tl.debug_barrier()
            tl.store(at, d, mask)
        tl.debug_barrier()
