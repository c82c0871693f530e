// The softmax of GEN where the logits t m of every channel have a narrow range: one shift a channel keeps exponentials
// finite, so that they belong to nodes, and sums over edges are plain.
#pragma once

#include "columns.h"
#include "parallel.h"

namespace {

/// Widest range of t m in a channel for which exp(t m - shift) and its reciprocal stay far from the ends of float32.
constexpr int kRange = 60;

/// The largest t m whose rounding, which enters gradients, is hardly more than that of a narrow range.
constexpr int kLarge = 2 * kRange;

/// Bytes of a table up to which reading it per edge beats an exponential per edge, where that is cheap.
constexpr int64_t kTableBytes = int64_t(24) << 20;

/// Whether exponentials shall be taken per node: always, where vectors are short.
template <class T>
REVGNN_INLINE bool by_node(int64_t rows, int64_t width) {
  return kVectorBytes < 64 || 2 * rows * width * int64_t(sizeof(T)) <= kTableBytes;
}

/// What the messages of every channel are taken from in weights and sums: their differences keep digits that large
/// logits, and large messages, do not have.
template <class S>
struct ChannelShifts {
  Buffer<S> values; /* the one of the largest logit, then the least */
  int64_t width;
  bool narrow = false; /* every channel's range of t m is */
  bool large = true;   /* some channel's t m is so large that its rounding shows */

  explicit ChannelShifts(int64_t channels) : values(2 * channels), width(channels) {}
  S *top() const { return values.data(); }
  S *least() const { return values.data() + width; }
};

/// Find the shifts, and what is true of all channels.
template <class T, class Args>
void find_shifts(const Args &a, ChannelShifts<Sum<T>> &shifts) {
  using S = Sum<T>;
  const revgnn_csr &g = a.graph;
  const S *t = static_cast<const S *>(a.t);
  Partials<S> ends(2 * a.width);  // the largest x and the largest -x, up from the -inf that a part without rows leaves
  for_parts(a.threads, g.num_rows * a.width, [&](int64_t part) REVGNN_LAMBDA {
    const Range rows = rows_of_part(g.num_rows, part);
    S *high = ends.row(part), *low = high + a.width;
    for_columns<S, kFewBlocks<S>>(a.width, [&](auto w, auto nb, int64_t first, int64_t width) REVGNN_LAMBDA {
      constexpr int W = decltype(w)::value, NB = decltype(nb)::value;
      const T *x = static_cast<const T *>(a.x) + first;
      Vec<S, W> top[NB], bottom[NB];
#pragma GCC unroll 8
      for (int b = 0; b < NB; b++) top[b] = bottom[b] = splat<S, W>(-S(__builtin_inf()));
      for (int64_t j = rows.first; j < rows.last; j++) {
#pragma GCC unroll 8
        for (int b = 0; b < NB; b++) {
          const auto value = load<W>(x + j * a.x_stride + block_start<W, NB>(b, width));
          top[b] = value > top[b] ? value : top[b];
          bottom[b] = -value > bottom[b] ? -value : bottom[b];
        }
      }
#pragma GCC unroll 8
      for (int b = 0; b < NB; b++) {
        store<W>(high + first + block_start<W, NB>(b, width), top[b]);
        store<W>(low + first + block_start<W, NB>(b, width), bottom[b]);
      }
    });
  });
  shifts.narrow = true;
  shifts.large = false;
  for (int64_t d = 0; d < a.width; d++) {
    S high = -S(__builtin_inf()), low = high;
    for (int64_t part = 0; part < kParts; part++) {
      high = ends.row(part)[d] > high ? ends.row(part)[d] : high;
      low = ends.row(part)[a.width + d] > low ? ends.row(part)[a.width + d] : low;
    }
    const S largest = (high > 0 ? high : S(0)) + S(a.eps), least = (low < 0 ? -low : S(0)) + S(a.eps);
    const S steepness = t[d] < 0 ? -t[d] : t[d], range = (largest - least) * steepness;
    shifts.top()[d] = t[d] < 0 ? least : largest;
    shifts.least()[d] = least;
    shifts.narrow = shifts.narrow && range <= S(kRange);  // false for a NaN
    shifts.large = shifts.large || !(largest * steepness <= S(kLarge));
  }
}

/// Add up the rows of a table over the edges of row i; with `both` also what lies `second` elements behind them.
template <class T, int W, int NB, bool both>
REVGNN_INLINE void sum_table(
    const revgnn_csr &g, int64_t i, const T *table, int64_t stride, int64_t second, int64_t width, Vec<Sum<T>, W> *sum,
    Vec<Sum<T>, W> *second_sum
) {
  constexpr int64_t ahead = 12;  // rows are twice as wide as elsewhere
  for (int64_t e = g.indptr[i]; e < g.indptr[i + 1]; e++) {
    if (e + ahead < g.num_edges) {
      prefetch<NB * W * sizeof(T)>(table + g.indices[e + ahead] * stride);
      if (both) prefetch<NB * W * sizeof(T)>(table + g.indices[e + ahead] * stride + second);
    }
    const T *row = table + g.indices[e] * stride;
#pragma GCC unroll 8
    for (int b = 0; b < NB; b++) {
      sum[b] += load<W>(row + block_start<W, NB>(b, width));
      if (both) second_sum[b] += load<W>(row + second + block_start<W, NB>(b, width));
    }
  }
}

/// Add up two tables whose rows stand behind one another: in two visits where the registers do not hold both sums.
template <class T, int W, int NB>
REVGNN_INLINE void sum_pairs(
    const revgnn_csr &g, int64_t i, const T *rows, int64_t stride, int64_t second, int64_t width, Vec<Sum<T>, W> *sum,
    Vec<Sum<T>, W> *second_sum
) {
  if constexpr (NB <= 4 || kVectorBytes == 64) {
    sum_table<T, W, NB, true>(g, i, rows, stride, second, width, sum, second_sum);
  } else {
    sum_table<T, W, NB, false>(g, i, rows, stride, 0, width, sum, sum);
    sum_table<T, W, NB, false>(g, i, rows + second, stride, 0, width, second_sum, second_sum);
  }
}

}  // namespace
