/* Linear layers of one model, and its step of SGD, for the T and LANES of widths.h: included once before its part, once after it. */

#ifndef NAME

#define NAME3(f, bits, lanes) JOIN(f, bits, lanes)
#define NAME(f) NAME3(f, BITS, LANES)
#define V NAME(vector)
#define U NAME(unaligned)
#define PAIR (2 * LANES)

typedef T V __attribute__((vector_size(LANES * sizeof(T))));
typedef T U __attribute__((vector_size(LANES * sizeof(T)), aligned(sizeof(T)), may_alias));

/* tile (n, PAIR) <- [tile +] the sum over k < terms of a[r, k] b[k], a's numbers `down` apart by r and `on` by k, b's rows `wide` */
INLINE ON void NAME(tile)(T *restrict to, int64_t to_stride, const T *a, int64_t down, int64_t on, const T *b, int64_t wide,
                          int64_t terms, const int n, const int add) {
    V sum[ROWS][2];
#pragma GCC unroll 8
    for (int r = 0; r < n; r++) {
        sum[r][0] = add ? (V) * (const U *)(to + r * to_stride) : (V){0};
        sum[r][1] = add ? (V) * (const U *)(to + r * to_stride + LANES) : (V){0};
    }
    for (int64_t k = 0; k < terms; k++) {
        V left = *(const U *)(b + k * wide), right = *(const U *)(b + k * wide + LANES);
#pragma GCC unroll 8
        for (int r = 0; r < n; r++) {
            T one = a[r * down + k * on];
            sum[r][0] += one * left;
            sum[r][1] += one * right;
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < n; r++) {
        *(U *)(to + r * to_stride) = sum[r][0];
        *(U *)(to + r * to_stride + LANES) = sum[r][1];
    }
}

INLINE ON void NAME(tiles)(T *to, int64_t to_stride, const T *a, int64_t down, int64_t on, const T *b, int64_t wide, int64_t terms,
                           int64_t n, const int add) {
    switch (n) {
    case 1: NAME(tile)(to, to_stride, a, down, on, b, wide, terms, 1, add); break;
    case 2: NAME(tile)(to, to_stride, a, down, on, b, wide, terms, 2, add); break;
    case 3: NAME(tile)(to, to_stride, a, down, on, b, wide, terms, 3, add); break;
#if ROWS > 4
    case 4: NAME(tile)(to, to_stride, a, down, on, b, wide, terms, 4, add); break;
    case 5: NAME(tile)(to, to_stride, a, down, on, b, wide, terms, 5, add); break;
#endif
#if ROWS > 6
    case 6: NAME(tile)(to, to_stride, a, down, on, b, wide, terms, 6, add); break;
    case 7: NAME(tile)(to, to_stride, a, down, on, b, wide, terms, 7, add); break;
#endif
    default: NAME(tile)(to, to_stride, a, down, on, b, wide, terms, ROWS, add); break;
    }
}

/* to (n, padded) <- a (n, terms) b (terms, padded), a's numbers as above; padded a multiple of PAIR */
static ON __attribute__((unused)) void NAME(product)(T *to, const T *a, int64_t down, int64_t on, const T *b, int64_t padded, int64_t n, int64_t terms) {
    for (int64_t k = 0; k < terms; k += DEPTH) {
        int64_t some = terms - k < DEPTH ? terms - k : DEPTH;
        for (int64_t r = 0; r < n; r += ROWS) {
            int64_t few = n - r < ROWS ? n - r : ROWS;
            for (int64_t c = 0; c < padded; c += PAIR) {
                const T *from = a + r * down + k * on, *with = b + k * padded + c;
                if (k)
                    NAME(tiles)(to + r * padded + c, padded, from, down, on, with, padded, some, few, 1);
                else
                    NAME(tiles)(to + r * padded + c, padded, from, down, on, with, padded, some, few, 0);
            }
        }
    }
}

typedef struct {
    T lr, keep, momentum, decay; /* keep: 1 - lr decay */
    int how;
} NAME(Step);

/* n numbers of a weight, given their gradients */
INLINE ON void NAME(moved)(T *restrict w, T *restrict out, const T *restrict g, int64_t n, const NAME(Step) *step) {
    T lr = step->lr, keep = step->keep, momentum = step->momentum, decay = step->decay;
    switch (step->how) {
    case STORE:
        for (int64_t i = 0; i < n; i++) out[i] = g[i];
        break;
    case PLAIN:
        for (int64_t i = 0; i < n; i++) w[i] = keep * w[i] - lr * g[i];
        break;
    case MOMENTUM:
        for (int64_t i = 0; i < n; i++) {
            out[i] = momentum * out[i] + (g[i] + decay * w[i]);
            w[i] -= lr * out[i];
        }
        break;
    case NESTEROV:
        for (int64_t i = 0; i < n; i++) {
            T found = g[i] + decay * w[i];
            out[i] = momentum * out[i] + found;
            w[i] -= lr * (found + momentum * out[i]);
        }
    }
}

/* w (n, width) and `out` move by the gradient g (n, padded) h (batch, width); side: room for (batch, PAIR) */
static ON __attribute__((unused)) void NAME(update)(T *w, T *out, const T *g, int64_t padded, const T *h, int64_t n, int64_t width, int64_t batch, T *side,
                            const NAME(Step) *step) {
    T found[ROWS * PAIR];
    int64_t full = width / PAIR * PAIR, left = width - full;
    if (left) /* the last columns, in rows as wide as others */
        for (int64_t b = 0; b < batch; b++)
            for (int64_t i = 0; i < PAIR; i++) side[b * PAIR + i] = i < left ? h[b * width + full + i] : 0;
    for (int64_t block = 0; block < width; block += WIDE) {
        int64_t end = width - block < WIDE ? width : block + WIDE;
        for (int64_t r = 0; r < n; r += ROWS) {
            int64_t few = n - r < ROWS ? n - r : ROWS;
            for (int64_t c = block; c < end; c += PAIR) {
                int inside = c < full;
                NAME(tiles)(found, PAIR, g + r * padded, padded, 1, inside ? h + c : side, inside ? width : PAIR, batch, few, 0);
                for (int64_t i = 0; i < few; i++) {
                    int64_t at = (r + i) * width + c;
                    NAME(moved)(w + at, out + at, found + i * PAIR, inside ? PAIR : left, step);
                }
            }
        }
    }
}

/* The same of a layer: its weight lies before its bias, if there is one */
static ON __attribute__((unused)) void NAME(layer)(T *w, T *out, const T *g, int64_t padded, const T *h, int64_t n, int64_t width, int64_t batch,
                           int64_t biased, T *side, const NAME(Step) *step) {
    NAME(update)(w, out, g, padded, h, n, width, batch, side, step);
    for (int64_t r = 0; biased && r < n; r++) {
        T sum = 0;
        for (int64_t b = 0; b < batch; b++) sum += g[r * padded + b];
        NAME(moved)(w + n * width + r, out + n * width + r, &sum, 1, step);
    }
}

/* to (n, across) <- from (across, n), the rows of `to` being `wide` apart, and zero beyond */
static ON __attribute__((unused)) void NAME(turned)(T *to, int64_t wide, const T *from, int64_t from_stride, int64_t n, int64_t across) {
    for (int64_t block = 0; block < n; block += 16) {
        int64_t end = n - block < 16 ? n : block + 16;
        for (int64_t b = 0; b < across; b++)
            for (int64_t i = block; i < end; i++) to[i * wide + b] = from[b * from_stride + i];
    }
    if (wide > across)
        for (int64_t i = 0; i < n; i++) memset(to + i * wide + across, 0, (wide - across) * sizeof(T));
}

/* The mean of the cross entropies of z (classes, padded), which becomes its gradient */
static ON __attribute__((unused)) T NAME(entropy)(T *z, int64_t classes, int64_t padded, int64_t batch, const int64_t *targets) {
    double loss = 0;
    T part = (T)1 / (T)batch;
    for (int64_t b = 0; b < batch; b++) {
        T most = z[b], sum = 0;
        for (int64_t c = 1; c < classes; c++) most = z[c * padded + b] > most ? z[c * padded + b] : most;
        T wanted = z[targets[b] * padded + b] - most;
        for (int64_t c = 0; c < classes; c++) {
            T one = sizeof(T) == 4 ? (T)expf((float)(z[c * padded + b] - most)) : (T)exp((double)(z[c * padded + b] - most));
            z[c * padded + b] = one;
            sum += one;
        }
        loss += log((double)sum) - (double)wanted;
        for (int64_t c = 0; c < classes; c++) z[c * padded + b] *= part / sum;
        z[targets[b] * padded + b] -= part;
    }
    for (int64_t c = 0; c < classes; c++)
        for (int64_t b = batch; b < padded; b++) z[c * padded + b] = 0;
    return (T)(loss / (double)batch);
}

/* One model of linear layers with ReLU between them: its mean cross entropy, and its step, or its gradients in `beside`, or what it
   answers there (batch, sizes[layers]). Each made[l] is (sizes[l], padded); the first holds what comes in, which is also `given`
   (batch, sizes[0]), and its gradient goes to `first`, which may be none. room: three of the largest made[l], and PAIR * padded
   more. */
static ON __attribute__((unused)) T NAME(stack)(T *model, T *beside, int64_t layers, const int64_t *sizes, const int64_t *biased,
                                                int64_t batch, int64_t padded, T **made, const T *given, T *first,
                                                const int64_t *targets, T *room, const NAME(Step) *step) {
    int64_t at = 0, most = 0;
    for (int64_t l = 0; l <= layers; l++) most = sizes[l] > most ? sizes[l] : most;
    T *gradient = room, *below = gradient + most * padded, *flat = below + most * padded, *side = flat + most * padded;
    for (int64_t l = 0; l < layers; l++) {
        int64_t before = sizes[l], after = sizes[l + 1];
        T *z = made[l + 1];
        NAME(product)(z, model + at, before, 1, made[l], padded, after, before);
        at += after * before;
        for (int64_t r = 0; r < after; r++) {
            T own = biased[l] ? model[at + r] : 0, *restrict row = z + r * padded;
            if (l + 1 < layers)
                for (int64_t b = 0; b < padded; b++) row[b] = row[b] + own < 0 ? 0 : row[b] + own; /* what is no number stays so */
            else
                for (int64_t b = 0; b < padded; b++) row[b] += own;
        }
        at += biased[l] ? after : 0;
    }
    if (step->how == ANSWER) {
        NAME(turned)(beside, sizes[layers], made[layers], padded, batch, sizes[layers]);
        return 0;
    }
    T *g = made[layers], loss = NAME(entropy)(g, sizes[layers], padded, batch, targets);
    for (int64_t l = layers - 1; l >= 0; l--) {
        int64_t before = sizes[l], after = sizes[l + 1];
        at -= biased[l] ? after : 0;
        T *weight = model + (at -= after * before), *next = l ? g == gradient ? below : gradient : first;
        if (next) NAME(product)(next, weight, 1, before, g, padded, before, after);
        if (l) {
            const T *restrict kept = made[l];
            for (int64_t k = 0; k < before * padded; k++) next[k] = kept[k] <= 0 ? 0 : next[k];
        }
        const T *h = given;
        if (l || !given) {
            NAME(turned)(flat, before, made[l], padded, batch, before);
            h = flat;
        }
        NAME(layer)(weight, beside + at, g, padded, h, after, before, batch, biased[l], side, step);
        g = next;
    }
    return loss;
}

#else

#undef NAME3
#undef NAME
#undef V
#undef U
#undef PAIR
#undef LANES
#undef ROWS
#undef ON

#endif
