// The head of a block: normalise, rectify and drop in one pass over the rows, and its backward.
#include "columns.h"
#include "dropout.h"
#include "kernels.h"
#include "parallel.h"

namespace {

// ------------------------------------------------------------------ what a row is normalised with
/// The affine part; a missing vector is 1 or 0.
template <class S>
struct Affine {
  const Buffer<S> missing; /* ones, then zeros */
  const S *weight;
  const S *bias;

  template <class Args>
  explicit Affine(const Args &a)
      : missing(2 * a.width),
        weight(a.weight == nullptr ? missing.data() : static_cast<const S *>(a.weight)),
        bias(a.bias == nullptr ? missing.data() + a.width : static_cast<const S *>(a.bias)) {
    for (int64_t d = 0; d < a.width; d++) missing.data()[d] = S(1);
  }

  template <int W>
  REVGNN_INLINE Vec<S, W> scale(int64_t channel) const {
    return load<W>(weight + channel);
  }
  template <int W>
  REVGNN_INLINE Vec<S, W> shift(int64_t channel) const {
    return load<W>(bias + channel);
  }
};

/// Mean and reciprocal deviation: one pair a row (layer), one pair a channel (batch), or 0 and 1 (none).
template <class S, int W, int kind>
struct Stats {
  const S *mean;
  const S *rstd;
  int64_t row;

  REVGNN_INLINE Vec<S, W> centred(Vec<S, W> x, int64_t channel) const {
    if constexpr (kind == REVGNN_NORM_LAYER) return (x - mean[row]) * rstd[row];
    if constexpr (kind == REVGNN_NORM_BATCH) return (x - load<W>(mean + channel)) * load<W>(rstd + channel);
    return x;
  }
};

template <class T, int W, int NB>
REVGNN_INLINE void row_stats(
    const T *x, int64_t width, Mask<Sum<T>, W> fresh_at_end, Sum<T> eps, Sum<T> *mean, Sum<T> *rstd
) {
  using S = Sum<T>;
  using V = Vec<S, W>;
  V sum{}, square{};
  for_vectors<S, W, NB>(width, fresh_at_end, [&](int64_t d, Mask<S, W> fresh) REVGNN_LAMBDA {
    sum += fresh ? load<W>(x + d) : V{};
  });
  const S centre = reduce_add<S, W>(sum) / S(width);
  for_vectors<S, W, NB>(width, fresh_at_end, [&](int64_t d, Mask<S, W> fresh) REVGNN_LAMBDA {
    const V away = fresh ? load<W>(x + d) - centre : V{};
    square += away * away;
  });
  *mean = centre;
  *rstd = S(1) / S(__builtin_sqrt(reduce_add<S, W>(square) / S(width) + eps));
}

/// Rows whose statistics are formed one after another before they are used, so that the waits of one row's sums overlap
/// with the next one's.
constexpr int64_t kTogether = 4;

// ------------------------------------------------------------------ forward
template <class T, class Out, int W, int NB, int kind, Drop drop>
void norm_rows(const revgnn_norm_args &a) {
  using S = Sum<T>;
  using V = Vec<S, W>;
  const Affine<S> affine(a);
  const Mask<S, W> fresh_at_end = fresh_lanes<S, W>(a.width);
  const V floor = splat<S, W>(a.act ? S(0) : -S(__builtin_inf()));
  for_rows(ceil_div(a.num_rows, kTogether), a.threads, 2 * a.num_rows * a.width, [&](int64_t group) REVGNN_LAMBDA {
    const int64_t begin = group * kTogether, end = begin + kTogether < a.num_rows ? begin + kTogether : a.num_rows;
    S means[kTogether], rstds[kTogether];
    if constexpr (kind == REVGNN_NORM_LAYER) {
      for (int64_t i = begin; i < end; i++) {
        const T *x = static_cast<const T *>(a.x) + i * a.x_stride;
        row_stats<T, W, NB>(x, a.width, fresh_at_end, S(a.eps), means + (i - begin), rstds + (i - begin));
      }
      if (a.mean != nullptr) {
        memcpy(static_cast<S *>(a.mean) + begin, means, size_t(end - begin) * sizeof(S));
        memcpy(static_cast<S *>(a.rstd) + begin, rstds, size_t(end - begin) * sizeof(S));
      }
    }
    for (int64_t i = begin; i < end; i++) {
      const T *x = static_cast<const T *>(a.x) + i * a.x_stride;
      Out *out = static_cast<Out *>(a.out) + i * a.out_stride;
      const Keep<S, drop> keep(a, i);
      Stats<S, W, kind> stats{static_cast<const S *>(a.mean), static_cast<const S *>(a.rstd), 0};
      if constexpr (kind == REVGNN_NORM_LAYER) stats = {means, rstds, i - begin};
      for_vectors<S, W, NB>(a.width, fresh_at_end, [&](int64_t d, Mask<S, W>) REVGNN_LAMBDA {
        V u = stats.centred(load<W>(x + d), d) * affine.template scale<W>(d) + affine.template shift<W>(d);
        u = u < floor ? floor : u;
        store<W>(out + d, u * keep.template factor<W>(d));
      });
    }
  });
}

// ------------------------------------------------------------------ backward
/// The gradient that reaches the normalised row, and that row itself.
/// Rows of type T, gradients of type G.
template <class T, class G, int W, int kind, Drop drop>
struct Inside {
  using S = Sum<T>;
  using V = Vec<S, W>;
  const revgnn_norm_backward_args &a;
  const Affine<S> affine;
  const V floor;

