// The gradients of attention, over the reverse graph.
//
// With p = exp(logit - top) / sum and D_i = <g_i, y_i> the gradient of a logit is p (<g_i, x_j> - D_i): no sum over a row's
// edges is needed, and the gradient of the source's score is <sum_i p slope g_i, x_j> - sum_i p slope D_i. So the rows
// g_i are summed with the weights p and p slope as the forward sums the rows x_j, and one product a row does the rest.
// The destination's is <g_i, z_i> - D_i s_i with z and s from the forward.
#include "attention.h"
#include "kernels.h"

namespace {

/// Values of a destination that edges need, for every head: both normalisers, <g, y> and, where there is one, its score.
REVGNN_INLINE int64_t values_of_destination(const revgnn_attention_backward_args &a) {
  return a.score_dst == nullptr ? 3 : 4;
}

/// Gather what edges need of their destination, and fill dscore_dst.
template <class T, int W>
void attend_destinations(const revgnn_attention_backward_args &a) {
  using S = Sum<T>;
  using V = Vec<S, W>;
  const int64_t heads = a.heads, last = a.width - W;
  const Mask<S, W> fresh = fresh_lanes<S, W>(a.width);
  for_rows(a.graph.num_rows, a.threads, 2 * a.graph.num_rows * heads * a.width, [&](int64_t i) REVGNN_LAMBDA {
    S *out = static_cast<S *>(a.scratch) + values_of_destination(a) * i * heads;
    const S *normaliser = static_cast<const S *>(a.normaliser) + 2 * i * heads;
    for (int64_t h = 0; h < heads; h++) {
      const int64_t node = i * heads + h;
      const T *grad = static_cast<const T *>(a.grad) + i * a.grad_stride + h * a.width;
      const T *y = static_cast<const T *>(a.y) + i * a.y_stride + h * a.width;
      const S *slope_y = a.dscore_dst == nullptr ? nullptr : static_cast<const S *>(a.slope_y) + node * a.width;
      V dot{}, slope_dot{};
      for (int64_t d = 0; d < a.width; d += W) {
        const int64_t at = d < last ? d : last;
        const V g = d <= last ? load<W>(grad + at) : (fresh ? load<W>(grad + at) : V{});
        dot += g * load<W>(y + at);
        if (slope_y != nullptr) slope_dot += g * load<W>(slope_y + at);
      }
      const S total = reduce_add<S, W>(dot);
      out[h] = normaliser[h];
      out[heads + h] = normaliser[heads + h];
      out[2 * heads + h] = total;
      if (a.score_dst != nullptr) out[3 * heads + h] = static_cast<const S *>(a.score_dst)[node];
      if (slope_y == nullptr) continue;
      const S slope_sum = static_cast<const S *>(a.slope_sum)[node];
      static_cast<S *>(a.dscore_dst)[node] = reduce_add<S, W>(slope_dot) - total * slope_sum;
    }
  });
}

template <class T, int Lanes>
struct AttentionBackward {
  using S = Sum<T>;
  static constexpr int L = kLanes<S>;
  using Entries = Vec<S, L>;

  /// A tile with what edges need of their destination.
  struct Gathered : Tile<T> {
    S top[kEntries + L], share[kEntries + L], dot[kEntries + L];
  };

  const revgnn_attention_backward_args &a;
  const HeadRun<S> &run;
  const SumRows<T, T> sum_rows;
  const SumRows<T, S> sum_long_rows;
  const T *grad;

  REVGNN_INLINE void gather(Gathered &tile, int64_t start, int64_t end) const {
    constexpr int64_t far = 16;
    // Copies, as what the loop stores could be any of them.
    const int32_t *indices = a.graph.indices;
    const int64_t heads = a.heads, count = run.count, stride = a.grad_stride, num_edges = a.graph.num_edges;
    const int64_t values = values_of_destination(a) * heads;
    const bool scored = a.score_dst != nullptr;
    const S *destinations = static_cast<const S *>(a.scratch) + run.head;
    const T *rows = grad;
    tile.start = start;
    for (int64_t e = start; e < end; e++) {
      if (e + far < num_edges) __builtin_prefetch(destinations + indices[e + far] * values);
      const int64_t i = indices[e], entry = (e - start) * Lanes;
      const S *to = destinations + i * values;
      tile.row[e - start] = rows + i * stride;
      copy_heads<S, Lanes>(tile.top + entry, to, count);
      copy_heads<S, Lanes>(tile.share + entry, to + heads, count);
      copy_heads<S, Lanes>(tile.dot + entry, to + 2 * heads, count);
      if (scored) {
        copy_heads<S, Lanes>(tile.score + entry, to + 3 * heads, count);
      } else {
        for (int h = 0; h < Lanes; h++) tile.score[entry + h] = S(0);
      }
    }
    if (a.keep == nullptr) return;
    for (int64_t e = start; e < end; e++) {
      if (kept(a.graph, a.keep, e)) continue;
      for (int h = 0; h < Lanes; h++) tile.score[(e - start) * Lanes + h] = -S(__builtin_inf());
    }
  }

  /// Turn the scores of the tile's edges first .. first + edges into weights; returns sum p slope D, lane by lane.
  REVGNN_INLINE Entries weigh(Gathered &tile, int first, int edges, int64_t j) const {
    const int begin = first * Lanes, end = (first + edges) * Lanes;
    const Entries from = in_lanes<S, Lanes>(static_cast<const S *>(a.score_src) + j * a.heads + run.head, run.count);
    Entries dots{};
    for (int entry = begin; entry < end; entry += L) {
      Entries slope;
      const Entries logit = rectify(load<L>(tile.score + entry) + from, S(a.negative_slope), &slope);
      const Entries p = vexp<L>(rounded(logit) - load<L>(tile.top + entry)) * load<L>(tile.share + entry);
      const Entries slope_p = p * slope;
      dots += entries_left<S>(end - entry) ? slope_p * load<L>(tile.dot + entry) : Entries{};
      store<L>(tile.p + entry, p);
      store<L>(tile.slope_p + entry, slope_p);
    }
    return dots;
  }

