// How a row of any width is cut into vectors, without masks and without a scalar tail.
//
// A row of `width` channels is NB vectors of W lanes of which the last one ends at the last channel, overlapping the
// one before it. Lanes computed twice get the same bits, so storing them twice is harmless; whoever adds over lanes or
// to memory must load before it stores, and count the overlapping lanes once (`fresh_lanes`). Rows narrower than one
// vector use narrower vectors, down to one lane; rows wider than NB vectors are cut into pieces of about equal width.
#pragma once

#include "simd.h"

namespace {

template <int I>
struct Int {
  static constexpr int value = I;
};

/// Vectors of a row that a kernel holds in registers; float64 serves the numerics tests and gets less code.
template <class S>
constexpr int kBlocks = sizeof(S) == 4 ? 8 : 2;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Where vector b of a row starts.
template <int W, int NB>
inline int64_t block_start(int b, int64_t width) {
  return b == NB - 1 ? width - W : int64_t(b) * W;
}

/// The lanes of the last vector of a row that the vectors before it have not covered.
template <class S, int W>
inline Mask<S, W> fresh_lanes(int64_t width) {
  using I = LaneInt<S>;
  const int64_t covered = (ceil_div(width, W) - 1) * W - (width - W);
  return iota<I, W>() >= splat<I, W>(I(covered));
}

template <int W, int NB, class F>
inline void with_block_count(int64_t width, F &&f) {
  if (ceil_div(width, W) == NB) {
    f(Int<W>{}, Int<NB>{});
  } else if constexpr (NB > 1) {
    with_block_count<W, NB - 1>(width, f);
  }
}

/// Call f(Int<W>, Int<NB>) for a width of at most MaxBlocks full vectors.
template <class S, int MaxBlocks, class F>
inline void with_blocks(int64_t width, F &&f) {
  constexpr int W = kLanes<S>;
  if (width >= W) {
    with_block_count<W, MaxBlocks>(width, f);
  } else if (W > 8 && width >= 8) {
    with_block_count<(W > 8 ? 8 : 1), 2>(width, f);
  } else if (W > 4 && width >= 4) {
    with_block_count<(W > 4 ? 4 : 1), 2>(width, f);
  } else {
    with_block_count<1, 3>(width, f);
  }
}

/// Call f(Int<W>, Int<NB>, first, width) for each piece of a row of any width.
template <class S, int MaxBlocks, class F>
inline void for_columns(int64_t width, F &&f) {
  const int64_t pieces = ceil_div(width, int64_t(MaxBlocks) * kLanes<S>);
  for (int64_t piece = 0; piece < pieces; piece++) {
    const int64_t first = width * piece / pieces, last = width * (piece + 1) / pieces;
    with_blocks<S, MaxBlocks>(last - first, [&](auto w, auto nb) { f(w, nb, first, last - first); });
  }
}

/// Call f(Int<W>) with the widest vector that fits; for loops whose number of vectors is not fixed.
template <class S, class F>
inline void with_lanes(int64_t width, F &&f) {
  constexpr int W = kLanes<S>;
  if (width >= W) {
    f(Int<W>{});
  } else if (W > 4 && width >= 4) {
    f(Int<(W > 4 ? 4 : 1)>{});
  } else {
    f(Int<1>{});
  }
}

/// Bring the next `bytes` bytes towards the first cache level.
template <int Bytes>
inline void prefetch(const void *p) {
#pragma GCC unroll 32
  for (int line = 0; line < (Bytes + 63) / 64; line++) __builtin_prefetch((const char *)p + 64 * line);
}

}  // namespace
