/* Batches of samples that lie in memory, and steps on them. A batch is made in one pass: numbers of the chosen samples, each
   (v - mean) * by_std of its channel, in the type that models compute in, to the bit what torch makes of them in four passes.
   Plain C; native.py loads it, tasks/engines/samples.py has the words for it.

   The file includes itself for each type of number that models have: T, BITS; and for each that samples have: FROM, and BY, the
   one that a number is scaled in before it becomes a T. */

#ifndef T

#include <stdint.h>

#include "structs.h"

#define EXPORT __attribute__((visibility("default")))
#define JOIN3(f, kind, bits) f##_##kind##_##bits
#define JOIN2(f, kind, bits) JOIN3(f, kind, bits)
#define JOIN1(f, bits) f##_##bits
#define JOIN(f, bits) JOIN1(f, bits)

#define T float
#define BITS 32
#include "samples.c"
#undef T
#undef BITS
#define T double
#define BITS 64
#include "samples.c"
#undef T
#undef BITS

#elif !defined(FROM)

#define FROM uint8_t
#define KIND bytes
#define BY T
#include "samples.c"
#define FROM float
#define KIND floats
#define BY T
#include "samples.c"
#define FROM double
#define KIND doubles
#define BY double
#include "samples.c"

/* `to` (n, numbers of a sample) <- samples which (n), all in their order where it is NULL. Answers 0, or 1 + the first place in
   `which` that names no sample; then nothing is written. */
EXPORT int64_t JOIN(batch, BITS)(const Samples *samples, const int64_t *which, int64_t n, T *to) {
    for (int64_t i = 0; which && i < n; i++)
        if (which[i] < 0 || which[i] >= samples->count) return 1 + i;
    switch (samples->kind) {
    case BYTES: JOIN2(scaled, bytes, BITS)(samples, which, n, to); break;
    case FLOATS: JOIN2(scaled, floats, BITS)(samples, which, n, to); break;
    case DOUBLES: JOIN2(scaled, doubles, BITS)(samples, which, n, to); break;
    }
    return 0;
}

int64_t dense_room(int64_t layers, const int64_t *sizes, int64_t batch);
int64_t JOIN(dense, BITS)(T *x, int64_t stride, T *out, int64_t out_stride, int64_t rows, int64_t layers, const int64_t *sizes,
                          const int64_t *biased, int64_t batch, const T *inputs, const int64_t *targets, T *losses, T *room,
                          double lr, double momentum, double decay, int64_t how);

/* As dense of dense.c, steps `from` up to `end` of l, all of a model before the next model's. Answers 0, or 1 + the place in
   l->which of what is no sample or has no class for a label. */
EXPORT int64_t JOIN(dense_steps, BITS)(const Learning *l, int64_t from, int64_t end) {
    int64_t *targets = (int64_t *)(((uintptr_t)l->room + 63) / 64 * 64), batch = l->batch;
    T *inputs = (T *)(targets + (batch + 7) / 8 * 8), *rest = inputs + batch * l->sizes[0], *x = l->x, *out = l->out;
    T *losses = l->losses;
    for (int64_t i = 0; i < l->rows; i++)
        for (int64_t j = from; j < end; j++) {
            int64_t place = j * l->by_step + i * l->by_row;
            const int64_t *chosen = l->which + place;
            int64_t wrong = JOIN(batch, BITS)(l->samples, chosen, batch, inputs);
            if (wrong) return place + wrong;
            for (int64_t b = 0; b < batch; b++) targets[b] = l->samples->labels[chosen[b]];
            wrong = JOIN(dense, BITS)(x + i * l->stride, l->stride, out ? out + i * l->out_stride : out, l->out_stride, 1, l->layers,
                                      l->sizes, l->biased, batch, inputs, targets,
                                      losses + j * l->losses_by_step + i * l->losses_by_row, rest, l->lr[j], l->momentum, l->decay,
                                      l->how);
            if (wrong) return place + wrong;
        }
    return 0;
}

#else

/* A difference and its product do not become one operation, whatever the compiler may contract */
CLONES void JOIN2(scaled, KIND, BITS)(const Samples *samples, const int64_t *which, int64_t n, T *to) {
    int64_t channels = samples->channels, area = samples->area, width = channels * area;
    const BY *restrict mean = samples->mean, *restrict by_std = samples->by_std;
    for (int64_t i = 0; i < n; i++) {
        const FROM *restrict from = (const FROM *)samples->numbers + (which ? which[i] : i) * width;
        T *restrict one = to + i * width;
        if (area == 1)
            for (int64_t k = 0; k < width; k++) one[k] = (T)(((BY)from[k] - mean[k]) * by_std[k]);
        else
            for (int64_t c = 0; c < channels; c++) {
                BY middle = mean[c], by = by_std[c];
                for (int64_t k = c * area; k < (c + 1) * area; k++) one[k] = (T)(((BY)from[k] - middle) * by);
            }
    }
}

#undef FROM
#undef KIND
#undef BY

#endif
