/*
 * The sparse runtime against plain loops in double precision, without Python: for sanitizers and other processors.
 *
 *   driver kernels SEED COUNT    random layers, each with all instructions there are
 *   driver refusals SEED COUNT   what no layer can be, and numbers at the ends of their types
 *   driver threads SEED COUNT    short rounds, pools that come and go, two at once, a fork
 *   driver overrun|race 0 0      what a sanitizer has to find within the library
 *
 * Prints what was done and exits with 0, or with 1 at the first difference.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include "driver.h"

static const float SLOPE = 0.1f;
static slr_pool *pools[4]; /* of 1 to 3 threads; the first one is none */

static float *guarded(int64_t count)
{
    float *memory = room_for(count, sizeof *memory);
    for (int64_t i = 0; i < count; i++)
        memcpy(memory + i, &GUARD_BITS, sizeof *memory);
    return memory;
}

static float *weights_of(int64_t count, double density)
{
    float *w = room_for(count, sizeof *w);
    for (int64_t i = 0; i < count; i++)
        w[i] = (random_bits() >> 8) < density * 16777216 ? number() : 0.0f;
    return w;
}

static double a_density(void)
{
    return one_in(8) ? 0 : one_in(8) ? 1 : between(0, 100) / 100.0;
}

/* The sum at an output, before the pooling. */
static exact sum_at(const slr_conv_spec *s, const float *w, const float *bias, const tensor *in, int outputs, int n,
                    int o, int y, int x)
{
    const int of_in = in->at.channels / s->groups, of_out = outputs / s->groups, group = o / of_out;
    exact e = {bias ? bias[o] : 0, bias ? fabs((double)bias[o]) : 0};
    for (int i = 0; i < of_in; i++)
        for (int ky = 0; ky < s->kernel_h; ky++)
            for (int kx = 0; kx < s->kernel_w; kx++) {
                const int64_t row = s->transposed ? (int64_t)(group * of_in + i) * of_out + o % of_out
                                                  : (int64_t)o * of_in + i;
                const double value = (double)w[(row * s->kernel_h + ky) * s->kernel_w + kx];
                int from_y = y * s->stride_h + ky * s->dilation_h - s->pad_top;
                int from_x = x * s->stride_w + kx * s->dilation_w - s->pad_left;
                if (s->transposed) {
                    if (ky != y % s->kernel_h || kx != x % s->kernel_w)
                        continue;
                    from_y = y / s->kernel_h;
                    from_x = x / s->kernel_w;
                }
                if (value == 0 || from_y < 0 || from_y >= in->at.height || from_x < 0 || from_x >= in->at.width)
                    continue;
                const double product = value * (double)*place_of(in, n, group * of_in + i, from_y, from_x);
                e.value += product;
                e.terms += fabs(product);
            }
    return e;
}

static exact conv_at(const slr_conv_spec *s, const float *w, const float *bias, const tensor *in, int outputs, int n,
                     int o, int y, int x)
{
    if (!s->pool)
        return activated(sum_at(s, w, bias, in, outputs, n, o, y, x), s->activation, (double)s->slope);
    exact e = {-INFINITY, 0};
    for (int i = 0; i < 4; i++)
        e = larger(e, activated(sum_at(s, w, bias, in, outputs, n, o, 2 * y + i / 2, 2 * x + i % 2), s->activation,
                                (double)s->slope));
    return e;
}

static int max_of(int a, int b)
{
    return a > b ? a : b;
}

static int floor_of(double x)
{
    return (int)floor(x);
}

/* How long rows are in the workspace: an output of such rows is written in place, from several parts of the input. */
static int sorted_row(const slr_conv_spec *s, int width, int out_width)
{
    const int stride = s->transposed ? 1 : s->stride_w, planes = (width + stride - 1) / stride;
    const int left = max_of(0, -floor_of(-(double)s->pad_left / stride));
    const int high = floor_of((double)((s->kernel_w - 1) * s->dilation_w - s->pad_left) / stride);
    return max_of(planes + max_of(left, max_of(0, out_width + high - planes)), out_width);
}

