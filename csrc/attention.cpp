// Additive attention with any number of heads, and its gradients.
//
// A row's edges are visited in tiles. A tile's logits of all heads stand side by side, entry (edge, head), so that
// exponentials are taken a full vector at a time however few the edges; the softmax is online over the tiles; and
// nothing is stored per edge. Then each head sums its columns of the tile's rows, which the first head brought into the
// cache. Backward, over the reverse: with p = exp(logit - lse) and D_i = <g_i, y_i>, the gradient of a logit is
// p (<g_i, x_j> - D_i): no sum over a row's edges is needed, and both ends' scores get theirs from sums that stand at
// one node. The destination's is <g_i, z_i> - D_i s_i with z = sum p slope x_j and s = sum p slope, which the forward
// leaves behind.
#include "columns.h"
#include "kernels.h"
#include "parallel.h"

namespace {

constexpr int kEntries = 256;

/// The heads that one vector of entries can hold: all, or a run of them.
template <class S>
struct HeadRun {
  int64_t first;
  int count;
  int lanes; /* count rounded up to a power of two, so that a head keeps its lane in every vector */

  HeadRun(int64_t first_head, int64_t heads) : first(first_head), count(kLanes<S>), lanes(1) {
    if (heads - first < count) count = int(heads - first);
    while (lanes < count) lanes *= 2;
  }

  int edges_per_tile() const { return kEntries / lanes; }
};

/// The values of a run's heads, in every lane that belongs to them.
template <class S>
REVGNN_INLINE Vec<S, kLanes<S>> in_lanes(const S *values, const HeadRun<S> &heads) {
  constexpr int W = kLanes<S>;
  if (values == nullptr) return Vec<S, W>{};
  if (heads.count == 1) return splat<S, W>(values[0]);
  Vec<S, W> v{};
  memcpy(&v, values, size_t(heads.count) * sizeof(S));
  return permute<S, W>(v, iota<LaneInt<S>, W>() & LaneInt<S>(heads.lanes - 1));
}

/// Bring towards the cache what an edge further on will read: `per_node` numbers of its other end, and of that row the
/// columns of a run of heads. A single head's rows are left to the loop that reads them, which is slow enough.
template <int Bytes, class S, class T>
REVGNN_INLINE void prefetch_ahead(
    const S *scores, int64_t per_node, const T *rows, int64_t stride, int64_t width, const revgnn_csr &g, int64_t edge,
    const HeadRun<S> &heads
) {
  constexpr int64_t kFar = 10;
  if (edge + kFar >= g.num_edges) return;
  const int64_t node = g.indices[edge + kFar];
  __builtin_prefetch(scores + node * per_node);
  if (heads.count == 1) return;
  const T *row = rows + node * stride + heads.first * width;
  for (int h = 0; h < heads.count; h++) prefetch<Bytes>(row + h * width);
}

/// Combine the lanes of each head, and give every one of them the result.
template <class S, class Combine>
REVGNN_INLINE Vec<S, kLanes<S>> across_heads(Vec<S, kLanes<S>> v, const HeadRun<S> &heads, Combine &&combine) {
  constexpr int W = kLanes<S>;
  for (int step = W / 2; step >= heads.lanes; step /= 2) {
    v = combine(v, permute<S, W>(v, (iota<LaneInt<S>, W>() + LaneInt<S>(step)) & LaneInt<S>(W - 1)));
  }
  return v;
}

/// Scores of a tile, then its logits, then the softmax's weights; and the slopes of the rectifier there, then weight
/// times slope. A vector at a time: the sign of a score is not to be predicted.
template <class S>
struct Tile {
  static constexpr int W = kLanes<S>;
  using V = Vec<S, W>;

  int size;
  S p[kEntries];
  S slope[kEntries];

  REVGNN_INLINE Tile(int edges, const HeadRun<S> &heads) : size(edges * heads.lanes) {
    for (int entry = size; entry % W != 0; entry++) p[entry] = 0;  // read as part of the last vector
  }

