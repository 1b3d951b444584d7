/* The loops for 64-bit ARM, which always has NEON. */
#if defined(__aarch64__)

#include <arm_neon.h>
#include <string.h>

#include "internal.h"

#define V float32x4_t
#define W 4
#define BLOCK 24
#define LOAD vld1q_f32
#define STORE vst1q_f32
#define SET1 vdupq_n_f32
#define ADD vaddq_f32
#define SUB vsubq_f32
#define MUL vmulq_f32
#define DIV vdivq_f32
#define MAX vmaxq_f32
#define MIN vminq_f32
#define LARGER vmaxq_f32 /* keeps any NaN, as does vpmaxq_f32 */
#define FMA(a, b, c) vfmaq_f32(c, a, b)
#define ROUND vrndnq_f32
#define POW2(n) vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23))
#define EVEN vuzp1q_f32
#define POOL2(a0, a1, b0, b1) vpmaxq_f32(vmaxq_f32(a0, b0), vmaxq_f32(a1, b1))
#define TABLE slr_kernels_neon
#define ISA SLR_NEON
#include "kernels.inc"

#endif
