/* The loops over time of rnnlib.engine, compiled: the same mathematics, for the CPU.
 *
 * Everything that needs no order in time is done outside, as products over all steps. What is left is,
 * at every step, a product of a few rows with the recurrent weights, and some arithmetic for each unit.
 *
 * - The weights are packed once for all steps: panels of WIDTH columns, so that the product reads them
 *   from front to back. A tile of ROWS x WIDTH sums stays in registers while it runs along a panel.
 * - exp, tanh and the logistic function are polynomials on whole vectors. They keep NaN.
 * - A call does the rows first..last of every step, for all steps: rows of a batch never meet, so
 *   threads take rows, and never wait for each other.
 *
 * REAL is float or double. Vectors are those of GCC and Clang, as wide as the processor's.
 */
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#define ROWS 12
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#define ROWS 6
#else
#define VECTOR_BYTES 16
#define ROWS 6
#endif
#define V (VECTOR_BYTES / (int64_t)sizeof(REAL))
#define WIDTH (2 * V)

typedef REAL vec __attribute__((vector_size(VECTOR_BYTES)));
typedef REAL unaligned __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));
#if IS_DOUBLE
typedef int64_t integer;
#define EXPONENT_BITS 52
#define EXPONENT_BIAS 1023
#define LOWEST (-708.0)   /* exp of less is below the normal numbers */
#define ROUND 6755399441055744.0
#define LN2_HIGH 0.693147180369123816490
#define LN2_LOW 1.90821492927058770002e-10
#define TERMS 13
#else
typedef int32_t integer;
#define EXPONENT_BITS 23
#define EXPONENT_BIAS 127
#define LOWEST (-87.0f)
#define ROUND 12582912.0f
#define LN2_HIGH 0.693359375f
#define LN2_LOW (-2.12194440e-4f)
#define TERMS 7
#endif
typedef integer ivec __attribute__((vector_size(VECTOR_BYTES)));
#define INLINE static inline __attribute__((always_inline))

INLINE vec all(REAL x) { return x - (vec){0}; }
INLINE vec select(ivec mask, vec a, vec b) { return (vec)((mask & (ivec)a) | (~mask & (ivec)b)); }

/* n numbers of a row, V at most. */
INLINE vec load(const REAL *p, int64_t n) {
  if (n >= V) return *(const unaligned *)p;
  vec x = {0};
  memcpy(&x, p, (size_t)n * sizeof(REAL));
  return x;
}

INLINE void store(REAL *p, vec x, int64_t n) {
  if (n >= V) *(unaligned *)p = x;
  else memcpy(p, &x, (size_t)n * sizeof(REAL));
}

/* exp(y) = power (1 + rest) for y <= 0: y = n ln 2 + r, power = 2^n, rest = exp(r) - 1. */
INLINE vec exp_parts(vec y, vec *power) {
  static const REAL inverse_factorials[14] = {
      1.0, 1.0, 1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320, 1.0 / 362880,
      1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800.0};
  y = select(y < all(LOWEST), all(LOWEST), y); /* false for NaN, which stays */
  vec n = (y * (REAL)1.44269504088896340736 + ROUND) - ROUND;
  vec r = (y - n * LN2_HIGH) - n * LN2_LOW;
  vec p = all(inverse_factorials[TERMS]);
#pragma GCC unroll 13
  for (int k = TERMS - 1; k >= 1; k--) p = p * r + inverse_factorials[k];
  *power = (vec)((__builtin_convertvector(n, ivec) + EXPONENT_BIAS) << EXPONENT_BITS);
  return p * r;
}

#define SIGN ((ivec)all((REAL)-0.0))

/* tanh and the logistic function as fractions, so that several can share one division, which is slow.
 * All denominators are from 1 to 2. */
typedef struct {
  vec over, under;
} fraction;

INLINE fraction tanh_parts(vec x) { /* -e / (2 + e) with e = exp(-2|x|) - 1: exact near 0 too */
  ivec sign = (ivec)x & SIGN;
  vec power, rest = exp_parts((vec)((ivec)x | SIGN) * 2, &power);
  vec e = power * rest + (power - 1);
  return (fraction){(vec)((ivec)-e | sign), 2 + e};
}

INLINE fraction logistic_parts(vec x) { /* 1 / (1 + exp(-x)), through exp(-|x|), which cannot overflow */
  vec power, rest = exp_parts((vec)((ivec)x | SIGN), &power);
  vec e = power + power * rest;
  return (fraction){select(x < all(0), e, all(1)), 1 + e};
}

