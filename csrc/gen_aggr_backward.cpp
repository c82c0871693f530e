// The gradients of GEN's aggregation.
//
// Per edge: with p = exp(t (m - y) - lse), dm = g p (1 + t (m - y)). Per node: without edge features p splits into
// exp(t (m_j - c)) * exp(t (c - y_i) - lse_i) for any c, so that two plain sums over the edges, of h and h (y - least)
// with h = g exp(t (c - y) - lse), are all that is needed. The gradient of t is sum g p (m - y) m', where m' may be m less
// anything that the row's edges share: the smaller, the more digits are left.
#include "gen_shift.h"
#include "kernels.h"
#include "messages.h"
#include "parallel.h"

namespace {

// ------------------------------------------------------------------ backward per edge
/// Gradients of messages, kept until there are enough of them to add their outer products with the edge features: the
/// sums of the weight's gradient then stay in registers over many edges.
template <class S, int W, int NB>
class EdgeGradients {
 public:
  using V = Vec<S, W>;

  EdgeGradients(const EdgeTerm<S, W, NB> &term, S *dweight, S *dedge_attr, bool add_to_attr, Mask<S, W> fresh)
      : term_(term), dweight_(dweight), dedge_attr_(dedge_attr), add_to_attr_(add_to_attr), fresh_(fresh) {}

  /// Where the next edge's gradients go.
  REVGNN_INLINE V *next(int64_t edge) {
    if (count_ == kTile) flush();
    edges_[count_] = edge;
    return grads_[count_++];
  }

  void flush() {
    for (int e = 0; e < count_; e++) grads_[e][NB - 1] = fresh_ ? grads_[e][NB - 1] : V{};
    int64_t k = 0;
    for (; k + 4 <= term_.num_features; k += 4) add_outer_products<4>(k);
    for (; k < term_.num_features; k++) add_outer_products<1>(k);
    if (dedge_attr_ != nullptr) add_edge_attr();
    count_ = 0;
  }

 private:
  static constexpr int kTile = 32;

  template <int KB>
  void add_outer_products(int64_t k) {
    for (int b = 0; b < NB; b++) {
      S *to = dweight_ + k * term_.full_width + block_start<W, NB>(b, term_.width);
      V sum[KB];
#pragma GCC unroll 4
      for (int q = 0; q < KB; q++) sum[q] = load<W>(to + q * term_.full_width);
      for (int e = 0; e < count_; e++) {
        const S *features = term_.features(edges_[e]) + k;
#pragma GCC unroll 4
        for (int q = 0; q < KB; q++) sum[q] += grads_[e][b] * features[q];
      }
#pragma GCC unroll 4
      for (int q = 0; q < KB; q++) store<W>(to + q * term_.full_width, sum[q]);
    }
  }

  void add_edge_attr() {
    for (int e = 0; e < count_; e++) {
      S *to = dedge_attr_ + edges_[e] * term_.num_features;
      for (int64_t k = 0; k < term_.num_features; k++) {
        const S *row = term_.weight + k * term_.full_width;
        V dot{};
#pragma GCC unroll 8
        for (int b = 0; b < NB; b++) dot += grads_[e][b] * load<W>(row + block_start<W, NB>(b, term_.width));
        const S value = reduce_add<S, W>(dot);
        to[k] = add_to_attr_ ? to[k] + value : value;
      }
    }
  }

  const EdgeTerm<S, W, NB> &term_;
  S *dweight_;
  S *dedge_attr_;
  bool add_to_attr_;
  Mask<S, W> fresh_;
  int count_ = 0;
  int64_t edges_[kTile];
  V grads_[kTile][NB];
};

/// Partial sums of one part, behind one another: t, then bias, then weight.
template <class S>
struct GenSums {
  S *t;
  S *bias;
  S *weight;
  GenSums(S *row, int64_t width) : t(row), bias(row + width), weight(row + 2 * width) {}
};

template <class S>
void finish_sums(const revgnn_gen_aggr_backward_args &a, const Partials<S> &partials) {
  if (a.dt != nullptr) partials.sum_into(static_cast<S *>(a.dt), 0, a.width);
  if (a.dbias != nullptr) partials.sum_into(static_cast<S *>(a.dbias), a.width, a.width);
  if (a.dweight != nullptr) partials.sum_into(static_cast<S *>(a.dweight), 2 * a.width, a.num_features * a.width);
}

/// The gradients that one edge after another sends to its source, for the columns of one piece of a row.
template <class T, int W, int NB, bool edges, bool softmax>
struct SourceGradients {
  using S = Sum<T>;
  using V = Vec<S, W>;
  const revgnn_gen_aggr_backward_args &a;
  const EdgeTerm<S, W, NB> edge_term;
  const int64_t width;
  const T *grad, *y;
  const S *lse;
  V t[NB];

