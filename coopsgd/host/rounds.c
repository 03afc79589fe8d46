/* Steps of SGD with the communications between them, of processes whose rows lie in one memory: what fleet/shared.py and the loop do
   one after the other in Python, in one call, for as long as nobody looks. native.py loads it, fleet/together.py has the words for it.

   The file includes itself for each type of number: T, BITS. */

#ifndef T

#define _GNU_SOURCE
#include <time.h>

#include "structs.h"

#define EXPORT __attribute__((visibility("default")))
#define JOIN1(f, bits) f##_##bits
#define JOIN(f, bits) JOIN1(f, bits)

enum { COMPUTING, MEETING, PARTING }; /* what is next: a step; to read what others have written; to read what they have made of it */
enum { DONE, LATE, PAUSED, WRONG };   /* how it ended: all is done; somebody has not come; time is up; a sample is none */

/* `all` rows of the processes, `stride` apart, `width` numbers each, of which `columns` from `first` on are this one's to make something
   of. mixes (steps): what becomes of them after each step, or none for nothing. Without: `all` are gradients, `mean` (width) is made of
   those of `n_workers` rows, and models step along it.
   step, phase: how far it is. seconds: those spent in communication are added. wrong: 1 + the place of what is no sample, as dense_steps
   says it. */
typedef struct {
    Meeting *meeting;
    void *all;
    int64_t stride, width, first, columns;
    const Mix *const *mixes;
    void *mean;
    const int64_t *workers;
    int64_t n_workers, step, phase, wrong;
    double seconds;
} Rounds;

int64_t meeting_arrive(Meeting *m);
int64_t meeting_wait(const Meeting *m, double seconds);

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#define T float
#define BITS 32
#include "rounds.c"
#undef T
#undef BITS
#define T double
#define BITS 64
#include "rounds.c"
#undef T
#undef BITS

#else

int64_t JOIN(dense_steps, BITS)(const Learning *l, int64_t from, int64_t end);
void JOIN(mix, BITS)(const Mix *m, T *x, int64_t stride, int64_t columns);
void JOIN(mean, BITS)(T *out, const T *x, int64_t stride, int64_t columns, int64_t n, const int64_t *rows);
void JOIN(along, BITS)(T *x, int64_t stride, int64_t rows, int64_t columns, const T *g, int64_t g_stride, double lr);

/* What is left of l's `steps` steps, until somebody is not here within `moment` seconds or `most` seconds have passed. Answers how it
   ended; after LATE the caller waits for whom it waits. */
EXPORT int64_t JOIN(rounds, BITS)(Rounds *r, const Learning *l, int64_t steps, double moment, double most) {
    double began = now(), since = began;
    T *mine = (T *)r->all + r->first, *mean = r->mean;
    for (int here = 0; r->step < steps; r->step++) {
        const Mix *mix = r->mixes ? r->mixes[r->step] : 0;
        switch (r->phase) {
        case COMPUTING:
            if ((r->wrong = JOIN(dense_steps, BITS)(l, r->step, r->step + 1))) return WRONG;
            if (r->mixes && !mix) break;
            since = now();
            r->phase = MEETING;
            here = (int)meeting_arrive(r->meeting);
            /* fall through */
        case MEETING:
            if (!here && !meeting_wait(r->meeting, moment)) goto late;
            if (mix)
                JOIN(mix, BITS)(mix, mine, r->stride, r->columns);
            else
                JOIN(mean, BITS)(mean + r->first, mine, r->stride, r->columns, r->n_workers, r->workers);
            r->phase = PARTING;
            here = (int)meeting_arrive(r->meeting);
            /* fall through */
        case PARTING:
            if (!here && !meeting_wait(r->meeting, moment)) goto late;
            r->phase = COMPUTING;
        }
        double then = now();
        if (!r->mixes || mix) r->seconds += then - since;
        if (!r->mixes) JOIN(along, BITS)(l->x, l->stride, l->rows, r->width, mean, 0, l->lr[r->step]);
        if (then - began > most && r->step + 1 < steps) {
            r->step++;
            return PAUSED;
        }
    }
    return DONE;
late:
    r->seconds += now() - since;
    return LATE;
}

#endif
