/* Where processes of one machine wait for each other (fleet/memory.py): a count each, in shared memory, and one word on which all who
   wait sleep, so that each is woken once, by the last to come. native.py loads it. */

#define _GNU_SOURCE
#include <sched.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { WAIT, WAKE }; /* as linux/futex.h has them, which a system may keep in a package of its own */

#define EXPORT __attribute__((visibility("default")))

/* Have all come as far as n, modulo 2^32? Of `count` processes, whose counts are `apart` words from each other. */
static int all(const uint32_t *slots, int64_t apart, int64_t count, uint32_t n) {
    for (int64_t q = 0; q < count; q++)
        if ((int32_t)(__atomic_load_n(slots + q * apart, __ATOMIC_SEQ_CST) - n) < 0) return 0;
    return 1;
}

/* Process `rank` has come to n; behind the slots of all lies the word that changes when all have come somewhere. Answers whether all
   others have come as far. Of two who come at once at least one finds the other there, and wakes all. */
EXPORT int64_t meeting_arrive(uint32_t *slots, int64_t apart, int64_t count, int64_t rank, uint32_t n) {
    uint32_t *word = slots + count * apart;
    __atomic_store_n(slots + rank * apart, n, __ATOMIC_SEQ_CST);
    if (!all(slots, apart, count, n)) return 0;
    __atomic_fetch_add(word, 1, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, word, WAKE, INT32_MAX, 0, 0, 0);
    return 1;
}

/* Wait until all have come as far as n, for `seconds` at most: first looking `spins` times. Answers whether they have. */
EXPORT int64_t meeting_wait(uint32_t *slots, int64_t apart, int64_t count, uint32_t n, int64_t spins, double seconds) {
    uint32_t *word = slots + count * apart;
    struct timespec nap = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    for (int64_t i = 0; i < spins; i++) {
        if (all(slots, apart, count, n)) return 1;
        sched_yield();
    }
    for (;;) {
        uint32_t seen = __atomic_load_n(word, __ATOMIC_SEQ_CST);
        if (all(slots, apart, count, n)) return 1;
        if (syscall(SYS_futex, word, WAIT, seen, &nap, 0, 0) && seen == __atomic_load_n(word, __ATOMIC_SEQ_CST))
            return all(slots, apart, count, n); /* it took too long, or a signal came */
    }
}
