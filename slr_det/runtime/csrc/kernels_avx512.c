/* The loops for x86 with AVX-512 (F, BW, DQ, VL). Compiled with those switched on; called only where they exist. */
#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#include "internal.h"

#define V __m512
#define W 16
#define BLOCK 12
#define LOAD _mm512_loadu_ps
#define STORE _mm512_storeu_ps
#define SET1 _mm512_set1_ps
#define ADD _mm512_add_ps
#define SUB _mm512_sub_ps
#define MUL _mm512_mul_ps
#define DIV _mm512_div_ps
#define MAX _mm512_max_ps
#define MIN _mm512_min_ps
#define LARGER larger_of
#define FMA _mm512_fmadd_ps
#define ROUND(x) _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define POW2(n)                                                                                                        \
    _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23))

/* One of the two orders keeps a NaN, whose bits then win; of numbers both give the same. */
static inline __m512 larger_of(__m512 a, __m512 b)
{
    return _mm512_or_ps(_mm512_max_ps(a, b), _mm512_max_ps(b, a));
}

static inline __m512 even(__m512 a, __m512 b)
{
    const __m512i places =
        _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    return _mm512_permutex2var_ps(a, places, b);
}

static inline __m512 pool(__m512 a0, __m512 a1, __m512 b0, __m512 b1)
{
    const __m512i first = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i second = _mm512_set_epi32(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    const __m512 low = larger_of(a0, b0), high = larger_of(a1, b1);
    return larger_of(_mm512_permutex2var_ps(low, first, high), _mm512_permutex2var_ps(low, second, high));
}

#define EVEN even
#define POOL2 pool
#define TABLE slr_kernels_avx512
#define ISA SLR_AVX512
#include "kernels.inc"

#endif
