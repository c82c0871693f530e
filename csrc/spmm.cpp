// Weighted sums of neighbours, the gradient of their weights, and the maximum with its backward.
#include "columns.h"
#include "kernels.h"
#include "parallel.h"

namespace {

/// How many rows ahead the sums fetch rows of so many bytes: the shorter they are, the sooner they are summed.
constexpr int64_t rows_ahead(int64_t bytes) {
  return bytes <= 64 ? 48 : bytes <= 128 ? 32 : bytes <= 256 ? 24 : kAhead;
}

/// Where the weight of an edge comes from.
enum class Weights {
  none,  /* all are 1 */
  edges, /* its own, in the order of the edges */
  any,   /* its own, wherever it stands, its source's, or their product */
};

/// Reads the weight of an edge.
template <class S, Weights kind>
struct Weigher {
  const S *edge;
  const S *source;
  const int64_t *edge_ids;

  REVGNN_INLINE S operator()(int64_t position, int64_t j) const {
    if constexpr (kind == Weights::none) return S(1);
    if constexpr (kind == Weights::edges) return edge[position];
    S w = S(1);
    if (edge != nullptr) w = edge[edge_ids == nullptr ? position : edge_ids[position]];
    return source == nullptr ? w : w * source[j];
  }
};

/// What a row's sum is multiplied by at the end.
template <class S>
REVGNN_INLINE S scale_of(const revgnn_spmm_args &a, int64_t i) {
  const S scale = a.dst_scale == nullptr ? S(1) : static_cast<const S *>(a.dst_scale)[i];
  const int64_t edges = a.graph.indptr[i + 1] - a.graph.indptr[i];
  return a.mean && edges > 0 ? scale / S(edges) : scale;
}

template <class T, class Out, int W, int NB, Weights kind>
void sum_rows(const revgnn_spmm_args &a, int64_t first, int64_t width) {
  using S = Sum<T>;
  using V = Vec<S, W>;
  const revgnn_csr &g = a.graph;
  const T *x = static_cast<const T *>(a.x) + first;
  Out *out = static_cast<Out *>(a.out) + first;
  const Weigher<S, kind> weight{static_cast<const S *>(a.weight), static_cast<const S *>(a.src_scale), g.edge_ids};
  constexpr int64_t ahead = rows_ahead(NB * W * sizeof(T));

  for_rows(g.num_rows, a.threads, (g.num_edges + g.num_rows) * width, [&](int64_t i) REVGNN_LAMBDA {
    V sum[NB] = {};
    for (int64_t e = g.indptr[i]; e < g.indptr[i + 1]; e++) {
      if (e + ahead < g.num_edges) prefetch<NB * W * sizeof(T)>(x + g.indices[e + ahead] * a.x_stride);
      const int64_t j = g.indices[e];
      const T *row = x + j * a.x_stride;
      const S w = weight(e, j);
#pragma GCC unroll 8
      for (int b = 0; b < NB; b++) {
        const V value = load<W>(row + block_start<W, NB>(b, width));
        sum[b] += kind == Weights::none ? value : value * w;
      }
    }
    const S scale = scale_of<S>(a, i);
#pragma GCC unroll 8
    for (int b = 0; b < NB; b++) sum[b] *= scale;
    put_row<Out, W, NB, S>(out + i * a.out_stride, width, sum, a.accumulate);
  });
}

/// The same for bfloat16 rows, in NB blocks of two vectors.
template <class Out, int W, int NB, Weights kind>
void sum_half_rows(const revgnn_spmm_args &a, int64_t first, int64_t width) {
  const revgnn_csr &g = a.graph;
  const bf16 *x = static_cast<const bf16 *>(a.x) + first;
  Out *out = static_cast<Out *>(a.out) + first;
  const Weigher<float, kind> weight{
      static_cast<const float *>(a.weight), static_cast<const float *>(a.src_scale), g.edge_ids
  };
  constexpr int64_t ahead = rows_ahead(NB * W * 4);
  for_rows(g.num_rows, a.threads, (g.num_edges + g.num_rows) * width, [&](int64_t i) REVGNN_LAMBDA {
    Halves<W> sum[NB] = {};
    for (int64_t e = g.indptr[i]; e < g.indptr[i + 1]; e++) {
      if (e + ahead < g.num_edges) prefetch<NB * W * 4>(x + g.indices[e + ahead] * a.x_stride);
      const int64_t j = g.indices[e];
      const bf16 *row = x + j * a.x_stride;
      const float w = weight(e, j);
#pragma GCC unroll 4
      for (int b = 0; b < NB; b++) {
        const Halves<W> value = load_halves<W>(row + block_start<2 * W, NB>(b, width));
        sum[b].even += kind == Weights::none ? value.even : value.even * w;
        sum[b].odd += kind == Weights::none ? value.odd : value.odd * w;
      }
    }
    const float scale = scale_of<float>(a, i);
    Out *to = out + i * a.out_stride;
#pragma GCC unroll 4
    for (int b = 0; b < NB; b++) sum[b] = {sum[b].even * scale, sum[b].odd * scale};
    if (a.accumulate) {
#pragma GCC unroll 4
      for (int b = 0; b < NB; b++) {
        const Halves<W> before = load_halves<W>(to + block_start<2 * W, NB>(b, width));
        sum[b] = {sum[b].even + before.even, sum[b].odd + before.odd};
      }
    }
#pragma GCC unroll 4
    for (int b = 0; b < NB; b++) store_halves<W>(to + block_start<2 * W, NB>(b, width), sum[b]);
  });
}

template <class T, class Out, Weights kind>
void sum_any_width(const revgnn_spmm_args &a) {
  using S = Sum<T>;
  constexpr int W = kLanes<S>;
  if constexpr (sizeof(T) == 2) {
    if (a.width >= 2 * W) {
      cut<2 * W, kBlocks<S> / 2>(a.width, [&](auto, auto nb, int64_t first, int64_t width) REVGNN_LAMBDA {
        sum_half_rows<Out, W, decltype(nb)::value, kind>(a, first, width);
      });
      return;
    }
  }
  for_columns<S, kBlocks<S>>(a.width, [&](auto w, auto nb, int64_t first, int64_t width) REVGNN_LAMBDA {
    sum_rows<T, Out, decltype(w)::value, decltype(nb)::value, kind>(a, first, width);
  });
}

template <class T, class Out>
int sum_neighbours(const revgnn_spmm_args &a) {
  if (a.weight == nullptr && a.src_scale == nullptr) {
    sum_any_width<T, Out, Weights::none>(a);
  } else if (a.src_scale == nullptr && a.graph.edge_ids == nullptr) {
    sum_any_width<T, Out, Weights::edges>(a);
  } else {
    sum_any_width<T, Out, Weights::any>(a);
  }
  return 0;
}

template <class T, int W>
void dot_edges(const revgnn_edge_dot_args &a) {
  using S = Sum<T>;
  const revgnn_csr &g = a.graph;
  const T *x = static_cast<const T *>(a.x), *grad = static_cast<const T *>(a.grad);
  S *out = static_cast<S *>(a.out);
  const int64_t last = a.width - W;
  const Mask<S, W> fresh = fresh_lanes<S, W>(a.width);
  for_rows(g.num_rows, a.threads, (g.num_edges + g.num_rows) * a.width, [&](int64_t i) REVGNN_LAMBDA {
    const int64_t begin = g.indptr[i], end = g.indptr[i + 1];
    const S scale = a.mean ? S(1) / S(end - begin) : S(1);
    const T *to = grad + i * a.grad_stride;
    for (int64_t e = begin; e < end; e++) {
      if (e + kAhead < g.num_edges) prefetch<256>(x + g.indices[e + kAhead] * a.x_stride);
      const T *from = x + g.indices[e] * a.x_stride;
      Vec<S, W> sum = fresh ? load<W>(from + last) * load<W>(to + last) : Vec<S, W>{};
      for (int64_t at = 0; at < last; at += W) sum += load<W>(from + at) * load<W>(to + at);
      out[e] = reduce_add<S, W>(sum) * scale;
    }
  });
}

template <class T, int W, int NB>
void max_rows(const revgnn_max_args &a, int64_t first, int64_t width) {
  using S = Sum<T>;
  using V = Vec<S, W>;
  using Lane = LaneInt<S>;
  const revgnn_csr &g = a.graph;
  const T *x = static_cast<const T *>(a.x) + first;
  T *out = static_cast<T *>(a.out) + first;
  for_rows(g.num_rows, a.threads, (g.num_edges + g.num_rows) * width, [&](int64_t i) REVGNN_LAMBDA {
    V top[NB];
    Mask<S, W> where[NB];
    const int64_t begin = g.indptr[i], end = g.indptr[i + 1];
#pragma GCC unroll 8
    for (int b = 0; b < NB; b++) {
      const T *row = begin < end ? x + g.indices[begin] * a.x_stride : nullptr;
      top[b] = row == nullptr ? V{} : load<W>(row + block_start<W, NB>(b, width));
      where[b] = Mask<S, W>{} + Lane(row == nullptr ? -1 : begin);
    }
    for (int64_t e = begin + 1; e < end; e++) {
      if (e + kAhead < g.num_edges) prefetch<NB * W * sizeof(T)>(x + g.indices[e + kAhead] * a.x_stride);
      const T *row = x + g.indices[e] * a.x_stride;
#pragma GCC unroll 8
      for (int b = 0; b < NB; b++) {
        const V value = load<W>(row + block_start<W, NB>(b, width));
        const Mask<S, W> better = beats<S, W>(value, top[b]);
        top[b] = better ? value : top[b];
        where[b] = better ? Mask<S, W>{} + Lane(e) : where[b];
      }
    }
#pragma GCC unroll 8
    for (int b = 0; b < NB; b++) {
      const int64_t at = block_start<W, NB>(b, width);
      store<W>(out + i * a.out_stride + at, top[b]);
      if (a.arg != nullptr) {
        store<W>(a.arg + i * a.width + first + at, __builtin_convertvector(where[b], Vec<int32_t, W>));
      }
    }
  });
}

template <class T, int W, int NB>
void max_backward_rows(const revgnn_max_backward_args &a, int64_t first, int64_t width) {
  using S = Sum<T>;
  using V = Vec<S, W>;
  using Lane = LaneInt<S>;
  const revgnn_csr &g = a.graph;
  const T *grad = static_cast<const T *>(a.grad) + first;
  const int32_t *arg = a.arg + first;
  T *dx = static_cast<T *>(a.dx) + first;
  for_rows(g.num_rows, a.threads, 2 * (g.num_edges + g.num_rows) * width, [&](int64_t j) REVGNN_LAMBDA {
    V sum[NB] = {};
    for (int64_t e = g.indptr[j]; e < g.indptr[j + 1]; e++) {
      if (e + kAhead < g.num_edges) {
        prefetch<NB * W * sizeof(T)>(grad + g.indices[e + kAhead] * a.grad_stride);
        prefetch<NB * W * 4>(arg + g.indices[e + kAhead] * a.width);
      }
      const int64_t i = g.indices[e], edge = g.edge_ids == nullptr ? e : g.edge_ids[e];
#pragma GCC unroll 8
      for (int b = 0; b < NB; b++) {
        const int64_t at = block_start<W, NB>(b, width);
        const auto where = __builtin_convertvector(load<W>(arg + i * a.width + at), Mask<S, W>);
        sum[b] += where == Lane(edge) ? load<W>(grad + i * a.grad_stride + at) : V{};
      }
    }
    put_row<T, W, NB, S>(dx + j * a.dx_stride, width, sum, a.accumulate);
  });
}

}  // namespace

