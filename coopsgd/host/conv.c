/* Forward and backward of a small convolutional network, one model at a time, and the step of SGD in the same pass: convolutions
   of stride 1, each with GroupNorm or without, with 2 x 2 max pooling or without, with ReLU; then linear layers as linear.h has.
   native.py loads it, tasks/engines/conv.py has the words for it.

   Images lie (y, x, channel, sample), LANES samples at a time: a vector is one number of each, so that a convolution is a sum of
   neighbouring vectors, each times one weight, whatever the number of channels, and all between convolutions goes vector by
   vector. Of 3 x 3 weights between many channels it is made by tiles of 2 x 2 (Winograd's F(2 x 2, 3 x 3), arXiv:1509.09308).
   Around an image there is a frame of zeros, which nothing writes to. Lanes without a sample repeat the last one, and their
   gradients are zero. The file comes to itself by way of widths.h. What a number is depends on its model alone. */

#ifndef T

#include <stdint.h>

/* a convolution of `channels` images to `out` by (tall, wide) weights, with frames around the images, and what follows it:
   groups: of GroupNorm, 0 for none; last: do weights lie channels last? */
typedef struct {
    int64_t channels, height, width, top, bottom, left, right, out, tall, wide, biased, groups, affine, pooled, last;
} Stage;

enum { STAGES = 32 };

#define ARGUMENTS(T)                                                                                                             \
    T *x, int64_t stride, T *out, int64_t out_stride, int64_t rows, int64_t stages, const Stage *stage, const double *eps,       \
        int64_t layers, const int64_t *sizes, const int64_t *biased, int64_t batch, const T *inputs, const int64_t *targets,     \
        T *losses, T *room, double lr, double momentum, double decay, int64_t how
#define GIVEN                                                                                                                    \
    x, stride, out, out_stride, rows, stages, stage, eps, layers, sizes, biased, batch, inputs, targets, losses, room, lr,       \
        momentum, decay, how

/* Of a stage: its framed images (framed wide), what the convolution makes of them (height, width), framed for the way back; what
   is left after pooling; channels of weights' gradients; and where in `room` its numbers lie, those of LANES samples first. */
typedef struct {
    int64_t framed, image_size, height, width, above, before, across, found_size, left_high, left_wide, left_size, channels;
    int64_t image, found, normed, best, mean, scatter, weights, turned, gradient, sums;
    int64_t tiled, back_tiled, lifted, back_lifted, by_tiles; /* is it taken by tiles, and its way back? where weights and
                                                               gradients of that lie */
} Held;

typedef struct {
    int64_t parts, kept, padded, flat, first, made, below, side, few, tiles, stack, all; /* parts: LANES samples each; kept: at a time */
} Room;

static int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

/* Do tiles of 2 x 2 pay, of images of `out` channels, made of `channels`? With few of them tiles cost more than they save. */
static int64_t tiles(const Stage *s, int64_t channels, int64_t out, int64_t height, int64_t width) {
    return s->tall == 3 && s->wide == 3 && channels >= 16 && out >= 16 && height % 2 == 0 && width % 2 == 0;
}

/* Where all lies in room */
static Room laid(int64_t stages, const Stage *stage, int64_t layers, const int64_t *sizes, int64_t batch, int64_t lanes, int answer, Held *held) {
    int64_t parts = (batch + lanes - 1) / lanes;
    Room room = {.parts = parts, .kept = answer ? 1 : parts, .padded = up(batch, 2 * lanes)};
    int64_t at = 0, below = 0, side = 0, few = 0, tile = 0, most = 0;
#define TAKE(n) (at += up(n, lanes), at - up(n, lanes))
    for (int64_t i = 0; i < stages; i++) {
        const Stage *s = stage + i;
        Held *h = held + i;
        int64_t high = s->height + s->top + s->bottom, taps = s->tall * s->wide * s->channels;
        h->framed = s->width + s->left + s->right;
        h->height = high - s->tall + 1;
        h->width = h->framed - s->wide + 1;
        h->above = i ? s->tall - 1 - s->top : 0; /* of the first, nobody asks for the gradient before it */
        h->before = i ? s->wide - 1 - s->left : 0;
        h->across = i ? s->width + s->wide - 1 : h->width;
        h->left_high = s->pooled ? h->height / 2 : h->height;
        h->left_wide = s->pooled ? h->width / 2 : h->width;
        h->channels = up(s->out, lanes);
        h->image_size = high * h->framed * s->channels * lanes + lanes; /* + lanes: no power of 2, which a cache takes badly */
        h->found_size = (i ? s->height + s->tall - 1 : h->height) * h->across * s->out * lanes + lanes;
        h->left_size = h->left_high * h->left_wide * s->out * lanes + lanes;
        h->image = TAKE(room.kept * h->image_size);
        h->found = TAKE(room.kept * h->found_size);
        h->normed = TAKE(room.kept * h->left_size);
        h->best = TAKE(room.kept * h->left_size);
        h->mean = TAKE(room.kept * s->groups * lanes);
        h->scatter = TAKE(room.kept * s->groups * lanes);
        h->weights = TAKE(up(s->out, 8) * (taps + 1));
        h->turned = TAKE(up(s->channels, 8) * s->tall * s->wide * s->out);
        h->tiled = tiles(s, s->channels, s->out, h->height, h->width);
        h->back_tiled = i && tiles(s, s->out, s->channels, s->height, s->width);
        h->lifted = TAKE(h->tiled ? 16 * up(s->out, 8) * s->channels : 0);
        h->back_lifted = TAKE(h->back_tiled ? 16 * up(s->channels, 8) * s->out : 0);
        h->by_tiles = TAKE(h->tiled ? 16 * s->channels * h->channels : 0);
        if (h->tiled || h->back_tiled) tile = larger(tile, 8 * larger(h->width, s->width) * (s->channels + s->out) * lanes);
        h->gradient = TAKE(taps * h->channels);
        h->sums = TAKE(3 * s->out * lanes);
        if (i) below = larger(below, s->height * s->width * s->channels * lanes);
        side = larger(side, larger(1 << 16, h->width * h->channels * lanes));
        few = larger(few, larger(5 * up(s->out, 8) * lanes, up(larger(taps, s->channels), 8)));
    }
    for (int64_t l = 0; l <= layers; l++) most = larger(most, sizes[l]);
    room.below = TAKE(below);
    room.side = TAKE(side);
    room.few = TAKE(few);
    room.tiles = TAKE(tile);
    room.flat = TAKE(sizes[0] * room.padded);
    room.first = TAKE(sizes[0] * room.padded);
    room.made = at;
    for (int64_t l = 1; l <= layers; l++) at += sizes[l] * room.padded;
    room.stack = TAKE(3 * most * room.padded + 2 * lanes * room.padded);
    room.all = at + 64;
    return room;
#undef TAKE
}