  /// Scores plus `other` become logits.
  REVGNN_INLINE void rectify(V other, S negative) {
    each_vector([&](int entry) REVGNN_LAMBDA {
      const V score = load<W>(p + entry) + other;
      const V here = score > V{} ? splat<S, W>(S(1)) : splat<S, W>(negative);
      store<W>(slope + entry, here);
      store<W>(p + entry, score * here);
    });
  }

  /// Dropped edges, heads that are not there and what pads the last vector get the logit of no edge.
  REVGNN_INLINE void blank(const revgnn_csr &g, const uint8_t *keep, int64_t start, const HeadRun<S> &heads) {
    const S nothing = -S(__builtin_inf());
    for (int entry = size; entry % W != 0; entry++) p[entry] = nothing;
    if (keep == nullptr && heads.count == heads.lanes) return;
    for (int k = 0; k * heads.lanes < size; k++) {
      const bool dropped = keep != nullptr && !keep[g.edge_ids == nullptr ? start + k : g.edge_ids[start + k]];
      for (int h = dropped ? 0 : heads.count; h < heads.lanes; h++) p[k * heads.lanes + h] = nothing;
    }
  }

  template <class F>
  REVGNN_INLINE void each_vector(F &&f) {
    for (int entry = 0; entry < size; entry += W) f(entry);
  }

  REVGNN_INLINE V largest(V top, const HeadRun<S> &heads) {
    each_vector([&](int entry) REVGNN_LAMBDA {
      const V logit = load<W>(p + entry);
      top = logit > top ? logit : top;
    });
    return across_heads<S>(top, heads, [](V a, V b) REVGNN_LAMBDA { return a > b ? a : b; });
  }
};

template <class S>
REVGNN_INLINE S log_of(S x) {
  return sizeof(S) == 4 ? S(__builtin_logf(float(x))) : S(__builtin_log(double(x)));
}

// ------------------------------------------------------------------ forward
/// A head's sums of a row so far.
template <class S, int W, int NB>
struct HeadSums {
  Vec<S, W> y[NB];
  Vec<S, W> slope_y[NB];

  REVGNN_INLINE void clear() {
#pragma GCC unroll 8
    for (int b = 0; b < NB; b++) y[b] = slope_y[b] = Vec<S, W>{};
  }

  REVGNN_INLINE void scale(S factor) {
#pragma GCC unroll 8
    for (int b = 0; b < NB; b++) {
      y[b] *= factor;
      slope_y[b] *= factor;
    }
  }
};

template <class T, int W, int NB>
struct Attention {
  using S = Sum<T>;
  using V = Vec<S, W>;
  static constexpr int L = kLanes<S>;
  using Lanes = Vec<S, L>;

  const revgnn_attention_args &a;
  int64_t first;
  int64_t width;

  /// Add a tile's rows to one head's sums.
  REVGNN_INLINE void add_rows(
      HeadSums<S, W, NB> &sums, const Tile<S> &tile, const HeadRun<S> &heads, int h, int64_t start, int edges
  ) const {
    const revgnn_csr &g = a.graph;
    const T *x = static_cast<const T *>(a.x) + (heads.first + h) * a.width + first;
    V y[NB], slope_y[NB];
#pragma GCC unroll 8
    for (int b = 0; b < NB; b++) {
      y[b] = sums.y[b];
      slope_y[b] = sums.slope_y[b];
    }
    for (int k = 0; k < edges; k++) {
      if (heads.count == 1 && start + k + kAhead < g.num_edges) {
        prefetch<NB * W * sizeof(T)>(x + g.indices[start + k + kAhead] * a.x_stride);
      }
      const T *row = x + g.indices[start + k] * a.x_stride;
      const S p = tile.p[k * heads.lanes + h], slope_p = tile.slope[k * heads.lanes + h];
#pragma GCC unroll 8
      for (int b = 0; b < NB; b++) {
        const V value = load<W>(row + block_start<W, NB>(b, width));
        y[b] += value * p;
        slope_y[b] += value * slope_p;
      }
    }
#pragma GCC unroll 8
    for (int b = 0; b < NB; b++) {
      sums.y[b] = y[b];
      sums.slope_y[b] = slope_y[b];
    }
  }

