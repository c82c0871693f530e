// How a row of any width is cut into vectors, without masks and without a scalar tail.
//
// A row of `width` channels is NB vectors of W lanes of which the last one ends at the last channel, overlapping the
// one before it. Lanes computed twice get the same bits, so storing them twice is harmless; whoever adds over lanes or
// to memory must count the overlapping lanes once (`fresh_lanes`), or load all before it stores. Rows narrower than one
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
/// The same for kernels that hold several values a channel.
template <class S>
constexpr int kFewBlocks = sizeof(S) == 4 ? 4 : 2;

constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

/// Where vector b of a row starts.
template <int W, int NB>
REVGNN_INLINE int64_t block_start(int b, int64_t width) {
  return b == NB - 1 ? width - W : int64_t(b) * W;
}

/// The lanes of the last vector of a row that the vectors before it have not covered.
template <class S, int W>
REVGNN_INLINE Mask<S, W> fresh_lanes(int64_t width) {
  using I = LaneInt<S>;
  const int64_t covered = (ceil_div(width, W) - 1) * W - (width - W);
  return iota<I, W>() >= splat<I, W>(I(covered));
}

template <int W, int NB, class F>
REVGNN_INLINE void with_block_count(int64_t width, F &&f) {
  if (ceil_div(width, W) == NB) {
    f(Int<W>{}, Int<NB>{});
  } else if constexpr (NB > 1) {
    with_block_count<W, NB - 1>(width, f);
  }
}

template <int W, int MaxBlocks, class F>
REVGNN_INLINE void cut(int64_t width, F &&f) {
  static_assert(W == 1 || MaxBlocks > 1, "a piece must not be narrower than a vector");
  const int64_t pieces = ceil_div(width, int64_t(MaxBlocks) * W);
  for (int64_t piece = 0; piece < pieces; piece++) {
    const int64_t first = width * piece / pieces, last = width * (piece + 1) / pieces;
    with_block_count<W, MaxBlocks>(last - first, [&](auto w, auto nb) REVGNN_LAMBDA { f(w, nb, first, last - first); });
  }
}

/// Call f(Int<W>, Int<NB>, first, width) for each piece of a row of any width.
template <class S, int MaxBlocks, class F>
REVGNN_INLINE void for_columns(int64_t width, F &&f) {
  constexpr int W = kLanes<S>;
  if (width >= W) {
    cut<W, MaxBlocks>(width, f);
  } else if (W > 4 && width >= 4) {
    cut<(W > 4 ? 4 : 1), (W > 4 ? 2 : 1)>(width, f);
  } else {
    cut<1, 1>(width, f);
  }
}

/// Call f(Int<W>) with full vectors if one fits, else with single lanes; for loops whose number of vectors is not
/// fixed.
template <class S, class F>
REVGNN_INLINE void with_lanes(int64_t width, F &&f) {
  if (width >= kLanes<S>) {
    f(Int<kLanes<S>>{});
  } else {
    f(Int<1>{});
  }
}

/// Call f(Int<lanes>, column) for every column once, most of them a vector at a time; for loops that add to memory and
/// whose number of vectors is not fixed.
template <class S, class F>
REVGNN_INLINE void each_column(int64_t width, F &&f) {
  constexpr int W = kLanes<S>;
  int64_t d = 0;
  for (; d + W <= width; d += W) f(Int<W>{}, d);
  for (; d < width; d++) f(Int<1>{}, d);
}

/// Call f(channel, fresh) for the vectors of a row, NB or, for NB = 0, any number; `fresh` marks the lanes that no
/// vector before covered.
template <class S, int W, int NB = 0, class F>
REVGNN_INLINE void for_vectors(int64_t width, Mask<S, W> fresh_at_end, F &&f) {
  const int64_t last = width - W;
  if constexpr (NB > 0) {
#pragma GCC unroll 16
    for (int b = 0; b + 1 < NB; b++) f(b * W, ~Mask<S, W>{});
    f(last, fresh_at_end);
    return;
  }
  for (int64_t channel = 0; channel < width; channel += W) {
    const bool inside = channel <= last;
    f(inside ? channel : last, inside ? ~Mask<S, W>{} : fresh_at_end);
  }
}

/// Zero in the lanes of the last vector that the vectors before it cover.
template <int NB, class V, class M>
REVGNN_INLINE V only_fresh(int b, V value, M fresh) {
  return b == NB - 1 ? (fresh ? value : V{}) : value;
}

/// Adds a row of vectors to memory.
template <int W, int NB, class S, class M>
REVGNN_INLINE void add_row(S *to, int64_t width, const Vec<S, W> *values, M fresh) {
#pragma GCC unroll 8
  for (int b = 0; b < NB; b++) {
    const int64_t at = block_start<W, NB>(b, width);
    store<W>(to + at, load<W>(to + at) + only_fresh<NB>(b, values[b], fresh));
  }
}

/// Writes a row of vectors, or adds it to what is there.
template <class T, int W, int NB, class S>
REVGNN_INLINE void put_row(T *to, int64_t width, Vec<S, W> *values, bool accumulate) {
  if (accumulate) {
#pragma GCC unroll 8
    for (int b = 0; b < NB; b++) values[b] += load<W>(to + block_start<W, NB>(b, width));
  }
#pragma GCC unroll 8
  for (int b = 0; b < NB; b++) store<W>(to + block_start<W, NB>(b, width), values[b]);
}

/// Bring the next `bytes` bytes towards the first cache level.
template <int Bytes>
REVGNN_INLINE void prefetch(const void *p) {
#pragma GCC unroll 32
  for (int line = 0; line < (Bytes + 63) / 64; line++) __builtin_prefetch((const char *)p + 64 * line);
}

/// Bring a row that will be written soon into the cache: stores that wait for their line hold up all that follows.
template <class T>
REVGNN_INLINE void prefetch_for_write(const T *row, int64_t width) {
  for (int64_t byte = 0; byte < width * int64_t(sizeof(T)); byte += 64) {
    __builtin_prefetch(reinterpret_cast<const char *>(row) + byte, 1);
  }
}

}  // namespace