#define PART "conv.c"
#include "widths.h"

/* The number of `T`s that `room` must have, all zero at first; a call with other sizes or another batch needs zeros again. ANSWER
   needs none for a smaller batch: the framed images of its one part lie before all that depends on the batch. */
EXPORT int64_t conv_room(int64_t stages, const Stage *stage, int64_t layers, const int64_t *sizes, int64_t batch, int64_t how) {
    Held held[STAGES];
    return laid(stages, stage, layers, sizes, batch, 16, how == ANSWER, held).all; /* 16: of the widest vectors, which need the most */
}

/* As dense_32 and dense_64 of dense.c, but for models of `stages` convolutions before the linear layers; inputs (rows, batch,
   channels, height, width). Parameters lie in the order of the layers: weight, bias, then weight and bias of GroupNorm. ANSWER:
   out (rows, batch, classes) is what the models answer; there are no targets. */
EXPORT int64_t conv_32(ARGUMENTS(float)) { CALL(conv_32_16(GIVEN), conv_32_8(GIVEN), conv_32_4(GIVEN)) }
EXPORT int64_t conv_64(ARGUMENTS(double)) { CALL(conv_64_8(GIVEN), conv_64_4(GIVEN), conv_64_2(GIVEN)) }

#else

#define WHOLE2(bits) int##bits##_t
#define WHOLE(bits) WHOLE2(bits)
#define A NAME(aligned)
#define M NAME(mask)
#define TALL (ROWS < 8 ? 4 : 8) /* channels, positions of a tile: of vectors as many as there are registers */
#define ACROSS 3
#define MOST (ROWS < 8 ? 6 : 12)
typedef T A __attribute__((vector_size(LANES * sizeof(T)), may_alias));
typedef WHOLE(BITS) M __attribute__((vector_size(LANES * sizeof(T))));

#define AT(p) (*(A *)(p))
#define SEEN(p) ((V) * (const A *)(p))
#define PICK(mask, one, other) ((V)(((mask) & (M)(one)) | (~(mask) & (M)(other))))

/* sums of `tall` rows of `terms` vectors, times weights of TALL channels: of `across` neighbouring positions, each in `to` */
INLINE ON void NAME(taps)(T *to, int64_t apart, const T *from, int64_t down, int64_t along, const T *w, const T *bias, int64_t tall,
                          int64_t terms, int64_t n, const int across) {
    V sum[TALL][ACROSS];
#pragma GCC unroll 8
    for (int r = 0; r < TALL; r++)
#pragma GCC unroll 8
        for (int a = 0; a < across; a++) sum[r][a] = (V){0} + bias[r];
    for (int64_t y = 0; y < tall; y++) {
        const T *p = from + y * down;
        for (int64_t k = 0; k < terms; k++, p += LANES, w += TALL) {
            V in[ACROSS];
#pragma GCC unroll 8
            for (int a = 0; a < across; a++) in[a] = SEEN(p + a * along);
#pragma GCC unroll 8
            for (int r = 0; r < TALL; r++) {
                T one = w[r];
#pragma GCC unroll 8
                for (int a = 0; a < across; a++) sum[r][a] += one * in[a];
            }
        }
    }
    if (n >= TALL)
#pragma GCC unroll 8
        for (int r = 0; r < TALL; r++)
#pragma GCC unroll 8
            for (int a = 0; a < across; a++) AT(to + a * apart + r * LANES) = sum[r][a];
    else
#pragma GCC unroll 8
        for (int r = 0; r < TALL; r++)
            if (r < n)
#pragma GCC unroll 8
                for (int a = 0; a < across; a++) AT(to + a * apart + r * LANES) = sum[r][a];
}

/* A row of a convolution: n channels at `width` positions, `apart`; the images' rows are `down`, their positions `along` apart */
static ON void NAME(line)(T *to, int64_t apart, const T *from, int64_t down, int64_t along, const T *w, const T *bias, int64_t n,
                          int64_t tall, int64_t terms, int64_t width) {
    for (int64_t c = 0; c < n; c += TALL, w += TALL * tall * terms)
        for (int64_t x = 0, left; (left = width - x) > 0;) {
            T *there = to + x * apart + c * LANES;
            const T *here = from + x * along;
            if (left == 1)
                NAME(taps)(there, apart, here, down, along, w, bias + c, tall, terms, n - c, 1), x += 1;
            else if (left == 2 || left == 4)
                NAME(taps)(there, apart, here, down, along, w, bias + c, tall, terms, n - c, 2), x += 2;
            else
                NAME(taps)(there, apart, here, down, along, w, bias + c, tall, terms, n - c, 3), x += 3;
        }
}