INLINE vec tanh_of(vec x) {
  fraction f = tanh_parts(x);
  return f.over / f.under;
}

INLINE void values_of_2(fraction a, fraction b, vec *x, vec *y) {
  vec inverse = 1 / (a.under * b.under);
  *x = a.over * (b.under * inverse);
  *y = b.over * (a.under * inverse);
}

INLINE void values_of_4(fraction a, fraction b, fraction c, fraction d, vec *x, vec *y, vec *z, vec *w) {
  vec ab = a.under * b.under, cd = c.under * d.under, inverse = 1 / (ab * cd);
  vec of_ab = cd * inverse, of_cd = ab * inverse; /* 1 / ab, 1 / cd */
  *x = a.over * (b.under * of_ab);
  *y = b.over * (a.under * of_ab);
  *z = c.over * (d.under * of_cd);
  *w = d.over * (c.under * of_cd);
}

/* --- products ------------------------------------------------------------------------------- */

int64_t packed_width(void) { return WIDTH; }

/* The matrix B (K, N), anywhere in memory, as panels (K, WIDTH) one after the other. */
void pack(int64_t K, int64_t N, const REAL *B, int64_t row, int64_t column, REAL *packed) {
  for (int64_t first = 0; first < N; first += WIDTH)
    for (int64_t k = 0; k < K; k++)
      for (int64_t n = first; n < first + WIDTH; n++) *packed++ = n < N ? B[k * row + n * column] : 0;
}

INLINE void tile(const int rows, int64_t K, int64_t columns, const REAL *A, int64_t lda, const REAL *panel,
                 REAL *C, int64_t ldc, int add) {
  /* One row alone would wait for every sum: it is made from four, over every fourth k. */
  const int lanes = rows == 1 ? 4 : 1;
  vec sum[rows * lanes][2];
  for (int i = 0; i < rows * lanes; i++) sum[i][0] = sum[i][1] = (vec){0};
  int64_t k = 0;
  for (; k + lanes <= K; k += lanes)
#pragma GCC unroll 4
    for (int lane = 0; lane < lanes; lane++) {
      const REAL *b = panel + (k + lane) * WIDTH;
      vec b_0 = *(const unaligned *)b, b_1 = *(const unaligned *)(b + V);
#pragma GCC unroll 12
      for (int i = 0; i < rows; i++) {
        sum[i * lanes + lane][0] += A[i * lda + k + lane] * b_0;
        sum[i * lanes + lane][1] += A[i * lda + k + lane] * b_1;
      }
    }
  for (; k < K; k++) {
    sum[0][0] += A[k] * *(const unaligned *)(panel + k * WIDTH);
    sum[0][1] += A[k] * *(const unaligned *)(panel + k * WIDTH + V);
  }
  for (int i = 0; i < rows; i++)
    for (int half = 0; half < 2; half++) {
      int64_t n = columns - half * V;
      REAL *c = C + i * ldc + half * V;
      vec total = sum[i * lanes][half];
      for (int lane = 1; lane < lanes; lane++) total += sum[i * lanes + lane][half];
      if (n > 0) store(c, add ? load(c, n) + total : total, n);
    }
}

/* C (M, N) = A (M, K) B, or C += A B. */
static void product(int64_t M, int64_t K, int64_t N, const REAL *A, int64_t lda, const REAL *packed, REAL *C,
                    int64_t ldc, int add) {
  for (int64_t first = 0; first < N; first += WIDTH, packed += K * WIDTH, C += WIDTH) {
    int64_t columns = N - first < WIDTH ? N - first : WIDTH, i = 0;
    for (; i + ROWS <= M; i += ROWS) tile(ROWS, K, columns, A + i * lda, lda, packed, C + i * ldc, ldc, add);
    for (; i + 4 <= M; i += 4) tile(4, K, columns, A + i * lda, lda, packed, C + i * ldc, ldc, add);
    for (; i < M; i++) tile(1, K, columns, A + i * lda, lda, packed, C + i * ldc, ldc, add);
  }
}

/* --- steps ---------------------------------------------------------------------------------- */

/* Step t has the rows offsets[t] .. offsets[t] + sizes[t] of every (N, .) array, those of the first
 * sizes[t] sequences. The call is for the sequences first .. last. */
typedef struct {
  int64_t T;
  const int64_t *sizes, *offsets;
  int64_t reverse, first, last;
} Steps;

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* The j-th step in walking order; back to front on the way back. */
INLINE int64_t step_number(const Steps *s, int64_t j) { return s->reverse ? s->T - 1 - j : j; }

