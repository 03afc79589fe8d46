/* Kernels for what torch takes several passes over memory for. Plain C; native.py loads them, and has the words for each.

   The file includes itself once for each type of number: T, and NAME(f) for f_32 or f_64. A sum is made in the same order
   wherever its numbers lie, so that no result depends on how the work is shared out. */

#ifndef T

#include <math.h>
#include <string.h>

#include "structs.h"

#define INLINE static inline __attribute__((always_inline))
#define EXPORT __attribute__((visibility("default"))) CLONES

enum { FEW = 6, BLOCK = 1 << 10, ROOM = 1 << 16, TOGETHER = 128 };

__attribute__((visibility("default"))) int version(void) { return 9; }

#define T float
#define NAME(f) f##_32
#include "native.c"
#undef T
#undef NAME
#define T double
#define NAME(f) f##_64
#include "native.c"

#else

static CLONES void NAME(pull)(T *x, int64_t stride, int64_t rows, int64_t columns, const T *d, const T *u, const T *v) {
    T sum[BLOCK];
    for (int64_t at = 0; at < columns; at += BLOCK) {
        int64_t n = columns - at < BLOCK ? columns - at : BLOCK, j = 0;
        T *part = x + at;
        for (int64_t k = 0; k < n; k++) sum[k] = 0;
        for (; j + 3 < rows; j += 4) {
            const T *restrict p = part + j * stride, *restrict q = p + stride, *restrict r = q + stride, *restrict s = r + stride;
            T a = v[j], b = v[j + 1], c = v[j + 2], e = v[j + 3];
            for (int64_t k = 0; k < n; k++) sum[k] = sum[k] + a * p[k] + b * q[k] + c * r[k] + e * s[k];
        }
        for (; j < rows; j++) {
            const T *restrict p = part + j * stride;
            for (int64_t k = 0; k < n; k++) sum[k] += v[j] * p[k];
        }
        for (int64_t i = 0; i < rows; i++) {
            T *restrict p = part + i * stride, own = d[i], pulled = u[i];
            if (own == 0)
                for (int64_t k = 0; k < n; k++) p[k] = pulled * sum[k];
            else
                for (int64_t k = 0; k < n; k++) p[k] = own * p[k] + pulled * sum[k];
        }
    }
}

INLINE void NAME(few_of)(T *x, int64_t stride, int64_t columns, const int64_t *rows, const T *W, const int n) {
    T *p[FEW];
    for (int i = 0; i < n; i++) p[i] = x + rows[i] * stride;
#pragma GCC ivdep
    for (int64_t k = 0; k < columns; k++) {
        T before[FEW];
#pragma GCC unroll 16
        for (int j = 0; j < n; j++) before[j] = p[j][k];
#pragma GCC unroll 16
        for (int i = 0; i < n; i++) {
            T sum = W[i * n] * before[0];
#pragma GCC unroll 16
            for (int j = 1; j < n; j++) sum += W[i * n + j] * before[j];
            p[i][k] = sum;
        }
    }
}

/* all in registers */
static CLONES void NAME(few)(T *x, int64_t stride, int64_t columns, int64_t n, const int64_t *rows, const T *W) {
    switch (n) {
    case 2: NAME(few_of)(x, stride, columns, rows, W, 2); break;
    case 3: NAME(few_of)(x, stride, columns, rows, W, 3); break;
    case 4: NAME(few_of)(x, stride, columns, rows, W, 4); break;
    case 5: NAME(few_of)(x, stride, columns, rows, W, 5); break;
    case 6: NAME(few_of)(x, stride, columns, rows, W, 6); break;
    }
}

/* to <- [to +] the sum of n of these rows of x, from 1 to 4, times `share` */
INLINE void NAME(added)(T *restrict to, const T *x, int64_t stride, int64_t columns, const int64_t *rows, int64_t n, T share,
                        const int more) {
    const T *restrict p[4];
    for (int64_t i = 0; i < 4; i++) p[i] = x + rows[i < n ? i : 0] * stride;
#define EACH(sum)                                                                                                                \
    for (int64_t k = 0; k < columns; k++) to[k] = ((more ? to[k] : 0) + (sum)) * share;                                           \
    break
    switch (n) {
    case 1: EACH(p[0][k]);
    case 2: EACH(p[0][k] + p[1][k]);
    case 3: EACH(p[0][k] + p[1][k] + p[2][k]);
    case 4: EACH((p[0][k] + p[1][k]) + (p[2][k] + p[3][k]));
    }
#undef EACH
}

