/* The loops for any processor, over registers of four floats of the compiler's own making. */
#include <string.h>

#include "internal.h"

typedef float four __attribute__((vector_size(16)));
typedef int32_t four_ints __attribute__((vector_size(16)));

static inline four load(const float *from)
{
    four x;
    memcpy(&x, from, sizeof x);
    return x;
}

static inline void store(float *to, four x)
{
    memcpy(to, &x, sizeof x);
}

static inline four set1(float x)
{
    return (four){x, x, x, x};
}

static inline four pick(four_ints which, four yes, four no)
{
    return (four)(((four_ints)yes & which) | ((four_ints)no & ~which));
}

static inline four pow2(four n)
{
    return (four)((__builtin_convertvector(n, four_ints) + 127) << 23);
}

/* Adding 1.5 * 2^23 leaves no room behind the point. */
static inline four nearest(four x)
{
    const four shift = set1(12582912.0f);
    return (x + shift) - shift;
}

static inline four larger_of(four a, four b)
{
    return pick((a > b) | (a != a), a, b);
}

static inline four even(four a, four b)
{
    return (four){a[0], a[2], b[0], b[2]};
}

static inline four odd(four a, four b)
{
    return (four){a[1], a[3], b[1], b[3]};
}

#define V four
#define W 4
#define BLOCK 12
#define LOAD load
#define STORE store
#define SET1 set1
#define ADD(a, b) ((a) + (b))
#define SUB(a, b) ((a) - (b))
#define MUL(a, b) ((a) * (b))
#define DIV(a, b) ((a) / (b))
/* As on x86: where a comparison with NaN fails, the second one stays. */
#define MAX(a, b) pick((a) > (b), a, b)
#define MIN(a, b) pick((a) < (b), a, b)
#define LARGER larger_of
#define FMA(a, b, c) ((a) * (b) + (c))
#define ROUND nearest
#define POW2 pow2
#define EVEN even

static inline four pool(four a0, four a1, four b0, four b1)
{
    const four low = larger_of(a0, b0), high = larger_of(a1, b1);
    const four first = even(low, high), second = odd(low, high);
    return larger_of(first, second);
}

#define POOL2 pool
#define TABLE slr_kernels_portable
#define ISA SLR_PORTABLE
#include "kernels.inc"