/* The state (H numbers) that sequence b has before the j-th step of the walk. */
INLINE const REAL *before(const Steps *s, int64_t j, int64_t b, int64_t H, const REAL *states, const REAL *initial) {
  if (j > 0) {
    int64_t t = step_number(s, j - 1);
    if (b < s->sizes[t]) return states + (s->offsets[t] + b) * H;
  }
  return initial + b * H;
}

/* C += h_prev B for the sequences of a call at the j-th step; their states lie in one or two blocks. */
INLINE void recurrent_product(const Steps *s, int64_t j, int64_t end, int64_t H, int64_t N, const REAL *states,
                              const REAL *initial, const REAL *packed, REAL *C, int64_t ldc, int add) {
  int64_t middle = j > 0 ? least(end, s->sizes[step_number(s, j - 1)]) : s->first;
  if (middle < s->first) middle = s->first;
  if (middle > s->first)
    product(middle - s->first, H, N, before(s, j, s->first, H, states, initial), H, packed, C, ldc, add);
  if (end > middle)
    product(end - middle, H, N, initial + middle * H, H, packed, C + (middle - s->first) * ldc, ldc, add);
}

#define FOR_STEPS(j)                                        \
  for (int64_t j = 0; j < s->T; j++)                        \
    for (int64_t t = step_number(s, j), row = s->offsets[t], end = least(s->last, s->sizes[t]), once = 1; \
         once && s->first < end; once = 0)
#define FOR_STEPS_BACK(j)                                   \
  for (int64_t j = s->T - 1; j >= 0; j--)                   \
    for (int64_t t = step_number(s, j), row = s->offsets[t], end = least(s->last, s->sizes[t]), once = 1; \
         once && s->first < end; once = 0)
#define FOR_ROWS(b) for (int64_t b = s->first; b < end; b++)

/* The units u .. u + n of a row: whole vectors (n is then a constant, and loads are plain), then the rest. */
#define FOR_UNITS(...)                                      \
  do {                                                      \
    int64_t u = 0;                                          \
    for (; u + V <= H; u += V) {                            \
      const int64_t n = V;                                  \
      __VA_ARGS__                                           \
    }                                                       \
    if (u < H) {                                            \
      const int64_t n = H - u;                              \
      __VA_ARGS__                                           \
    }                                                       \
  } while (0)

/* --- the cells ------------------------------------------------------------------------------ */

/* hs (N, H): in, what the inputs contribute; out, the states. */
void rnn(const Steps *s, int64_t H, int64_t relu, const REAL *h_0, const REAL *W, REAL *hs) {
  FOR_STEPS(j) {
    recurrent_product(s, j, end, H, H, hs, h_0, W, hs + (row + s->first) * H, H, 1);
    FOR_ROWS(b) {
      REAL *h = hs + (row + b) * H;
      FOR_UNITS(
        vec a = load(h + u, n);
        store(h + u, relu ? select(a <= all(0), all(0), a) : tanh_of(a), n););
    }
  }
}

/* d_h (B, H): in, dL/dh_n; out, dL/dh_0. d_hs may be NULL for zero. */
void rnn_back(const Steps *s, int64_t H, int64_t relu, const REAL *W, const REAL *hs, const REAL *d_hs, REAL *d_h,
              REAL *d_a) {
  FOR_STEPS_BACK(j) {
    FOR_ROWS(b) {
      int64_t at = (row + b) * H;
      FOR_UNITS(
        vec h = load(hs + at + u, n), d = load(d_h + b * H + u, n);
        if (d_hs) d += load(d_hs + at + u, n);
        store(d_a + at + u, relu ? select(h <= all(0), all(0), d) : d * (1 - h * h), n););
    }
    product(end - s->first, H, H, d_a + (row + s->first) * H, H, W, d_h + s->first * H, H, 0);
  }
}

/* gates (N, 4H): in, what the inputs contribute; out, i, f, candidate, o. */
void lstm(const Steps *s, int64_t H, const REAL *h_0, const REAL *C_0, const REAL *W, REAL *gates, REAL *hs, REAL *Cs) {
  FOR_STEPS(j) {
    recurrent_product(s, j, end, H, 4 * H, hs, h_0, W, gates + (row + s->first) * 4 * H, 4 * H, 1);
    FOR_ROWS(b) {
      const REAL *C_prev = before(s, j, b, H, Cs, C_0);
      REAL *a = gates + (row + b) * 4 * H, *h_t = hs + (row + b) * H, *C_t = Cs + (row + b) * H;
      FOR_UNITS(
        vec i, f, candidate, o;
        values_of_4(logistic_parts(load(a + u, n)), logistic_parts(load(a + H + u, n)),
                    tanh_parts(load(a + 2 * H + u, n)), logistic_parts(load(a + 3 * H + u, n)), &i, &f, &candidate, &o);
        vec C = f * load(C_prev + u, n) + i * candidate;
        store(a + u, i, n);
        store(a + H + u, f, n);
        store(a + 2 * H + u, candidate, n);
        store(a + 3 * H + u, o, n);
        store(C_t + u, C, n);
        store(h_t + u, o * tanh_of(C), n););
    }
  }
}