/* out <- the mean of these rows of x, added up TOGETHER at a time, so that thousands of rows do not add up their rounding */
EXPORT void NAME(mean)(T *out, const T *x, int64_t stride, int64_t columns, int64_t n, const int64_t *rows) {
    T sum[BLOCK], share = n & (n - 1) ? 1 : 1 / (T)n; /* of a power of 2 that is exact, else what is added up is divided */
    for (int64_t at = 0; at < columns; at += BLOCK) {
        int64_t some = columns - at < BLOCK ? columns - at : BLOCK;
        T *restrict to = out + at;
        if (n <= 4) NAME(added)(to, x + at, stride, some, rows, n, share, 0);
        for (int64_t j = 0; n > 4 && j < n;) {
            int64_t first = j, end = n - j < TOGETHER ? n : j + TOGETHER;
            for (; j < end; j += 4) NAME(added)(sum, x + at, stride, some, rows + j, end - j < 4 ? end - j : 4, 1, j > first);
            j = end;
            if (first)
                for (int64_t k = 0; k < some; k++) to[k] += sum[k] * share;
            else
                for (int64_t k = 0; k < some; k++) to[k] = sum[k] * share;
        }
        for (int64_t k = 0; share == 1 && n > 1 && k < some; k++) to[k] /= (T)n;
    }
}

/* A step of plain SGD: x <- x - lr g, of rows that are `stride` apart, or `g_stride` */
EXPORT void NAME(along)(T *x, int64_t stride, int64_t rows, int64_t columns, const T *g, int64_t g_stride, double lr) {
    T back = (T)-lr;
    for (int64_t i = 0; i < rows; i++) {
        T *restrict to = x + i * stride;
        const T *restrict by = g + i * g_stride;
        for (int64_t k = 0; k < columns; k++) to[k] += back * by[k];
    }
}

/* b <- mu b + (z - y) / rate, and z <- y + (1 - lr) (z - y) - lr mu rate b, of the new b (nesterov) or of the old one; n numbers */
EXPORT void NAME(outer)(T *restrict z, const T *restrict y, T *restrict b, int64_t n, double lr, double mu, double rate,
                        int64_t nesterov) {
    T left = (T)(1 - lr), back = (T)(lr * mu * rate), stays = (T)mu, per = (T)(1 / rate);
    if (nesterov)
        for (int64_t k = 0; k < n; k++) {
            T away = z[k] - y[k], now = stays * b[k] + per * away;
            z[k] = y[k] + left * away - back * now;
            b[k] = now;
        }
    else
        for (int64_t k = 0; k < n; k++) {
            T away = z[k] - y[k], before = b[k];
            z[k] = y[k] + left * away - back * before;
            b[k] = stays * before + per * away;
        }
}

static CLONES void NAME(product)(T *x, int64_t stride, int64_t columns, int64_t n_changed, const int64_t *changed, int64_t n_used,
                          const int64_t *used, const int64_t *offsets, const int64_t *entries, const T *weights) {
    T before[ROOM / sizeof(T)];
    int64_t block = ROOM / (int64_t)sizeof(T) / n_used / 64 * 64 - 16; /* no multiple of a page, which a cache takes badly */
    block = block > BLOCK - 16 ? BLOCK - 16 : block;
    for (int64_t at = 0; at < columns; at += block) {
        int64_t n = columns - at < block ? columns - at : block;
        for (int64_t j = 0; j < n_used; j++) memcpy(before + j * block, x + used[j] * stride + at, n * sizeof(T));
        for (int64_t i = 0; i < n_changed; i++) {
            T *restrict p = x + changed[i] * stride + at;
            int64_t e = offsets[i], end = offsets[i + 1];
            if (e == end)
                for (int64_t k = 0; k < n; k++) p[k] = 0;
            for (int first = 1; e < end; first = 0) {
                const T *a = before + entries[e] * block, w = weights[e];
                if (e + 3 < end) {
                    const T *b = before + entries[e + 1] * block, *c = before + entries[e + 2] * block;
                    const T *d = before + entries[e + 3] * block, wb = weights[e + 1], wc = weights[e + 2], wd = weights[e + 3];
                    e += 4;
                    if (first)
                        for (int64_t k = 0; k < n; k++) p[k] = w * a[k] + wb * b[k] + wc * c[k] + wd * d[k];
                    else
                        for (int64_t k = 0; k < n; k++) p[k] = p[k] + w * a[k] + wb * b[k] + wc * c[k] + wd * d[k];
                } else {
                    e++;
                    if (first)
                        for (int64_t k = 0; k < n; k++) p[k] = w * a[k];
                    else
                        for (int64_t k = 0; k < n; k++) p[k] += w * a[k];
                }
            }
        }
    }
}

/* `columns` numbers of each row of x, which are `stride` apart */
__attribute__((visibility("default"))) void NAME(mix)(const Mix *m, T *x, int64_t stride, int64_t columns) {
    switch (m->kind) {
    case PULL: NAME(pull)(x, stride, m->n, columns, m->numbers, m->u, m->v); break;
    case SOME: NAME(few)(x, stride, columns, m->n, m->rows, m->numbers); break;
    case ENTRIES: NAME(product)(x, stride, columns, m->n, m->rows, m->n_used, m->used, m->offsets, m->columns, m->numbers); break;
    }
}

#endif
