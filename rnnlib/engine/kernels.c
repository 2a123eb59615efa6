/* The loops over time of rnnlib.engine, compiled: the same mathematics, for the CPU.
 *
 * - The weights are packed once for all steps, in panels that the products read from front to back. A
 *   tile of sums, some rows of the batch times two vectors of a panel, stays in registers while it runs
 *   along a panel, and the panel stays in the first cache while all rows run along it.
 * - The gates of a block of units are made from their sums at once, before those of the next block.
 * - exp, tanh and the logistic function are polynomials on whole vectors. They keep NaN.
 * - A loop does the sequences first..last of every step, for all steps: the rows of a batch never meet, so
 *   threads take rows, and never wait for each other.
 *
 * REAL is float or double. Vectors are those of GCC and Clang, as wide as the processor's.
 */
#include <pthread.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#define ROWS 12 /* of a tile, two vectors wide: most of the registers */
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#define ROWS 6
#elif defined(__aarch64__)
#define VECTOR_BYTES 16
#define ROWS 12
#else
#define VECTOR_BYTES 16
#define ROWS 6
#endif
#define V (VECTOR_BYTES / (int64_t)sizeof(REAL))

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

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

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

int64_t vector_width(void) { return V; }

/* The matrix B (K, G N), anywhere in memory, as panels (K, G, width): `width` columns of each of G parts. V rows
 * of B at a time, so that what lies together in memory is read together, by rows or by columns. */
void pack(int64_t K, int64_t N, int64_t G, int64_t width, const REAL *B, int64_t row, int64_t column, REAL *packed) {
  for (int64_t first = 0; first < N; first += width, packed += K * G * width)
    for (int64_t start = 0; start < K; start += V)
      for (int64_t g = 0; g < G; g++)
        for (int64_t n = 0, rows = least(K - start, V); n < width; n++) {
          REAL *to = packed + (start * G + g) * width + n;
          const REAL *from = B + start * row + (g * N + first + n) * column;
          if (first + n < N)
            for (int64_t k = 0; k < rows; k++) to[k * G * width] = from[k * row];
          else
            for (int64_t k = 0; k < rows; k++) to[k * G * width] = 0;
        }
}

/* sum += A (rows, K) panel (K, vectors, V). */
INLINE void add_product(const int rows, const int vectors, vec (*sum)[2], int64_t K, const REAL *A, int64_t lda,
                        const REAL *panel) {
  int64_t k = 0;
  if (rows == 1) { /* one row would wait for every sum: it is made from four, over every fourth k */
    vec part[4][2] = {{{0}}};
    for (; k + 4 <= K; k += 4)
#pragma GCC unroll 4
      for (int lane = 0; lane < 4; lane++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++)
          part[lane][v] += A[k + lane] * *(const unaligned *)(panel + ((k + lane) * vectors + v) * V);
#pragma GCC unroll 2
    for (int v = 0; v < vectors; v++) sum[0][v] += (part[0][v] + part[1][v]) + (part[2][v] + part[3][v]);
  }
  for (; k < K; k++) {
    vec b[2];
#pragma GCC unroll 2
    for (int v = 0; v < vectors; v++) b[v] = *(const unaligned *)(panel + (k * vectors + v) * V);
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
      for (int v = 0; v < vectors; v++) sum[i][v] += A[i * lda + k] * b[v];
  }
}

INLINE void tile(const int rows, const int vectors, int64_t K, const REAL *A, int64_t lda, const REAL *panel, REAL *C,
                 int64_t ldc) {
  vec sum[rows][2];
#pragma GCC unroll 12
  for (int i = 0; i < rows; i++)
    for (int v = 0; v < vectors; v++) sum[i][v] = *(unaligned *)(C + i * ldc + v * V);
  add_product(rows, vectors, sum, K, A, lda, panel);
#pragma GCC unroll 12
  for (int i = 0; i < rows; i++)
    for (int v = 0; v < vectors; v++) *(unaligned *)(C + i * ldc + v * V) = sum[i][v];
}