  SourceGradients(const revgnn_gen_aggr_backward_args &args, int64_t first, int64_t piece_width)
      : a(args),
        edge_term(args, first, piece_width),
        width(piece_width),
        grad(static_cast<const T *>(a.grad) + first),
        y(softmax ? static_cast<const T *>(a.y) + first : nullptr),
        lse(softmax ? static_cast<const S *>(a.lse) + first : nullptr) {
    for (int b = 0; b < NB; b++) {
      t[b] = softmax ? load<W>(static_cast<const S *>(a.t) + first + block_start<W, NB>(b, width)) : V{};
    }
  }

  REVGNN_INLINE int64_t edge_at(int64_t e) const { return a.graph.edge_ids == nullptr ? e : a.graph.edge_ids[e]; }

  REVGNN_INLINE void fetch(int64_t e) const {
    if (e >= a.graph.num_edges) return;
    const int64_t i = a.graph.indices[e];
    prefetch<NB * W * sizeof(T)>(grad + i * a.grad_stride);
    if constexpr (softmax) prefetch<NB * W * sizeof(T)>(y + i * a.y_stride);
    if constexpr (softmax) prefetch<NB * W * sizeof(S)>(lse + i * a.width);
    if constexpr (edges) prefetch<64>(edge_term.features(edge_at(e)));
  }

