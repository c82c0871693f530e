// Additive attention with any number of heads, and its gradients.
//
// One visit of each row's edges: the first head's pass brings the rows of all heads into the cache, and each head's
// logits are handled in short tiles with the softmax online, so that exponentials are taken a vector at a time and
// nothing is stored per edge. Backward, over the reverse: with p = exp(logit - lse) and D_i = <g_i, y_i>, the gradient
// of a logit is p (<g_i, x_j> - D_i): no sum over a row's edges is needed, and both ends' scores get theirs from sums
// that stand at one node. The destination's is <g_i, z_i> - D_i s_i with z = sum p slope x_j and s = sum p slope, which
// the forward leaves behind.
#include "columns.h"
#include "kernels.h"
#include "parallel.h"

namespace {

constexpr int kTile = 64;

/// Logits of a tile of edges of one head, and the slopes of the rectifier there.
template <class S>
struct Tile {
  S logit[kTile];
  S slope[kTile];
};

template <class S>
REVGNN_INLINE S lowest() {
  return S(-1e30);
}

/// exp of the first `count` entries minus `shift`, in place; what pads the last vector becomes 0.
template <class S>
REVGNN_INLINE void exp_tile(S *values, int count, S shift) {
  constexpr int W = kLanes<S>;
  for (int k = count; k % W != 0; k++) values[k] = -S(__builtin_inf());
  for (int k = 0; k < count; k += W) store<W>(values + k, vexp<W>(load<W>(values + k) - shift));
}

template <class S>
REVGNN_INLINE bool is_dropped(const uint8_t *keep, const revgnn_csr &g, int64_t e) {
  return keep != nullptr && !keep[g.edge_ids == nullptr ? e : g.edge_ids[e]];
}

// ------------------------------------------------------------------ forward
template <class T, int W, int NB>
void attention_rows(const revgnn_attention_args &a, int64_t first, int64_t width) {
  using S = Sum<T>;
  using V = Vec<S, W>;
  const revgnn_csr &g = a.graph;
  const int64_t heads = a.heads, full = heads * a.width;
  const T *x = static_cast<const T *>(a.x);
  const S *score_src = static_cast<const S *>(a.score_src), *score_dst = static_cast<const S *>(a.score_dst);
  const S negative = S(a.negative_slope);

  for_rows(g.num_rows, a.threads, 2 * (g.num_edges + g.num_rows) * heads * width, [&](int64_t i) REVGNN_LAMBDA {
    const int64_t begin = g.indptr[i], end = g.indptr[i + 1];
    for (int64_t h = 0; h < heads; h++) {
      const S to = score_dst == nullptr ? S(0) : score_dst[i * heads + h];
      const T *column = x + h * a.width + first;
      V acc[NB] = {}, slope_acc[NB] = {};
      S top = lowest<S>(), sum = 0, slope_sum = 0;
      for (int64_t start = begin; start < end; start += kTile) {
        Tile<S> tile;
        const int count = end - start < kTile ? int(end - start) : kTile;
        S tile_top = top;
        for (int k = 0; k < count; k++) {
          const S score = score_src[g.indices[start + k] * heads + h] + to;
          tile.slope[k] = score > 0 ? S(1) : negative;
          tile.logit[k] = is_dropped<S>(a.keep, g, start + k) ? -S(__builtin_inf()) : score * tile.slope[k];
          tile_top = tile.logit[k] > tile_top ? tile.logit[k] : tile_top;
        }
        if (tile_top > top && start > begin) {
          const S scale = S(__builtin_exp(double(top - tile_top)));
          sum *= scale;
          slope_sum *= scale;
#pragma GCC unroll 8
          for (int b = 0; b < NB; b++) {
            acc[b] *= scale;
            slope_acc[b] *= scale;
          }
        }
        top = tile_top;
        exp_tile(tile.logit, count, top);
        for (int k = 0; k < count; k++) {
          const int64_t e = start + k;
          if (h == 0 && e + kAhead < g.num_edges) {
            const T *next = x + g.indices[e + kAhead] * a.x_stride;
            for (int64_t other = 0; other < heads; other++) {
              prefetch<NB * W * sizeof(T)>(next + other * a.width + first);
            }
          }
          const S p = tile.logit[k], slope_p = p * tile.slope[k];
          sum += p;
          slope_sum += slope_p;
          const T *row = column + g.indices[e] * a.x_stride;
#pragma GCC unroll 8
          for (int b = 0; b < NB; b++) {
            const V value = load<W>(row + block_start<W, NB>(b, width));
            acc[b] += value * p;
            if (a.slope_y != nullptr) slope_acc[b] += value * slope_p;
          }
        }
      }
      const S share = sum > 0 || sum != sum ? S(1) / sum : S(0);
      T *y = static_cast<T *>(a.y) + i * a.y_stride + h * a.width + first;
      S *slope_y = a.slope_y == nullptr ? nullptr : static_cast<S *>(a.slope_y) + i * full + h * a.width + first;
#pragma GCC unroll 8
      for (int b = 0; b < NB; b++) {
        const int64_t at = block_start<W, NB>(b, width);
        store<W>(y + at, acc[b] * share);
        if (slope_y != nullptr) store<W>(slope_y + at, slope_acc[b] * share);
      }
      if (a.lse != nullptr) static_cast<S *>(a.lse)[i * heads + h] = sum > 0 ? top + S(__builtin_log(double(sum))) : S(0);
      if (a.slope_y != nullptr) static_cast<S *>(a.slope_sum)[i * heads + h] = slope_sum * share;
    }
  });
}

// ------------------------------------------------------------------ backward
/// What an edge needs of its destination and head, side by side for the gather.
template <class S>
struct Destination {
  S score;
  S lse;
  S dot; /* <g, y> */
};

template <class T, int W>
void attend_destinations(const revgnn_attention_backward_args &a) {
  using S = Sum<T>;
  using V = Vec<S, W>;
  const int64_t heads = a.heads, full = heads * a.width, last = a.width - W;
  const Mask<S, W> fresh = fresh_lanes<S, W>(a.width);
  const S *score_dst = static_cast<const S *>(a.score_dst);
  Destination<S> *out = static_cast<Destination<S> *>(a.scratch);
  for_rows(a.graph.num_rows, a.threads, 2 * a.graph.num_rows * full, [&](int64_t i) REVGNN_LAMBDA {
    for (int64_t h = 0; h < heads; h++) {
      const T *grad = static_cast<const T *>(a.grad) + i * a.grad_stride + h * a.width;
      const T *y = static_cast<const T *>(a.y) + i * a.y_stride + h * a.width;
      const S *slope_y = static_cast<const S *>(a.slope_y) + (a.slope_y == nullptr ? 0 : i * full + h * a.width);
      V dot{}, slope_dot{};
      for (int64_t d = 0; d < a.width; d += W) {
        const int64_t at = d < last ? d : last;
        const V g = d < last ? load<W>(grad + at) : (fresh ? load<W>(grad + at) : V{});
        dot += g * load<W>(y + at);
        if (a.dscore_dst != nullptr) slope_dot += g * load<W>(slope_y + at);
      }
      const S total = reduce_add<S, W>(dot);
      const int64_t node = i * heads + h;
      out[node] = {score_dst == nullptr ? S(0) : score_dst[node], static_cast<const S *>(a.lse)[node], total};
      if (a.dscore_dst != nullptr) {
        const S slope_sum = static_cast<const S *>(a.slope_sum)[node];
        static_cast<S *>(a.dscore_dst)[node] = reduce_add<S, W>(slope_dot) - total * slope_sum;
      }
    }
  });
}

template <class T, int W, int NB>
void attention_backward_rows(const revgnn_attention_backward_args &a, int64_t first, int64_t width) {
  using S = Sum<T>;
  using V = Vec<S, W>;
  const revgnn_csr &g = a.graph;
  const int64_t heads = a.heads;
  const T *grad = static_cast<const T *>(a.grad);
  const Destination<S> *destinations = static_cast<const Destination<S> *>(a.scratch);
  const S negative = S(a.negative_slope);
  const Mask<S, W> fresh = fresh_lanes<S, W>(width);

  for_rows(g.num_rows, a.threads, 4 * (g.num_edges + g.num_rows) * heads * width, [&](int64_t j) REVGNN_LAMBDA {
    const int64_t begin = g.indptr[j], end = g.indptr[j + 1];
    for (int64_t h = 0; h < heads; h++) {
      const S from = static_cast<const S *>(a.score_src)[j * heads + h];
      const T *column = grad + h * a.width + first;
      const T *x_row = static_cast<const T *>(a.x) + j * a.x_stride + h * a.width + first;
      V x[NB], dx[NB] = {}, score_lanes{};
#pragma GCC unroll 8
      for (int b = 0; b < NB; b++) x[b] = only_fresh<NB>(b, load<W>(x_row + block_start<W, NB>(b, width)), fresh);
      S dscore = 0;
      for (int64_t start = begin; start < end; start += kTile) {
        Tile<S> tile;
        S dots[kTile];
        const int count = end - start < kTile ? int(end - start) : kTile;
        for (int k = 0; k < count; k++) {
          const Destination<S> &to = destinations[g.indices[start + k] * heads + h];
          const S score = from + to.score;
          tile.slope[k] = score > 0 ? S(1) : negative;
          tile.logit[k] = is_dropped<S>(a.keep, g, start + k) ? -S(__builtin_inf()) : score * tile.slope[k] - to.lse;
          dots[k] = to.dot;
        }
        exp_tile(tile.logit, count, S(0));
        for (int k = 0; k < count; k++) {
          const int64_t e = start + k;
          if (h == 0 && e + kAhead < g.num_edges) {
            const int64_t next = g.indices[e + kAhead];
            prefetch<64>(destinations + next * heads);
            for (int64_t other = 0; other < heads; other++) {
              prefetch<NB * W * sizeof(T)>(grad + next * a.grad_stride + other * a.width + first);
            }
          }
          const S p = tile.logit[k], slope_p = p * tile.slope[k];
          const T *row = column + g.indices[e] * a.grad_stride;
          V dot{};
#pragma GCC unroll 8
          for (int b = 0; b < NB; b++) {
            const V value = load<W>(row + block_start<W, NB>(b, width));
            dot += value * x[b];
            dx[b] += value * p;
          }
          score_lanes += dot * slope_p;
          dscore -= slope_p * dots[k];
        }
      }
      dscore = (first > 0 ? S(0) : dscore) + reduce_add<S, W>(score_lanes);
      S *to = static_cast<S *>(a.dscore_src) + j * heads + h;
      *to = first > 0 ? *to + dscore : dscore;
      put_row<T, W, NB, S>(static_cast<T *>(a.dx) + j * a.dx_stride + h * a.width + first, width, dx, a.accumulate);
    }
  });
}

}  // namespace

namespace revgnn {
namespace REVGNN_ISA {

int attention(const revgnn_attention_args &a) {
  return with_dtype(a.dtype, [&](auto zero) REVGNN_LAMBDA {
    using T = decltype(zero);
    for_columns<Sum<T>, kBlocks<Sum<T>>>(a.width, [&](auto w, auto nb, int64_t first, int64_t width) REVGNN_LAMBDA {
      attention_rows<T, decltype(w)::value, decltype(nb)::value>(a, first, width);
    });
  });
}

int attention_backward(const revgnn_attention_backward_args &a) {
  return with_dtype(a.dtype, [&](auto zero) REVGNN_LAMBDA {
    using T = decltype(zero);
    with_lanes<Sum<T>>(a.width, [&](auto w) REVGNN_LAMBDA { attend_destinations<T, decltype(w)::value>(a); });
    for_columns<Sum<T>, kBlocks<Sum<T>>>(a.width, [&](auto w, auto nb, int64_t first, int64_t width) REVGNN_LAMBDA {
      attention_backward_rows<T, decltype(w)::value, decltype(nb)::value>(a, first, width);
    });
  });
}

}  // namespace REVGNN_ISA
}  // namespace revgnn