static void conv_case(void)
{
    const int deep = one_in(25), wide = one_in(40);
    const int groups = deep || wide ? 1 : between(1, 3);
    const int of_in = deep ? between(60, 200) : wide ? 1 : between(1, 7), of_out = deep ? between(1, 4) : between(1, 7);
    const int height = wide ? between(1, 3) : deep ? between(12, 24) : one_in(4) ? 1 : between(1, 12);
    const int width = wide ? between(4090, 8300) : deep ? between(12, 24) : one_in(4) ? 1 : between(1, 24);
    slr_conv_spec s = {between(1, 4), between(1, 4), between(1, 3), between(1, 3), between(1, 3), between(1, 3),
                       between(0, 4), between(0, 4), groups,        one_in(5),     between(0, 3), SLOPE, 0};
    int out_h, out_w;
    if (deep)
        s.stride_h = s.stride_w = s.dilation_h = s.dilation_w = 1;
    if (s.transposed) {
        s.stride_h = s.kernel_h;
        s.stride_w = s.kernel_w;
        s.dilation_h = s.dilation_w = 1;
        s.pad_top = s.pad_left = 0;
        out_h = height * s.kernel_h;
        out_w = width * s.kernel_w;
    } else {
        /* as many as a padding of 0 to 4 below and at the right gives, and at least one */
        const int free_h = height + s.pad_top + between(0, 4) - (s.kernel_h - 1) * s.dilation_h - 1;
        const int free_w = width + s.pad_left + between(0, 4) - (s.kernel_w - 1) * s.dilation_w - 1;
        out_h = (free_h < 0 ? 0 : free_h) / s.stride_h + 1;
        out_w = (free_w < 0 ? 0 : free_w) / s.stride_w + 1;
        if (out_h >= 2 && out_w >= 2 && one_in(3)) {
            s.pool = 2;
            out_h /= 2;
            out_w /= 2;
        }
    }
    const int images = between(1, 2), inputs = groups * of_in, outputs = groups * of_out;
    const int64_t count = (int64_t)outputs * of_in * s.kernel_h * s.kernel_w;
    float *w = weights_of(count, deep ? between(10, 100) / 100.0 : a_density());
    float *bias = one_in(2) ? weights_of(outputs, 1) : NULL;
    tensor in = make(images, inputs, height, width, 1, 0, 0);
    const int rows[] = {0, in.at.row, sorted_row(&s, width, out_w * (s.pool ? 2 : 1))};
    tensor out = make(images, outputs, out_h, out_w, 0, 0, rows[between(0, 2)]);
    exact *expected = room_for((int64_t)images * outputs * out_h * out_w, sizeof *expected), *next = expected;
    for (int n = 0; n < images; n++)
        for (int o = 0; o < outputs; o++)
            for (int y = 0; y < out_h; y++)
                for (int x = 0; x < out_w; x++)
                    *next++ = conv_at(&s, w, bias, &in, outputs, n, o, y, x);
    slr_pool *pool = pools[between(0, 3)];
    for (int isa = 0; isa < ISAS; isa++) {
        if (slr_set_isa(isa))
            continue;
        char what[200];
        snprintf(what, sizeof what, "%s: %d x %d x %d x %d, kernel %d x %d, stride %d x %d, out %d x %d x %d, act %d",
                 ISA_NAMES[isa], images, inputs, height, width, s.kernel_h, s.kernel_w, s.stride_h, s.stride_w, outputs,
                 out_h, out_w, s.activation);
        slr_conv *conv;
        const int status = slr_conv_new(&s, w, bias, &in.at, &out.at, &conv);
        if (status)
            FAIL("%s: status %d", what, status);
        slr_conv_info info;
        slr_conv_describe(conv, &info);
        float *workspace = guarded(info.workspace);
        if (slr_conv_run(conv, in.data, out.data, info.workspace ? workspace : NULL, pool))
            FAIL("%s: does not run", what);
        check_all(&out, expected, (int64_t)of_in * s.kernel_h * s.kernel_w, what);
        free(workspace);
        slr_conv_free(conv);
    }
    free(expected);
    discard(&in);
    discard(&out);
    free(w);
    free(bias);
}

