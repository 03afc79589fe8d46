/* PART, a file, once for each type of number and, on x86, for each width of vectors: with T, BITS, LANES (numbers of a vector), ROWS
   (of a tile), ON (what it is compiled for), NAME(f), f_32_16 and so on, and what linear.h has. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define EXPORT __attribute__((visibility("default")))
#define JOIN(f, bits, lanes) f##_##bits##_##lanes

#if defined(__x86_64__) && defined(__GNUC__)
#define X86 1
#endif

enum { DEPTH = 128, WIDE = 128 }; /* terms of a sum, columns of a weight, that are handled at a time: so that they stay in cache */

/* what becomes of a gradient g: stored in `out`; w <- keep w - lr g; or with v <- momentum v + g + decay w, w <- w - lr v, or
   w <- w - lr (g + decay w + momentum v). ANSWER: no gradient is taken, what the model answers is stored */
enum { STORE, PLAIN, MOMENTUM, NESTEROV, ANSWER };

#define T float
#define BITS 32
#ifdef X86
#define LANES 16
#define ROWS 8
#define ON __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,fma")))
#include "linear.h"
#include PART
#include "linear.h"
#define LANES 8
#define ROWS 6
#define ON __attribute__((target("avx2,fma")))
#include "linear.h"
#include PART
#include "linear.h"
#endif
#define LANES 4
#define ROWS 4
#define ON
#include "linear.h"
#include PART
#include "linear.h"
#undef T
#undef BITS

#define T double
#define BITS 64
#ifdef X86
#define LANES 8
#define ROWS 8
#define ON __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,fma")))
#include "linear.h"
#include PART
#include "linear.h"
#define LANES 4
#define ROWS 6
#define ON __attribute__((target("avx2,fma")))
#include "linear.h"
#include PART
#include "linear.h"
#endif
#define LANES 2
#define ROWS 4
#define ON
#include "linear.h"
#include PART
#include "linear.h"
#undef T
#undef BITS

#ifdef X86
#define CALL(wide, middle, narrow)                                                                                         \
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&         \
        __builtin_cpu_supports("avx512bw"))                                                                                      \
        return wide;                                                                                                             \
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return middle;                                          \
    return narrow;
#else
#define CALL(wide, middle, narrow) return narrow;
#endif