  REVGNN_INLINE void store_head(int64_t i, int64_t head, HeadSums<S, W, NB> &sums, S top, S sum, S slope_sum) const {
    const S share = sum == 0 ? S(0) : S(1) / sum;
    sums.scale(share);
    T *y = static_cast<T *>(a.y) + i * a.y_stride + head * a.width + first;
#pragma GCC unroll 8
    for (int b = 0; b < NB; b++) store<W>(y + block_start<W, NB>(b, width), sums.y[b]);
    const int64_t node = i * a.heads + head;
    if (a.lse != nullptr) static_cast<S *>(a.lse)[node] = sum == 0 ? S(0) : top + log_of(sum);
    if (a.slope_y == nullptr) return;
    S *slope_y = static_cast<S *>(a.slope_y) + node * a.width + first;
#pragma GCC unroll 8
    for (int b = 0; b < NB; b++) store<W>(slope_y + block_start<W, NB>(b, width), sums.slope_y[b]);
    static_cast<S *>(a.slope_sum)[node] = slope_sum * share;
  }

  REVGNN_INLINE void row(int64_t i, const HeadRun<S> &heads) const {
    const revgnn_csr &g = a.graph;
    const S *score_src = static_cast<const S *>(a.score_src) + heads.first;
    const T *x = static_cast<const T *>(a.x) + first;
    const S *score_dst = static_cast<const S *>(a.score_dst);
    const Lanes to = in_lanes<S>(score_dst == nullptr ? nullptr : score_dst + i * a.heads + heads.first, heads);
    HeadSums<S, W, NB> sums[L];
    for (int h = 0; h < heads.count; h++) sums[h].clear();
    Lanes top = splat<S, L>(S(-1e30)), sum{}, slope_sum{};
    const int64_t begin = g.indptr[i], end = g.indptr[i + 1];
    for (int64_t start = begin; start < end; start += heads.edges_per_tile()) {
      const int edges = int(end - start < heads.edges_per_tile() ? end - start : heads.edges_per_tile());
      Tile<S> tile(edges, heads);
      for (int k = 0; k < edges; k++) {
        prefetch_ahead<NB * W * sizeof(T)>(score_src, a.heads, x, a.x_stride, a.width, g, start + k, heads);
        const S *from = score_src + g.indices[start + k] * a.heads;
        for (int h = 0; h < heads.count; h++) tile.p[k * heads.lanes + h] = from[h];
      }
      tile.rectify(to, S(a.negative_slope));
      tile.blank(g, a.keep, start, heads);
      const Lanes raised = tile.largest(top, heads);
      if (start > begin) {
        const Lanes factor = vexp<L>(top - raised);
        sum *= factor;
        slope_sum *= factor;
        for (int h = 0; h < heads.count; h++) sums[h].scale(factor[h]);
      }
      top = raised;
      tile.each_vector([&](int entry) REVGNN_LAMBDA {
        const Lanes p = vexp<L>(load<L>(tile.p + entry) - top), slope_p = p * load<L>(tile.slope + entry);
        sum += p;
        slope_sum += slope_p;
        store<L>(tile.p + entry, p);
        store<L>(tile.slope + entry, slope_p);
      });
      for (int h = 0; h < heads.count; h++) add_rows(sums[h], tile, heads, h, start, edges);
    }
    const auto add = [](Lanes one, Lanes other) REVGNN_LAMBDA { return one + other; };
    sum = across_heads<S>(sum, heads, add);
    slope_sum = across_heads<S>(slope_sum, heads, add);
    for (int h = 0; h < heads.count; h++) store_head(i, heads.first + h, sums[h], top[h], sum[h], slope_sum[h]);
  }
};

// ------------------------------------------------------------------ backward
/// What edges need of their destination, for every head: scores, then normalisers, then <g, y>. Fills dscore_dst.
template <class T, int W>
void attend_destinations(const revgnn_attention_backward_args &a) {
  using S = Sum<T>;
  using V = Vec<S, W>;
  const int64_t heads = a.heads, last = a.width - W;
  const Mask<S, W> fresh = fresh_lanes<S, W>(a.width);
  for_rows(a.graph.num_rows, a.threads, 2 * a.graph.num_rows * heads * a.width, [&](int64_t i) REVGNN_LAMBDA {
    S *out = static_cast<S *>(a.scratch) + 3 * i * heads;
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
      out[h] = a.score_dst == nullptr ? S(0) : static_cast<const S *>(a.score_dst)[node];
      out[heads + h] = static_cast<const S *>(a.lse)[node];
      out[2 * heads + h] = total;
      if (slope_y == nullptr) continue;
      const S slope_sum = static_cast<const S *>(a.slope_sum)[node];
      static_cast<S *>(a.dscore_dst)[node] = reduce_add<S, W>(slope_dot) - total * slope_sum;
    }
  });
}