static void linear_case(void)
{
    const int inputs = one_in(60) ? between(65530, 65545) : between(1, 90), outputs = between(1, 70);
    const int rows = inputs > 90 ? between(1, 5) : one_in(2) ? between(1, 6) : between(1, 140);
    float *w = weights_of((int64_t)inputs * outputs, a_density()), *bias = one_in(2) ? weights_of(outputs, 1) : NULL;
    float *in = weights_of((int64_t)inputs * rows, 1);
    const int activation = between(0, 3);
    slr_pool *pool = pools[between(0, 3)];
    for (int isa = 0; isa < ISAS; isa++) {
        if (slr_set_isa(isa))
            continue;
        char what[100];
        snprintf(what, sizeof what, "%s: linear, %d x %d -> %d, act %d", ISA_NAMES[isa], rows, inputs, outputs,
                 activation);
        slr_linear *linear;
        if (slr_linear_new(inputs, outputs, rows, w, bias, activation, SLOPE, &linear))
            FAIL("%s: refused", what);
        slr_conv_info info;
        slr_linear_describe(linear, &info);
        float *workspace = guarded(info.workspace), *out = guarded((int64_t)rows * outputs);
        if (slr_linear_run(linear, in, out, info.workspace ? workspace : NULL, pool))
            FAIL("%s: does not run", what);
        for (int r = 0; r < rows; r++)
            for (int o = 0; o < outputs; o++) {
                exact e = {bias ? bias[o] : 0, bias ? fabs((double)bias[o]) : 0};
                for (int i = 0; i < inputs; i++) {
                    const double product = (double)w[(int64_t)o * inputs + i] * (double)in[(int64_t)r * inputs + i];
                    e.value += product;
                    e.terms += fabs(product);
                }
                check_number(out[(int64_t)r * outputs + o], activated(e, activation, (double)SLOPE), inputs, what);
            }
        free(workspace);
        free(out);
        slr_linear_free(linear);
    }
    free(w);
    free(bias);
    free(in);
}

/* Copies and sums, the latter also into one of their terms; and enlargements. */
static void elementwise_case(void)
{
    const int images = between(1, 2), channels = between(1, 4), height = between(1, 9), width = between(1, 50);
    const int activation = between(0, 3), into = between(0, 2), times_h = between(1, 4), times_w = between(1, 4);
    slr_pool *pool = pools[between(0, 3)];
    for (int isa = 0; isa < ISAS; isa++) {
        if (slr_set_isa(isa))
            continue;
        tensor a = make(images, channels, height, width, 0, 0, 0), b = make(images, channels, height, width, 0, 0, 0);
        tensor copy = make(images, channels, height, width, 0, 1, 0);
        tensor other = make(images, channels, height, width, 0, 1, 0);
        tensor large = make(images, channels, height * times_h, width * times_w, 0, 1, 0);
        const int64_t count = (int64_t)images * channels * height * width;
        exact *copied = room_for(count, sizeof *copied), *summed = room_for(count, sizeof *summed);
        exact *enlarged = room_for(count * times_h * times_w, sizeof *enlarged);
        int64_t k = 0;
        for (int n = 0; n < images; n++)
            for (int c = 0; c < channels; c++)
                for (int y = 0; y < height; y++)
                    for (int x = 0; x < width; x++, k++) {
                        const double one = (double)*place_of(&a, n, c, y, x), two = (double)*place_of(&b, n, c, y, x);
                        copied[k] = activated((exact){one, 0}, activation, (double)SLOPE);
                        summed[k] = activated((exact){one + two, fabs(one) + fabs(two)}, activation, (double)SLOPE);
                    }
        k = 0;
        for (int n = 0; n < images; n++)
            for (int c = 0; c < channels; c++)
                for (int y = 0; y < height * times_h; y++)
                    for (int x = 0; x < width * times_w; x++)
                        enlarged[k++] = (exact){(double)*place_of(&a, n, c, y / times_h, x / times_w), 0};
        tensor *sum = into == 0 ? &a : into == 1 ? &b : &other;
        if (slr_copy(&a.at, a.data, &copy.at, copy.data, activation, SLOPE, pool) ||
            slr_upsample(&a.at, a.data, &large.at, large.data, pool) ||
            slr_add(&a.at, a.data, &b.at, b.data, &sum->at, sum->data, activation, SLOPE, pool))
            FAIL("%s: elementwise, refused", ISA_NAMES[isa]);
        check_all(&copy, copied, 0, "copy");
        check_all(&large, enlarged, 0, "upsample");
        check_all(sum, summed, 1, "add");
        tensor *all[] = {&a, &b, &copy, &other, &large};
        for (int i = 0; i < 5; i++)
            discard(all[i]);
        free(copied);
        free(summed);
        free(enlarged);
    }
}