void lstm_back(const Steps *s, int64_t H, const REAL *C_0, const REAL *W, const REAL *gates, const REAL *Cs,
               const REAL *d_hs, REAL *d_h, REAL *d_C, REAL *d_a) {
  FOR_STEPS_BACK(j) {
    FOR_ROWS(b) {
      const REAL *C_prev = before(s, j, b, H, Cs, C_0), *gate = gates + (row + b) * 4 * H;
      int64_t at = (row + b) * H;
      REAL *d = d_a + 4 * at;
      FOR_UNITS(
        vec i = load(gate + u, n), f = load(gate + H + u, n);
        vec candidate = load(gate + 2 * H + u, n), o = load(gate + 3 * H + u, n);
        vec tanh_C = tanh_of(load(Cs + at + u, n)), d_h_t = load(d_h + b * H + u, n);
        if (d_hs) d_h_t += load(d_hs + at + u, n);
        vec d_C_t = load(d_C + b * H + u, n) + d_h_t * o * (1 - tanh_C * tanh_C);
        store(d + u, d_C_t * candidate * i * (1 - i), n);
        store(d + H + u, d_C_t * load(C_prev + u, n) * f * (1 - f), n);
        store(d + 2 * H + u, d_C_t * i * (1 - candidate * candidate), n);
        store(d + 3 * H + u, d_h_t * tanh_C * o * (1 - o), n);
        store(d_C + b * H + u, d_C_t * f, n););
    }
    product(end - s->first, 4 * H, H, d_a + (row + s->first) * 4 * H, 4 * H, W, d_h + s->first * H, H, 0);
  }
}

/* gates (N, 3H): in, what the inputs contribute; out, r, z, candidate. b may be NULL for zero. us (N, H):
 * the recurrent products that the reset gate acts on. scratch (B, 3H). */
void gru(const Steps *s, int64_t H, const REAL *h_0, const REAL *W, const REAL *b_h, REAL *gates, REAL *hs, REAL *us,
         REAL *scratch) {
  FOR_STEPS(j) {
    recurrent_product(s, j, end, H, 3 * H, hs, h_0, W, scratch + s->first * 3 * H, 3 * H, 0);
    FOR_ROWS(b) {
      const REAL *h_prev = before(s, j, b, H, hs, h_0), *p = scratch + b * 3 * H;
      REAL *a = gates + (row + b) * 3 * H;
      int64_t at = (row + b) * H;
      FOR_UNITS(
        vec r, z;
        values_of_2(logistic_parts(load(a + u, n) + load(p + u, n)),
                    logistic_parts(load(a + H + u, n) + load(p + H + u, n)), &r, &z);
        vec u_t = load(p + 2 * H + u, n);
        if (b_h) u_t += load(b_h + u, n);
        vec candidate = tanh_of(load(a + 2 * H + u, n) + r * u_t);
        store(a + u, r, n);
        store(a + H + u, z, n);
        store(a + 2 * H + u, candidate, n);
        store(us + at + u, u_t, n);
        store(hs + at + u, (1 - z) * candidate + z * load(h_prev + u, n), n););
    }
  }
}

