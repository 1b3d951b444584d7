/*
 * Convolutions over the weights that are not zero.
 *
 * A picture and its margins are one line of numbers, so the input of a weight, for every output of a plane, lies at
 * one fixed distance from that output. A row of the result is therefore a sum of shifted lines, one per weight, and
 * the kernels sum them a block of registers at a time. Outputs that fall on the columns between the rows are
 * computed too and thrown away; there are as few as the margin is wide.
 *
 * Strides first sort the input into phases (every second column and row, say), each a plane of its own, after which
 * the distances are fixed again.
 */
#define _GNU_SOURCE
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "internal.h"
#include "layout.h"

/* Floats of a band that is computed before it is pooled or sorted into rows: they stay in the first cache. */
enum { SCRATCH = 8192 };

struct slr_conv {
    slr_conv_spec spec;
    slr_layout in, out;
    const slr_kernels *kernels;
    int32_t rows; /* planes that are summed: the output channels, times the phases of a transposed convolution */
    int32_t parts;   /* blocks of input channels, one after the other */
    int32_t part;    /* channels in each; the last may have fewer */
    int64_t *starts; /* of each part and, within it, each plane */
    slr_entry *entries;
    float *bias;
    int gather;        /* whether the input is first sorted into the workspace */
    slr_layout source; /* what the entries' offsets mean: the input's own, or the workspace's */
    int32_t phases_h, phases_w;
    int32_t height, width; /* of a summed plane */
    int straight;          /* whether sums are written where they belong */
    int32_t band;          /* rows that are summed together */
    int32_t bands, chunks;
    int32_t *chunk_starts; /* output planes of each chunk */
};

static int32_t floor_div(int32_t a, int32_t b)
{
    return a >= 0 ? a / b : -((-a + b - 1) / b);
}