  /// Add the gradient of the message on edge e of the source whose row is `x`; `kept` also receives it.
  REVGNN_INLINE void add(int64_t e, const T *x, V *sum, V *t_sum, V *kept) const {
    const int64_t i = a.graph.indices[e];
    const S through_weights = a.constant_weights ? S(0) : S(1);
    const bool mean = !softmax && a.reduce == REVGNN_MEAN;
    const S share = mean ? S(1) / S(a.degree_indptr[i + 1] - a.degree_indptr[i]) : S(1);
    V term[NB];
    if constexpr (edges) edge_term.make(edge_at(e), term);
#pragma GCC unroll 8
    for (int b = 0; b < NB; b++) {
      const int64_t at = block_start<W, NB>(b, width);
      const V from = load<W>(x + at), inside = edges ? from + term[b] : from;
      V dm = load<W>(grad + i * a.grad_stride + at) * share;
      if constexpr (softmax) {
        const V m = relu(inside) + S(a.eps), away = m - load<W>(y + i * a.y_stride + at);
        dm *= vexp<W>(away * t[b] - load<W>(lse + i * a.width + at));
        t_sum[b] += dm * away * away;
        dm *= away * t[b] * through_weights + S(1);
      }
      dm = inside > V{} ? dm : V{};
      sum[b] += dm;
      if constexpr (edges) kept[b] = dm;
    }
  }
};

template <class T, int W, int NB, bool edges, bool softmax>
void gen_backward_rows(
    const revgnn_gen_aggr_backward_args &a, int64_t first, int64_t width, Partials<Sum<T>> &partials
) {
  using S = Sum<T>;
  using V = Vec<S, W>;
  const revgnn_csr &g = a.graph;
  const SourceGradients<T, W, NB, edges, softmax> gradients(a, first, width);
  const Mask<S, W> fresh = fresh_lanes<S, W>(width);

  for_parts(a.threads, 8 * (g.num_edges + g.num_rows) * width, [&](int64_t part) REVGNN_LAMBDA {
    const Range rows = rows_of_part(g.indptr, g.num_rows, g.num_edges, part);
    const GenSums<S> sums(partials.row(part), a.width);
    S *dedge_attr = static_cast<S *>(a.dedge_attr);
    EdgeGradients<S, W, NB> edge_grads(gradients.edge_term, sums.weight + first, dedge_attr, first > 0, fresh);
    for (int64_t j = rows.first; j < rows.last; j++) {
      const T *x = static_cast<const T *>(a.x) + j * a.x_stride + first;
      V sum[NB] = {}, t_sum[NB] = {};
      for (int64_t e = g.indptr[j]; e < g.indptr[j + 1]; e++) {
        gradients.fetch(e + kAhead);
        gradients.add(e, x, sum, t_sum, edges ? edge_grads.next(gradients.edge_at(e)) : nullptr);
      }
      if constexpr (edges) add_row<W, NB>(sums.bias + first, width, sum, fresh);
      if constexpr (softmax) add_row<W, NB>(sums.t + first, width, t_sum, fresh);
      put_row<T, W, NB, S>(static_cast<T *>(a.dx) + j * a.dx_stride + first, width, sum, a.accumulate);
    }
    if constexpr (edges) edge_grads.flush();
  });
}

// ------------------------------------------------------------------ backward per node
/// scratch_i = (h_i, h_i (y_i - least)) with h = grad exp(t (top - y) - lse)
template <class T, int W>
void make_node_sums(const revgnn_gen_aggr_backward_args &a, const ChannelShifts<Sum<T>> &shifts) {
  using S = Sum<T>;
  for_rows(a.graph.num_rows, a.threads, 5 * a.graph.num_rows * a.width, [&](int64_t i) REVGNN_LAMBDA {
    const T *grad = static_cast<const T *>(a.grad) + i * a.grad_stride,
            *y = static_cast<const T *>(a.y) + i * a.y_stride;
    const S *lse = static_cast<const S *>(a.lse) + i * a.width, *t = static_cast<const S *>(a.t);
    T *out = static_cast<T *>(a.scratch) + 2 * i * a.width;
    for (int64_t d = 0; d < a.width; d += W) {
      const int64_t at = d + W <= a.width ? d : a.width - W;
      const auto value = load<W>(y + at), below = (load<W>(shifts.top() + at) - value) * load<W>(t + at);
      const auto h = load<W>(grad + at) * vexp<W>(below - load<W>(lse + at));
      store<W>(out + at, h);
      store<W>(out + a.width + at, h * (value - load<W>(shifts.least() + at)));
    }
  });
}

template <class T, int W, int NB>
void node_backward_rows(
    const revgnn_gen_aggr_backward_args &a, int64_t first, int64_t width, const ChannelShifts<Sum<T>> &shifts,
    Partials<Sum<T>> &partials
) {
  using S = Sum<T>;
  using V = Vec<S, W>;
  const revgnn_csr &g = a.graph;
  const Mask<S, W> fresh = fresh_lanes<S, W>(width);
  const T *h = static_cast<const T *>(a.scratch) + first;
  const S through_weights = a.constant_weights ? S(0) : S(1);
  for_parts(a.threads, 2 * (g.num_edges + g.num_rows) * width, [&](int64_t part) REVGNN_LAMBDA {
    const Range rows = rows_of_part(g.indptr, g.num_rows, g.num_edges, part);
    for (int64_t j = rows.first; j < rows.last; j++) {
      V sum[NB] = {}, sum_y[NB] = {}, t_sum[NB];
      sum_pairs<T, W, NB>(g, j, h, 2 * a.width, a.width, width, sum, sum_y);
      const T *x = static_cast<const T *>(a.x) + j * a.x_stride + first;
#pragma GCC unroll 8
      for (int b = 0; b < NB; b++) {
        const int64_t at = block_start<W, NB>(b, width);
        const V inside = load<W>(x + at), m = relu(inside) + S(a.eps);
        const V t = load<W>(static_cast<const S *>(a.t) + first + at);
        const V p = vexp_inside<W>((m - load<W>(shifts.top() + first + at)) * t);
        const V above = m - load<W>(shifts.least() + first + at), away = above * sum[b] - sum_y[b];
        t_sum[b] = p * above * away;
        const V dm = p * (sum[b] + t * through_weights * away);
        sum[b] = inside > V{} ? dm : V{};
      }
      add_row<W, NB>(GenSums<S>(partials.row(part), a.width).t + first, width, t_sum, fresh);
      put_row<T, W, NB, S>(static_cast<T *>(a.dx) + j * a.dx_stride + first, width, sum, a.accumulate);
    }
  });
}

/// Returns false, with nothing written, where a channel's range asks for the way per edge.
template <class T>
bool backward_by_node(const revgnn_gen_aggr_backward_args &a, Partials<Sum<T>> &partials) {
  using S = Sum<T>;
  if (a.weight != nullptr || a.scratch == nullptr || a.reduce != REVGNN_SOFTMAX) return false;
  ChannelShifts<S> shifts(a.width);
  find_shifts<T>(a, shifts);
  if (shifts.narrow) {
    with_lanes<S>(a.width, [&](auto w) REVGNN_LAMBDA { make_node_sums<T, decltype(w)::value>(a, shifts); });
    for_columns<S, kBlocks<S>>(a.width, [&](auto w, auto nb, int64_t first, int64_t width) REVGNN_LAMBDA {
      node_backward_rows<T, decltype(w)::value, decltype(nb)::value>(a, first, width, shifts, partials);
    });
  }
  return shifts.narrow;
}

template <class T>
void backward_by_edge(const revgnn_gen_aggr_backward_args &a, Partials<Sum<T>> &partials) {
  for_columns<Sum<T>, kFewBlocks<Sum<T>>>(a.width, [&](auto w, auto nb, int64_t first, int64_t width) REVGNN_LAMBDA {
    constexpr int W = decltype(w)::value, NB = decltype(nb)::value;
    if (a.weight == nullptr) {
      gen_backward_rows<T, W, NB, false, true>(a, first, width, partials);
    } else if (a.reduce == REVGNN_SOFTMAX) {
      gen_backward_rows<T, W, NB, true, true>(a, first, width, partials);
    } else {
      gen_backward_rows<T, W, NB, true, false>(a, first, width, partials);
    }
  });
}

}  // namespace

namespace revgnn {
namespace REVGNN_ISA {

int gen_aggr_backward(const revgnn_gen_aggr_backward_args &a) {
  return with_dtype(a.dtype, [&](auto zero) REVGNN_LAMBDA {
    using T = decltype(zero);
    Partials<Sum<T>> partials((2 + a.num_features) * a.width);
    if (!backward_by_node<T>(a, partials)) backward_by_edge<T>(a, partials);
    finish_sums(a, partials);
  });
}

}  // namespace REVGNN_ISA
}  // namespace revgnn
