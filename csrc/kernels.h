// What the per-instruction-set builds and the dispatcher share: one table of kernels each.
#pragma once

#include "revgnn_kernels.h"

namespace revgnn {

struct Table {
#define REVGNN_MEMBER(name) int (*name)(const revgnn_##name##_args &);
  REVGNN_KERNELS(REVGNN_MEMBER)
#undef REVGNN_MEMBER
};

/// The kernels that are built once more for AVX-512 with bfloat16, whose other kernels are those of AVX-512: all that
/// multiply bfloat16, or are bound by rounding to it.
#define REVGNN_BF16_KERNELS(K) \
  K(linear)                    \
  K(linear_backward)           \
  K(norm)                      \
  K(norm_backward)             \
  K(spmm)

#ifdef REVGNN_ISA
namespace REVGNN_ISA {
#define REVGNN_DECLARE(name) int name(const revgnn_##name##_args &args);
REVGNN_KERNELS(REVGNN_DECLARE)
#undef REVGNN_DECLARE
}  // namespace REVGNN_ISA
#endif

}  // namespace revgnn
