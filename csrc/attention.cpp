// Additive attention with any number of heads: y_i = sum_j softmax_j(leaky_relu(s_j + t_i)) x_j.
//
// The softmax is online over the tiles of a long row; a row that fits into one tile needs no rescaling. For the
// gradient of t the forward leaves behind z = sum p slope x_j and s = sum p slope, which cost no second gather.
#include "attention.h"

#include "kernels.h"

namespace {

template <class T, int Lanes>
struct Attention {
  using S = Sum<T>;
  static constexpr int L = kLanes<S>;
  using Entries = Vec<S, L>;

  const revgnn_attention_args &a;
  const HeadRun<S> &run;
  const SumRows<T, T> sum_rows;
  const SumRows<T, S> sum_long_rows;
  const T *x;

  /// The softmax of a row so far.
  struct State {
    Entries top, sum, slope_sum;
  };
  static Entries lowest() { return splat<S, L>(S(-1e30)); }

  REVGNN_INLINE void gather(Tile<T> &tile, int64_t start, int64_t end) const {
    constexpr int64_t far = 16;
    // Copies, as what the loop stores could be any of them.
    const int32_t *indices = a.graph.indices;
    const int64_t heads = a.heads, count = run.count, stride = a.x_stride, num_edges = a.graph.num_edges;
    const S *scores = static_cast<const S *>(a.score_src) + run.head;
    const T *rows = x;
    tile.start = start;
    for (int64_t e = start; e < end; e++) {
      const int64_t j = indices[e];
      if (e + far < num_edges) __builtin_prefetch(scores + indices[e + far] * heads);
      tile.row[e - start] = rows + j * stride;
      copy_heads<S, Lanes>(tile.score + (e - start) * Lanes, scores + j * heads, count);
    }
    if (a.keep == nullptr) return;
    for (int64_t e = start; e < end; e++) {
      if (kept(a.graph, a.keep, e)) continue;
      for (int h = 0; h < Lanes; h++) tile.score[(e - start) * Lanes + h] = -S(__builtin_inf());
    }
  }

  /// The largest logit of every head of row i, and its score.
  REVGNN_INLINE Entries raise(Tile<T> &tile, int first, int edges, int64_t i, Entries top) const {
    const int begin = first * Lanes, end = (first + edges) * Lanes;
    const S *scores = static_cast<const S *>(a.score_dst);
    const Entries to = in_lanes<S, Lanes>(scores == nullptr ? nullptr : scores + i * a.heads + run.head, run.count);
    for (int entry = begin; entry < end; entry += L) {
      Entries slope;
      const Entries logit = rectify(load<L>(tile.score + entry) + to, S(a.negative_slope), &slope);
      store<L>(tile.p + entry, logit);
      store<L>(tile.slope_p + entry, slope);
      top = (logit > top) & entries_left<S>(end - entry) ? logit : top;
    }
    return across_heads<S, Lanes>(top, [](Entries one, Entries other) REVGNN_LAMBDA {
      return one > other ? one : other;
    });
  }

  /// Turn the logits of the tile's edges first .. first + edges into weights relative to exp(top).
  REVGNN_INLINE void weigh(Tile<T> &tile, int first, int edges, State &state) const {
    const int begin = first * Lanes, end = (first + edges) * Lanes;
    for (int entry = begin; entry < end; entry += L) {
      const Entries weight = vexp<L>(load<L>(tile.p + entry) - state.top);
      const Entries p = entries_left<S>(end - entry) ? weight : Entries{}, slope_p = p * load<L>(tile.slope_p + entry);
      state.sum += p;
      state.slope_sum += slope_p;
      store<L>(tile.p + entry, p);
      store<L>(tile.slope_p + entry, slope_p);
    }
  }

  /// Write what belongs to the row's heads; `share` receives what its sums are to be multiplied by.
  REVGNN_INLINE void finish(int64_t i, const State &state, S *share) const {
    const auto add = [](Entries one, Entries other) REVGNN_LAMBDA { return one + other; };
    const Entries sum = across_heads<S, Lanes>(state.sum, add);
    const Entries reciprocal = sum == Entries{} ? Entries{} : S(1) / sum;
    store<L>(share, reciprocal);
    const int64_t node = i * a.heads + run.head;
    if (a.normaliser != nullptr) {
      S *normaliser = static_cast<S *>(a.normaliser) + node + i * a.heads;
      put_heads<S, Lanes>(normaliser, state.top, run.count);
      put_heads<S, Lanes>(normaliser + a.heads, reciprocal, run.count);
    }
    if (a.slope_y == nullptr) return;
    const Entries slopes = across_heads<S, Lanes>(state.slope_sum, add) * reciprocal;
    put_heads<S, Lanes>(static_cast<S *>(a.slope_sum) + node, slopes, run.count);
  }

