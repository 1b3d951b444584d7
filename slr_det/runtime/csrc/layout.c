/* Tensors in other layouts: copies, sums, maxima, enlargement. */
#include <float.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "internal.h"
#include "layout.h"

int slr_layout_ok(const slr_layout *l)
{
    return l->images > 0 && l->channels > 0 && l->height > 0 && l->width > 0 && l->above >= 0 && l->left >= 0 &&
           l->row >= (int64_t)l->width + l->left && l->origin >= (int64_t)l->above * l->row + l->left;
}

static int same_size(const slr_layout *a, const slr_layout *b)
{
    return a->images == b->images && a->channels == b->channels && a->height == b->height && a->width == b->width;
}

static int64_t plane_at(const slr_layout *l, int64_t plane)
{
    return l->origin + plane / l->channels * l->image + plane % l->channels * l->plane;
}

void slr_clear_margins(const slr_layout *l, float *plane)
{
    if (!l->above && !l->left)
        return;
    const int64_t before = (int64_t)l->above * l->row + l->left;
    memset(plane - before, 0, (size_t)before * sizeof *plane);
    for (int y = 0; y + 1 < l->height; y++)
        for (float *p = plane + (int64_t)y * l->row + l->width, *end = plane + (int64_t)(y + 1) * l->row; p < end; p++)
            *p = 0.0f;
    float *last = plane + (int64_t)(l->height - 1) * l->row + l->width;
    memset(last, 0, (size_t)((int64_t)l->above * l->row + l->left) * sizeof *last);
}

/* What one plane of the result needs. */
typedef struct {
    const slr_kernels *kernels;
    const slr_layout *a, *b, *out;
    const float *from_a, *from_b;
    float *to;
    slr_act act;
    int32_t kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left;
} job;

static void copy_plane(void *context, int64_t index)
{
    const job *j = context;
    const float *a = j->from_a + plane_at(j->a, index);
    float *out = j->to + plane_at(j->out, index);
    if (j->a->row == j->a->width && j->out->row == j->out->width)
        j->kernels->copy(a, out, (int64_t)j->out->height * j->out->width, j->act);
    else
        for (int64_t y = 0; y < j->out->height; y++)
            j->kernels->copy(a + y * j->a->row, out + y * j->out->row, j->out->width, j->act);
    slr_clear_margins(j->out, out);
}

static void add_plane(void *context, int64_t index)
{
    const job *j = context;
    const float *a = j->from_a + plane_at(j->a, index), *b = j->from_b + plane_at(j->b, index);
    float *out = j->to + plane_at(j->out, index);
    for (int64_t y = 0; y < j->out->height; y++)
        j->kernels->add(a + y * j->a->row, b + y * j->b->row, out + y * j->out->row, j->out->width, j->act);
    slr_clear_margins(j->out, out);
}

static void upsample_plane(void *context, int64_t index)
{
    const job *j = context;
    const float *a = j->from_a + plane_at(j->a, index);
    float *out = j->to + plane_at(j->out, index);
    const int32_t times_h = j->out->height / j->a->height, times_w = j->out->width / j->a->width;
    for (int64_t y = 0; y < j->a->height; y++) {
        const float *row = a + y * j->a->row;
        float *first = out + y * times_h * j->out->row;
        if (times_w == 2)
            for (int64_t x = 0; x < j->a->width; x++)
                first[2 * x] = first[2 * x + 1] = row[x];
        else
            for (int64_t x = 0; x < j->out->width; x++)
                first[x] = row[x / times_w];
        for (int32_t i = 1; i < times_h; i++)
            memcpy(first + i * j->out->row, first, (size_t)j->out->width * sizeof *first);
    }
    slr_clear_margins(j->out, out);
}

/* Columns of a row of the result that are held at once while the rows of a window are compared. */
enum { SEGMENT = 1024 };

static void max_pool_plane(void *context, int64_t index)
{
    const job *j = context;
    const float *a = j->from_a + plane_at(j->a, index);
    float *out = j->to + plane_at(j->out, index);
    const int64_t height = j->a->height, width = j->a->width;
    for (int64_t y = 0; y < j->out->height; y++) {
        const int64_t top = y * j->stride_h - j->pad_top;
        const int64_t from = top < 0 ? 0 : top, to = top + j->kernel_h > height ? height : top + j->kernel_h;
        for (int64_t x0 = 0; x0 < j->out->width; x0 += SEGMENT / (j->stride_w + j->kernel_w)) {
            const int64_t step = SEGMENT / (j->stride_w + j->kernel_w);
            const int64_t x1 = x0 + step < j->out->width ? x0 + step : j->out->width;
            const int64_t left = x0 * j->stride_w - j->pad_left;
            const int64_t right = (x1 - 1) * j->stride_w - j->pad_left + j->kernel_w;
            const int64_t first = left < 0 ? 0 : left, last = right > width ? width : right;
            float highest[SEGMENT];
            for (int64_t x = 0; x < right - left; x++)
                highest[x] = -INFINITY;
            float *inside = highest + (first - left);
            if (last > first && from < to) {
                memcpy(inside, a + from * j->a->row + first, (size_t)(last - first) * sizeof *inside);
                for (int64_t row = from + 1; row < to; row++)
                    j->kernels->larger(inside, a + row * j->a->row + first, inside, last - first);
            }
            float *result = out + y * j->out->row + x0;
            if (j->stride_w == 1) {
                memcpy(result, highest, (size_t)(x1 - x0) * sizeof *result);
                for (int64_t k = 1; k < j->kernel_w; k++)
                    j->kernels->larger(result, highest + k, result, x1 - x0);
            } else
                for (int64_t x = 0; x < x1 - x0; x++) {
                    const float *window = highest + x * j->stride_w;
                    float most = window[0];
                    for (int64_t k = 1; k < j->kernel_w; k++)
                        most = slr_larger(most, window[k]);
                    result[x] = most;
                }
        }
    }
    slr_clear_margins(j->out, out);
}

