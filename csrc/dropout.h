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

/// The hash of W positions from `first` on.
template <int W>
REVGNN_INLINE Vec<uint32_t, W> hash_of(uint64_t seed, uint64_t first) {
  const auto low = iota<uint32_t, W>() + uint32_t(first);
  const auto carry = (Vec<uint32_t, W>)(low < uint32_t(first));  // all ones is -1
  const auto high = uint32_t(first >> 32) - carry;
  const auto hash = mix<W>(low ^ uint32_t(seed));
  return mix<W>(hash ^ uint32_t(seed >> 32) ^ (high * 0x9e3779b9u));
}

/// The factor of each element: 0 where it drops, `scale` where it stays.
template <class S, Drop drop>
struct Keep {
  const uint8_t *mask;
  int64_t mask_stride;
  int64_t width;
  uint64_t seed;
  uint32_t threshold;
  S scale;

  template <class Args>
  explicit Keep(const Args &a)
      : mask(a.mask),
        mask_stride(a.mask_stride),
        width(a.width),
        seed(a.seed),
        threshold(a.threshold),
        scale(S(a.scale)) {}

  template <int W>
  REVGNN_INLINE Vec<S, W> factor(int64_t row, int64_t channel) const {
    if constexpr (drop == Drop::none) {
      return splat<S, W>(S(1));
    } else if constexpr (drop == Drop::mask) {
      const auto kept = load<W>(mask + row * mask_stride + channel);
      return __builtin_convertvector((Vec<int32_t, W>)widen<W>(kept), Vec<S, W>) * scale;
    } else if constexpr (drop == Drop::bits) {
      const uint8_t *byte = mask + row * mask_stride + channel / 8;
      uint32_t word = byte[0];
      if constexpr (W > 8) word |= uint32_t(byte[1]) << 8;
      const auto bit = splat<int32_t, W>(int32_t(word >> (channel % 8))) & (splat<int32_t, W>(1) << iota<int32_t, W>());
      if constexpr (sizeof(S) == 4) return bit != 0 ? splat<S, W>(scale) : Vec<S, W>{};
      return __builtin_convertvector(-(Vec<int32_t, W>)(bit != 0), Vec<S, W>) * scale;
    } else {
      const auto hash = hash_of<W>(seed, uint64_t(row) * uint64_t(width) + uint64_t(channel));
      if constexpr (sizeof(S) == 4) return hash >= threshold ? splat<S, W>(scale) : Vec<S, W>{};
      return __builtin_convertvector(-(Vec<int32_t, W>)(hash >= threshold), Vec<S, W>) * scale;
    }
  }
};

}  // namespace
