// Which elements drop out: by a mask of bytes or bits, or drawn by position from a seed.
#pragma once

#include "columns.h"

namespace {

/// The 32-bit finaliser lowbias32.
template <int W>
REVGNN_INLINE Vec<uint32_t, W> mix(Vec<uint32_t, W> h) {
  h ^= h >> 16;
  h *= 0x7feb352du;
  h ^= h >> 15;
  h *= 0x846ca68bu;
  return h ^ (h >> 16);
}

enum class Drop { none, mask, bits, seed };

/// The factor of each element of one row: 0 where it drops, `scale` where it stays.
template <class S, Drop drop>
struct Keep {
  const uint8_t *mask = nullptr; /* of this row */
  uint64_t position = 0;         /* of the row's first element */
  uint32_t seed_low = 0, seed_high = 0;
  uint32_t threshold = 0;
  bool carries = false; /* whether positions pass a multiple of 2^32 inside the row */
  S scale = S(1);

  template <class Args>
  REVGNN_INLINE Keep(const Args &a, int64_t row) : scale(S(a.scale)) {
    if constexpr (drop == Drop::mask || drop == Drop::bits) mask = a.mask + row * a.mask_stride;
    if constexpr (drop == Drop::seed) {
      position = uint64_t(row) * uint64_t(a.width);
      carries = uint32_t(position) + uint64_t(a.width) > UINT32_MAX;
      seed_low = uint32_t(a.seed);
      seed_high = uint32_t(a.seed >> 32);
      threshold = a.threshold;
    }
  }

  template <int W>
  REVGNN_INLINE Vec<S, W> factor(int64_t channel) const {
    if constexpr (drop == Drop::none) {
      return splat<S, W>(S(1));
    } else if constexpr (drop == Drop::mask) {
      const auto kept = load<W>(mask + channel);
      return __builtin_convertvector((Vec<int32_t, W>)widen<W>(kept), Vec<S, W>) * scale;
    } else if constexpr (drop == Drop::bits) {
      const uint8_t *byte = mask + channel / 8;
      uint32_t word = byte[0];
      if constexpr (W > 8) word |= uint32_t(byte[1]) << 8;
#if defined(__AVX512F__)
      if constexpr (W == 16 && sizeof(S) == 4) {
        return (Vec<S, W>)_mm512_maskz_mov_ps(__mmask16(word >> (channel % 8)), (__m512)splat<S, W>(scale));
      }
#endif
      const auto bit = splat<int32_t, W>(int32_t(word >> (channel % 8))) & (splat<int32_t, W>(1) << iota<int32_t, W>());
      if constexpr (sizeof(S) == 4) return bit != 0 ? splat<S, W>(scale) : Vec<S, W>{};
      return __builtin_convertvector(-(Vec<int32_t, W>)(bit != 0), Vec<S, W>) * scale;
    } else {
      using U = Vec<uint32_t, W>;
      const U low = (iota<uint32_t, W>() + uint32_t(position)) + uint32_t(channel);
      U high = U{} + uint32_t(position >> 32);
      if (__builtin_expect(carries, 0)) high -= (U)(low < uint32_t(position));  // all ones is -1
      const U inner = mix<W>(low ^ seed_low);
      const U hash = mix<W>(inner ^ ((high * 0x9e3779b9u) ^ seed_high));
      if constexpr (sizeof(S) == 4) return hash >= threshold ? splat<S, W>(scale) : Vec<S, W>{};
      return __builtin_convertvector(-(Vec<int32_t, W>)(hash >= threshold), Vec<S, W>) * scale;
    }
  }
};

}  // namespace