static int32_t least(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static int32_t most(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

/* Where the taps of one axis reach, in steps of the stride. */
static void reach(int32_t kernel, int32_t stride, int32_t dilation, int32_t pad, int32_t *low, int32_t *high)
{
    *low = floor_div(-pad, stride);
    *high = floor_div((kernel - 1) * dilation - pad, stride);
}

/* Decide whether the input can be read where it is, and how the workspace is laid out where not. */
static int place_source(slr_conv *c)
{
    const slr_conv_spec *s = &c->spec;
    int32_t low_y = 0, high_y = 0, low_x = 0, high_x = 0;
    c->phases_h = s->transposed ? 1 : s->stride_h;
    c->phases_w = s->transposed ? 1 : s->stride_w;
    if (!s->transposed) {
        reach(s->kernel_h, s->stride_h, s->dilation_h, s->pad_top, &low_y, &high_y);
        reach(s->kernel_w, s->stride_w, s->dilation_w, s->pad_left, &low_x, &high_x);
    }
    const int32_t above = most(0, -low_y), left = most(0, -low_x);
    const int32_t planes_h = (c->in.height + c->phases_h - 1) / c->phases_h;
    const int32_t planes_w = (c->in.width + c->phases_w - 1) / c->phases_w;
    const int32_t below = most(0, c->height - 1 + high_y - (planes_h - 1));
    const int32_t right = most(0, c->width - 1 + high_x - (planes_w - 1));

    c->source = c->in;
    c->gather = !(c->phases_h == 1 && c->phases_w == 1 && c->in.above >= most(above, below) &&
                  c->in.left >= most(left, right) && c->in.row >= c->width);
    if (!c->gather)
        return SLR_OK;
    slr_layout *w = &c->source;
    w->channels = c->in.channels * c->phases_h * c->phases_w;
    w->height = planes_h;
    w->width = planes_w;
    w->above = most(above, below);
    w->left = most(left, right);
    const int64_t row = most(planes_w + w->left, c->width);
    const int64_t plane = (2 * (int64_t)w->above + planes_h) * row + w->left;
    if (row > INT32_MAX / 4 || plane > INT32_MAX / 2)
        return SLR_TOO_LARGE;
    w->row = (int32_t)row;
    w->plane = plane;
    w->image = plane * w->channels;
    w->origin = (int64_t)w->above * row + w->left;
    return SLR_OK;
}

/* Floats that the second cache holds beside everything else; of 512 KiB where the system does not say. */
static double second_cache(void)
{
    static _Atomic long known; /* asking may take a virtual machine 50 microseconds */
    long bytes = atomic_load(&known);
    if (!bytes) {
#if defined(_SC_LEVEL2_CACHE_SIZE)
        bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
        if (bytes <= 0)
            bytes = 512 * 1024;
        atomic_store(&known, bytes);
    }
    return 0.6 * (double)bytes / sizeof(float);
}

/*
 * About how many cycles a convolution takes with bands of so many rows and the input channels in so many parts.
 * Loads from the first cache limit the sums, half of them across two of its lines; the second cache gives a register
 * in a cycle, the third in two. A part has to pick the sums of the one before up and put them down again, and every
 * block has a fixed price: the last round of its loop is mispredicted, and the activation follows.
 */
static double cycles(const slr_conv *c, double nonzeros, int32_t band, int32_t parts)
{
    const double row = c->source.row, bands = (c->height + band - 1) / band;
    const double halo = c->spec.transposed ? 0 : (c->spec.kernel_h - 1) * c->spec.dilation_h / c->phases_h;
    const double registers = ceil(band * row / c->kernels->width);
    const double blocks = ceil(band * row / c->kernels->block);
    const double input = (band + halo) * row * c->source.channels, part = input / parts;
    const double load = part < 6 * 1024 ? 0.75 : input < second_cache() ? 1.2 : 2.0;
    const double bytes = nonzeros * sizeof(slr_entry);
    const double stream = bytes / (bytes < second_cache() * sizeof(float) ? 64 : 20);
    const double per_plane = 90 * blocks + registers * (parts > 1 ? 4.0 : 1.0);
    return bands * (nonzeros * registers * load + stream + per_plane * parts * c->rows);
}

/*
 * Choose how much is computed at once: bands of rows, and parts of the input channels, whose input stays in the first
 * or second cache while all output planes are computed from it.
 */
static void size_up(slr_conv *c, int64_t nonzeros)
{
    const int32_t step = c->spec.pool ? 2 : 1;
    const int32_t largest = c->straight ? c->height : SCRATCH / c->source.row;
    double best = INFINITY;
    for (int32_t bands = 1; bands <= c->height; bands++) {
        int32_t band = ((c->height + bands - 1) / bands + step - 1) / step * step;
        if (band > largest && band > step)
            continue;
        for (int32_t parts = 1; parts <= c->in.channels; parts += (parts + 7) / 8) {
            const double price = cycles(c, (double)nonzeros, band, parts);
            if (price < best) {
                best = price;
                c->band = band;
                c->part = (c->in.channels + parts - 1) / parts;
            }
            if (!c->straight || c->spec.groups > 1)
                break;
        }
    }
    c->bands = (c->height + c->band - 1) / c->band;
    c->parts = (c->in.channels + c->part - 1) / c->part;
}

/* The distance of a weight's input from its output; `from` is the input's channel. */
static int64_t offset_of(const slr_conv *c, int64_t from, int32_t tap)
{
    if (c->spec.transposed)
        return from * c->source.plane;
    const int32_t y = tap / c->spec.kernel_w * c->spec.dilation_h - c->spec.pad_top;
    const int32_t x = tap % c->spec.kernel_w * c->spec.dilation_w - c->spec.pad_left;
    const int32_t dy = floor_div(y, c->phases_h), dx = floor_div(x, c->phases_w);
    const int64_t plane = (from * c->phases_h + (y - dy * c->phases_h)) * c->phases_w + (x - dx * c->phases_w);
    return plane * c->source.plane + (int64_t)dy * c->source.row + dx;
}

/* Pack the weights that are not zero, each with the distance of its input. */
static int pack(slr_conv *c, const float *weights, const float *bias)
{
    const slr_conv_spec *s = &c->spec;
    const int32_t taps = s->kernel_h * s->kernel_w;
    const int32_t in_group = c->in.channels / s->groups, out_group = c->out.channels / s->groups;
    int64_t nonzeros = 0;
    for (int64_t i = 0; i < (int64_t)c->out.channels * in_group * taps; i++)
        nonzeros += weights[i] != 0.0f;
    size_up(c, nonzeros);
    c->entries = malloc((size_t)(nonzeros ? nonzeros : 1) * sizeof *c->entries);
    c->starts = malloc(((size_t)c->rows * (size_t)c->parts + 1) * sizeof *c->starts);
    c->bias = calloc((size_t)c->rows, sizeof *c->bias);
    if (!c->entries || !c->starts || !c->bias)
        return SLR_NO_MEMORY;

    int64_t next = 0;
    for (int32_t part = 0; part < c->parts; part++)
        for (int32_t r = 0; r < c->rows; r++) {
            const int32_t channel = s->transposed ? r / taps : r, group = channel / out_group;
            c->starts[(int64_t)part * c->rows + r] = next;
            c->bias[r] = bias ? bias[channel] : 0.0f;
            const int32_t end = least((part + 1) * c->part, in_group);
            for (int32_t from = part * c->part; from < end; from++)
                for (int32_t tap = 0; tap < taps; tap++) {
                    if (s->transposed && tap != r % taps)
                        continue;
                    const int64_t input = (int64_t)group * in_group + from;
                    const float value = weights[(s->transposed ? input * out_group + channel % out_group
                                                               : (int64_t)r * in_group + from) *
                                                    taps +
                                                tap];
                    if (value == 0.0f)
                        continue;
                    const int64_t offset = offset_of(c, input, tap);
                    if (offset > INT32_MAX || offset < INT32_MIN)
                        return SLR_TOO_LARGE;
                    c->entries[next++] = (slr_entry){(int32_t)offset, value};
                }
        }
    c->starts[(int64_t)c->parts * c->rows] = next;
    return SLR_OK;
}

/* Share the output planes out to threads. */
static int split(slr_conv *c)
{
    const int32_t phases = c->rows / c->out.channels;
    const int64_t units = (int64_t)c->bands * c->in.images, nonzeros = c->starts[(int64_t)c->parts * c->rows];
    int64_t chunks = units >= 32 ? 1 : 32 / units;
    /* A unit smaller than some ten microseconds costs more to hand out than it gains. */
    const int64_t work = nonzeros * c->height * c->source.row / c->kernels->width;
    if (chunks * units > work / 20000)
        chunks = work / 20000 / units;
    chunks = chunks < 1 ? 1 : chunks > c->out.channels ? c->out.channels : chunks;
    c->chunk_starts = malloc((size_t)(chunks + 1) * sizeof *c->chunk_starts);
    if (!c->chunk_starts)
        return SLR_NO_MEMORY;
    /* Equal numbers of weights, each plane counting for a few more. */
    const int64_t fixed = 4 * (int64_t)phases;
    const int64_t all = nonzeros + fixed * c->out.channels;
    int64_t before = 0;
    int32_t channel = 0;
    for (int64_t i = 0; i < chunks; i++) {
        c->chunk_starts[i] = channel;
        for (; channel < c->out.channels && before * chunks < all * (i + 1); channel++) {
            before += fixed;
            for (int32_t part = 0; part < c->parts; part++) {
                const int64_t *starts = c->starts + (int64_t)part * c->rows + (int64_t)channel * phases;
                before += starts[phases] - starts[0];
            }
        }
    }
    c->chunk_starts[chunks] = c->out.channels;
    c->chunks = (int32_t)chunks;
    return SLR_OK;
}

static int spec_ok(const slr_conv_spec *s, const slr_layout *in, const slr_layout *out)
{
    if (!slr_layout_ok(in) || !slr_layout_ok(out) || in->images != out->images)
        return 0;
    if (s->kernel_h < 1 || s->kernel_w < 1 || s->stride_h < 1 || s->stride_w < 1 || s->dilation_h < 1 ||
        s->dilation_w < 1 || s->pad_top < 0 || s->pad_left < 0 || s->groups < 1)
        return 0;
    if (in->channels % s->groups || out->channels % s->groups || (s->pool != 0 && s->pool != 2) ||
        s->activation < SLR_NONE || s->activation > SLR_SILU)
        return 0;
    if (s->transposed)
        return s->kernel_h == s->stride_h && s->kernel_w == s->stride_w && !s->pad_top && !s->pad_left && !s->pool &&
               s->dilation_h == 1 && s->dilation_w == 1 && out->height == (int64_t)in->height * s->kernel_h &&
               out->width == (int64_t)in->width * s->kernel_w;
    return 1;
}

/* Whether a sum or a product of sizes could leave its type; far beyond what memory holds. */
static int too_large(const slr_conv_spec *s, const slr_layout *in, const slr_layout *out)
{
    const double reaches[] = {(s->kernel_h - 1.0) * s->dilation_h, (s->kernel_w - 1.0) * s->dilation_w, s->pad_top,
                              s->pad_left, s->stride_h, s->stride_w, in->height, in->width, out->height, out->width};
    for (size_t i = 0; i < sizeof reaches / sizeof *reaches; i++)
        if (reaches[i] > (1 << 26))
            return 1;
    const double taps = (double)s->kernel_h * s->kernel_w, places = 4.0 * out->height * out->width * out->images;
    return taps * out->channels > INT32_MAX ||
           (double)s->stride_h * s->stride_w * in->channels * in->images > INT32_MAX ||
           taps * in->channels * out->channels * places > 1e18 || in->plane > INT32_MAX || in->plane < -INT32_MAX;
}

int slr_conv_new(const slr_conv_spec *spec, const float *weights, const float *bias, const slr_layout *in,
                 const slr_layout *out, slr_conv **result)
{
    *result = NULL;
    if (!spec_ok(spec, in, out))
        return SLR_BAD_ARGUMENT;
    if (too_large(spec, in, out))
        return SLR_TOO_LARGE;
    slr_conv *c = calloc(1, sizeof *c);
    if (!c)
        return SLR_NO_MEMORY;
    c->spec = *spec;
    c->in = *in;
    c->out = *out;
    c->kernels = slr_current();
    c->rows = out->channels * (spec->transposed ? spec->kernel_h * spec->kernel_w : 1);
    c->height = spec->transposed ? in->height : out->height * (spec->pool ? 2 : 1);
    c->width = spec->transposed ? in->width : out->width * (spec->pool ? 2 : 1);
    int status = place_source(c);
    c->straight = !spec->pool && !spec->transposed && out->row == c->source.row;
    if (!status)
        status = pack(c, weights, bias);
    if (!status)
        status = split(c);
    if (status) {
        slr_conv_free(c);
        return status;
    }
    *result = c;
    return SLR_OK;
}

void slr_conv_free(slr_conv *c)
{
    if (!c)
        return;
    free(c->starts);
    free(c->entries);
    free(c->bias);
    free(c->chunk_starts);
    free(c);
}

void slr_conv_describe(const slr_conv *c, slr_conv_info *info)
{
    const int64_t nonzeros = c->starts[(int64_t)c->parts * c->rows];
    info->nonzeros = nonzeros;
    info->macs = nonzeros * c->height * c->width * c->in.images;
    info->bytes = nonzeros * (int64_t)sizeof *c->entries +
                  c->rows * (int64_t)(c->parts * sizeof *c->starts + sizeof *c->bias) + (int64_t)sizeof *c->starts;
    info->workspace = c->gather ? c->source.image * c->in.images + SLR_SLACK : 0;
}

/* One run. */
typedef struct {
    const slr_conv *conv;
    const float *in;
    float *workspace;
    const float *source;
    float *out;
} run;

/* Rows of the input, of a phase, that are sorted at once. */
enum { STRIP = 32 };

static int32_t strips(const slr_conv *c)
{
    return (c->source.height + STRIP - 1) / STRIP;
}

/* Sort some rows of one plane of the input into its phases, with the margins that the taps reach into. */
static void gather_strip(void *context, int64_t index)
{
    const run *r = context;
    const slr_conv *c = r->conv;
    const slr_layout *l = &c->source;
    /* Channels change fastest, so that the threads share the picture as they do in the sums. */
    const int64_t channel = index % c->in.channels, image = index / c->in.channels / strips(c);
    const int32_t first = (int32_t)(index / c->in.channels % strips(c)) * STRIP;
    const float *from = r->in + c->in.origin + image * c->in.image + channel * c->in.plane;
    const int32_t phases = c->phases_h * c->phases_w;
    for (int32_t phase = 0; phase < phases; phase++) {
        const int32_t py = phase / c->phases_w, px = phase % c->phases_w;
        float *plane = r->workspace + l->origin + image * l->image + (channel * phases + phase) * l->plane;
        /* This phase may have a row or a column less than the first. */
        const int32_t height = (c->in.height - py + c->phases_h - 1) / c->phases_h;
        const int32_t width = (c->in.width - px + c->phases_w - 1) / c->phases_w;
        const int32_t end = least(first + STRIP, height);
        if (first == 0)
            memset(plane - l->origin, 0, (size_t)l->origin * sizeof *plane);
        for (int32_t y = first; y < end; y++) {
            const float *row = from + (int64_t)(y * c->phases_h + py) * c->in.row + px;
            float *to = plane + (int64_t)y * l->row;
            if (c->phases_w == 1)
                memcpy(to, row, (size_t)width * sizeof *to);
            else if (c->phases_w == 2)
                c->kernels->halve(row, to, width);
            else
                for (int32_t x = 0; x < width; x++)
                    to[x] = row[(int64_t)x * c->phases_w];
            memset(to + width, 0, (size_t)(l->row - width) * sizeof *to);
        }
        if (first + STRIP >= l->height) {
            float *rest = plane + (int64_t)height * l->row;
            memset(rest, 0, (size_t)(plane - l->origin + l->plane - rest) * sizeof *rest);
        }
    }
}

/* Rows [top, top + height) and columns [left, left + width) of a summed plane go from `sums` to their places. */
static void deliver(const slr_conv *c, const float *sums, int64_t row, int32_t plane, float *out, int32_t top,
                    int32_t height, int32_t left, int32_t width)
{
    const slr_layout *o = &c->out;
    if (c->spec.transposed) {
        const int32_t kh = c->spec.kernel_h, kw = c->spec.kernel_w, tap = plane % (kh * kw);
        for (int32_t y = 0; y < height; y++) {
            float *to = out + ((int64_t)(top + y) * kh + tap / kw) * o->row + (int64_t)left * kw + tap % kw;
            for (int32_t x = 0; x < width; x++)
                to[(int64_t)x * kw] = sums[y * row + x];
        }
    } else if (c->spec.pool) {
        for (int32_t y = 0; y < height / 2; y++)
            c->kernels->pool2(sums + 2 * y * row, sums + (2 * y + 1) * row,
                              out + (top / 2 + y) * (int64_t)o->row + left / 2, width / 2);
    } else {
        for (int32_t y = 0; y < height; y++)
            memcpy(out + (int64_t)(top + y) * o->row + left, sums + y * row, (size_t)width * sizeof *out);
    }
}

/* One band of one output plane, from one part of the input channels. */
static void sum_band(const slr_conv *c, const float *source, float *out, int32_t part, int32_t plane, int32_t top,
                     int32_t height, float *scratch)
{
    const int64_t *starts = c->starts + (int64_t)part * c->rows + plane;
    const slr_entry *entries = c->entries + starts[0];
    const int64_t count = starts[1] - starts[0];
    const int last = part + 1 == c->parts;
    const slr_act act = {last ? c->spec.activation : SLR_NONE, c->spec.slope};
    const int64_t row = c->source.row, line = (height - 1) * row + c->width;
    const float *from = source + top * row;
    const float bias = c->bias[plane];
    if (c->straight) {
        float *to = out + top * row;
        c->kernels->sum(entries, count, from, part ? to : NULL, bias, act, to, line);
        for (int32_t y = 0; last && y + 1 < height; y++)
            for (int64_t x = c->width; x < row; x++)
                to[y * row + x] = 0.0f;
    } else if (line <= SCRATCH) {
        c->kernels->sum(entries, count, from, NULL, bias, act, scratch, line);
        deliver(c, scratch, row, plane, out, top, height, 0, c->width);
    } else {
        /* Rows longer than the scratch, by pieces; two at once where they are pooled. */
        const int32_t rows = c->spec.pool ? 2 : 1, piece = SCRATCH / rows;
        for (int32_t y = 0; y < height; y += rows)
            for (int32_t x = 0; x < c->width; x += piece) {
                const int32_t width = least(piece, c->width - x);
                for (int32_t i = 0; i < rows; i++)
                    c->kernels->sum(entries, count, from + (y + i) * row + x, NULL, bias, act,
                                    scratch + (int64_t)i * piece, width);
                deliver(c, scratch, piece, plane, out, top + y, rows, x, width);
            }
    }
}

static void run_unit(void *context, int64_t index)
{
    const run *r = context;
    const slr_conv *c = r->conv;
    const int32_t chunk = (int32_t)(index % c->chunks);
    const int32_t band = (int32_t)(index / c->chunks % c->bands);
    const int64_t image = index / c->chunks / c->bands;
    const int32_t top = band * c->band, height = least(c->band, c->height - top);
    const int32_t phases = c->rows / c->out.channels;
    const float *source = r->source + c->source.origin + image * c->source.image;
    float scratch[SCRATCH];
    for (int32_t part = 0; part < c->parts; part++)
        for (int32_t channel = c->chunk_starts[chunk]; channel < c->chunk_starts[chunk + 1]; channel++) {
            float *out = r->out + c->out.origin + image * c->out.image + channel * c->out.plane;
            for (int32_t phase = 0; phase < phases; phase++)
                sum_band(c, source, out, part, channel * phases + phase, top, height, scratch);
        }
}

int slr_conv_run(const slr_conv *c, const float *in, float *out, float *workspace, slr_pool *pool)
{
    run r = {.conv = c, .in = in, .workspace = workspace, .source = in, .out = out};
    if (c->gather) {
        if (!workspace)
            return SLR_BAD_ARGUMENT;
        slr_pool_each(pool, (int64_t)c->in.images * c->in.channels * strips(c), gather_strip, &r);
        memset(workspace + c->source.image * c->in.images, 0, SLR_SLACK * sizeof *workspace);
        r.source = workspace;
    }
    slr_pool_each(pool, (int64_t)c->in.images * c->bands * c->chunks, run_unit, &r);
    return SLR_OK;
}