/* d_u (N, H): dL/d(the recurrent products of the candidate). */
void gru_back(const Steps *s, int64_t H, const REAL *h_0, const REAL *W, const REAL *gates, const REAL *hs,
              const REAL *us, const REAL *d_hs, REAL *d_h, REAL *d_a, REAL *d_u, REAL *scratch) {
  FOR_STEPS_BACK(j) {
    FOR_ROWS(b) {
      const REAL *h_prev = before(s, j, b, H, hs, h_0), *gate = gates + (row + b) * 3 * H;
      int64_t at = (row + b) * H;
      REAL *d = d_a + 3 * at, *p = scratch + b * 3 * H;
      FOR_UNITS(
        vec r = load(gate + u, n), z = load(gate + H + u, n), candidate = load(gate + 2 * H + u, n);
        vec d_h_t = load(d_h + b * H + u, n);
        if (d_hs) d_h_t += load(d_hs + at + u, n);
        vec d_a_h = d_h_t * (1 - z) * (1 - candidate * candidate);
        vec d_a_r = d_a_h * load(us + at + u, n) * r * (1 - r);
        vec d_a_z = d_h_t * (load(h_prev + u, n) - candidate) * z * (1 - z);
        store(d + u, d_a_r, n);
        store(d + H + u, d_a_z, n);
        store(d + 2 * H + u, d_a_h, n);
        store(d_u + at + u, d_a_h * r, n);
        store(p + u, d_a_r, n);
        store(p + H + u, d_a_z, n);
        store(p + 2 * H + u, d_a_h * r, n);
        store(d_h + b * H + u, d_h_t * z, n););
    }
    product(end - s->first, 3 * H, H, scratch + s->first * 3 * H, 3 * H, W, d_h + s->first * H, H, 1);
  }
}

/* The reset before the product. W_gates packs the rows of r and z, W_candidate those of the candidate.
 * scratch (B, H). */
void gru_reset_before(const Steps *s, int64_t H, const REAL *h_0, const REAL *W_gates, const REAL *W_candidate,
                      REAL *gates, REAL *hs, REAL *scratch) {
  FOR_STEPS(j) {
    REAL *first = gates + (row + s->first) * 3 * H;
    recurrent_product(s, j, end, H, 2 * H, hs, h_0, W_gates, first, 3 * H, 1);
    FOR_ROWS(b) {
      const REAL *h_prev = before(s, j, b, H, hs, h_0);
      REAL *a = gates + (row + b) * 3 * H;
      FOR_UNITS(
        vec r, z;
        values_of_2(logistic_parts(load(a + u, n)), logistic_parts(load(a + H + u, n)), &r, &z);
        store(a + u, r, n);
        store(a + H + u, z, n);
        store(scratch + b * H + u, r * load(h_prev + u, n), n););
    }
    product(end - s->first, H, H, scratch + s->first * H, H, W_candidate, first + 2 * H, 3 * H, 1);
    FOR_ROWS(b) {
      const REAL *h_prev = before(s, j, b, H, hs, h_0);
      REAL *a = gates + (row + b) * 3 * H;
      FOR_UNITS(
        vec z = load(a + H + u, n), candidate = tanh_of(load(a + 2 * H + u, n));
        store(a + 2 * H + u, candidate, n);
        store(hs + (row + b) * H + u, (1 - z) * candidate + z * load(h_prev + u, n), n););
    }
  }
}

void gru_reset_before_back(const Steps *s, int64_t H, const REAL *h_0, const REAL *W_gates, const REAL *W_candidate,
                           const REAL *gates, const REAL *hs, const REAL *d_hs, REAL *d_h, REAL *d_a, REAL *scratch) {
  FOR_STEPS_BACK(j) {
    REAL *first = d_a + (row + s->first) * 3 * H;
    FOR_ROWS(b) {
      const REAL *gate = gates + (row + b) * 3 * H;
      int64_t at = (row + b) * H;
      FOR_UNITS(
        vec z = load(gate + H + u, n), candidate = load(gate + 2 * H + u, n);
        vec d_h_t = load(d_h + b * H + u, n);
        if (d_hs) d_h_t += load(d_hs + at + u, n);
        store(d_h + b * H + u, d_h_t, n);
        store(d_a + 3 * at + 2 * H + u, d_h_t * (1 - z) * (1 - candidate * candidate), n););
    }
    product(end - s->first, H, H, first + 2 * H, 3 * H, W_candidate, scratch + s->first * H, H, 0);
    FOR_ROWS(b) {
      const REAL *h_prev = before(s, j, b, H, hs, h_0), *gate = gates + (row + b) * 3 * H;
      REAL *d = d_a + (row + b) * 3 * H;
      FOR_UNITS(
        vec r = load(gate + u, n), z = load(gate + H + u, n), candidate = load(gate + 2 * H + u, n);
        vec h = load(h_prev + u, n), d_h_t = load(d_h + b * H + u, n), d_reset = load(scratch + b * H + u, n);
        store(d + u, d_reset * h * r * (1 - r), n);
        store(d + H + u, d_h_t * (h - candidate) * z * (1 - z), n);
        store(d_h + b * H + u, d_reset * r + d_h_t * z, n););
    }
    product(end - s->first, 2 * H, H, first, 3 * H, W_gates, d_h + s->first * H, H, 1);
  }
}
