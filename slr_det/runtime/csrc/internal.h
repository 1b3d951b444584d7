/* What the parts of the runtime share; not part of its interface. */
#ifndef SLR_INTERNAL_H
#define SLR_INTERNAL_H

#include "slr_runtime.h"

/* A weight that is not zero, and where its input lies, in floats from the output's position. */
typedef struct {
    int32_t offset;
    float value;
} slr_entry;

/* What follows the sum at each output. */
typedef struct {
    int32_t kind; /* enum slr_activation */
    float slope;
} slr_act;

/* The larger of two, NaN where either is: a model that diverged must not look healthy. */
static inline float slr_larger(float a, float b)
{
    return a > b || a != a ? a : b;
}

/* The loops that exist once for every instruction set. `slr_kernels` of each is filled by kernels.inc. */
typedef struct {
    int isa;
    int width; /* floats in a register */
    int block; /* floats that are summed at once, in as many registers as there are to spare */
    /* out[i] = act(start + sum of entries[k].value * in[i + entries[k].offset]), i < positions, where start is before[i],
     * or the bias where `before` is NULL; it may be `out`. Reads up to width - 1 floats of `in` behind the last
     * position, and writes none. */
    void (*sum)(const slr_entry *entries, int64_t count, const float *in, const float *before, float bias, slr_act act,
                float *out, int64_t positions);
    /* out[i] = act(in[i]) */
    void (*copy)(const float *in, float *out, int64_t count, slr_act act);
    /* out[i] = act(a[i] + b[i]) */
    void (*add)(const float *a, const float *b, float *out, int64_t count, slr_act act);
    /* out[i] = the largest of a[i], b[i]; here and in pool2 NaN where one of them is */
    void (*larger)(const float *a, const float *b, float *out, int64_t count);
    /* out[i] = the largest of a[2 i], a[2 i + 1], b[2 i], b[2 i + 1] */
    void (*pool2)(const float *a, const float *b, float *out, int64_t count);
    /* out[i] = in[2 i] */
    void (*halve)(const float *in, float *out, int64_t count);
    /* The sum of values[k] * in[columns[k]]. */
    float (*dot16)(const float *values, const uint16_t *columns, int64_t count, const float *in);
    float (*dot32)(const float *values, const uint32_t *columns, int64_t count, const float *in);
    /* Multiply-adds on registers alone, and a pass of loads over a buffer: the two roofs. Both return a number that
     * depends on all that was done, so that nothing is left out. */
    float (*spin)(int64_t rounds, int64_t *flops);
    float (*sweep)(const float *buffer, int64_t count);
} slr_kernels;

extern const slr_kernels slr_kernels_portable;
#if defined(__x86_64__)
extern const slr_kernels slr_kernels_avx2;
extern const slr_kernels slr_kernels_avx512;
#elif defined(__aarch64__)
extern const slr_kernels slr_kernels_neon;
#endif

/* The kernels in use. */
const slr_kernels *slr_current(void);

/* Call task(context, i) for each i < count, in any order and from all threads of the pool. */
void slr_pool_each(slr_pool *pool, int64_t count, void (*task)(void *context, int64_t index), void *context);

#endif
