// A mask of bits, drawn by position from a seed.
#include "dropout.h"

#include "kernels.h"
#include "parallel.h"

namespace {

constexpr int64_t kChunk = 64;  // bytes

/// A chunk of the mask as one row of 8 kChunk elements.
struct Chunk {
  int64_t width;
  double scale;
  uint64_t seed;
  uint32_t threshold;
};

/// The bits of 8 elements.
REVGNN_INLINE uint8_t draw_byte(const Keep<float, Drop::seed> &keep, int64_t channel) {
  const auto kept = keep.template factor<8>(channel) != 0.f;
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
  const Chunk chunk{8 * kChunk, 1.0, a.seed, a.threshold};
  for_rows(ceil_div(a.num_bytes, kChunk), a.threads, a.num_bytes * 8, [&](int64_t i) REVGNN_LAMBDA {
    const Keep<float, Drop::seed> keep(chunk, i);
    uint8_t *to = a.bits + i * kChunk;
    for (int64_t k = 0; k < kChunk && i * kChunk + k < a.num_bytes; k++) to[k] = draw_byte(keep, 8 * k);
  });
  return 0;
}

}  // namespace REVGNN_ISA
}  // namespace revgnn