/* The weights (out, channels, tall, wide) of a row as `taps` reads them; turned: for the way back, from `out` to `channels` */
static ON void NAME(packed)(T *to, const T *w, const Stage *s, int turned) {
    int64_t n = turned ? s->channels : s->out, from = turned ? s->out : s->channels, all = s->tall * s->wide;
    for (int64_t c = 0; c < n; c += TALL)
        for (int64_t tap = 0; tap < all; tap++)
            for (int64_t k = 0; k < from; k++)
                for (int64_t r = c; r < c + TALL; r++, to++) {
                    int64_t o = turned ? k : r, i = turned ? r : k, t = turned ? all - 1 - tap : tap;
                    *to = r < n ? w[s->last ? (o * all + t) * s->channels + i : (o * s->channels + i) * all + t] : 0;
                }
}

/* The same weights for tiles: to (16, n up to TALL's multiple, from) <- G w G', G = (1 0 0, 1/2 1/2 1/2, 1/2 -1/2 1/2, 0 0 1) */
static ON void NAME(lifted)(T *to, const T *w, int64_t n, int64_t from) {
    int64_t some = from * TALL, apart = up(n, TALL) * from;
    for (int64_t c = 0; c < n; c += TALL, w += 9 * some, to += some)
        for (int64_t i = 0; i < some; i++) {
            T down[4][3];
#pragma GCC unroll 8
            for (int x = 0; x < 3; x++) {
                T a = w[x * some + i], b = w[(3 + x) * some + i], d = w[(6 + x) * some + i];
                down[0][x] = a, down[1][x] = (a + d + b) / 2, down[2][x] = (a + d - b) / 2, down[3][x] = d;
            }
#pragma GCC unroll 8
            for (int y = 0; y < 4; y++) {
                T a = down[y][0], b = down[y][1], d = down[y][2], *there = to + 4 * y * apart + i;
                there[0] = a, there[apart] = (a + d + b) / 2, there[2 * apart] = (a + d - b) / 2, there[3 * apart] = d;
            }
        }
}

/* to (16, across, channels) vectors <- B' d B of the 4 x 4 vectors d of each tile, which overlap: two rows of tiles' worth of images */
static ON void NAME(tiled)(T *to, const T *from, int64_t down, int64_t along, int64_t channels, int64_t across) {
    int64_t own = across * channels * LANES;
    for (int64_t x = 0; x < across; x++)
        for (int64_t c = 0; c < channels; c++) {
            const T *p = from + 2 * x * along + c * LANES;
            T *there = to + (x * channels + c) * LANES;
            V d[4][4];
#pragma GCC unroll 8
            for (int j = 0; j < 4; j++) {
                V a = SEEN(p + j * along), b = SEEN(p + down + j * along), e = SEEN(p + 2 * down + j * along),
                  f = SEEN(p + 3 * down + j * along);
                d[0][j] = a - e, d[1][j] = b + e, d[2][j] = e - b, d[3][j] = b - f;
            }
#pragma GCC unroll 8
            for (int i = 0; i < 4; i++, there += 4 * own) {
                AT(there) = d[i][0] - d[i][2];
                AT(there + own) = d[i][1] + d[i][2];
                AT(there + 2 * own) = d[i][2] - d[i][1];
                AT(there + 3 * own) = d[i][1] - d[i][3];
            }
        }
}

/* Two rows, `to_down` apart, of a convolution of 3 x 3, as `line` makes one, by tiles of 2 x 2; w: lifted; room: for (16, width / 2,
   channels) and (16, width / 2, n) vectors. Where a number that a tile reads is none or infinite, all four that it makes are none. */
static ON void NAME(lines)(T *to, int64_t to_down, int64_t apart, const T *from, int64_t down, int64_t along, const T *w, const T *bias,
                           int64_t n, int64_t channels, int64_t width, T *room, const T *none) {
    int64_t across = width / 2, own = across * channels * LANES, made = across * n * LANES, size = up(n, TALL) * channels;
    T *product = room + 16 * own;
    NAME(tiled)(room, from, down, along, channels, across);
    for (int64_t i = 0; i < 16; i++)
        NAME(line)(product + i * made, n * LANES, room + i * own, 0, channels * LANES, w + i * size, none, n, 1, channels, across);
    for (int64_t x = 0; x < across; x++)
        for (int64_t c = 0; c < n; c++) {
            const T *p = product + (x * n + c) * LANES;
            T *there = to + 2 * x * apart + c * LANES;
            V d[2][4], more = (V){0} + bias[c];
#pragma GCC unroll 8
            for (int j = 0; j < 4; j++) {
                V a = SEEN(p + j * made), b = SEEN(p + (4 + j) * made), e = SEEN(p + (8 + j) * made), f = SEEN(p + (12 + j) * made);
                d[0][j] = a + b + e, d[1][j] = b - e - f;
            }
#pragma GCC unroll 8
            for (int i = 0; i < 2; i++) {
                AT(there + i * to_down) = d[i][0] + d[i][1] + d[i][2] + more;
                AT(there + i * to_down + apart) = d[i][1] - d[i][2] - d[i][3] + more;
            }
        }
}

