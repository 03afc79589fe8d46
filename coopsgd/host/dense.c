/* Forward and backward of a stack of linear layers with ReLU between them, one model at a time, and the step of SGD in the same
   pass. A model whose numbers fit a core's second cache stays there for all steps between two communications. Plain C with
   vectors of GCC and clang; native.py loads it, tasks/engines/dense.py has the words for it.

   The file comes to itself by way of widths.h. What a number is depends on its model alone. */

#ifndef T

#define ARGUMENTS(T)                                                                                                             \
    T *x, int64_t stride, T *out, int64_t out_stride, int64_t rows, int64_t layers, const int64_t *sizes, const int64_t *biased, \
        int64_t batch, const T *inputs, const int64_t *targets, T *losses, T *room, double lr, double momentum, double decay,    \
        int64_t how
#define GIVEN                                                                                                                    \
    x, stride, out, out_stride, rows, layers, sizes, biased, batch, inputs, targets, losses, room, lr, momentum, decay, how

#define PART "dense.c"
#include "widths.h"

/* The least number of `T`s that `room` must have, for models of these sizes */
EXPORT int64_t dense_room(int64_t layers, const int64_t *sizes, int64_t batch) {
    int64_t padded = (batch + 31) / 32 * 32, most = 0, all = 0; /* 32: two of the widest vectors */
    for (int64_t l = 0; l <= layers; l++) {
        all += sizes[l] * padded;
        most = sizes[l] > most ? sizes[l] : most;
    }
    return all + 3 * most * padded + 32 * padded + 64;
}

/* Of `rows` models, `stride` apart in x: sizes (layers + 1) are those before, between and after the layers; biased (layers) says
   which have a bias. inputs (rows, batch, sizes[0]); the mean cross entropy of the targets (rows, batch) goes to losses (rows).
   out: gradients or velocities, `out_stride` apart; none for PLAIN. Answers 0, or 1 + the place of a target that is no class. */
EXPORT int64_t dense_32(ARGUMENTS(float)) { CALL(dense_32_16(GIVEN), dense_32_8(GIVEN), dense_32_4(GIVEN)) }
EXPORT int64_t dense_64(ARGUMENTS(double)) { CALL(dense_64_8(GIVEN), dense_64_4(GIVEN), dense_64_2(GIVEN)) }

#else

EXPORT ON int64_t NAME(dense)(ARGUMENTS(T)) {
    const NAME(Step) step = {(T)lr, (T)(1 - lr * decay), (T)momentum, (T)decay, (int)how};
    int64_t padded = (batch + PAIR - 1) / PAIR * PAIR, classes = sizes[layers];
    T *made[64], *free = (T *)(((uintptr_t)room + 63) / 64 * 64);
    for (int64_t l = 0; l <= layers; l++) {
        made[l] = free;
        free += sizes[l] * padded;
    }
    for (int64_t i = 0; i < rows; i++) {
        T *model = x + i * stride, *beside = how == PLAIN ? model : out + i * out_stride;
        const T *given = inputs + i * batch * sizes[0];
        for (int64_t b = 0; b < batch; b++)
            if (targets[i * batch + b] < 0 || targets[i * batch + b] >= classes) return 1 + i * batch + b;
        NAME(turned)(made[0], padded, given, sizes[0], sizes[0], batch);
        losses[i] =
            NAME(stack)(model, beside, layers, sizes, biased, batch, padded, made, given, 0, targets + i * batch, free, &step);
    }
    return 0;
}

#endif
