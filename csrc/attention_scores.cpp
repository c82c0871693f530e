// The scores that attention starts from: products of each head's columns with one or two vectors, in one pass over the
// rows, and the gradients in another.
#include "columns.h"
#include "kernels.h"
#include "parallel.h"

namespace {

template <class T>
void score_rows(const revgnn_attention_scores_args &a) {
  using S = Sum<T>;
  constexpr int L = kLanes<S>;
  const S *attn_src = static_cast<const S *>(a.attn_src), *attn_dst = static_cast<const S *>(a.attn_dst);
  for_rows(a.num_rows, a.threads, 2 * a.num_rows * a.heads * a.width, [&](int64_t i) REVGNN_LAMBDA {
    for (int64_t h = 0; h < a.heads; h++) {
      const T *x = static_cast<const T *>(a.x) + i * a.x_stride + h * a.width;
      const S *src = attn_src + h * a.width, *dst = attn_dst == nullptr ? src : attn_dst + h * a.width;
      Vec<S, L> to_src{}, to_dst{};
      S src_rest = 0, dst_rest = 0;
      each_column<S>(a.width, [&](auto w, int64_t d) REVGNN_LAMBDA {
        constexpr int W = decltype(w)::value;
        const auto value = load<W>(x + d);
        if constexpr (W == L) {
          to_src += value * load<W>(src + d);
          to_dst += value * load<W>(dst + d);
        } else {
          src_rest += value[0] * src[d];
          dst_rest += value[0] * dst[d];
        }
      });
      static_cast<S *>(a.score_src)[i * a.heads + h] = reduce_add<S, L>(to_src) + src_rest;
      if (attn_dst == nullptr) continue;
      static_cast<S *>(a.score_dst)[i * a.heads + h] = reduce_add<S, L>(to_dst) + dst_rest;
    }
  });
}

/// Without vectors of the destination `both` is false.
template <class T, bool both>
void score_backward_rows(const revgnn_attention_scores_backward_args &a) {
  using S = Sum<T>;
  const int64_t width = a.heads * a.width;
  const S *attn_src = static_cast<const S *>(a.attn_src), *attn_dst = static_cast<const S *>(a.attn_dst);
  Partials<S> partials(2 * width);
  for_parts(a.threads, 4 * a.num_rows * width, [&](int64_t part) REVGNN_LAMBDA {
    const Range rows = rows_of_part(a.num_rows, part);
    S *src_sums = partials.row(part), *dst_sums = src_sums + width;
    for (int64_t i = rows.first; i < rows.last; i++) {
      for (int64_t h = 0; h < a.heads; h++) {
        const T *x = static_cast<const T *>(a.x) + i * a.x_stride + h * a.width;
        T *dx = static_cast<T *>(a.dx) + i * a.dx_stride + h * a.width;
        const S src = static_cast<const S *>(a.dscore_src)[i * a.heads + h];
        const S dst = both ? static_cast<const S *>(a.dscore_dst)[i * a.heads + h] : S(0);
        each_column<S>(a.width, [&](auto w, int64_t d) REVGNN_LAMBDA {
          constexpr int W = decltype(w)::value;
          const int64_t at = h * a.width + d;
          const auto value = load<W>(x + d);
          auto grad = load<W>(attn_src + at) * src;
          store<W>(src_sums + at, load<W>(src_sums + at) + value * src);
          if constexpr (both) {
            grad += load<W>(attn_dst + at) * dst;
            store<W>(dst_sums + at, load<W>(dst_sums + at) + value * dst);
          }
          store<W>(dx + d, a.accumulate ? load<W>(dx + d) + grad : grad);
        });
      }
    }
  });
  partials.sum_into(static_cast<S *>(a.dattn_src), 0, width);
  if (both) partials.sum_into(static_cast<S *>(a.dattn_dst), width, width);
}

}  // namespace

namespace revgnn {
namespace REVGNN_ISA {

int attention_scores(const revgnn_attention_scores_args &a) {
  return with_dtype(a.dtype, [&](auto zero) REVGNN_LAMBDA { score_rows<decltype(zero)>(a); });
}

int attention_scores_backward(const revgnn_attention_scores_backward_args &a) {
  return with_dtype(a.dtype, [&](auto zero) REVGNN_LAMBDA {
    using T = decltype(zero);
    a.attn_dst == nullptr ? score_backward_rows<T, false>(a) : score_backward_rows<T, true>(a);
  });
}

}  // namespace REVGNN_ISA
}  // namespace revgnn
