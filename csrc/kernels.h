// What the per-instruction-set builds and the dispatcher share: one table of kernels each.
#pragma once

#include "revgnn_kernels.h"

namespace revgnn {

struct Table {
#define REVGNN_MEMBER(name) int (*name)(const revgnn_##name##_args &);
  REVGNN_KERNELS(REVGNN_MEMBER)
#undef REVGNN_MEMBER
};

#ifdef REVGNN_ISA
namespace REVGNN_ISA {
#define REVGNN_DECLARE(name) int name(const revgnn_##name##_args &args);
REVGNN_KERNELS(REVGNN_DECLARE)
#undef REVGNN_DECLARE
}  // namespace REVGNN_ISA
#endif

}  // namespace revgnn