template <class T, int W, int NB>
struct AttentionBackward {
  using S = Sum<T>;
  using V = Vec<S, W>;
  static constexpr int L = kLanes<S>;
  using Lanes = Vec<S, L>;

  const revgnn_attention_backward_args &a;
  int64_t first;
  int64_t width;

  /// Add a tile to one head's gradients of x_j and, lane by lane, of its score.
  REVGNN_INLINE void add_rows(
      int64_t j, V *dx, V *dscore, const Tile<S> &tile, const HeadRun<S> &heads, int h, int64_t start, int edges
  ) const {
    const revgnn_csr &g = a.graph;
    const int64_t column = (heads.first + h) * a.width + first;
    const T *grad = static_cast<const T *>(a.grad) + column;
    const T *x_row = static_cast<const T *>(a.x) + j * a.x_stride + column;
    const Mask<S, W> fresh = fresh_lanes<S, W>(width);
    V x[NB], own[NB], score = *dscore;
#pragma GCC unroll 8
    for (int b = 0; b < NB; b++) {
      x[b] = only_fresh<NB>(b, load<W>(x_row + block_start<W, NB>(b, width)), fresh);
      own[b] = dx[b];
    }
    for (int k = 0; k < edges; k++) {
      if (heads.count == 1 && start + k + kAhead < g.num_edges) {
        prefetch<NB * W * sizeof(T)>(grad + g.indices[start + k + kAhead] * a.grad_stride);
      }
      const T *row = grad + g.indices[start + k] * a.grad_stride;
      const S p = tile.p[k * heads.lanes + h], slope_p = tile.slope[k * heads.lanes + h];
      V dot{};
#pragma GCC unroll 8
      for (int b = 0; b < NB; b++) {
        const V value = load<W>(row + block_start<W, NB>(b, width));
        dot += value * x[b];
        own[b] += value * p;
      }
      score += dot * slope_p;
    }
    *dscore = score;
#pragma GCC unroll 8
    for (int b = 0; b < NB; b++) dx[b] = own[b];
  }

