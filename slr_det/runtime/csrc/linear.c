/* Linear layers over the weights that are not zero. */
#include <stdlib.h>
#include <string.h>

#include "internal.h"

enum {
    MANY = 4,  /* rows of the input from which on it pays to put them side by side */
    TILE = 64, /* rows that are side by side */
    UNIT = 32  /* output features that one unit of work computes */
};

/*
 * One row: each output is a scalar product over 6 bytes a weight (the value, and its column in 16 bits), and the
 * weights stream from memory. Many rows: the input is turned, so that a column's numbers for up to 64 rows lie side by
 * side, and a linear layer is then a 1 x 1 convolution over them.
 */
struct slr_linear {
    int32_t in_features, out_features;
    int64_t rows, nonzeros;
    slr_act act;
    const slr_kernels *kernels;
    int64_t *starts;
    float *bias;
    slr_entry *entries; /* for many rows; else */
    float *values;
    uint16_t *columns16; /* for at most 65,536 inputs, else */
    uint32_t *columns32;
};

static int pack(slr_linear *l, const float *weights, const float *bias)
{
    for (int64_t i = 0; i < (int64_t)l->in_features * l->out_features; i++)
        l->nonzeros += weights[i] != 0.0f;
    const size_t room = l->nonzeros ? (size_t)l->nonzeros : 1;
    l->starts = malloc((size_t)(l->out_features + 1) * sizeof *l->starts);
    l->bias = calloc((size_t)l->out_features, sizeof *l->bias);
    if (!l->starts || !l->bias)
        return SLR_NO_MEMORY;
    if (l->rows >= MANY) {
        if (l->in_features > INT32_MAX / TILE)
            return SLR_TOO_LARGE;
        if (!(l->entries = malloc(room * sizeof *l->entries)))
            return SLR_NO_MEMORY;
    } else {
        if (!(l->values = malloc(room * sizeof *l->values)))
            return SLR_NO_MEMORY;
        if (l->in_features <= 65536)
            l->columns16 = malloc(room * sizeof *l->columns16);
        else
            l->columns32 = malloc(room * sizeof *l->columns32);
        if (!l->columns16 && !l->columns32)
            return SLR_NO_MEMORY;
    }
    int64_t next = 0;
    for (int32_t o = 0; o < l->out_features; o++) {
        l->starts[o] = next;
        l->bias[o] = bias ? bias[o] : 0.0f;
        for (int32_t i = 0; i < l->in_features; i++) {
            const float value = weights[(int64_t)o * l->in_features + i];
            if (value == 0.0f)
                continue;
            if (l->entries)
                l->entries[next] = (slr_entry){i * TILE, value};
            else
                l->values[next] = value;
            if (l->columns16)
                l->columns16[next] = (uint16_t)i;
            if (l->columns32)
                l->columns32[next] = (uint32_t)i;
            next++;
        }
    }
    l->starts[l->out_features] = next;
    return SLR_OK;
}

int slr_linear_new(int32_t in_features, int32_t out_features, int64_t rows, const float *weights, const float *bias,
                   int32_t activation, float slope, slr_linear **result)
{
    *result = NULL;
    if (in_features < 1 || out_features < 1 || rows < 1 || activation < SLR_NONE || activation > SLR_SILU)
        return SLR_BAD_ARGUMENT;
    slr_linear *l = calloc(1, sizeof *l);
    if (!l)
        return SLR_NO_MEMORY;
    l->in_features = in_features;
    l->out_features = out_features;
    l->rows = rows;
    l->act = (slr_act){activation, slope};
    l->kernels = slr_current();
    const int status = pack(l, weights, bias);
    if (status) {
        slr_linear_free(l);
        return status;
    }
    *result = l;
    return SLR_OK;
}

void slr_linear_free(slr_linear *l)
{
    if (!l)
        return;
    free(l->starts);
    free(l->bias);
    free(l->entries);
    free(l->values);
    free(l->columns16);
    free(l->columns32);
    free(l);
}

static int64_t tiles(const slr_linear *l)
{
    return (l->rows + TILE - 1) / TILE;
}