static void max_pool_case(void)
{
    const int halves = one_in(4); /* two by two, which has a loop of its own */
    const int kh = halves ? 2 : between(1, 5), kw = halves ? 2 : between(1, 5);
    const int sh = halves ? 2 : between(1, 3), sw = halves ? 2 : between(1, 3);
    const int ph = halves ? 0 : between(0, kh - 1), pw = halves ? 0 : between(0, kw - 1);
    const int height = between(1, 12), width = one_in(20) ? between(900, 2200) : between(1, 40);
    const int out_h = (height - 1 + ph) / sh + 1, out_w = (width - 1 + pw) / sw + 1; /* each window begins inside */
    slr_pool *pool = pools[between(0, 3)];
    tensor in = make(1, 3, height, width, 0, 0, 0);
    for (int i = 0; i < 20; i++)
        *place_of(&in, 0, between(0, 2), between(0, height - 1), between(0, width - 1)) = -INFINITY;
    for (int isa = 0; isa < ISAS; isa++) {
        if (slr_set_isa(isa))
            continue;
        tensor out = make(1, 3, out_h, out_w, 0, 1, 0);
        if (slr_max_pool(&in.at, in.data, &out.at, out.data, kh, kw, sh, sw, ph, pw, pool))
            FAIL("%s: max_pool, refused", ISA_NAMES[isa]);
        check_around(&out, "max_pool");
        for (int c = 0; c < 3; c++)
            for (int y = 0; y < out_h; y++)
                for (int x = 0; x < out_w; x++) {
                    float most = -INFINITY;
                    for (int v = 0; v < kh * kw; v++) {
                        const int from_y = y * sh - ph + v / kw, from_x = x * sw - pw + v % kw;
                        if (from_y >= 0 && from_y < height && from_x >= 0 && from_x < width)
                            most = fmaxf(most, *place_of(&in, 0, c, from_y, from_x));
                    }
                    if (*place_of(&out, 0, c, y, x) != most)
                        FAIL("%s: max_pool %d x %d of %d x %d", ISA_NAMES[isa], kh, kw, height, width);
                }
        discard(&out);
    }
    discard(&in);
}

static void kernels(int count)
{
    for (int i = 0; i < count; i++) {
        conv_case();
        if (i % 3 == 0)
            linear_case();
        if (i % 3 == 1)
            elementwise_case();
        if (i % 3 == 2)
            max_pool_case();
    }
}

/* Sizes and distances from the ends of their types, where sums and products overflow. */
static int32_t extreme(void)
{
    static const int32_t values[] = {INT32_MIN, -1, 0, 1, 2, 3, 46341, 65536, 1 << 30, INT32_MAX - 1, INT32_MAX};
    return values[random_bits() % (sizeof values / sizeof *values)];
}

/*
 * Nothing but statuses comes of wrong numbers. Sizes that say how many weights there are stay true, because a caller
 * that lies about those has nothing to hope for.
 */
