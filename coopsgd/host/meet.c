/* Where processes of one machine wait for each other (fleet/memory.py): a count each, in shared memory, and one word on which all who
   wait sleep, so that each is woken once, by the last to come. native.py loads it. */

#define _GNU_SOURCE
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "structs.h"

enum { WAIT, WAKE }; /* as linux/futex.h has them, which a system may keep in a package of its own */

#define EXPORT __attribute__((visibility("default")))

/* Have all come as far as this process has? Counts are modulo 2^32. */
static int all(const Meeting *m) {
    for (int64_t q = 0; q < m->count; q++)
        if ((int32_t)(__atomic_load_n(m->slots + q * m->apart, __ATOMIC_SEQ_CST) - (uint32_t)m->n) < 0) return 0;
    return 1;
}

/* This process has come to the next event; behind the slots of all lies the word that changes when all have come somewhere. Answers
   whether all others have come as far. Of two who come at once at least one finds the other there, and wakes all. */
EXPORT int64_t meeting_arrive(Meeting *m) {
    uint32_t *word = m->slots + m->count * m->apart;
    m->n = (uint32_t)(m->n + 1);
    __atomic_store_n(m->slots + m->rank * m->apart, (uint32_t)m->n, __ATOMIC_SEQ_CST);
    if (!all(m)) return 0;
    __atomic_fetch_add(word, 1, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, word, WAKE, INT32_MAX, 0, 0, 0);
    return 1;
}

/* Wait until all have come as far as this process has, for `seconds` at most: first looking `spins` times. Answers whether they
   have. */
EXPORT int64_t meeting_wait(const Meeting *m, double seconds) {
    uint32_t *word = m->slots + m->count * m->apart;
    struct timespec nap = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    for (int64_t i = 0; i < m->spins; i++) {
        if (all(m)) return 1;
        sched_yield();
    }
    for (;;) {
        uint32_t seen = __atomic_load_n(word, __ATOMIC_SEQ_CST);
        if (all(m)) return 1;
        if (syscall(SYS_futex, word, WAIT, seen, &nap, 0, 0) && seen == __atomic_load_n(word, __ATOMIC_SEQ_CST))
            return all(m); /* it took too long, or a signal came */
    }
}