void slr_linear_describe(const slr_linear *l, slr_conv_info *info)
{
    const size_t weight = l->entries     ? sizeof *l->entries
                          : l->columns16 ? sizeof *l->values + sizeof *l->columns16
                                         : sizeof *l->values + sizeof *l->columns32;
    info->nonzeros = l->nonzeros;
    info->macs = l->nonzeros * l->rows;
    info->bytes = l->nonzeros * (int64_t)weight +
                  l->out_features * (int64_t)(sizeof *l->starts + sizeof *l->bias) + (int64_t)sizeof *l->starts;
    info->workspace = l->entries ? tiles(l) * TILE * (l->in_features + (int64_t)l->out_features) + SLR_SLACK : 0;
}

typedef struct {
    const slr_linear *linear;
    const float *in;
    float *out;
    float *turned, *sums; /* of each tile: (features, TILE) */
} run;

static void dot_unit(void *context, int64_t index)
{
    const run *r = context;
    const slr_linear *l = r->linear;
    const int32_t first = (int32_t)index * UNIT;
    const int32_t last = first + UNIT < l->out_features ? first + UNIT : l->out_features;
    for (int64_t row = 0; row < l->rows; row++) {
        const float *in = r->in + row * l->in_features;
        float sums[UNIT];
        for (int32_t o = first; o < last; o++) {
            const int64_t start = l->starts[o], count = l->starts[o + 1] - start;
            sums[o - first] =
                l->bias[o] + (l->columns16 ? l->kernels->dot16(l->values + start, l->columns16 + start, count, in)
                                           : l->kernels->dot32(l->values + start, l->columns32 + start, count, in));
        }
        l->kernels->copy(sums, r->out + row * l->out_features + first, last - first, l->act);
    }
}

/* Rows of a matrix that are turned at once, so that their cache lines are used whole. */
enum { SQUARE = 16 };

/* Features [first, last) of all rows of the input, by tiles. */
static void turn_unit(void *context, int64_t index)
{
    const run *r = context;
    const slr_linear *l = r->linear;
    const int64_t tile = index / ((l->in_features + UNIT - 1) / UNIT), unit = index % ((l->in_features + UNIT - 1) / UNIT);
    const int64_t first = unit * UNIT, last = first + UNIT < l->in_features ? first + UNIT : l->in_features;
    const int64_t rows = l->rows - tile * TILE < TILE ? l->rows - tile * TILE : TILE;
    const float *in = r->in + tile * TILE * l->in_features;
    float *out = r->turned + tile * TILE * l->in_features;
    for (int64_t r0 = 0; r0 < rows; r0 += SQUARE)
        for (int64_t f = first; f < last; f++)
            for (int64_t row = r0; row < r0 + SQUARE && row < rows; row++)
                out[f * TILE + row] = in[row * l->in_features + f];
    for (int64_t f = first; f < last; f++)
        for (int64_t row = rows; row < TILE; row++)
            out[f * TILE + row] = 0.0f;
}

static void sum_unit(void *context, int64_t index)
{
    const run *r = context;
    const slr_linear *l = r->linear;
    const int64_t units = (l->out_features + UNIT - 1) / UNIT, tile = index / units, unit = index % units;
    const int64_t first = unit * UNIT, last = first + UNIT < l->out_features ? first + UNIT : l->out_features;
    const int64_t rows = l->rows - tile * TILE < TILE ? l->rows - tile * TILE : TILE;
    const float *in = r->turned + tile * TILE * l->in_features;
    float *sums = r->sums + tile * TILE * l->out_features;
    for (int64_t o = first; o < last; o++)
        l->kernels->sum(l->entries + l->starts[o], l->starts[o + 1] - l->starts[o], in, NULL, l->bias[o], l->act,
                        sums + o * TILE, rows);
    float *out = r->out + tile * TILE * l->out_features;
    for (int64_t row = 0; row < rows; row++)
        for (int64_t o = first; o < last; o++)
            out[row * l->out_features + o] = sums[o * TILE + row];
}

int slr_linear_run(const slr_linear *l, const float *in, float *out, float *workspace, slr_pool *pool)
{
    run r = {.linear = l, .in = in, .out = out};
    const int64_t out_units = (l->out_features + UNIT - 1) / UNIT;
    if (!l->entries) {
        slr_pool_each(pool, out_units, dot_unit, &r);
        return SLR_OK;
    }
    if (!workspace)
        return SLR_BAD_ARGUMENT;
    r.turned = workspace;
    r.sums = workspace + tiles(l) * TILE * l->in_features;
    slr_pool_each(pool, tiles(l) * ((l->in_features + UNIT - 1) / UNIT), turn_unit, &r);
    slr_pool_each(pool, tiles(l) * out_units, sum_unit, &r);
    return SLR_OK;
}