/* mean and scatter (sum of squares about it) of each group and sample, with what row y (width, out) adds to them */
static ON void NAME(counted)(T *mean, T *scatter, const T *row, int64_t width, int64_t out, int64_t groups, int64_t y) {
    int64_t some = out / groups, n = width * some;
    T part = (T)1 / (T)n, share = (T)1 / (T)(y + 1);
    for (int64_t g = 0; g < groups; g++) {
        const T *own = row + g * some * LANES;
        V sum = {0}, more = {0}, found = {0}, rest = {0};
        for (int64_t x = 0; x < width; x++) {
            const T *p = own + x * out * LANES;
            for (int64_t c = 0; c + 1 < some; c += 2) sum += SEEN(p + c * LANES), more += SEEN(p + c * LANES + LANES);
            if (some & 1) sum += SEEN(p + (some - 1) * LANES);
        }
        sum = (sum + more) * part;
        for (int64_t x = 0; x < width; x++) {
            const T *p = own + x * out * LANES;
            for (int64_t c = 0; c + 1 < some; c += 2) {
                V one = SEEN(p + c * LANES) - sum, two = SEEN(p + c * LANES + LANES) - sum;
                found += one * one;
                rest += two * two;
            }
            if (some & 1) {
                V one = SEEN(p + (some - 1) * LANES) - sum;
                found += one * one;
            }
        }
        found += rest;
        if (y) {
            V before = SEEN(mean + g * LANES), gap = sum - before;
            sum = before + gap * share;
            found += SEEN(scatter + g * LANES) + gap * gap * ((T)(y * n) * share);
        }
        AT(mean + g * LANES) = sum;
        AT(scatter + g * LANES) = found;
    }
}

typedef struct {
    T *at;
    int64_t down, along, apart; /* of rows, positions, channels */
} NAME(Grid);

/* What is left of z: normalised, the largest of `side` x `side`, ReLU. best: which it was, -1 where ReLU lets nothing through */
INLINE ON void NAME(settled)(const Stage *s, const Held *h, const T *z, T *normed, T *best, const T *mean, const T *rstd,
                             const T *scale, const T *shift, NAME(Grid) to, const int norm, const int side) {
    int64_t groups = norm ? s->groups : 1, some = s->out / groups, step = s->out * LANES, down = h->across * step;
    for (int64_t y = 0; y < h->left_high; y++)
        for (int64_t x = 0; x < h->left_wide; x++) {
            const T *from = z + side * (y * down + x * step);
            T *there = to.at + y * to.down + x * to.along;
            for (int64_t g = 0; g < groups; g++) {
                V m = norm ? SEEN(mean + g * LANES) : (V){0}, r = norm ? SEEN(rstd + g * LANES) : (V){0};
                for (int64_t c = g * some; c < (g + 1) * some; c++, from += LANES, normed += LANES, best += LANES) {
                    V own = SEEN(from), a = norm ? SEEN(scale + c * LANES) : (V){0}, b = norm ? SEEN(shift + c * LANES) : (V){0};
                    V most = norm ? own * a + b : own;
                    M which = {0};
#pragma GCC unroll 4
                    for (int j = 1; j < side * side; j++) {
                        V other = SEEN(from + (j >> 1) * down + (j & 1) * step), value = norm ? other * a + b : other;
                        M more = (value > most) | (value != value);
                        most = PICK(more, value, most);
                        own = norm ? PICK(more, other, own) : own;
                        which = (more & ((M){0} + j)) | (~more & which);
                    }
                    if (norm) AT(normed) = (own - m) * r;
                    AT(best) = (V)(which | (most <= 0));
                    AT(there + c * to.apart) = (V)(~(most < 0) & (M)most);
                }
            }
        }
}

/* sums (2, out): of the gradients that come back to each channel, and of them times what it was, normalised */
INLINE ON void NAME(summed)(const Stage *s, const Held *h, T *sums, const T *normed, const T *best, NAME(Grid) g, const int norm) {
    T *more = sums + s->out * LANES;
    for (int64_t y = 0; y < h->left_high; y++)
        for (int64_t x = 0; x < h->left_wide; x++) {
            const T *from = g.at + y * g.down + x * g.along;
            for (int64_t c = 0; c < s->out; c++, normed += LANES, best += LANES) {
                V own = (V)(~((M)SEEN(best) < 0) & (M)SEEN(from + c * g.apart));
                AT(sums + c * LANES) += own;
                if (norm) AT(more + c * LANES) += own * SEEN(normed);
            }
        }
}

