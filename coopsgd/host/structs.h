/* What one file here is told by another, and all by native.py. `T` is the type of number that a function's name says. */

#ifndef STRUCTS
#define STRUCTS

#include <stdint.h>

/* A function is compiled for each of these, and the processor's own is taken as the library is loaded: by what it can do, not by a
   name, as arch=haswell is. Where all widths fuse a product with a sum, or none does: else a number would depend on its place in a row. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#if __GNUC__ >= 12
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES __attribute__((target_clones("avx2", "default")))
#endif
#else
#define CLONES
#endif

enum { BYTES, FLOATS, DOUBLES };

/* `count` samples of channels * area numbers each, of one of these kinds; mean and by_std (channels) of the type that they are scaled
   in, which is double for doubles and else that of the models; their labels (count), where they have such */
typedef struct {
    const void *numbers, *mean, *by_std;
    const int64_t *labels;
    int64_t kind, count, channels, area;
} Samples;

/* Steps of SGD of `rows` models, `stride` apart in x, as dense.c has them: `how` says what becomes of a gradient, and `out` is where it
   is stored, or the velocity, rows `out_stride` apart. Step j, with rate lr[j], of row i learns from samples
   which[j * by_step + i * by_row ...], `batch` of them, and its loss is losses[j * losses_by_step + i * losses_by_row].
   room: dense_room, batch * sizes[0] and batch int64 more. */
typedef struct {
    void *x, *out;
    int64_t stride, out_stride, rows, layers;
    const int64_t *sizes, *biased;
    const double *lr;
    const Samples *samples;
    const int64_t *which;
    int64_t by_step, by_row, batch;
    void *losses;
    int64_t losses_by_step, losses_by_row;
    void *room;
    double momentum, decay;
    int64_t how;
} Learning;

enum { PULL, SOME, ENTRIES };

/* What becomes of some rows of x, in place, by a matrix of n rows: x <- diag(numbers) x + u (v' x), PULL, n rows from the first on; or
   x[rows] <- W x[rows], W = numbers (n, n), SOME, n from 2 to FEW; or, ENTRIES, row rows[i] is the sum of numbers[e] times row
   used[columns[e]], e in offsets[i] ... offsets[i + 1] */
typedef struct {
    int64_t kind, n;
    const int64_t *rows;
    int64_t n_used;
    const int64_t *used, *offsets, *columns;
    const void *numbers, *u, *v;
} Mix;

/* A place for `count` processes to meet, as meet.c has it; this one is `rank`, and has come to event n */
typedef struct {
    uint32_t *slots;
    int64_t apart, count, rank, spins, n;
} Meeting;

#endif