static void pool2_plane(void *context, int64_t index)
{
    const job *j = context;
    const float *a = j->from_a + plane_at(j->a, index);
    float *out = j->to + plane_at(j->out, index);
    for (int64_t y = 0; y < j->out->height; y++)
        j->kernels->pool2(a + 2 * y * j->a->row, a + (2 * y + 1) * j->a->row, out + y * j->out->row, j->out->width);
    slr_clear_margins(j->out, out);
}

static void each_plane(job *j, slr_pool *pool, void (*task)(void *, int64_t))
{
    j->kernels = slr_current();
    slr_pool_each(pool, (int64_t)j->out->images * j->out->channels, task, j);
}

int slr_copy(const slr_layout *in_layout, const float *in, const slr_layout *out_layout, float *out,
             int32_t activation, float slope, slr_pool *pool)
{
    if (!slr_layout_ok(in_layout) || !slr_layout_ok(out_layout) || !same_size(in_layout, out_layout))
        return SLR_BAD_ARGUMENT;
    job j = {.a = in_layout, .from_a = in, .out = out_layout, .to = out, .act = {activation, slope}};
    each_plane(&j, pool, copy_plane);
    return SLR_OK;
}

int slr_add(const slr_layout *a_layout, const float *a, const slr_layout *b_layout, const float *b,
            const slr_layout *out_layout, float *out, int32_t activation, float slope, slr_pool *pool)
{
    if (!slr_layout_ok(a_layout) || !slr_layout_ok(b_layout) || !slr_layout_ok(out_layout) ||
        !same_size(a_layout, out_layout) || !same_size(b_layout, out_layout))
        return SLR_BAD_ARGUMENT;
    job j = {.a = a_layout,
             .b = b_layout,
             .from_a = a,
             .from_b = b,
             .out = out_layout,
             .to = out,
             .act = {activation, slope}};
    each_plane(&j, pool, add_plane);
    return SLR_OK;
}

int slr_max_pool(const slr_layout *in_layout, const float *in, const slr_layout *out_layout, float *out,
                 int32_t kernel_h, int32_t kernel_w, int32_t stride_h, int32_t stride_w, int32_t pad_top,
                 int32_t pad_left, slr_pool *pool)
{
    if (!slr_layout_ok(in_layout) || !slr_layout_ok(out_layout) || in_layout->images != out_layout->images ||
        in_layout->channels != out_layout->channels || kernel_h < 1 || kernel_w < 1 || stride_h < 1 || stride_w < 1 ||
        pad_top < 0 || pad_left < 0 || pad_top >= kernel_h || pad_left >= kernel_w || kernel_w > SEGMENT ||
        stride_w > SEGMENT - kernel_w)
        return SLR_BAD_ARGUMENT;
    job j = {.a = in_layout,
             .from_a = in,
             .out = out_layout,
             .to = out,
             .kernel_h = kernel_h,
             .kernel_w = kernel_w,
             .stride_h = stride_h,
             .stride_w = stride_w,
             .pad_top = pad_top,
             .pad_left = pad_left};
    const int halves = kernel_h == 2 && kernel_w == 2 && stride_h == 2 && stride_w == 2 && !pad_top && !pad_left &&
                       out_layout->height <= in_layout->height / 2 && out_layout->width <= in_layout->width / 2;
    each_plane(&j, pool, halves ? pool2_plane : max_pool_plane);
    return SLR_OK;
}

int slr_upsample(const slr_layout *in_layout, const float *in, const slr_layout *out_layout, float *out, slr_pool *pool)
{
    if (!slr_layout_ok(in_layout) || !slr_layout_ok(out_layout) || in_layout->images != out_layout->images ||
        in_layout->channels != out_layout->channels || out_layout->height % in_layout->height ||
        out_layout->width % in_layout->width)
        return SLR_BAD_ARGUMENT;
    job j = {.a = in_layout, .from_a = in, .out = out_layout, .to = out};
    each_plane(&j, pool, upsample_plane);
    return SLR_OK;
}