/* z becomes its gradient: times * that of the largest - ((z - mean) pulled + pushed); added (out): the sum of it */
INLINE ON void NAME(returned)(const Stage *s, const Held *h, T *z, const T *best, NAME(Grid) g, const T *mean, const T *times,
                              const T *pulled, const T *pushed, T *added, const int norm, const int side) {
    int64_t groups = norm ? s->groups : 1, some = s->out / groups, step = s->out * LANES, down = h->across * step;
    for (int64_t y = 0; y < h->height; y += side)
        for (int64_t x = 0; x < h->width; x += side) {
            int inside = y / side < h->left_high && x / side < h->left_wide;
            T *here = z + y * down + x * step;
            const T *from = g.at + (y / side) * g.down + (x / side) * g.along;
            const T *which = best + (y / side * h->left_wide + x / side) * step;
            for (int64_t b = 0; b < groups; b++) {
                V m = norm ? SEEN(mean + b * LANES) : (V){0}, k = norm ? SEEN(pulled + b * LANES) : (V){0};
                V p = norm ? SEEN(pushed + b * LANES) : (V){0};
                for (int64_t c = b * some; c < (b + 1) * some; c++) {
                    T *at = here + c * LANES;
                    V sum = {0};
                    if (inside) {
                        V one = SEEN(from + c * g.apart);
                        M chosen = (M)SEEN(which + c * LANES);
                        if (norm) one *= SEEN(times + c * LANES);
#pragma GCC unroll 4
                        for (int j = 0; j < side * side; j++) {
                            T *place = at + (j >> 1) * down + (j & 1) * step;
                            V own = (V)((chosen == j) & (M)one);
                            if (norm) sum += own -= (SEEN(place) - m) * k + p;
                            AT(place) = own;
                        }
                    } else /* what pooling leaves out at the edges */
                        for (int j = 0; j < side * side; j++)
                            if (y + (j >> 1) < h->height && x + (j & 1) < h->width) {
                                T *place = at + (j >> 1) * down + (j & 1) * step;
                                V own = {0};
                                if (norm) sum += own -= (SEEN(place) - m) * k + p;
                                AT(place) = own;
                            }
                    if (norm) AT(added + c * LANES) += sum;
                }
            }
        }
}

#define EACH(f, ...)                                                                                                             \
    if (s->groups) {                                                                                                             \
        if (s->pooled) f(__VA_ARGS__, 1, 2);                                                                                     \
        else f(__VA_ARGS__, 1, 1);                                                                                               \
    } else if (s->pooled) f(__VA_ARGS__, 0, 2);                                                                                  \
    else f(__VA_ARGS__, 0, 1);

/* One part of the batch through a stage. own: the weight and all after it */
static ON void NAME(onward)(const Stage *s, const Held *h, T *room, int64_t part, const T *own, T eps, T *few, T *tile,
                            NAME(Grid) to) {
    int64_t size = s->out * s->channels * s->tall * s->wide, step = s->out * LANES, along = s->channels * LANES;
    const T *bias = own + size, *gamma = bias + (s->biased ? s->out : 0), *beta = gamma + s->out;
    T *image = room + h->image + part * h->image_size, *z = room + h->found + part * h->found_size;
    T *mean = room + h->mean + part * s->groups * LANES, *scatter = room + h->scatter + part * s->groups * LANES;
    z += (h->above * h->across + h->before) * step;
    for (int64_t c = 0; c < up(s->out, TALL); c++) few[c] = s->biased && c < s->out ? bias[c] : 0;
    T *none = few + up(s->out, TALL);
    for (int64_t c = 0; c < up(s->out, TALL); c++) none[c] = 0;
    for (int64_t y = 0; y < h->height; y++) {
        const T *from = image + y * h->framed * along;
        if (!h->tiled)
            NAME(line)(z + y * h->across * step, step, from, h->framed * along, along, room + h->weights, few, s->out, s->tall,
                       s->wide * s->channels, h->width);
        else if (y % 2 == 0)
            NAME(lines)(z + y * h->across * step, h->across * step, step, from, h->framed * along, along, room + h->lifted, few,
                        s->out, s->channels, h->width, tile, none);
        if (s->groups) NAME(counted)(mean, scatter, z + y * h->across * step, h->width, s->out, s->groups, y);
    }
    T *scale = few, *shift = few + step;
    int64_t some = s->groups ? s->out / s->groups : 1;
    T n = (T)(h->height * h->width * some);
    for (int64_t i = 0; i < s->groups * LANES; i++) scatter[i] = 1 / (T)sqrt((double)(scatter[i] / n + eps));
    for (int64_t c = 0; s->groups && c < s->out; c++) {
        V a = SEEN(scatter + c / some * LANES) * (s->affine ? gamma[c] : 1);
        AT(scale + c * LANES) = a;
        AT(shift + c * LANES) = (s->affine ? beta[c] : 0) - SEEN(mean + c / some * LANES) * a;
    }
    T *normed = room + h->normed + part * h->left_size, *best = room + h->best + part * h->left_size;
    EACH(NAME(settled), s, h, z, normed, best, mean, scatter, scale, shift, to)
}

#if LANES == 16
#define LOWER 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define UPPER 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif LANES == 8
#define LOWER 0, 8, 1, 9, 2, 10, 3, 11
#define UPPER 4, 12, 5, 13, 6, 14, 7, 15
#elif LANES == 4
#define LOWER 0, 4, 1, 5
#define UPPER 2, 6, 3, 7
#else
#define LOWER 0, 2
#define UPPER 1, 3
#endif
#ifdef __clang__
#define ZIP(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define ZIP(a, b, ...) __builtin_shuffle(a, b, (M){__VA_ARGS__})
#endif

/* to (LANES, LANES), rows `wide` apart <- the transpose of LANES vectors */
static ON void NAME(crossed)(T *to, int64_t wide, const T *from) {
    V v[LANES], w[LANES];
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) v[i] = SEEN(from + i * LANES);
#pragma GCC unroll 4
    for (int k = 1; k < LANES; k *= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < LANES / 2; i++) {
            w[2 * i] = ZIP(v[i], v[i + LANES / 2], LOWER);
            w[2 * i + 1] = ZIP(v[i], v[i + LANES / 2], UPPER);
        }
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) v[i] = w[i];
    }
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) AT(to + i * wide) = v[i];
}