static void refusal_case(void)
{
    static const float w[2 * 2 * 3 * 3] = {1, 2, 3}, data[4096];
    static float out_data[4096];
    slr_layout in = {1, 2, 4, 4, 0, 32, 16, 4, 0, 0}, out = in;
    slr_conv_spec s = {3, 3, 1, 1, 1, 1, 1, 1, 1, 0, 0, SLOPE, 0};
    int32_t *const sizes[] = {&in.height, &in.width, &in.row, &in.above, &in.left, &out.height, &out.width, &out.row,
                              &out.above, &out.left, &in.images, &out.images, &s.stride_h, &s.stride_w, &s.dilation_h,
                              &s.dilation_w, &s.pad_top, &s.pad_left, &s.transposed, &s.activation, &s.pool};
    int64_t *const distances[] = {&in.origin, &in.image, &in.plane, &out.origin, &out.image, &out.plane};
    for (int i = between(1, 4); i > 0; i--)
        *sizes[random_bits() % (sizeof sizes / sizeof *sizes)] = extreme();
    for (int i = between(0, 2); i > 0; i--)
        *distances[random_bits() % 6] = (int64_t)extreme() * (one_in(2) ? 1 : 65536);
    slr_conv *conv;
    const int status = slr_conv_new(&s, w, NULL, &in, &out, &conv);
    if (status == SLR_OK) {
        slr_conv_info info;
        slr_conv_describe(conv, &info);
        slr_conv_free(conv);
    } else if ((status != SLR_BAD_ARGUMENT && status != SLR_TOO_LARGE && status != SLR_NO_MEMORY) || conv)
        FAIL("a refusal of status %d", status);

    /* These run at once, so one size that cannot be is put in. */
    slr_layout wrong = {1, 2, 4, 4, 0, 32, 16, 4, 0, 0};
    const slr_layout right = wrong;
    int32_t *const fields[] = {&wrong.images, &wrong.channels, &wrong.height, &wrong.width, &wrong.above, &wrong.left};
    const int field = between(0, 5);
    *fields[field] = field < 4 ? between(-1, 0) : one_in(2) ? -1 : INT32_MAX;
    slr_linear *linear;
    const int refused[] = {
        slr_copy(&wrong, data, &right, out_data, 0, 0, NULL),
        slr_copy(&right, data, &wrong, out_data, 0, 0, NULL),
        slr_add(&wrong, data, &right, data, &right, out_data, 0, 0, NULL),
        slr_add(&right, data, &wrong, data, &right, out_data, 0, 0, NULL),
        slr_add(&right, data, &right, data, &wrong, out_data, 0, 0, NULL),
        slr_upsample(&wrong, data, &right, out_data, NULL),
        slr_upsample(&right, data, &wrong, out_data, NULL),
        slr_max_pool(&wrong, data, &right, out_data, 1, 1, 1, 1, 0, 0, NULL),
        slr_max_pool(&right, data, &wrong, out_data, 1, 1, 1, 1, 0, 0, NULL),
        slr_max_pool(&right, data, &right, out_data, between(-1, 0), 1, 1, 1, 0, 0, NULL),
        slr_max_pool(&right, data, &right, out_data, 3, 3, 1, 1, 3, 1, NULL),
        slr_max_pool(&right, data, &right, out_data, 1, 1, 0, 1, 0, 0, NULL),
        slr_max_pool(&right, data, &right, out_data, 1, INT32_MAX, 1, INT32_MAX, 0, 0, NULL),
        slr_linear_new(between(-1, 0), 2, 1, w, NULL, 0, 0, &linear),
        slr_linear_new(2, between(-1, 0), 1, w, NULL, 0, 0, &linear),
        slr_linear_new(2, 2, between(-1, 0), w, NULL, 0, 0, &linear),
        slr_linear_new(2, 2, 1, w, NULL, between(4, 9), 0, &linear),
        slr_set_isa(between(4, 99)),
        slr_set_isa(-1),
    };
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (refused[i] != SLR_BAD_ARGUMENT)
            FAIL("call %zu gave status %d where an argument is wrong", i, refused[i]);
}

/* Rounds of a microsecond of work and less, checked each. */
static void rounds(slr_pool *pool, int count)
{
    const slr_layout at = {1, 16, 2, 8, 0, 256, 16, 8, 0, 0};
    float in[256], out[256];
    for (int i = 0; i < count; i++) {
        for (int k = 0; k < 256; k++)
            in[k] = (float)(i + k);
        if (slr_add(&at, in, &at, in, &at, out, 0, 0, pool))
            FAIL("a round is refused");
        for (int k = 0; k < 256; k++)
            if (out[k] != 2 * in[k])
                FAIL("round %d: %g at %d", i, (double)out[k], k);
        if (i % 50 == 0)
            usleep(300); /* the others fall asleep */
    }
}