  /// Write the gradient of the scores: `slope_sums` is sum p slope g, `dots` sum p slope <g, y>.
  REVGNN_INLINE void finish(int64_t j, Entries dots, const S *slope_sums) const {
    dots = across_heads<S, Lanes>(dots, [](Entries one, Entries other) REVGNN_LAMBDA { return one + other; });
    const bool continues = run.continues(a.width);
    S *to = static_cast<S *>(a.dscore_src) + j * a.heads + run.head;
    const T *x = static_cast<const T *>(a.x) + j * a.x_stride + run.column;
    for (int64_t h = 0; h < run.count; h++, x += run.per_head, slope_sums += run.per_head) {
      Entries product{};
      S rest = 0;
      each_column<S>(run.per_head, [&](auto w, int64_t d) REVGNN_LAMBDA {
        constexpr int W = decltype(w)::value;
        const auto term = load<W>(slope_sums + d) * load<W>(x + d);
        if constexpr (W == L) {
          product += term;
        } else {
          rest += term[0];
        }
      });
      const S products = reduce_add<S, L>(product) + rest;
      to[h] = continues ? to[h] + products : products - dots[h];  // the pieces of a wide head share one sum of <g, y>
    }
  }

  T *dx_of(int64_t j) const { return static_cast<T *>(a.dx) + j * a.dx_stride + run.column; }

  REVGNN_INLINE void put(int64_t j, const S *sums) const {
    T *dx = dx_of(j);
    each_column<S>(run.width, [&](auto w, int64_t d) REVGNN_LAMBDA {
      constexpr int W = decltype(w)::value;
      const auto sum = load<W>(sums + d);
      store<W>(dx + d, a.accumulate ? load<W>(dx + d) + sum : sum);
    });
  }

  void batch(Gathered &tile, int64_t first, int64_t last) const {
    const int32_t *indptr = a.graph.indptr;
    const int64_t start = indptr[first];
    Entries dots[kTileRows];
    S sums[kColumns], slope_sums[kColumns], share[L];
    store<L>(share, splat<S, L>(S(1)));
    gather(tile, start, indptr[last]);
    for (int64_t j = first; j < last; j++) {
      dots[j - first] = weigh(tile, int(indptr[j] - start), int(indptr[j + 1] - indptr[j]), j);
    }
    for (int64_t j = first; j < last; j++) {
      const TileEdges<S> edges{int(indptr[j] - start), int(indptr[j + 1] - indptr[j]), Lanes, share};
      if (j + 1 < a.graph.num_rows) prefetch_for_write(dx_of(j + 1), run.width);
      if (a.accumulate) {
        sum_long_rows(tile, edges, a.graph, grad, a.grad_stride, run, sums, slope_sums);
        put(j, sums);
      } else {
        sum_rows(tile, edges, a.graph, grad, a.grad_stride, run, dx_of(j), slope_sums);
      }
      finish(j, dots[j - first], slope_sums);
    }
  }

  void long_row(Gathered &tile, int64_t j) const {
    const int64_t begin = a.graph.indptr[j], end = a.graph.indptr[j + 1];
    Entries dots{};
    S sums[kColumns] = {}, slope_sums[kColumns] = {}, more[kColumns], more_slopes[kColumns], share[L];
    store<L>(share, splat<S, L>(S(1)));
    for (int64_t start = begin; start < end; start += kEntries / Lanes) {
      const int edges = int(end - start < kEntries / Lanes ? end - start : kEntries / Lanes);
      gather(tile, start, start + edges);
      dots += weigh(tile, 0, edges, j);
      sum_long_rows(tile, {0, edges, Lanes, share}, a.graph, grad, a.grad_stride, run, more, more_slopes);
      for (int64_t k = 0; k < run.width; k++) {
        sums[k] += more[k];
        slope_sums[k] += more_slopes[k];
      }
    }
    put(j, sums);
    finish(j, dots, slope_sums);
  }
};

template <class T>
void attend_sources(const revgnn_attention_backward_args &a) {
  using S = Sum<T>;
  const int64_t work = 2 * (a.graph.num_edges + a.graph.num_rows) * a.heads * a.width;
  for_head_runs<S>(a.heads, a.width, [&](const HeadRun<S> &run) {
    with_entry_lanes<S>(run.count, [&](auto lanes) REVGNN_LAMBDA {
      using Kernel = AttentionBackward<T, decltype(lanes)::value>;
      const Kernel kernel{
          a, run, sum_rows_for<T, T, true>(run), sum_rows_for<T, S, true>(run),
          static_cast<const T *>(a.grad) + run.column
      };
      for_tiles<decltype(lanes)::value, typename Kernel::Gathered>(a.graph, a.threads, work, kernel);
    });
  });
}

}  // namespace

namespace revgnn {
namespace REVGNN_ISA {

int attention_backward(const revgnn_attention_backward_args &a) {
  return with_dtype(a.dtype, [&](auto zero) REVGNN_LAMBDA {
    using T = decltype(zero);
    with_lanes<Sum<T>>(a.width, [&](auto w) REVGNN_LAMBDA { attend_destinations<T, decltype(w)::value>(a); });
    attend_sources<T>(a);
  });
}

}  // namespace REVGNN_ISA
}  // namespace revgnn
