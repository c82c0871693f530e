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

/// Each channel of each row has one edge: an outer product of a single number with that edge's features.
template <class T>
void edge_max_backward_rows(const revgnn_edge_max_backward_args &a) {
  using S = Sum<T>;
  const revgnn_csr &g = a.graph;
  const int64_t features = a.num_features;
  const S *edge_attr = static_cast<const S *>(a.edge_attr), *weight = static_cast<const S *>(a.weight);
  S *dedge_attr = static_cast<S *>(a.dedge_attr);
  if (dedge_attr != nullptr) memset(dedge_attr, 0, size_t(g.num_edges * features) * sizeof(S));
  Partials<S> partials((features + 1) * a.width);  // [features, width], then the bias
  for_parts(a.threads, g.num_rows * a.width * (features + 1), [&](int64_t part) REVGNN_LAMBDA {
    const Range rows = rows_of_part(g.num_rows, part);
    S *dweight = partials.row(part), *dbias = dweight + features * a.width;
    for (int64_t i = rows.first; i < rows.last; i++) {
      for (int64_t d = 0; d < a.width; d++) {
        const int64_t edge = a.arg[i * a.width + d];
        if (edge < 0) continue;
        const S grad = load<1>(static_cast<const T *>(a.grad) + i * a.grad_stride + d)[0];
        dbias[d] += grad;
        for (int64_t k = 0; k < features; k++) {
          dweight[k * a.width + d] += grad * edge_attr[edge * features + k];
          if (dedge_attr != nullptr) dedge_attr[edge * features + k] += grad * weight[k * a.width + d];
        }
      }
    }
  });
  partials.sum_into(static_cast<S *>(a.dweight), 0, features * a.width);
  partials.sum_into(static_cast<S *>(a.dbias), features * a.width, a.width);
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
