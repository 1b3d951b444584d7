/* The two roofs of a roofline: multiply-adds on registers, and loads from a buffer of some size. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "internal.h"

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double slr_peak_fma(double seconds)
{
    const slr_kernels *kernels = slr_current();
    volatile float sink = 0;
    double best = 0, end = now() + seconds;
    do {
        int64_t flops;
        const double start = now();
        sink += kernels->spin(200000, &flops);
        const double rate = (double)flops / (now() - start);
        best = rate > best ? rate : best;
    } while (now() < end);
    (void)sink;
    return best;
}

double slr_bandwidth(int64_t bytes, int32_t shift, double seconds)
{
    const slr_kernels *kernels = slr_current();
    if (bytes < 8192 || shift < 0 || shift > 15)
        return 0;
    float *buffer = aligned_alloc(64, (size_t)(bytes / 64 + 1) * 64);
    if (!buffer)
        return 0;
    const int64_t count = bytes / 64 * 16;
    memset(buffer, 0, (size_t)(count + 16) * sizeof *buffer);
    const int64_t repeats = 1 + (1 << 22) / count;
    volatile float sink = 0;
    double best = 0, end = now() + seconds;
    do {
        const double start = now();
        for (int64_t i = 0; i < repeats; i++)
            sink += kernels->sweep(buffer + shift, count);
        const double rate = (double)(repeats * count) * sizeof *buffer / (now() - start);
        best = rate > best ? rate : best;
    } while (now() < end);
    (void)sink;
    free(buffer);
    return best;
}
