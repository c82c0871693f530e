// A mask of bits, drawn by position from a seed.
#include "dropout.h"

#include "kernels.h"
#include "parallel.h"

namespace {

/// The bits of 8 positions.
REVGNN_INLINE uint8_t draw_byte(const revgnn_keep_bits_args &a, uint64_t first) {
  const auto kept = hash_of<8>(a.seed, first) >= a.threshold;
#if defined(__AVX2__)
  return uint8_t(_mm256_movemask_ps((__m256)kept));
#else
  uint8_t byte = 0;
  for (int lane = 0; lane < 8; lane++) byte |= uint8_t((kept[lane] & 1) << lane);
  return byte;
#endif
}

}  // namespace

namespace revgnn {
namespace REVGNN_ISA {

int keep_bits(const revgnn_keep_bits_args &a) {
  for_rows(a.num_bytes / 64 + 1, a.threads, a.num_bytes * 8, [&](int64_t chunk) REVGNN_LAMBDA {
    for (int64_t k = chunk * 64; k < chunk * 64 + 64 && k < a.num_bytes; k++) a.bits[k] = draw_byte(a, uint64_t(k) * 8);
  });
  return 0;
}

}  // namespace REVGNN_ISA
}  // namespace revgnn
