// Aggregation of GEN messages by softmax, sum or mean, with raw edge features or without.
//
// By edge: one visit of every edge; where the logits t m of every channel have a narrow range and none is large, one
// shift a channel keeps their exponentials finite; else each row's shift is found online, and raised only when a logit
// exceeds it by kSlack, so that rescaling is rare. By node: with a narrow range and a scratch the exponentials are
// taken once a node, and edges add them up.
#include "gen_shift.h"
#include "kernels.h"
#include "messages.h"
#include "parallel.h"

namespace {

constexpr int kSlack = 20;

/// How the messages of a row are reduced.
enum class Way {
  sums,    /* sum or mean */
  shifted, /* softmax with one shift a channel, which no logit exceeds */
  online,  /* softmax with a shift of the row, found on the way */
};

// ------------------------------------------------------------------ forward
/// The softmax of one row so far: weights are exp(t (m - top)). Differences of messages are formed before they are
/// multiplied by t: a large logit has no digits to spare.
template <class S, int W, int NB, Way way>
struct Softmax {
  using V = Vec<S, W>;
  V top[NB], sum[NB]; /* sum of the weights p */
  V acc[NB];          /* sum of p m; online of p (m - top), which is small where m is large */

  REVGNN_INLINE Softmax() {
#pragma GCC unroll 8
    for (int b = 0; b < NB; b++) top[b] = sum[b] = acc[b] = V{};
  }

  /// Begin with the first message as the shift.
  REVGNN_INLINE void start(const V *m) {
#pragma GCC unroll 8
    for (int b = 0; b < NB; b++) top[b] = m[b];
  }

  /// Raise the shifts of all channels that are exceeded; `away`: m - top, before and after.
  REVGNN_INLINE void raise(const V *m, const V *t, V *away) {
#pragma GCC unroll 8
    for (int b = 0; b < NB; b++) {
      const V raised = away[b] * t[b] > V{} ? m[b] : top[b], step = top[b] - raised;
      const V scale = vexp<W>(step * t[b]);
      acc[b] = (acc[b] + sum[b] * step) * scale;
      sum[b] *= scale;
      top[b] = raised;
      away[b] = m[b] - raised;
    }
  }