  explicit Inside(const revgnn_norm_backward_args &args)
      : a(args), affine(args), floor(splat<S, W>(args.act ? S(0) : -S(__builtin_inf()))) {}

  /// The row before the affine part.
  REVGNN_INLINE V centred(int64_t i, int64_t d) const {
    const Stats<S, W, kind> stats{static_cast<const S *>(a.mean), static_cast<const S *>(a.rstd), i};
    return stats.centred(load<W>(static_cast<const T *>(a.x) + i * a.x_stride + d), d);
  }

  /// The gradient behind rectifier and dropout; `row` receives the row before the affine part.
  REVGNN_INLINE V at(int64_t i, int64_t d, const Keep<S, drop> &keep, V *row) const {
    *row = centred(i, d);
    const V u = *row * affine.template scale<W>(d) + affine.template shift<W>(d);
    const V grad = load<W>(static_cast<const G *>(a.grad) + i * a.grad_stride + d) * keep.template factor<W>(d);
    return u > floor ? grad : V{};
  }

  /// Write `value`, or add it in the lanes that no vector before has added to.
  REVGNN_INLINE void put(int64_t i, int64_t d, V value, Mask<S, W> fresh) const {
    T *to = static_cast<T *>(a.dx) + i * a.dx_stride + d;
    if (a.accumulate) value = load<W>(to) + (fresh ? value : V{});
    store<W>(to, value);
  }
};

/// Add one row's share to the gradients of bias and weight, which lie one behind the other.
template <class S, int W>
REVGNN_INLINE void add_affine(S *sums, int64_t width, int64_t d, Vec<S, W> grad, Vec<S, W> centred) {
  store<W>(sums + d, load<W>(sums + d) + grad);
  store<W>(sums + width + d, load<W>(sums + width + d) + grad * centred);
}

/// The backward of LayerNorm for rows of NB vectors, which stay in registers.
template <class T, class G, int W, int NB, Drop drop>
void layer_backward(const revgnn_norm_backward_args &args) {
  using S = Sum<T>;
  using V = Vec<S, W>;
  const Affine<S> affine(args);
  Partials<S> partials(2 * args.width);
  for_parts(args.threads, 4 * args.num_rows * args.width, [&](int64_t part) REVGNN_LAMBDA {
    const revgnn_norm_backward_args a = args; /* a copy, which no store can change */
    const Range rows = rows_of_part(a.num_rows, part);
    const Mask<S, W> fresh = fresh_lanes<S, W>(a.width);
    const V floor = splat<S, W>(a.act ? S(0) : -S(__builtin_inf()));
    V scale[NB], shift[NB], dbias[NB] = {}, dweight[NB] = {};
#pragma GCC unroll 16
    for (int b = 0; b < NB; b++) {
      scale[b] = load<W>(affine.weight + block_start<W, NB>(b, a.width));
      shift[b] = load<W>(affine.bias + block_start<W, NB>(b, a.width));
    }
    for (int64_t i = rows.first; i < rows.last; i++) {
      const T *x = static_cast<const T *>(a.x) + i * a.x_stride;
      const G *grad = static_cast<const G *>(a.grad) + i * a.grad_stride;
      T *dx = static_cast<T *>(a.dx) + i * a.dx_stride;
      const Keep<S, drop> keep(a, i);
      const Stats<S, W, REVGNN_NORM_LAYER> stats{static_cast<const S *>(a.mean), static_cast<const S *>(a.rstd), i};
      V centred[NB], inner[NB], sum{}, dot{};
#pragma GCC unroll 16
      for (int b = 0; b < NB; b++) {
        const int64_t d = block_start<W, NB>(b, a.width);
        centred[b] = stats.centred(load<W>(x + d), d);
        const V u = centred[b] * scale[b] + shift[b], reaching = load<W>(grad + d) * keep.template factor<W>(d);
        const V outer = u > floor ? reaching : V{}, counted = only_fresh<NB>(b, outer, fresh);
        dbias[b] += counted;
        dweight[b] += counted * centred[b];
        inner[b] = outer * scale[b];
        sum += counted * scale[b];
        dot += counted * scale[b] * centred[b];
      }
      const S mean = reduce_add<S, W>(sum) / S(a.width), mean_dot = reduce_add<S, W>(dot) / S(a.width);
      const S rstd = stats.rstd[i];
#pragma GCC unroll 16
      for (int b = 0; b < NB; b++) {
        const V value = (inner[b] - mean - centred[b] * mean_dot) * rstd;
        T *to = dx + block_start<W, NB>(b, a.width);
        store<W>(to, a.accumulate ? load<W>(to) + only_fresh<NB>(b, value, fresh) : value);
      }
    }
    add_row<W, NB, S>(partials.row(part), a.width, dbias, fresh);
    add_row<W, NB, S>(partials.row(part) + a.width, a.width, dweight, fresh);
  });
  partials.sum_into(static_cast<S *>(args.dbias), 0, args.width);
  partials.sum_into(static_cast<S *>(args.dweight), args.width, args.width);
}

template <class T, class G, int W, int kind, Drop drop>
void norm_backward_by_row(const revgnn_norm_backward_args &a) {
  using S = Sum<T>;
  using V = Vec<S, W>;
  const Inside<T, G, W, kind, drop> inside(a);
  const Mask<S, W> fresh_at_end = fresh_lanes<S, W>(a.width);
  Partials<S> partials((2 + kTogether) * a.width);
  for_parts(a.threads, 4 * a.num_rows * a.width, [&](int64_t part) REVGNN_LAMBDA {
    const Range rows = rows_of_part(a.num_rows, part);
    S *sums = partials.row(part), *held = sums + 2 * a.width, means[kTogether], dots[kTogether];
    for (int64_t begin = rows.first; begin < rows.last; begin += kTogether) {
      const int64_t end = begin + kTogether < rows.last ? begin + kTogether : rows.last;
      for (int64_t i = begin; i < end; i++) {
        const Keep<S, drop> keep(a, i);
        V sum{}, dot{};
        for_vectors<S, W>(a.width, fresh_at_end, [&](int64_t d, Mask<S, W> fresh) REVGNN_LAMBDA {
          V centred;
          V grad = inside.at(i, d, keep, &centred);
          const V scale = inside.affine.template scale<W>(d);
          store<W>(held + (i - begin) * a.width + d, grad * scale);
          grad = fresh ? grad : V{};
          add_affine<S, W>(sums, a.width, d, grad, centred);
          sum += grad * scale;
          dot += grad * scale * centred;
        });
        means[i - begin] = kind == REVGNN_NORM_LAYER ? reduce_add<S, W>(sum) / S(a.width) : S(0);
        dots[i - begin] = kind == REVGNN_NORM_LAYER ? reduce_add<S, W>(dot) / S(a.width) : S(0);
      }
      for (int64_t i = begin; i < end; i++) {
        const S *of_row = held + (i - begin) * a.width, mean = means[i - begin], mean_dot = dots[i - begin];
        const S rstd = kind == REVGNN_NORM_LAYER ? static_cast<const S *>(a.rstd)[i] : S(1);
        for_vectors<S, W>(a.width, fresh_at_end, [&](int64_t d, Mask<S, W> fresh) REVGNN_LAMBDA {
          inside.put(i, d, (load<W>(of_row + d) - mean - inside.centred(i, d) * mean_dot) * rstd, fresh);
        });
      }
    }
  });
  partials.sum_into(static_cast<S *>(a.dbias), 0, a.width);
  partials.sum_into(static_cast<S *>(a.dweight), a.width, a.width);
}

template <class T, class G, int W, Drop drop>
void norm_backward_by_channel(const revgnn_norm_backward_args &a) {
  using S = Sum<T>;
  using V = Vec<S, W>;
  const Inside<T, G, W, REVGNN_NORM_BATCH, drop> inside(a);
  const Mask<S, W> fresh_at_end = fresh_lanes<S, W>(a.width);
  S *dbias = static_cast<S *>(a.dbias), *dweight = static_cast<S *>(a.dweight);
  Partials<S> partials(2 * a.width);
  for_parts(a.threads, 3 * a.num_rows * a.width, [&](int64_t part) REVGNN_LAMBDA {
    const Range rows = rows_of_part(a.num_rows, part);
    for (int64_t i = rows.first; i < rows.last; i++) {
      const Keep<S, drop> keep(a, i);
      for_vectors<S, W>(a.width, fresh_at_end, [&](int64_t d, Mask<S, W> fresh) REVGNN_LAMBDA {
        V centred;
        const V grad = fresh ? inside.at(i, d, keep, &centred) : V{};
        add_affine<S, W>(partials.row(part), a.width, d, grad, centred);
      });
    }
  });
  partials.sum_into(dbias, 0, a.width);
  partials.sum_into(dweight, a.width, a.width);

  const S *rstd = static_cast<const S *>(a.rstd);
  const S share = a.fixed_stats || a.num_rows == 0 ? S(0) : S(1) / S(a.num_rows);
  for_rows(a.num_rows, a.threads, 4 * a.num_rows * a.width, [&](int64_t i) REVGNN_LAMBDA {
    const Keep<S, drop> keep(a, i);
    for_vectors<S, W>(a.width, fresh_at_end, [&](int64_t d, Mask<S, W> fresh) REVGNN_LAMBDA {
      V centred;
      V grad = inside.at(i, d, keep, &centred);
      grad -= (load<W>(dbias + d) + centred * load<W>(dweight + d)) * share;
      inside.put(i, d, grad * inside.affine.template scale<W>(d) * load<W>(rstd + d), fresh);
    });
  });
}

// ------------------------------------------------------------------ choice of the code
template <Drop drop>
struct DropKind {
  static constexpr Drop value = drop;
};

/// Call f(Int<NB>) with the number of vectors of a row where it is a usual one, else 0: any number.
template <class S, int W, class F>
REVGNN_INLINE void with_vectors(int64_t width, F &&f) {
  const int64_t vectors = ceil_div(width, W);
  if constexpr (sizeof(S) == 4 && W > 1) {
    if (vectors == 4) return f(Int<4>{});
    if (vectors == 8) return f(Int<8>{});
    if (vectors == 16) return f(Int<16>{});
  }
  f(Int<0>{});
}

template <class Args, class F>
void with_drop(const Args &a, F &&f) {
  if (a.mask != nullptr && a.mask_bits) {
    f(DropKind<Drop::bits>{});
  } else if (a.mask != nullptr) {
    f(DropKind<Drop::mask>{});
  } else if (a.use_seed) {
    f(DropKind<Drop::seed>{});
  } else {
    f(DropKind<Drop::none>{});
  }
}

template <class T, class Out>
int norm_any(const revgnn_norm_args &a) {
  with_drop(a, [&](auto kind_of_drop) REVGNN_LAMBDA {
    constexpr Drop drop = decltype(kind_of_drop)::value;
    with_lanes<Sum<T>>(a.width, [&](auto w) REVGNN_LAMBDA {
      constexpr int W = decltype(w)::value;
      if (a.kind == REVGNN_NORM_BATCH) norm_rows<T, Out, W, 0, REVGNN_NORM_BATCH, drop>(a);
      if (a.kind == REVGNN_NORM_NONE) norm_rows<T, Out, W, 0, REVGNN_NORM_NONE, drop>(a);
      if (a.kind != REVGNN_NORM_LAYER) return;
      with_vectors<Sum<T>, W>(a.width, [&](auto nb) REVGNN_LAMBDA {
        norm_rows<T, Out, W, decltype(nb)::value, REVGNN_NORM_LAYER, drop>(a);
      });
    });
  });
  return 0;
}

template <class T, class G>
int norm_backward_any(const revgnn_norm_backward_args &a) {
  with_drop(a, [&](auto kind_of_drop) REVGNN_LAMBDA {
    constexpr Drop drop = decltype(kind_of_drop)::value;
    with_lanes<Sum<T>>(a.width, [&](auto w) REVGNN_LAMBDA {
      constexpr int W = decltype(w)::value;
      if (a.kind == REVGNN_NORM_NONE) norm_backward_by_row<T, G, W, REVGNN_NORM_NONE, drop>(a);
      if (a.kind == REVGNN_NORM_BATCH) norm_backward_by_channel<T, G, W, drop>(a);
      if (a.kind != REVGNN_NORM_LAYER) return;
      with_vectors<Sum<T>, W>(a.width, [&](auto nb) REVGNN_LAMBDA {
        constexpr int NB = decltype(nb)::value;
        if constexpr (NB > 0) {
          layer_backward<T, G, W, NB, drop>(a);
        } else {
          norm_backward_by_row<T, G, W, REVGNN_NORM_LAYER, drop>(a);
        }
      });
    });
  });
  return 0;
}

}  // namespace