static void *rounds_of_its_own(void *count)
{
    slr_pool *pool = slr_pool_new(2);
    rounds(pool, *(int *)count);
    slr_pool_free(pool);
    return NULL;
}

static void threads_case(int count)
{
    for (int threads = 2; threads <= 4; threads++) {
        slr_pool *pool = slr_pool_new(threads);
        if (slr_pool_threads(pool) != threads)
            FAIL("%d threads, of %d", slr_pool_threads(pool), threads);
        rounds(pool, count);
        slr_pool_free(pool);
    }
    for (int i = 0; i < count / 10; i++) {
        slr_pool *pool = slr_pool_new(between(2, 4));
        if (one_in(2))
            rounds(pool, between(1, 3));
        if (one_in(3))
            usleep(200);
        slr_pool_free(pool);
    }
    pthread_t both[2];
    for (int i = 0; i < 2; i++)
        pthread_create(&both[i], NULL, rounds_of_its_own, &count);
    for (int i = 0; i < 2; i++)
        pthread_join(both[i], NULL);
}

/* In a child the pool has lost its threads: it goes on alone, and may be freed; a new one has threads again. */
static void fork_case(void)
{
    slr_pool *pool = slr_pool_new(3);
    rounds(pool, 20);
    const pid_t child = fork();
    if (child == 0) {
        rounds(pool, 20);
        slr_pool_free(pool);
#if !defined(__SANITIZE_THREAD__) /* which allows no threads after a fork */
        pool = slr_pool_new(3);
        rounds(pool, 20);
        slr_pool_free(pool);
#endif
        _exit(0);
    }
    int status;
    if (waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status))
        FAIL("the child of a fork ended with %d", status);
    rounds(pool, 20);
    slr_pool_free(pool);
}

/* A layout that promises more than the memory holds. */
static void overrun(void)
{
    const slr_layout at = {1, 1, 8, 8, 0, 64, 64, 8, 0, 0};
    float *in = weights_of(63, 1), *out = room_for(64, sizeof *out);
    slr_copy(&at, in, &at, out, SLR_SILU, 0, NULL);
    free(in);
    free(out);
}

static void *copies(void *out)
{
    static const float in[64];
    const slr_layout at = {1, 1, 8, 8, 0, 64, 64, 8, 0, 0};
    for (int i = 0; i < 1000; i++)
        slr_copy(&at, in, &at, out, SLR_RELU, 0, NULL);
    return NULL;
}

/* Two that write the same numbers. */
static void race(void)
{
    float out[64];
    pthread_t other;
    pthread_create(&other, NULL, copies, out);
    copies(out);
    pthread_join(other, NULL);
}

int main(int argc, char **argv)
{
    if (argc != 4)
        FAIL("usage: driver kernels|refusals|threads|overrun|race SEED COUNT");
    const int count = atoi(argv[3]);
    seed_from(strtoull(argv[2], NULL, 10));
    for (int i = 1; i < 4; i++)
        pools[i] = slr_pool_new(i);
    if (!strcmp(argv[1], "kernels"))
        kernels(count);
    else if (!strcmp(argv[1], "refusals"))
        for (int i = 0; i < count; i++)
            refusal_case();
    else if (!strcmp(argv[1], "threads")) {
        threads_case(count);
        fork_case();
    } else if (!strcmp(argv[1], "overrun"))
        overrun();
    else if (!strcmp(argv[1], "race"))
        race();
    else
        FAIL("what is %s?", argv[1]);
    for (int i = 1; i < 4; i++)
        slr_pool_free(pools[i]);
    printf("%s: %d", argv[1], count);
    for (int isa = 0; isa < ISAS; isa++)
        if (slr_isa_available(isa))
            printf(" %s", ISA_NAMES[isa]);
    printf("\n");
    return 0;
}
