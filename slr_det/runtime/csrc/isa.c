/* Which instructions this processor has, and which loops are in use. */
#include <stdatomic.h>
#include <stddef.h>

#include "internal.h"

static const slr_kernels *kernels_of(int isa)
{
    switch (isa) {
    case SLR_PORTABLE:
        return &slr_kernels_portable;
#if defined(__x86_64__)
    case SLR_AVX2:
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &slr_kernels_avx2 : NULL;
    case SLR_AVX512:
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                       __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")
                   ? &slr_kernels_avx512
                   : NULL;
#elif defined(__aarch64__)
    case SLR_NEON:
        return &slr_kernels_neon;
#endif
    default:
        return NULL;
    }
}

static _Atomic(const slr_kernels *) in_use;

int slr_abi(void)
{
    return SLR_ABI;
}

int slr_isa_available(int isa)
{
    return kernels_of(isa) != NULL;
}

int slr_best_isa(void)
{
    static const int order[] = {SLR_AVX512, SLR_AVX2, SLR_NEON};
    for (size_t i = 0; i < sizeof order / sizeof *order; i++)
        if (kernels_of(order[i]))
            return order[i];
    return SLR_PORTABLE;
}

int slr_set_isa(int isa)
{
    const slr_kernels *kernels = kernels_of(isa);
    if (!kernels)
        return SLR_BAD_ARGUMENT;
    atomic_store(&in_use, kernels);
    return SLR_OK;
}

const slr_kernels *slr_current(void)
{
    const slr_kernels *kernels = atomic_load(&in_use);
    if (!kernels) {
        kernels = kernels_of(slr_best_isa());
        atomic_store(&in_use, kernels);
    }
    return kernels;
}

int slr_get_isa(void)
{
    return slr_current()->isa;
}