  REVGNN_INLINE void row(int64_t j, const HeadRun<S> &heads) const {
    const revgnn_csr &g = a.graph;
    const Lanes from = in_lanes<S>(static_cast<const S *>(a.score_src) + j * a.heads + heads.first, heads);
    const T *grad = static_cast<const T *>(a.grad) + first;
    const S *destinations = static_cast<const S *>(a.scratch) + heads.first;
    V dx[L][NB], dscore[L];
    for (int h = 0; h < heads.count; h++) {
      dscore[h] = V{};
#pragma GCC unroll 8
      for (int b = 0; b < NB; b++) dx[h][b] = V{};
    }
    Lanes dots{};
    const int64_t begin = g.indptr[j], end = g.indptr[j + 1];
    for (int64_t start = begin; start < end; start += heads.edges_per_tile()) {
      const int edges = int(end - start < heads.edges_per_tile() ? end - start : heads.edges_per_tile());
      Tile<S> tile(edges, heads);
      S lse[kEntries], dot[kEntries];
      for (int entry = tile.size & -L; entry < kEntries && entry < tile.size + L; entry++) lse[entry] = dot[entry] = 0;
      for (int k = 0; k < edges; k++) {
        prefetch_ahead<NB * W * sizeof(T)>(
            destinations, 3 * a.heads, grad, a.grad_stride, a.width, g, start + k, heads
        );
        const S *to = destinations + 3 * g.indices[start + k] * a.heads;
        for (int h = 0; h < heads.count; h++) {
          const int entry = k * heads.lanes + h;
          tile.p[entry] = to[h];
          lse[entry] = to[a.heads + h];
          dot[entry] = to[2 * a.heads + h];
        }
        for (int h = heads.count; h < heads.lanes; h++) lse[k * heads.lanes + h] = dot[k * heads.lanes + h] = 0;
      }
      tile.rectify(from, S(a.negative_slope));
      tile.blank(g, a.keep, start, heads);
      tile.each_vector([&](int entry) REVGNN_LAMBDA {
        const Lanes p = vexp<L>(load<L>(tile.p + entry) - load<L>(lse + entry));
        const Lanes slope_p = p * load<L>(tile.slope + entry);
        dots += slope_p * load<L>(dot + entry);
        store<L>(tile.p + entry, p);
        store<L>(tile.slope + entry, slope_p);
      });
      for (int h = 0; h < heads.count; h++) add_rows(j, dx[h], &dscore[h], tile, heads, h, start, edges);
    }
    dots = across_heads<S>(dots, heads, [](Lanes one, Lanes other) REVGNN_LAMBDA { return one + other; });
    for (int h = 0; h < heads.count; h++) {
      const int64_t head = heads.first + h;
      S *to = static_cast<S *>(a.dscore_src) + j * a.heads + head;
      const S products = reduce_add<S, W>(dscore[h]);
      *to = first > 0 ? *to + products : products - dots[h];  // the pieces of a wide head share one <g, y>
      put_row<T, W, NB, S>(
          static_cast<T *>(a.dx) + j * a.dx_stride + head * a.width + first, width, dx[h], a.accumulate
      );
    }
  }
};

/// Every row, for every run of heads and every piece of a head's columns.
template <template <class, int, int> class Kernel, class T, class Args>
void for_heads_and_rows(const Args &a) {
  using S = Sum<T>;
  const int64_t work = 2 * (a.graph.num_edges + a.graph.num_rows) * a.heads * a.width;
  for_columns<S, kBlocks<S>>(a.width, [&](auto w, auto nb, int64_t first, int64_t width) REVGNN_LAMBDA {
    const Kernel<T, decltype(w)::value, decltype(nb)::value> kernel{a, first, width};
    for (int64_t head = 0; head < a.heads; head += kLanes<S>) {
      const HeadRun<S> heads(head, a.heads);
      for_rows(a.graph.num_rows, a.threads, work, [&](int64_t row) REVGNN_LAMBDA { kernel.row(row, heads); });
    }
  });
}

}  // namespace

namespace revgnn {
namespace REVGNN_ISA {

int attention(const revgnn_attention_args &a) {
  return with_dtype(a.dtype, [&](auto zero) REVGNN_LAMBDA { for_heads_and_rows<Attention, decltype(zero)>(a); });
}

int attention_backward(const revgnn_attention_backward_args &a) {
  return with_dtype(a.dtype, [&](auto zero) REVGNN_LAMBDA {
    using T = decltype(zero);
    with_lanes<Sum<T>>(a.width, [&](auto w) REVGNN_LAMBDA { attend_destinations<T, decltype(w)::value>(a); });
    for_heads_and_rows<AttentionBackward, T>(a);
  });
}

}  // namespace REVGNN_ISA
}  // namespace revgnn
