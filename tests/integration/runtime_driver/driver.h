/* Random tensors in the runtime's layouts, with guards around them, for driver.c. */
#ifndef DRIVER_H
#define DRIVER_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "slr_runtime.h"

#define FAIL(...)                                                                                                      \
    do {                                                                                                               \
        fprintf(stderr, "failed: " __VA_ARGS__);                                                                       \
        fputc('\n', stderr);                                                                                           \
        exit(1);                                                                                                       \
    } while (0)

enum { ISAS = 4 };
static const char *const ISA_NAMES[ISAS] = {"portable", "avx2", "avx512", "neon"};

static uint64_t state = 1;

static void seed_from(uint64_t seed)
{
    state = seed * 0x9E3779B97F4A7C15u + 1;
}

/* xorshift64* */
static uint32_t random_bits(void)
{
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (uint32_t)((state * 0x2545F4914F6CDD1Du) >> 32);
}

static int between(int low, int high)
{
    return low + (int)(random_bits() % (uint32_t)(high - low + 1));
}

static int one_in(int chance)
{
    return random_bits() % (uint32_t)chance == 0;
}

/* Within (-1, 1), and never zero. */
static float number(void)
{
    return ((float)(random_bits() >> 9) + 0.5f) / 4194304.0f - 1.0f;
}

static void *room_for(int64_t count, size_t size)
{
    void *memory = malloc(count ? (size_t)count * size : 1);
    if (!memory)
        FAIL("no memory for %lld", (long long)count);
    return memory;
}

/* What stands where nobody may write: a NaN, so that whoever reads it shows it. */
static const uint32_t GUARD_BITS = 0x7fc0dead;

enum { GUARD, MARGIN, PICTURE };

typedef struct {
    slr_layout at;
    float *data;
    uint8_t *kinds; /* GUARD, MARGIN or PICTURE, of each float */
    int64_t size;
} tensor;

static float *place_of(const tensor *t, int n, int c, int y, int x)
{
    return t->data + t->at.origin + n * t->at.image + c * t->at.plane + (int64_t)y * t->at.row + x;
}

/* A tensor of random numbers in a random layout. `slack`: floats follow that may be read. `dirty`: NaN in the margins.
 * `row`: that
 * long are its rows, if they can be. The memory ends where the tensor does, which the address sanitizer watches. */
static tensor make(int images, int channels, int height, int width, int slack, int dirty, int row)
{
    tensor t = {.at = {.images = images, .channels = channels, .height = height, .width = width}};
    const int plain = one_in(3);
    t.at.above = plain ? 0 : between(0, 4);
    t.at.left = plain ? 0 : between(0, 4);
    t.at.row = width + t.at.left + (plain || one_in(2) ? 0 : between(0, 7));
    if (row >= width + t.at.left)
        t.at.row = row;
    const int padded = t.at.above || t.at.left;
    const int64_t margin = (int64_t)t.at.above * t.at.row + t.at.left;
    const int64_t span = (int64_t)(height - 1) * t.at.row + width + 2 * margin;
    t.at.plane = (int64_t)(2 * t.at.above + height) * t.at.row + t.at.left + (plain || one_in(2) ? 0 : between(0, 19));
    t.at.image = t.at.plane * channels + (plain || one_in(2) ? 0 : between(0, 19));
    t.at.origin = margin + (plain || one_in(2) ? 0 : between(0, 19));
    t.size = t.at.origin - margin + (images - 1) * t.at.image + (channels - 1) * t.at.plane + span +
             (slack || padded ? SLR_SLACK : 0);
    t.data = room_for(t.size, sizeof *t.data);
    t.kinds = room_for(t.size, 1);
    memset(t.kinds, GUARD, (size_t)t.size);
    for (int64_t i = 0; i < t.size; i++)
        memcpy(t.data + i, &GUARD_BITS, sizeof *t.data);
    for (int n = 0; n < images; n++)
        for (int c = 0; c < channels; c++) {
            float *first = place_of(&t, n, c, 0, 0) - margin;
            memset(t.kinds + (first - t.data), MARGIN, (size_t)span);
            if (!(dirty && padded))
                memset(first, 0, (size_t)span * sizeof *first);
            for (int y = 0; y < height; y++)
                for (int x = 0; x < width; x++) {
                    t.kinds[place_of(&t, n, c, y, x) - t.data] = PICTURE;
                    *place_of(&t, n, c, y, x) = number();
                }
        }
    return t;
}

static void discard(tensor *t)
{
    free(t->data);
    free(t->kinds);
}

/* Margins are zero, and nothing was written beside them. */
static void check_around(const tensor *t, const char *what)
{
    for (int64_t i = 0; i < t->size; i++) {
        uint32_t bits;
        memcpy(&bits, t->data + i, sizeof bits);
        if (t->kinds[i] == MARGIN && bits << 1)
            FAIL("%s: a margin is not zero, at %lld of %lld", what, (long long)i, (long long)t->size);
        if (t->kinds[i] == GUARD && bits != GUARD_BITS)
            FAIL("%s: written outside, at %lld of %lld", what, (long long)i, (long long)t->size);
    }
}

/* What a number should be, and the sum of its terms' sizes, by which rounding is measured. */
typedef struct {
    double value, terms;
} exact;

static void check_number(float got, exact e, int64_t count, const char *what)
{
    const double half = 1.0 / 16777216;
    const double bound = 1.2 * half * (double)(count + 2) * e.terms + 16 * half * fabs(e.value) + 1e-30;
    if (!(fabs((double)got - e.value) <= bound))
        FAIL("%s: %.9g, expected %.9g within %.3g", what, (double)got, e.value, bound);
}

/* All numbers of a tensor, and what is around them. */
static void check_all(const tensor *t, const exact *expected, int64_t count, const char *what)
{
    check_around(t, what);
    for (int n = 0; n < t->at.images; n++)
        for (int c = 0; c < t->at.channels; c++)
            for (int y = 0; y < t->at.height; y++)
                for (int x = 0; x < t->at.width; x++)
                    check_number(*place_of(t, n, c, y, x), *expected++, count, what);
}

static exact activated(exact e, int activation, double slope)
{
    if (activation == SLR_RELU)
        e.value = e.value > 0 ? e.value : 0;
    if (activation == SLR_LEAKY_RELU)
        e.value *= e.value > 0 ? 1 : slope;
    if (activation == SLR_SILU)
        e.value /= 1 + exp(-e.value);
    return e;
}

static exact larger(exact a, exact b)
{
    return (exact){a.value > b.value ? a.value : b.value, a.terms > b.terms ? a.terms : b.terms};
}

#endif