/* C (M, vectors V) += A (M, K) panel (K, vectors, V). */
INLINE void add_panel(const int vectors, int64_t M, int64_t K, const REAL *A, int64_t lda, const REAL *panel, REAL *C,
                      int64_t ldc) {
  int64_t i = 0;
  for (; i + ROWS <= M; i += ROWS) tile(ROWS, vectors, K, A + i * lda, lda, panel, C + i * ldc, ldc);
  if (ROWS > 8 && i + 8 <= M) {
    tile(8, vectors, K, A + i * lda, lda, panel, C + i * ldc, ldc);
    i += 8;
  }
  for (; i + 4 <= M; i += 4) tile(4, vectors, K, A + i * lda, lda, panel, C + i * ldc, ldc);
  for (; i < M; i++) tile(1, vectors, K, A + i * lda, lda, panel, C + i * ldc, ldc);
}

static void add_panel_1(int64_t M, int64_t K, const REAL *A, int64_t lda, const REAL *panel, REAL *C, int64_t ldc) {
  add_panel(1, M, K, A, lda, panel, C, ldc);
}

static void add_panel_2(int64_t M, int64_t K, const REAL *A, int64_t lda, const REAL *panel, REAL *C, int64_t ldc) {
  add_panel(2, M, K, A, lda, panel, C, ldc);
}

/* The sums of at most CHUNK rows wait here until all their products are in. */
#define CHUNK 96
#define SLAB (4 * V)
#define FOR_CHUNKS(b, m, from, to) for (int64_t b = (from), m; b < (to) && (m = least((to) - b, CHUNK)); b += m)

