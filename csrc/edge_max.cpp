// Maximum of GEN messages with raw edge features, and the gradients of the edge map.
#include "kernels.h"
#include "messages.h"
#include "parallel.h"

namespace {

/// The rectifier is a maximum with 0, so it is where the search starts; -1 marks a channel where nothing exceeds it.
template <class T, int W, int NB>
void edge_max_rows(const revgnn_edge_max_args &a, int64_t first, int64_t width) {
  using S = Sum<T>;
  using V = Vec<S, W>;
  using Lane = LaneInt<S>;
  const revgnn_csr &g = a.graph;
  const T *x = static_cast<const T *>(a.x) + first;
  const EdgeTerm<S, W, NB> edge_term(a, first, width);
  for_rows(g.num_rows, a.threads, 4 * (g.num_edges + g.num_rows) * width, [&](int64_t i) REVGNN_LAMBDA {
    V top[NB] = {};
    Mask<S, W> where[NB];
#pragma GCC unroll 8
    for (int b = 0; b < NB; b++) where[b] = ~Mask<S, W>{};
    const int64_t begin = g.indptr[i], end = g.indptr[i + 1];
    for (int64_t e = begin; e < end; e++) {
      if (e + kAhead < g.num_edges) prefetch<NB * W * sizeof(T)>(x + g.indices[e + kAhead] * a.x_stride);
      const T *row = x + g.indices[e] * a.x_stride;
      V term[NB];
      edge_term.make(e, term);
#pragma GCC unroll 8
      for (int b = 0; b < NB; b++) {
        const V value = load<W>(row + block_start<W, NB>(b, width)) + term[b];
        const Mask<S, W> better = beats<S, W>(value, top[b]);
        top[b] = better ? value : top[b];
        where[b] = better ? Mask<S, W>{} + Lane(e) : where[b];
      }
    }
    const S eps = begin < end ? S(a.eps) : S(0);
#pragma GCC unroll 8
    for (int b = 0; b < NB; b++) {
      const int64_t at = block_start<W, NB>(b, width);
      store<W>(static_cast<T *>(a.y) + i * a.y_stride + first + at, top[b] + eps);
      if (a.arg != nullptr) {
        store<W>(a.arg + i * a.width + first + at, __builtin_convertvector(where[b], Vec<int32_t, W>));
      }
    }
  });
}

/// Write [columns, rows] from [rows, columns].
template <class S>
void transpose(S *to, const S *from, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; r++) {
    for (int64_t c = 0; c < columns; c++) to[c * rows + r] = from[r * columns + c];
  }
}

/// Bring the features of the edges from `begin` to `end` into the cache: a row reads most of them, in any order.
template <class S>
REVGNN_INLINE void prefetch_features(const S *edge_attr, int64_t features, int64_t begin, int64_t end) {
  constexpr int64_t most = int64_t(8192) / int64_t(sizeof(S)), step = 64 / int64_t(sizeof(S));
  const int64_t last = end * features < begin * features + most ? end * features : begin * features + most;
  for (int64_t at = begin * features; at < last; at += step) __builtin_prefetch(edge_attr + at);
}

/// to_k += factor * from_k
template <class S>
REVGNN_INLINE void add_scaled(S *__restrict to, const S *__restrict from, S factor, int64_t count) {
  each_column<S>(count, [&](auto w, int64_t k) REVGNN_LAMBDA {
    constexpr int W = decltype(w)::value;
    store<W>(to + k, load<W>(to + k) + load<W>(from + k) * factor);
  });
}

/// Each channel of each row has one edge: an outer product of a single number with that edge's features. Sums and the
/// weight are taken channel by channel, so that features lie side by side.
template <class T>
void edge_max_backward_rows(const revgnn_edge_max_backward_args &a) {
  using S = Sum<T>;
  const revgnn_csr &g = a.graph;
  const int64_t features = a.num_features, width = a.width;
  const S *edge_attr = static_cast<const S *>(a.edge_attr), *weight = static_cast<const S *>(a.weight);
  S *dedge_attr = static_cast<S *>(a.dedge_attr);
  if (dedge_attr != nullptr) memset(dedge_attr, 0, size_t(g.num_edges * features) * sizeof(S));
  Buffer<S> by_channel(dedge_attr == nullptr ? 0 : width * features);
  if (dedge_attr != nullptr) transpose(by_channel.data(), weight, features, width);
  Partials<S> partials((features + 1) * width);  // [width, features], then the bias
  for_parts(a.threads, g.num_rows * width * (features + 1), [&](int64_t part) REVGNN_LAMBDA {
    const Range rows = rows_of_part(g.num_rows, part);
    S *dweight = partials.row(part), *dbias = dweight + features * width;
    for (int64_t i = rows.first; i < rows.last; i++) {
      if (i + 1 < g.num_rows) prefetch_features(edge_attr, features, g.indptr[i + 1], g.indptr[i + 2]);
      for (int64_t d = 0; d < width; d++) {
        const int64_t edge = a.arg[i * width + d];
        if (edge < 0) continue;
        const S grad = load<1>(static_cast<const T *>(a.grad) + i * a.grad_stride + d)[0];
        dbias[d] += grad;
        add_scaled(dweight + d * features, edge_attr + edge * features, grad, features);
        if (dedge_attr != nullptr) {
          add_scaled(dedge_attr + edge * features, by_channel.data() + d * features, grad, features);
        }
      }
    }
  });
  Buffer<S> sums(width * features);
  partials.sum_into(sums.data(), 0, features * width);
  transpose(static_cast<S *>(a.dweight), sums.data(), width, features);
  partials.sum_into(static_cast<S *>(a.dbias), features * width, width);
}

}  // namespace

namespace revgnn {
namespace REVGNN_ISA {

int edge_max(const revgnn_edge_max_args &a) {
  return with_dtype(a.dtype, [&](auto zero) REVGNN_LAMBDA {
    using T = decltype(zero);
    for_columns<Sum<T>, kBlocks<Sum<T>>>(a.width, [&](auto w, auto nb, int64_t first, int64_t width) REVGNN_LAMBDA {
      edge_max_rows<T, decltype(w)::value, decltype(nb)::value>(a, first, width);
    });
  });
}

int edge_max_backward(const revgnn_edge_max_backward_args &a) {
  return with_dtype(a.dtype, [&](auto zero) REVGNN_LAMBDA { edge_max_backward_rows<decltype(zero)>(a); });
}

}  // namespace REVGNN_ISA
}  // namespace revgnn