  REVGNN_INLINE void add(const V *m, const V *t) {
    V away[NB];
#pragma GCC unroll 8
    for (int b = 0; b < NB; b++) away[b] = m[b] - top[b];
    if constexpr (way == Way::online) {
      Mask<S, W> above{};
#pragma GCC unroll 8
      for (int b = 0; b < NB; b++) above |= away[b] * t[b] > splat<S, W>(S(kSlack));
      if (__builtin_expect(any<S, W>(above), 0)) raise(m, t, away);
    }
#pragma GCC unroll 8
    for (int b = 0; b < NB; b++) {
      const V p = way == Way::shifted ? vexp_inside<W>(away[b] * t[b]) : vexp<W>(away[b] * t[b]);
      sum[b] += p;
      acc[b] += p * (way == Way::shifted ? m[b] : away[b]);
    }
  }
};

/// Write y = base + acc / sum, and what turns messages into weights: the log of the sum of exp(t (m - y)), y as it is
/// stored.
template <class T, int W, int NB>
REVGNN_INLINE void put_softmax(
    const revgnn_gen_aggr_args &a, int64_t i, int64_t first, int64_t width, const Vec<Sum<T>, W> *base,
    const Vec<Sum<T>, W> *top, const Vec<Sum<T>, W> *sum, const Vec<Sum<T>, W> *acc
) {
  using S = Sum<T>;
  using V = Vec<S, W>;
  T *y = static_cast<T *>(a.y) + i * a.y_stride + first;
  S *lse = a.lse == nullptr ? nullptr : static_cast<S *>(a.lse) + i * a.width + first;
  const bool isolated = a.graph.indptr[i] == a.graph.indptr[i + 1];
#pragma GCC unroll 8
  for (int b = 0; b < NB; b++) {
    const int64_t at = block_start<W, NB>(b, width);
    store<W>(y + at, isolated ? V{} : acc[b] / sum[b] + base[b]);
    if (lse == nullptr) continue;
    const V t = load<W>(static_cast<const S *>(a.t) + first + at);
    store<W>(lse + at, isolated ? V{} : vlog<W>(sum[b]) + t * (top[b] - load<W>(y + at)));
  }
}

template <class T, int W, int NB, bool edges, Way way>
void gen_rows(const revgnn_gen_aggr_args &a, int64_t first, int64_t width, const ChannelShifts<Sum<T>> &shifts) {
  using S = Sum<T>;
  using V = Vec<S, W>;
  const revgnn_csr &g = a.graph;
  const T *x = static_cast<const T *>(a.x) + first;
  const EdgeTerm<S, W, NB> edge_term(a, first, width);
  const S eps = S(a.eps);
  constexpr bool softmax = way != Way::sums;
  V t[NB];
#pragma GCC unroll 8
  for (int b = 0; b < NB; b++) {
    t[b] = softmax ? load<W>(static_cast<const S *>(a.t) + first + block_start<W, NB>(b, width)) : V{};
  }

  for_rows(g.num_rows, a.threads, 4 * (g.num_edges + g.num_rows) * width, [&](int64_t i) REVGNN_LAMBDA {
    Softmax<S, W, NB, way> state;
    if constexpr (way == Way::shifted) {
#pragma GCC unroll 8
      for (int b = 0; b < NB; b++) state.top[b] = load<W>(shifts.top() + first + block_start<W, NB>(b, width));
    }
    const int64_t begin = g.indptr[i], end = g.indptr[i + 1];
    const auto visit = [&](int64_t e, const V *term) REVGNN_LAMBDA {
      if (e + kAhead < g.num_edges) prefetch<NB * W * sizeof(T)>(x + g.indices[e + kAhead] * a.x_stride);
      const T *row = x + g.indices[e] * a.x_stride;
      V m[NB];
#pragma GCC unroll 8
      for (int b = 0; b < NB; b++) {
        const V from = load<W>(row + block_start<W, NB>(b, width));
        m[b] = relu(edges ? from + term[b] : from) + eps;
        if constexpr (!softmax) state.acc[b] += m[b];
      }
      if constexpr (way == Way::online) {
        if (__builtin_expect(e == begin, 0)) state.start(m);
      }
      if constexpr (softmax) state.add(m, t);
    };
    if constexpr (edges) {
      each_term<S, W, NB>(edge_term, begin, end, visit);
    } else {
      for (int64_t e = begin; e < end; e++) visit(e, nullptr);
    }
    if constexpr (softmax) {
      const V none[NB] = {}, *base = way == Way::online ? state.top : none;
      put_softmax<T, W, NB>(a, i, first, width, base, state.top, state.sum, state.acc);
    } else {
      T *y = static_cast<T *>(a.y) + i * a.y_stride + first;
      const S share = a.reduce == REVGNN_MEAN && end > begin ? S(1) / S(end - begin) : S(1);
#pragma GCC unroll 8
      for (int b = 0; b < NB; b++) store<W>(y + block_start<W, NB>(b, width), state.acc[b] * share);
    }
  });
}

// ------------------------------------------------------------------ by node
/// scratch_j = (p_j, p_j (m_j - least)) with p = exp(t (m - top))
template <class T, int W>
void make_node_weights(const revgnn_gen_aggr_args &a, const ChannelShifts<Sum<T>> &shifts) {
  using S = Sum<T>;
  const S *t = static_cast<const S *>(a.t);
  for_rows(a.graph.num_rows, a.threads, 5 * a.graph.num_rows * a.width, [&](int64_t j) REVGNN_LAMBDA {
    const T *x = static_cast<const T *>(a.x) + j * a.x_stride;
    T *out = static_cast<T *>(a.scratch) + 2 * j * a.width;
    for (int64_t d = 0; d < a.width; d += W) {
      const int64_t at = d + W <= a.width ? d : a.width - W;
      const auto m = relu(load<W>(x + at)) + S(a.eps);
      const auto p = vexp_inside<W>((m - load<W>(shifts.top() + at)) * load<W>(t + at));
      store<W>(out + at, p);
      store<W>(out + a.width + at, p * (m - load<W>(shifts.least() + at)));
    }
  });
}

template <class T, int W, int NB>
void node_rows(const revgnn_gen_aggr_args &a, int64_t first, int64_t width, const ChannelShifts<Sum<T>> &shifts) {
  using S = Sum<T>;
  using V = Vec<S, W>;
  const revgnn_csr &g = a.graph;
  const T *weights = static_cast<const T *>(a.scratch) + first;
  for_rows(g.num_rows, a.threads, 2 * (g.num_edges + g.num_rows) * width, [&](int64_t i) REVGNN_LAMBDA {
    V sum[NB] = {}, acc[NB] = {}, top[NB], least[NB];
    sum_pairs<T, W, NB>(g, i, weights, 2 * a.width, a.width, width, sum, acc);
#pragma GCC unroll 8
    for (int b = 0; b < NB; b++) {
      top[b] = load<W>(shifts.top() + first + block_start<W, NB>(b, width));
      least[b] = load<W>(shifts.least() + first + block_start<W, NB>(b, width));
    }
    put_softmax<T, W, NB>(a, i, first, width, least, top, sum, acc);
  });
}

template <class T>
void aggregate(const revgnn_gen_aggr_args &a) {
  using S = Sum<T>;
  ChannelShifts<S> shifts(a.width);
  if (a.weight == nullptr) find_shifts<T>(a, shifts);
  if (shifts.narrow && a.scratch != nullptr && by_node<T>(a.graph.num_rows, a.width)) {
    with_lanes<S>(a.width, [&](auto w) REVGNN_LAMBDA { make_node_weights<T, decltype(w)::value>(a, shifts); });
    for_columns<S, kBlocks<S>>(a.width, [&](auto w, auto nb, int64_t first, int64_t width) REVGNN_LAMBDA {
      node_rows<T, decltype(w)::value, decltype(nb)::value>(a, first, width, shifts);
    });
    return;
  }
  for_columns<S, kBlocks<S>>(a.width, [&](auto w, auto nb, int64_t first, int64_t width) REVGNN_LAMBDA {
    constexpr int W = decltype(w)::value, NB = decltype(nb)::value;
    if (a.weight != nullptr && a.reduce == REVGNN_SOFTMAX) {
      gen_rows<T, W, NB, true, Way::online>(a, first, width, shifts);
    } else if (a.weight != nullptr) {
      gen_rows<T, W, NB, true, Way::sums>(a, first, width, shifts);
    } else if (shifts.narrow && !shifts.large) {
      gen_rows<T, W, NB, false, Way::shifted>(a, first, width, shifts);
    } else {
      gen_rows<T, W, NB, false, Way::online>(a, first, width, shifts);
    }
  });
}

}  // namespace

namespace revgnn {
namespace REVGNN_ISA {

int gen_aggr(const revgnn_gen_aggr_args &a) {
  return with_dtype(a.dtype, [&](auto zero) REVGNN_LAMBDA { aggregate<decltype(zero)>(a); });
}

}  // namespace REVGNN_ISA
}  // namespace revgnn