  T *y_of(int64_t i) const { return static_cast<T *>(a.y) + i * a.y_stride + run.column; }
  S *slope_y_of(int64_t i) const {
    return a.slope_y == nullptr ? nullptr : static_cast<S *>(a.slope_y) + i * a.heads * a.width + run.column;
  }

  void batch(Tile<T> &tile, int64_t first, int64_t last) const {
    const int32_t *indptr = a.graph.indptr;
    const int64_t start = indptr[first];
    State states[kTileRows];
    gather(tile, start, indptr[last]);
    for (int64_t i = first; i < last; i++) {
      const int edge = int(indptr[i] - start), edges = int(indptr[i + 1] - indptr[i]);
      State &state = states[i - first];
      state = {raise(tile, edge, edges, i, lowest()), Entries{}, Entries{}};
      weigh(tile, edge, edges, state);
    }
    for (int64_t i = first; i < last; i++) {
      S share[L];
      finish(i, states[i - first], share);
      if (i + 1 < a.graph.num_rows) {
        prefetch_for_write(y_of(i + 1), run.width);
        if (a.slope_y != nullptr) prefetch_for_write(slope_y_of(i + 1), run.width);
      }
      sum_rows(
          tile, {int(indptr[i] - start), int(indptr[i + 1] - indptr[i]), Lanes, share}, a.graph, x, a.x_stride, run,
          y_of(i), slope_y_of(i)
      );
    }
  }

  void long_row(Tile<T> &tile, int64_t i) const {
    const int64_t begin = a.graph.indptr[i], end = a.graph.indptr[i + 1];
    State state = {lowest(), Entries{}, Entries{}};
    S sums[kColumns] = {}, slope_sums[kColumns] = {}, more[kColumns], more_slopes[kColumns] = {}, share[L];
    store<L>(share, splat<S, L>(S(1)));
    for (int64_t start = begin; start < end; start += kEntries / Lanes) {
      const int edges = int(end - start < kEntries / Lanes ? end - start : kEntries / Lanes);
      gather(tile, start, start + edges);
      const Entries top = raise(tile, 0, edges, i, state.top), factor = vexp<L>(state.top - top);
      state = {top, state.sum * factor, state.slope_sum * factor};
      weigh(tile, 0, edges, state);
      sum_long_rows(tile, {0, edges, Lanes, share}, a.graph, x, a.x_stride, run, more, more_slopes);
      for (int64_t k = 0; k < run.width; k++) {
        sums[k] = sums[k] * factor[run.head_of[k]] + more[k];
        slope_sums[k] = slope_sums[k] * factor[run.head_of[k]] + more_slopes[k];
      }
    }
    finish(i, state, share);
    scale_to(y_of(i), sums, share);
    if (a.slope_y != nullptr) scale_to(slope_y_of(i), slope_sums, share);
  }

  template <class Out>
  REVGNN_INLINE void scale_to(Out *to, const S *from, const S *share) const {
    for (int64_t k = 0; k < run.width; k++) store<1>(to + k, load<1>(from + k) * share[run.head_of[k]]);
  }
};

template <class T, bool slopes>
void attend(const revgnn_attention_args &a) {
  using S = Sum<T>;
  const int64_t work = 2 * (a.graph.num_edges + a.graph.num_rows) * a.heads * a.width;
  for_head_runs<S>(a.heads, a.width, [&](const HeadRun<S> &run) {
    with_entry_lanes<S>(run.count, [&](auto lanes) REVGNN_LAMBDA {
      constexpr int Lanes = decltype(lanes)::value;
      const Attention<T, Lanes> kernel{
          a, run, sum_rows_for<T, T, slopes>(run), sum_rows_for<T, S, slopes>(run),
          static_cast<const T *>(a.x) + run.column
      };
      for_tiles<Lanes, Tile<T>>(a.graph, a.threads, work, kernel);
    });
  });
}

}  // namespace

namespace revgnn {
namespace REVGNN_ISA {

int attention(const revgnn_attention_args &a) {
  return with_dtype(a.dtype, [&](auto zero) REVGNN_LAMBDA {
    using T = decltype(zero);
    a.slope_y == nullptr ? attend<T, false>(a) : attend<T, true>(a);
  });
}

}  // namespace REVGNN_ISA
}  // namespace revgnn