/* to (js, vecs LANES), rows `wide` apart += the sum over positions and samples of the image's number j times side's channels */
INLINE ON void NAME(outer)(T *to, int64_t wide, const T *side, const T *from, int64_t down, int64_t along, int64_t rows,
                           int64_t width, const int js, const int vecs) {
    V sum[MOST][2];
#pragma GCC unroll 16
    for (int j = 0; j < js; j++)
#pragma GCC unroll 2
        for (int v = 0; v < vecs; v++) sum[j][v] = SEEN(to + j * wide + v * LANES);
    for (int64_t y = 0; y < rows; y++)
        for (int64_t x = 0; x < width; x++) {
            const T *p = from + y * down + x * along;
            for (int lane = 0; lane < LANES; lane++, side += vecs * LANES) {
                V left = SEEN(side), right = vecs > 1 ? SEEN(side + LANES) : (V){0};
#pragma GCC unroll 16
                for (int j = 0; j < js; j++) {
                    T one = p[j * LANES + lane];
                    sum[j][0] += one * left;
                    if (vecs > 1) sum[j][1] += one * right;
                }
            }
        }
#pragma GCC unroll 16
    for (int j = 0; j < js; j++)
#pragma GCC unroll 2
        for (int v = 0; v < vecs; v++) AT(to + j * wide + v * LANES) = sum[j][v];
}

INLINE ON void NAME(outers)(T *to, int64_t wide, const T *side, const T *from, int64_t down, int64_t along, int64_t rows,
                            int64_t width, int64_t terms, const int vecs) {
    for (int64_t j = 0, left; (left = terms - j) > 0;) {
        T *there = to + j * wide;
        const T *here = from + j * LANES;
#define SOME(n) NAME(outer)(there, wide, side, here, down, along, rows, width, n, vecs), j += n
        if (left >= MOST) SOME(MOST);
        else if (left >= 6) SOME(6);
        else if (left >= 3) SOME(3);
        else SOME(1);
#undef SOME
    }
}

/* gradient (tall, wide channels, out) += that of the weights; z: the gradient after the convolution */
static ON void NAME(weighed)(const Stage *s, const Held *h, T *gradient, const T *z, const T *image, T *side) {
    int64_t step = s->out * LANES, along = s->channels * LANES, terms = s->wide * s->channels, wide = h->channels;
    int64_t most = larger(1, (1 << 16) / (h->width * wide * LANES));
    for (int64_t y = 0; y < h->height; y += most) {
        int64_t rows = h->height - y < most ? h->height - y : most, places = rows * h->width;
        for (int64_t c = 0; c < wide; c += PAIR) {
            int64_t vecs = wide - c < PAIR ? 1 : 2;
            T *to = side + c * places * LANES;
            for (int64_t r = 0; r < rows; r++)
                for (int64_t x = 0; x < h->width; x++)
                    for (int64_t v = 0; v < vecs; v++) {
                        /* beyond the last channel is something else, and what becomes of it nobody reads */
                        const T *from = z + ((y + r) * h->across + x) * step + (c + v * LANES) * LANES;
                        NAME(crossed)(to + (r * h->width + x) * LANES * vecs * LANES + v * LANES, vecs * LANES, from);
                    }
            for (int64_t t = 0; t < s->tall; t++) {
                const T *from = image + (y + t) * h->framed * along;
                T *there = gradient + t * terms * wide + c;
                if (vecs == 2) NAME(outers)(there, wide, to, from, h->framed * along, along, rows, h->width, terms, 2);
                else NAME(outers)(there, wide, to, from, h->framed * along, along, rows, h->width, terms, 1);
            }
        }
    }
}

/* The same by tiles: gradient (16, channels, out) += of each of a tile's 16 products that of its weight; room: as `lines` has it */
static ON void NAME(weighed_by_tiles)(const Stage *s, const Held *h, T *gradient, const T *z, const T *image, T *side, T *room) {
    int64_t step = s->out * LANES, along = s->channels * LANES, wide = h->channels, across = h->width / 2;
    int64_t own = across * along, made = across * step;
    T *lifted = room + 16 * own;
    for (int64_t y = 0; y < h->height; y += 2) {
        NAME(tiled)(room, image + y * h->framed * along, h->framed * along, along, s->channels, across);
        for (int64_t x = 0; x < across; x++)
            for (int64_t c = 0; c < s->out; c++) {
                const T *p = z + (y * h->across + 2 * x) * step + c * LANES, *q = p + h->across * step;
                T *there = lifted + (x * s->out + c) * LANES;
                V a = SEEN(p), b = SEEN(p + step), e = SEEN(q), f = SEEN(q + step);
                V left[4] = {a, a + e, a - e, -e}, right[4] = {b, b + f, b - f, -f};
#pragma GCC unroll 8
                for (int i = 0; i < 4; i++, there += 4 * made) {
                    AT(there) = left[i];
                    AT(there + made) = left[i] + right[i];
                    AT(there + 2 * made) = left[i] - right[i];
                    AT(there + 3 * made) = -right[i];
                }
            }
        for (int64_t i = 0; i < 16; i++)
            for (int64_t c = 0; c < wide; c += PAIR) {
                int64_t vecs = wide - c < PAIR ? 1 : 2;
                T *there = gradient + i * s->channels * wide + c;
                for (int64_t x = 0; x < across; x++)
                    for (int64_t v = 0; v < vecs; v++) /* beyond the last channel as in `weighed` */
                        NAME(crossed)(side + (x * LANES * vecs + v) * LANES, vecs * LANES,
                                      lifted + i * made + x * step + (c + v * LANES) * LANES);
                if (vecs == 2) NAME(outers)(there, wide, side, room + i * own, 0, along, 1, across, s->channels, 2);
                else NAME(outers)(there, wide, side, room + i * own, 0, along, 1, across, s->channels, 1);
            }
    }
}

