/* The sparse runtime's C interface: what slr_det/runtime/library.py calls. No C++ and no torch in it. */
#ifndef SLR_RUNTIME_H
#define SLR_RUNTIME_H

#include <stdint.h>

#if defined(__GNUC__)
#define SLR_API __attribute__((visibility("default")))
#else
#define SLR_API
#endif

/* Raised whenever a struct or a function below changes; the Python side refuses any other. */
#define SLR_ABI 1

/* Floats that must be readable behind the last plane (its margins included) of whatever slr_conv_run reads. */
#define SLR_SLACK 32

enum slr_status {
    SLR_OK = 0,
    SLR_NO_MEMORY = 1,
    SLR_BAD_ARGUMENT = 2, /* a size that is not positive, layouts that do not belong together */
    SLR_TOO_LARGE = 3     /* offsets that 32 bits cannot hold */
};

enum slr_isa { SLR_PORTABLE = 0, SLR_AVX2 = 1, SLR_AVX512 = 2, SLR_NEON = 3 };

enum slr_activation { SLR_NONE = 0, SLR_RELU = 1, SLR_LEAKY_RELU = 2, SLR_SILU = 3 };

/*
 * Where the numbers of a float32 tensor (images, channels, height, width) lie. All distances in floats.
 *
 * A plane may have margins of zeros: `above` rows above the picture and as many below it, and `left` columns. The
 * columns to the right of a row are those to the left of the next row, so `row` >= width + left, and as many zeros
 * stand behind the last row. Whoever writes the tensor leaves the margins zero. A plain contiguous tensor has
 * above = left = 0, row = width.
 */
typedef struct {
    int32_t images, channels, height, width;
    int64_t origin; /* from the pointer that is passed to image 0, channel 0, row 0, column 0 */
    int64_t image;  /* from an image to the next */
    int64_t plane;  /* from a channel to the next */
    int32_t row;    /* from a row to the next */
    int32_t above, left;
} slr_layout;

typedef struct {
    int32_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
    int32_t pad_top, pad_left; /* zeros around the input; those at the other side follow from the output's size */
    int32_t groups;
    int32_t transposed; /* 1: a transposed convolution whose kernel equals its stride, without padding */
    int32_t activation; /* enum slr_activation */
    float slope;        /* of SLR_LEAKY_RELU, below zero */
    int32_t pool;       /* 0, or 2: a maximum over 2 x 2 with stride 2 follows the activation */
} slr_conv_spec;

typedef struct {
    int64_t nonzeros;  /* weights kept */
    int64_t macs;      /* multiply-adds for all images of the layout, without those of the margins */
    int64_t bytes;     /* that the weights take */
    int64_t workspace; /* floats that slr_conv_run needs; 0 where the input's margins suffice */
} slr_conv_info;

typedef struct slr_pool slr_pool;
typedef struct slr_conv slr_conv;
typedef struct slr_linear slr_linear;

SLR_API int slr_abi(void);
/* Whether this processor, and this build, has the instructions of an enum slr_isa. */
SLR_API int slr_isa_available(int isa);
SLR_API int slr_best_isa(void);
/* What everything created or run from now on uses; SLR_BAD_ARGUMENT where it is not available. */
SLR_API int slr_set_isa(int isa);
SLR_API int slr_get_isa(void);

/* `threads` counts the caller: a pool of 1 starts none. One run at a time may use a pool. NULL stands for 1 thread. */
SLR_API slr_pool *slr_pool_new(int threads);
SLR_API int slr_pool_threads(const slr_pool *pool);
SLR_API void slr_pool_free(slr_pool *pool);

/*
 * Pack the nonzeros of `weights` (out, in / groups, kernel_h, kernel_w; transposed: in, out / groups, ...) for these
 * layouts. `bias` may be NULL. `out` has the size after the pooling.
 */
SLR_API int slr_conv_new(const slr_conv_spec *spec, const float *weights, const float *bias, const slr_layout *in,
                         const slr_layout *out, slr_conv **result);
SLR_API void slr_conv_describe(const slr_conv *conv, slr_conv_info *info);
/* `in` and `out` must not overlap, and the margins of `out` must be zero before: they stay so. Many threads may run one
 * conv at once, each with its own workspace. */
SLR_API int slr_conv_run(const slr_conv *conv, const float *in, float *out, float *workspace, slr_pool *pool);
SLR_API void slr_conv_free(slr_conv *conv);

/* A linear layer for `rows` inputs at once. `weights` is (out_features, in_features); rows of `in` and `out` are
 * contiguous. */
SLR_API int slr_linear_new(int32_t in_features, int32_t out_features, int64_t rows, const float *weights,
                           const float *bias, int32_t activation, float slope, slr_linear **result);
SLR_API void slr_linear_describe(const slr_linear *linear, slr_conv_info *info);
SLR_API int slr_linear_run(const slr_linear *linear, const float *in, float *out, float *workspace, slr_pool *pool);
SLR_API void slr_linear_free(slr_linear *linear);

/* Copy a tensor into another layout, through an activation; the margins of `out` become zero. */
SLR_API int slr_copy(const slr_layout *in_layout, const float *in, const slr_layout *out_layout, float *out,
                     int32_t activation, float slope, slr_pool *pool);
/* out = activation(a + b). `out` may be `a` or `b` itself. */
SLR_API int slr_add(const slr_layout *a_layout, const float *a, const slr_layout *b_layout, const float *b,
                    const slr_layout *out_layout, float *out, int32_t activation, float slope, slr_pool *pool);
/* Maximum over windows; what lies outside the picture never wins, also where the margins hold zeros. */
SLR_API int slr_max_pool(const slr_layout *in_layout, const float *in, const slr_layout *out_layout, float *out,
                         int32_t kernel_h, int32_t kernel_w, int32_t stride_h, int32_t stride_w, int32_t pad_top,
                         int32_t pad_left, slr_pool *pool);
/* Nearest-neighbour enlargement by whole factors, which follow from the two sizes. */
SLR_API int slr_upsample(const slr_layout *in_layout, const float *in, const slr_layout *out_layout, float *out,
                         slr_pool *pool);

/* Measured with the instructions in use, on one thread: multiply-adds on registers alone (flop/s, a multiply-add is
 * two) and loads from a buffer of `bytes` (byte/s; at least 8192), which start `shift` floats (0 to 15) behind a cache
 * line. The best of what `seconds` has room for. */
SLR_API double slr_peak_fma(double seconds);
SLR_API double slr_bandwidth(int64_t bytes, int32_t shift, double seconds);

#endif