namespace revgnn {
namespace REVGNN_ISA {

int spmm(const revgnn_spmm_args &a) {
#ifndef REVGNN_ONLY_BF16
  if (a.dtype == REVGNN_F32 && a.out_dtype == REVGNN_F32) return sum_neighbours<float, float>(a);
#endif
  if (a.dtype == REVGNN_BF16 && a.out_dtype == REVGNN_BF16) return sum_neighbours<bf16, bf16>(a);
  if (a.dtype == REVGNN_BF16 && a.out_dtype == REVGNN_F32) return sum_neighbours<bf16, float>(a);
#ifndef REVGNN_ONLY_BF16
  if (a.dtype == REVGNN_F64 && a.out_dtype == REVGNN_F64) return sum_neighbours<double, double>(a);
#endif
  return REVGNN_UNSUPPORTED;
}

#ifndef REVGNN_ONLY_BF16
int edge_dot(const revgnn_edge_dot_args &a) {
  return with_dtype(a.dtype, [&](auto zero) REVGNN_LAMBDA {
    using T = decltype(zero);
    with_lanes<Sum<T>>(a.width, [&](auto w) REVGNN_LAMBDA { dot_edges<T, decltype(w)::value>(a); });
  });
}

int max(const revgnn_max_args &a) {
  return with_dtype(a.dtype, [&](auto zero) REVGNN_LAMBDA {
    using T = decltype(zero);
    for_columns<Sum<T>, kBlocks<Sum<T>>>(a.width, [&](auto w, auto nb, int64_t first, int64_t width) REVGNN_LAMBDA {
      max_rows<T, decltype(w)::value, decltype(nb)::value>(a, first, width);
    });
  });
}

int max_backward(const revgnn_max_backward_args &a) {
  return with_dtype(a.dtype, [&](auto zero) REVGNN_LAMBDA {
    using T = decltype(zero);
    for_columns<Sum<T>, kBlocks<Sum<T>>>(a.width, [&](auto w, auto nb, int64_t first, int64_t width) REVGNN_LAMBDA {
      max_backward_rows<T, decltype(w)::value, decltype(nb)::value>(a, first, width);
    });
  });
}
#endif

}  // namespace REVGNN_ISA
}  // namespace revgnn