/* gradient (3, 3 channels, out) <- G' u G, u (16, channels, out): n numbers of one tap */
static ON void NAME(lowered)(T *gradient, const T *u, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        T down[3][4];
#pragma GCC unroll 8
        for (int j = 0; j < 4; j++) {
            T a = u[j * n + i], b = u[(4 + j) * n + i], d = u[(8 + j) * n + i], e = u[(12 + j) * n + i];
            down[0][j] = a + (b + d) / 2, down[1][j] = (b - d) / 2, down[2][j] = (b + d) / 2 + e;
        }
#pragma GCC unroll 8
        for (int j = 0; j < 3; j++) {
            T *to = gradient + 3 * j * n + i, a = down[j][0], b = down[j][1], d = down[j][2], e = down[j][3];
            to[0] = a + (b + d) / 2, to[n] = (b - d) / 2, to[2 * n] = (b + d) / 2 + e;
        }
    }
}

/* One part of the batch back through a stage; g: the gradient after it, below: where that before it goes, or none */
static ON void NAME(back)(const Stage *s, const Held *h, T *room, int64_t part, const T *own, T *few, T *side, T *tile,
                          NAME(Grid) g, T *below) {
    int64_t size = s->out * s->channels * s->tall * s->wide, step = s->out * LANES, along = s->channels * LANES;
    const T *gamma = own + size + (s->biased ? s->out : 0);
    T *image = room + h->image + part * h->image_size, *whole = room + h->found + part * h->found_size;
    T *z = whole + (h->above * h->across + h->before) * step, *all = room + h->sums;
    T *mean = room + h->mean + part * s->groups * LANES, *rstd = room + h->scatter + part * s->groups * LANES;
    T *normed = room + h->normed + part * h->left_size, *best = room + h->best + part * h->left_size;
    T *sums = few, *times = few + 2 * step, *pulled = few + 3 * step, *pushed = pulled + s->groups * LANES;
    for (int64_t i = 0; i < 2 * step; i++) sums[i] = 0;
    if (s->groups) NAME(summed)(s, h, sums, normed, best, g, 1);
    else NAME(summed)(s, h, sums, normed, best, g, 0);
    int64_t some = s->groups ? s->out / s->groups : 1;
    T n = (T)(h->height * h->width * some);
    for (int64_t b = 0; b < s->groups; b++) {
        V one = {0}, two = {0}, r = SEEN(rstd + b * LANES);
        for (int64_t c = b * some; c < (b + 1) * some; c++) {
            T weight = s->affine ? gamma[c] : 1;
            one += weight * SEEN(sums + c * LANES);
            two += weight * SEEN(sums + step + c * LANES);
            AT(times + c * LANES) = weight * r;
        }
        AT(pushed + b * LANES) = r * one / n;
        AT(pulled + b * LANES) = r * r * two / n;
    }
    for (int64_t i = 0; i < 2 * step; i++) all[i] += sums[i];
    EACH(NAME(returned), s, h, z, best, g, mean, times, pulled, pushed, all + 2 * step)
    if (h->tiled) NAME(weighed_by_tiles)(s, h, room + h->by_tiles, z, image, side, tile);
    else NAME(weighed)(s, h, room + h->gradient, z, image, side);
    if (below) {
        for (int64_t c = 0; c < up(s->channels, 8); c++) few[c] = 0;
        for (int64_t y = 0; y < s->height; y += h->back_tiled ? 2 : 1) {
            T *to = below + y * s->width * along, *from = whole + y * h->across * step;
            if (h->back_tiled)
                NAME(lines)(to, s->width * along, along, from, h->across * step, step, room + h->back_lifted, few, s->channels, s->out,
                            s->width, tile, few);
            else
                NAME(line)(to, along, from, h->across * step, step, room + h->turned, few, s->channels, s->tall, s->wide * s->out,
                           s->width);
        }
    }
}

/* n sums over the samples, and what becomes of their parameters */
static ON void NAME(gathered)(T *w, T *out, const T *sums, int64_t n, const NAME(Step) *step) {
    for (int64_t c = 0; c < n; c++) {
        T sum = 0;
        for (int lane = 0; lane < LANES; lane++) sum += sums[c * LANES + lane];
        NAME(moved)(w + c, out + c, &sum, 1, step);
    }
}

/* The parameters of a stage move, own and beside it what they have; answers how many there are */
static ON int64_t NAME(stepped)(const Stage *s, const Held *h, T *room, T *own, T *out, T *few, const NAME(Step) *step) {
    int64_t taps = s->tall * s->wide, n = taps * s->channels, at = s->out * n;
    const T *gradient = room + h->gradient, *sums = room + h->sums;
    if (h->tiled) NAME(lowered)(room + h->gradient, room + h->by_tiles, s->channels * h->channels);
    for (int64_t c = 0; c < s->out; c++) {
        for (int64_t t = 0; t < taps; t++)
            for (int64_t i = 0; i < s->channels; i++)
                few[s->last ? t * s->channels + i : i * taps + t] = gradient[(t * s->channels + i) * h->channels + c];
        NAME(moved)(own + c * n, out + c * n, few, n, step);
    }
    if (s->biased) {
        NAME(gathered)(own + at, out + at, sums + (s->groups ? 2 * s->out * LANES : 0), s->out, step);
        at += s->out;
    }
    if (s->groups && s->affine) {
        NAME(gathered)(own + at, out + at, sums + s->out * LANES, s->out, step);
        at += s->out;
        NAME(gathered)(own + at, out + at, sums, s->out, step);
        at += s->out;
    }
    return at;
}