/* C (M, N) = A (M, K) B, or C += A B; B packed with two vectors a panel. */
static void product(int64_t M, int64_t K, int64_t N, const REAL *A, int64_t lda, const REAL *packed, REAL *C,
                    int64_t ldc, int add) {
  REAL slab[CHUNK * SLAB];
  for (int64_t u = 0; u < N; u += 2 * V) FOR_CHUNKS(b, m, 0, M) {
      for (int64_t i = 0; i < m; i++)
        for (int v = 0; v < 2; v++) {
          int64_t n = N - u - v * V;
          *(unaligned *)(slab + i * SLAB + v * V) = add && n > 0 ? load(C + (b + i) * ldc + u + v * V, n) : (vec){0};
        }
      add_panel_2(m, K, A + b * lda, lda, packed + u * K, slab, SLAB);
      for (int64_t i = 0; i < m; i++)
        for (int v = 0; v < 2; v++) {
          int64_t n = N - u - v * V;
          if (n > 0) store(C + (b + i) * ldc + u + v * V, *(unaligned *)(slab + i * SLAB + v * V), n);
        }
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

/* Up to which sequence the states before the j-th step are those of the step before; from there on, the
 * initial ones. */
INLINE int64_t border(const Steps *s, int64_t j, int64_t end) {
  if (j == 0) return s->first;
  int64_t size = least(end, s->sizes[step_number(s, j - 1)]);
  return size > s->first ? size : s->first;
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

/* What the loops read and write: one record for all, of which each takes what it needs. x (N, I), bias, b_h and d_hs
 * may be NULL. If x is NULL, `gates` (the vanilla network's are its states) holds what the inputs contribute. */
typedef struct {
  int64_t I, H, relu, keep;                                        /* keep: write gates and memories for the way back */
  const REAL *x, *W_x, *W_x_2, *W_h, *W_h_2, *bias, *b_h, *h_0, *C_0; /* W_x_2, W_h_2: of a step's second product */
  REAL *hs, *Cs, *gates, *us, *scratch;                            /* Cs: (B, H), in place, if not keep */
  const REAL *d_hs;
  REAL *d_h, *d_C, *d_a, *d_u; /* d_h (B, H): in, dL/dh_n; out, dL/dh_0; d_C likewise */
} Layer;

/* The numbers that gate g of G starts from, for the units u .. u + n of m rows, put at place `to` of the slab:
 * the bias, or what is in the rows already. */
INLINE void begin(const Layer *l, REAL *slab, int to, int g, int G, int64_t row, int64_t m, int64_t u, int64_t n) {
  for (int64_t i = 0; i < m; i++) {
    int64_t at = g * l->H + u;
    vec x = {0};
    if (n > 0) x = !l->x ? load(l->gates + (row + i) * G * l->H + at, n) : l->bias ? load(l->bias + at, n) : x;
    *(unaligned *)(slab + i * SLAB + to * V) = x;
  }
}

/* A step's sequences in chunks: those from b on, m of them, whose states before the step are h_prev. */
#define FOR_CHUNKS_OF_STEP(...)                                                                  \
  for (int at_start = 0; at_start < 2; at_start++)                                               \
    FOR_CHUNKS(b, m, at_start ? middle : s->first, at_start ? end : middle) {                    \
      const REAL *h_prev = (at_start ? l->h_0 : kept) + b * H, *x = l->x + (row + b) * l->I;     \
      REAL slab[CHUNK * SLAB];                                                                   \
      __VA_ARGS__                                                                                \
    }
#define SUM(i, place) (*(const unaligned *)(slab + (i) * SLAB + (place) * V))

void rnn(const Steps *s, const Layer *l) {
  FOR_STEPS(j) {
    int64_t H = l->H, middle = border(s, j, end);
    const REAL *kept = before(s, j, s->first, H, l->hs, l->h_0) - s->first * H;
    for (int64_t u = 0; u < H; u += 2 * V) FOR_CHUNKS_OF_STEP(
        for (int v = 0; v < 2; v++) begin(l, slab, v, 0, 1, row + b, m, u + v * V, H - u - v * V);
        if (l->x) add_panel_2(m, l->I, x, l->I, l->W_x + u * l->I, slab, SLAB);
        add_panel_2(m, H, h_prev, H, l->W_h + u * H, slab, SLAB);
        for (int64_t i = 0; i < m; i++)
          for (int v = 0; v < 2; v++) {
            int64_t n = H - u - v * V;
            vec a = SUM(i, v);
            if (n > 0)
              store(l->hs + (row + b + i) * H + u + v * V, l->relu ? select(a <= all(0), all(0), a) : tanh_of(a), n);
          })
  }
}

/* The first product is that of i and f, the second that of candidate and o. */
void lstm(const Steps *s, const Layer *l) {
  FOR_STEPS(j) {
    int64_t H = l->H, middle = border(s, j, end);
    const REAL *kept = before(s, j, s->first, H, l->hs, l->h_0) - s->first * H;
    const REAL *C_kept = before(s, j, s->first, H, l->Cs, l->C_0) - s->first * H;
    for (int64_t u = 0; u < H; u += V) FOR_CHUNKS_OF_STEP(
        int64_t n = H - u;
        for (int g = 0; g < 4; g++) begin(l, slab, g, g, 4, row + b, m, u, n);
        if (l->x) add_panel_2(m, l->I, x, l->I, l->W_x + u * 2 * l->I, slab, SLAB);
        add_panel_2(m, H, h_prev, H, l->W_h + u * 2 * H, slab, SLAB);
        if (l->x) add_panel_2(m, l->I, x, l->I, l->W_x_2 + u * 2 * l->I, slab + 2 * V, SLAB);
        add_panel_2(m, H, h_prev, H, l->W_h_2 + u * 2 * H, slab + 2 * V, SLAB);
        const REAL *C_prev = !l->keep ? l->Cs : at_start ? l->C_0 : C_kept;
        for (int64_t i = 0; i < m; i++) {
          int64_t at = (row + b + i) * H + u;
          vec i_t, f_t, candidate, o_t;
          values_of_4(logistic_parts(SUM(i, 0)), logistic_parts(SUM(i, 1)), tanh_parts(SUM(i, 2)),
                      logistic_parts(SUM(i, 3)), &i_t, &f_t, &candidate, &o_t);
          vec C_t = f_t * load(C_prev + (b + i) * H + u, n) + i_t * candidate;
          store(l->Cs + (l->keep ? at : (b + i) * H + u), C_t, n);
          store(l->hs + at, o_t * tanh_of(C_t), n);
          if (l->keep) {
            REAL *gates = l->gates + (row + b + i) * 4 * H + u;
            store(gates, i_t, n);
            store(gates + H, f_t, n);
            store(gates + 2 * H, candidate, n);
            store(gates + 3 * H, o_t, n);
          }
        })
  }
}

/* Cs holds i ⊙ candidate of every step; it becomes the memories. */
void lstm_memories(const Steps *s, const Layer *l) {
  int64_t H = l->H;
  FOR_STEPS(j) FOR_ROWS(b) {
    const REAL *C_prev = before(s, j, b, H, l->Cs, l->C_0), *f = l->gates + (row + b) * 4 * H + H;
    REAL *C = l->Cs + (row + b) * H;
    FOR_UNITS(store(C + u, load(C + u, n) + load(f + u, n) * load(C_prev + u, n), n););
  }
}

/* The first product is that of r and z. The recurrent product of the candidate has a sum of its own, which the
 * reset gate multiplies. */
void gru(const Steps *s, const Layer *l) {
  FOR_STEPS(j) {
    int64_t H = l->H, middle = border(s, j, end);
    const REAL *kept = before(s, j, s->first, H, l->hs, l->h_0) - s->first * H;
    for (int64_t u = 0; u < H; u += V) FOR_CHUNKS_OF_STEP(
        int64_t n = H - u;
        for (int g = 0; g < 3; g++) begin(l, slab, g, g, 3, row + b, m, u, n);
        for (int64_t i = 0; i < m; i++)
          *(unaligned *)(slab + i * SLAB + 3 * V) = l->b_h ? load(l->b_h + u, n) : (vec){0};
        if (l->x) add_panel_2(m, l->I, x, l->I, l->W_x + u * 2 * l->I, slab, SLAB);
        add_panel_2(m, H, h_prev, H, l->W_h + u * 2 * H, slab, SLAB);
        if (l->x) add_panel_1(m, l->I, x, l->I, l->W_x_2 + u * l->I, slab + 2 * V, SLAB);
        add_panel_1(m, H, h_prev, H, l->W_h_2 + u * H, slab + 3 * V, SLAB);
        for (int64_t i = 0; i < m; i++) {
          int64_t at = (row + b + i) * H + u;
          vec r, z;
          values_of_2(logistic_parts(SUM(i, 0)), logistic_parts(SUM(i, 1)), &r, &z);
          vec candidate = tanh_of(SUM(i, 2) + r * SUM(i, 3));
          store(l->hs + at, (1 - z) * candidate + z * load(h_prev + i * H + u, n), n);
          if (l->keep) {
            REAL *gates = l->gates + (row + b + i) * 3 * H + u;
            store(gates, r, n);
            store(gates + H, z, n);
            store(gates + 2 * H, candidate, n);
            store(l->us + at, SUM(i, 3), n);
          }
        })
  }
}

/* The reset before the product: the gates r and z of all units come first, then the candidates. scratch
 * (B, 2H) holds r ⊙ h_prev and z. */
void gru_reset_before(const Steps *s, const Layer *l) {
  FOR_STEPS(j) {
    int64_t H = l->H, middle = border(s, j, end);
    const REAL *kept = before(s, j, s->first, H, l->hs, l->h_0) - s->first * H;
    for (int64_t u = 0; u < H; u += V) FOR_CHUNKS_OF_STEP(
        int64_t n = H - u;
        for (int g = 0; g < 2; g++) begin(l, slab, g, g, 3, row + b, m, u, n);
        if (l->x) add_panel_2(m, l->I, x, l->I, l->W_x + u * 2 * l->I, slab, SLAB);
        add_panel_2(m, H, h_prev, H, l->W_h + u * 2 * H, slab, SLAB);
        for (int64_t i = 0; i < m; i++) {
          REAL *reset = l->scratch + (b + i) * 2 * H + u;
          vec r, z;
          values_of_2(logistic_parts(SUM(i, 0)), logistic_parts(SUM(i, 1)), &r, &z);
          store(reset, r * load(h_prev + i * H + u, n), n);
          store(reset + H, z, n);
          if (l->keep) {
            store(l->gates + (row + b + i) * 3 * H + u, r, n);
            store(l->gates + (row + b + i) * 3 * H + H + u, z, n);
          }
        })
    for (int64_t u = 0; u < H; u += 2 * V) FOR_CHUNKS_OF_STEP(
        for (int v = 0; v < 2; v++) begin(l, slab, v, 2, 3, row + b, m, u + v * V, H - u - v * V);
        if (l->x) add_panel_2(m, l->I, x, l->I, l->W_x_2 + u * l->I, slab, SLAB);
        add_panel_2(m, H, l->scratch + b * 2 * H, 2 * H, l->W_h_2 + u * H, slab, SLAB);
        for (int64_t i = 0; i < m; i++)
          for (int v = 0; v < 2; v++) {
            int64_t w = u + v * V;
            int64_t n = H - w;
            if (n <= 0) continue;
            vec candidate = tanh_of(SUM(i, v)), z = load(l->scratch + (b + i) * 2 * H + H + w, n);
            store(l->hs + (row + b + i) * H + w, (1 - z) * candidate + z * load(h_prev + i * H + w, n), n);
            if (l->keep) store(l->gates + (row + b + i) * 3 * H + 2 * H + w, candidate, n);
          })
  }
}

/* Back, with the weights packed for two vectors a panel. */

void rnn_back(const Steps *s, const Layer *l) {
  int64_t H = l->H;
  FOR_STEPS_BACK(j) {
    FOR_ROWS(b) {
      int64_t at = (row + b) * H;
      FOR_UNITS(
        vec h = load(l->hs + at + u, n), d = load(l->d_h + b * H + u, n);
        if (l->d_hs) d += load(l->d_hs + at + u, n);
        store(l->d_a + at + u, l->relu ? select(h <= all(0), all(0), d) : d * (1 - h * h), n););
    }
    product(end - s->first, H, H, l->d_a + (row + s->first) * H, H, l->W_h, l->d_h + s->first * H, H, 0);
  }
}

void lstm_back(const Steps *s, const Layer *l) {
  int64_t H = l->H;
  FOR_STEPS_BACK(j) {
    FOR_ROWS(b) {
      const REAL *C_prev = before(s, j, b, H, l->Cs, l->C_0), *gate = l->gates + (row + b) * 4 * H;
      int64_t at = (row + b) * H;
      REAL *d = l->d_a + 4 * at, *d_C = l->d_C + b * H;
      FOR_UNITS(
        vec i = load(gate + u, n), f = load(gate + H + u, n);
        vec candidate = load(gate + 2 * H + u, n), o = load(gate + 3 * H + u, n);
        vec tanh_C = tanh_of(load(l->Cs + at + u, n)), d_h_t = load(l->d_h + b * H + u, n);
        if (l->d_hs) d_h_t += load(l->d_hs + at + u, n);
        vec d_C_t = load(d_C + u, n) + d_h_t * o * (1 - tanh_C * tanh_C);
        store(d + u, d_C_t * candidate * i * (1 - i), n);
        store(d + H + u, d_C_t * load(C_prev + u, n) * f * (1 - f), n);
        store(d + 2 * H + u, d_C_t * i * (1 - candidate * candidate), n);
        store(d + 3 * H + u, d_h_t * tanh_C * o * (1 - o), n);
        store(d_C + u, d_C_t * f, n););
    }
    product(end - s->first, 4 * H, H, l->d_a + (row + s->first) * 4 * H, 4 * H, l->W_h, l->d_h + s->first * H, H, 0);
  }
}

/* d_u (N, H): dL/d(the recurrent products of the candidate). scratch (B, 3H). */
void gru_back(const Steps *s, const Layer *l) {
  int64_t H = l->H;
  FOR_STEPS_BACK(j) {
    FOR_ROWS(b) {
      const REAL *h_prev = before(s, j, b, H, l->hs, l->h_0), *gate = l->gates + (row + b) * 3 * H;
      int64_t at = (row + b) * H;
      REAL *d = l->d_a + 3 * at, *p = l->scratch + b * 3 * H, *d_h = l->d_h + b * H;
      FOR_UNITS(
        vec r = load(gate + u, n), z = load(gate + H + u, n), candidate = load(gate + 2 * H + u, n);
        vec d_h_t = load(d_h + u, n);
        if (l->d_hs) d_h_t += load(l->d_hs + at + u, n);
        vec d_a_h = d_h_t * (1 - z) * (1 - candidate * candidate);
        vec d_a_r = d_a_h * load(l->us + at + u, n) * r * (1 - r);
        vec d_a_z = d_h_t * (load(h_prev + u, n) - candidate) * z * (1 - z);
        store(d + u, d_a_r, n);
        store(d + H + u, d_a_z, n);
        store(d + 2 * H + u, d_a_h, n);
        store(l->d_u + at + u, d_a_h * r, n);
        store(p + u, d_a_r, n);
        store(p + H + u, d_a_z, n);
        store(p + 2 * H + u, d_a_h * r, n);
        store(d_h + u, d_h_t * z, n););
    }
    product(end - s->first, 3 * H, H, l->scratch + s->first * 3 * H, 3 * H, l->W_h, l->d_h + s->first * H, H, 1);
  }
}

/* The first product is that of the gates, the second that of the candidate. scratch (B, H). */
void gru_reset_before_back(const Steps *s, const Layer *l) {
  int64_t H = l->H;
  FOR_STEPS_BACK(j) {
    REAL *first = l->d_a + (row + s->first) * 3 * H, *d_reset = l->scratch;
    FOR_ROWS(b) {
      const REAL *gate = l->gates + (row + b) * 3 * H;
      int64_t at = (row + b) * H;
      FOR_UNITS(
        vec z = load(gate + H + u, n), candidate = load(gate + 2 * H + u, n);
        vec d_h_t = load(l->d_h + b * H + u, n);
        if (l->d_hs) d_h_t += load(l->d_hs + at + u, n);
        store(l->d_h + b * H + u, d_h_t, n);
        store(l->d_a + 3 * at + 2 * H + u, d_h_t * (1 - z) * (1 - candidate * candidate), n););
    }
    product(end - s->first, H, H, first + 2 * H, 3 * H, l->W_h_2, d_reset + s->first * H, H, 0);
    FOR_ROWS(b) {
      const REAL *h_prev = before(s, j, b, H, l->hs, l->h_0), *gate = l->gates + (row + b) * 3 * H;
      REAL *d = l->d_a + (row + b) * 3 * H, *d_h = l->d_h + b * H;
      FOR_UNITS(
        vec r = load(gate + u, n), z = load(gate + H + u, n), candidate = load(gate + 2 * H + u, n);
        vec h = load(h_prev + u, n), d_h_t = load(d_h + u, n), d_r_h = load(d_reset + b * H + u, n);
        store(d + u, d_r_h * h * r * (1 - r), n);
        store(d + H + u, d_h_t * (h - candidate) * z * (1 - z), n);
        store(d_h + u, d_r_h * r + d_h_t * z, n););
    }
    product(end - s->first, 2 * H, H, first, 3 * H, l->W_h, l->d_h + s->first * H, H, 1);
  }
}

/* --- threads -------------------------------------------------------------------------------- */

typedef void Loop(const Steps *, const Layer *);
typedef struct {
  Loop *loop;
  const Steps *steps;
  const Layer *layer;
  int64_t parts, next;
} Job;

/* Do the parts of a job that nobody has taken yet. */
static void work(void *argument) {
  Job *job = argument;
  for (int64_t k; (k = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED)) < job->parts;) {
    Steps part = *job->steps;
    part.first = part.sizes[0] * k / job->parts;
    part.last = part.sizes[0] * (k + 1) / job->parts;
    job->loop(&part, job->layer);
  }
}

static void *thread(void *job) {
  work(job);
  return NULL;
}

/* A loop for all rows, shared by `count` threads: those that `parallel` lends, which is what OpenMP's compilers call
 * to start a team, or own ones if it is NULL. If fewer come than were asked for, those do all. */
void run(Loop *loop, const Steps *s, const Layer *l, int64_t count,
         void (*parallel)(void (*)(void *), void *, unsigned, unsigned)) {
  Job job = {loop, s, l, count, 0};
  if (count > 1 && parallel) {
    parallel(work, &job, (unsigned)count, 0);
    return;
  }
  pthread_t threads[count];
  int64_t started = 0;
  while (started < count - 1 && !pthread_create(threads + started, NULL, thread, &job)) started++;
  work(&job);
  for (int64_t k = 0; k < started; k++) pthread_join(threads[k], NULL);
}