namespace revgnn {
namespace REVGNN_ISA {

int norm(const revgnn_norm_args &a) {
#ifndef REVGNN_ONLY_BF16
  if (a.dtype == REVGNN_F32 && a.out_dtype == REVGNN_F32) return norm_any<float, float>(a);
#endif
  if (a.dtype == REVGNN_F32 && a.out_dtype == REVGNN_BF16) return norm_any<float, bf16>(a);
  if (a.dtype == REVGNN_BF16 && a.out_dtype == REVGNN_BF16) return norm_any<bf16, bf16>(a);
#ifndef REVGNN_ONLY_BF16
  if (a.dtype == REVGNN_F64 && a.out_dtype == REVGNN_F64) return norm_any<double, double>(a);
#endif
  return REVGNN_UNSUPPORTED;
}

int norm_backward(const revgnn_norm_backward_args &a) {
#ifndef REVGNN_ONLY_BF16
  if (a.dtype == REVGNN_F32 && a.grad_dtype == REVGNN_F32) return norm_backward_any<float, float>(a);
#endif
  if (a.dtype == REVGNN_F32 && a.grad_dtype == REVGNN_BF16) return norm_backward_any<float, bf16>(a);
  if (a.dtype == REVGNN_BF16 && a.grad_dtype == REVGNN_BF16) return norm_backward_any<bf16, bf16>(a);
#ifndef REVGNN_ONLY_BF16
  if (a.dtype == REVGNN_F64 && a.grad_dtype == REVGNN_F64) return norm_backward_any<double, double>(a);
#endif
  return REVGNN_UNSUPPORTED;
}

}  // namespace REVGNN_ISA
}  // namespace revgnn