static int64_t NAME(numbers)(const Stage *s) {
    return s->out * (s->channels * s->tall * s->wide + (s->biased ? 1 : 0) + (s->groups && s->affine ? 2 : 0));
}

EXPORT ON int64_t NAME(conv)(ARGUMENTS(T)) {
    const NAME(Step) step = {(T)lr, (T)(1 - lr * decay), (T)momentum, (T)decay, (int)how};
    Held held[STAGES];
    Room where = laid(stages, stage, layers, sizes, batch, LANES, how == ANSWER, held);
    int64_t pixels = stage->height * stage->width, classes = sizes[layers], padded = where.padded;
    T *made[64], *first;
    room = (T *)(((uintptr_t)room + 63) / 64 * 64);
    made[0] = room + where.flat;
    made[1] = room + where.made;
    first = room + where.first;
    for (int64_t l = 1; l < layers; l++) made[l + 1] = made[l] + sizes[l] * padded;
    for (int64_t i = 0; i < rows; i++) {
        T *model = x + i * stride, *beside = how == PLAIN ? model : out + i * out_stride, *own = model;
        const T *given = inputs + i * batch * pixels * stage->channels;
        for (int64_t b = 0; how != ANSWER && b < batch; b++)
            if (targets[i * batch + b] < 0 || targets[i * batch + b] >= classes) return 1 + i * batch + b;
        for (int64_t l = 0; l < stages; own += NAME(numbers)(stage + l), l++) {
            const Held *h = held + l;
            NAME(packed)(room + h->weights, own, stage + l, 0);
            if (h->tiled) NAME(lifted)(room + h->lifted, room + h->weights, stage[l].out, stage[l].channels);
            if (how == ANSWER) continue;
            if (l) NAME(packed)(room + h->turned, own, stage + l, 1);
            if (h->back_tiled) NAME(lifted)(room + h->back_lifted, room + h->turned, stage[l].channels, stage[l].out);
            memset(room + held[l].gradient, 0, stage[l].tall * stage[l].wide * stage[l].channels * held[l].channels * sizeof(T));
            if (h->tiled) memset(room + h->by_tiles, 0, 16 * stage[l].channels * h->channels * sizeof(T));
            memset(room + held[l].sums, 0, 3 * stage[l].out * LANES * sizeof(T));
        }
#define AFTER(l, flat, frame)                                                                                                    \
    (l) + 1 == stages                                                                                                            \
        ? (NAME(Grid)){(flat) + part * LANES, held[l].left_wide * padded, padded, held[l].left_high * held[l].left_wide * padded} \
        : (frame)
        for (int64_t part = 0; part < where.parts; part++) {
            int64_t at = part < where.kept ? part : 0;
            T *image = room + held[0].image + at * held[0].image_size;
            for (int lane = 0; lane < LANES; lane++) {
                int64_t b = part * LANES + lane < batch ? part * LANES + lane : batch - 1;
                for (int64_t c = 0; c < stage->channels; c++)
                    for (int64_t y = 0; y < stage->height; y++) {
                        const T *from = given + ((b * stage->channels + c) * stage->height + y) * stage->width;
                        T *to = image + (((y + stage->top) * held[0].framed + stage->left) * stage->channels + c) * LANES + lane;
                        for (int64_t k = 0; k < stage->width; k++) to[k * stage->channels * LANES] = from[k];
                    }
            }
            own = model;
            for (int64_t l = 0; l < stages; own += NAME(numbers)(stage + l), l++) {
                const Stage *s = stage + l, *next = s + 1;
                const Held *h = held + l, *after = h + 1;
                NAME(Grid) inside = {0}, to;
                if (l + 1 < stages) {
                    int64_t along = s->out * LANES, down = after->framed * along;
                    inside = (NAME(Grid)){room + after->image + at * after->image_size + next->top * down + next->left * along, down,
                                          along, LANES};
                }
                to = AFTER(l, made[0], inside);
                NAME(onward)(s, h, room, at, own, (T)eps[l], room + where.few, room + where.tiles, to);
            }
        }
        T *there = how == ANSWER ? beside : how == PLAIN ? own : beside + (own - model);
        T loss = NAME(stack)(own, there, layers, sizes, biased, batch, padded, made, 0, first,
                                targets + i * batch, room + where.stack, &step);
        if (how == ANSWER) continue;
        losses[i] = loss;
        T *below = room + where.below;
        for (int64_t part = 0; part < where.parts; part++) {
            T *before = own;
            for (int64_t l = stages - 1; l >= 0; l--) {
                const Held *h = held + l;
                int64_t along = stage[l].out * LANES;
                NAME(Grid) g = AFTER(l, first, ((NAME(Grid)){below, h->left_wide * along, along, LANES}));
                before -= NAME(numbers)(stage + l);
                NAME(back)(stage + l, h, room, part, before, room + where.few, room + where.side, room + where.tiles, g,
                           l ? below : 0);
            }
        }
        own = model;
        for (int64_t l = 0; l < stages; l++)
            own += NAME(stepped)(stage + l, held + l, room, own, how == PLAIN ? own : beside + (own - model), room + where.few, &step);
    }
    return 0;
}

#undef WHOLE2
#undef WHOLE
#undef A
#undef M
#undef TALL
#undef ACROSS
#undef MOST
#undef AT
#undef SEEN
#undef PICK
#undef EACH
#undef LOWER
#undef UPPER
#undef ZIP
#undef AFTER

#endif
