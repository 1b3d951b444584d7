/* The loops for x86 with AVX2 and FMA. Compiled with those switched on; called only where the processor has them. */
#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#include "internal.h"

#define V __m256
#define W 8
#define BLOCK 12
#define LOAD _mm256_loadu_ps
#define STORE _mm256_storeu_ps
#define SET1 _mm256_set1_ps
#define ADD _mm256_add_ps
#define SUB _mm256_sub_ps
#define MUL _mm256_mul_ps
#define DIV _mm256_div_ps
#define MAX _mm256_max_ps
#define MIN _mm256_min_ps
#define LARGER larger_of
#define FMA _mm256_fmadd_ps
#define ROUND(x) _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define POW2(n)                                                                                                        \
    _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23))

/* One of the two orders keeps a NaN, whose bits then win; of numbers both give the same. */
static inline __m256 larger_of(__m256 a, __m256 b)
{
    return _mm256_or_ps(_mm256_max_ps(a, b), _mm256_max_ps(b, a));
}

static inline __m256 even(__m256 a, __m256 b)
{
    const __m256 pairs = _mm256_shuffle_ps(a, b, _MM_SHUFFLE(2, 0, 2, 0));
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(pairs), _MM_SHUFFLE(3, 1, 2, 0)));
}

static inline __m256 pool(__m256 a0, __m256 a1, __m256 b0, __m256 b1)
{
    const __m256 low = larger_of(a0, b0), high = larger_of(a1, b1);
    const __m256 most = larger_of(_mm256_shuffle_ps(low, high, _MM_SHUFFLE(2, 0, 2, 0)),
                                  _mm256_shuffle_ps(low, high, _MM_SHUFFLE(3, 1, 3, 1)));
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(most), _MM_SHUFFLE(3, 1, 2, 0)));
}

#define EVEN even
#define POOL2 pool
#define TABLE slr_kernels_avx2
#define ISA SLR_AVX2
#include "kernels.inc"

#endif
