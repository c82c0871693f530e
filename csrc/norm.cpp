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
  const S *weight;
  const S *bias;

  template <class Args>
  explicit Affine(const Args &a) : weight(static_cast<const S *>(a.weight)), bias(static_cast<const S *>(a.bias)) {}

  template <int W>
  REVGNN_INLINE Vec<S, W> scale(int64_t channel) const {
    return weight == nullptr ? splat<S, W>(S(1)) : load<W>(weight + channel);
  }
  template <int W>
  REVGNN_INLINE Vec<S, W> shift(int64_t channel) const {
    return bias == nullptr ? Vec<S, W>{} : load<W>(bias + channel);
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

/// Call f(channel, fresh) for the vectors of a row; `fresh` marks the lanes that no vector before covered.
template <class S, int W, class F>
REVGNN_INLINE void for_vectors(int64_t width, Mask<S, W> fresh_at_end, F &&f) {
  const int64_t last = width - W;
  for (int64_t channel = 0; channel < width; channel += W) {
    const bool inside = channel <= last;
    f(inside ? channel : last, inside ? ~Mask<S, W>{} : fresh_at_end);
  }
}

template <class T, int W>
REVGNN_INLINE void row_stats(
    const T *x, int64_t width, Mask<Sum<T>, W> fresh_at_end, Sum<T> eps, Sum<T> *mean, Sum<T> *rstd
) {
  using S = Sum<T>;
  using V = Vec<S, W>;
  V sum{}, square{};
  for_vectors<S, W>(width, fresh_at_end, [&](int64_t d, Mask<S, W> fresh) REVGNN_LAMBDA {
    sum += fresh ? load<W>(x + d) : V{};
  });
  const S centre = reduce_add<S, W>(sum) / S(width);
  for_vectors<S, W>(width, fresh_at_end, [&](int64_t d, Mask<S, W> fresh) REVGNN_LAMBDA {
    const V away = fresh ? load<W>(x + d) - centre : V{};
    square += away * away;
  });
  *mean = centre;
  *rstd = S(1) / S(__builtin_sqrt(reduce_add<S, W>(square) / S(width) + eps));
}

// ------------------------------------------------------------------ forward
template <class T, class Out, int W, int kind, Drop drop>
void norm_rows(const revgnn_norm_args &a) {
  using S = Sum<T>;
  using V = Vec<S, W>;
  const Keep<S, drop> keep(a);
  const Affine<S> affine(a);
  const Mask<S, W> fresh_at_end = fresh_lanes<S, W>(a.width);
  const V floor = splat<S, W>(a.act ? S(0) : -S(__builtin_inf()));
  for_rows(a.num_rows, a.threads, 2 * a.num_rows * a.width, [&](int64_t i) REVGNN_LAMBDA {
    const T *x = static_cast<const T *>(a.x) + i * a.x_stride;
    Out *out = static_cast<Out *>(a.out) + i * a.out_stride;
    S mean, rstd;
    Stats<S, W, kind> stats{static_cast<const S *>(a.mean), static_cast<const S *>(a.rstd), 0};
    if constexpr (kind == REVGNN_NORM_LAYER) {
      row_stats<T, W>(x, a.width, fresh_at_end, S(a.eps), &mean, &rstd);
      stats = {&mean, &rstd, 0};
      if (a.mean != nullptr) {
        static_cast<S *>(a.mean)[i] = mean;
        static_cast<S *>(a.rstd)[i] = rstd;
      }
    }
    for_vectors<S, W>(a.width, fresh_at_end, [&](int64_t d, Mask<S, W>) REVGNN_LAMBDA {
      V u = stats.centred(load<W>(x + d), d) * affine.template scale<W>(d) + affine.template shift<W>(d);
      u = u < floor ? floor : u;
      store<W>(out + d, u * keep.template factor<W>(i, d));
    });
  });
}

/// Layer norm of rows that fit into registers: every element is read once.
template <class T, class Out, int W, int NB, Drop drop>
void norm_short_rows(const revgnn_norm_args &a) {
  using S = Sum<T>;
  using V = Vec<S, W>;
  const Keep<S, drop> keep(a);
  const Affine<S> affine(a);
  const int64_t width = a.width;
  const Mask<S, W> fresh = fresh_lanes<S, W>(width);
  const V floor = splat<S, W>(a.act ? S(0) : -S(__builtin_inf()));
  for_rows(a.num_rows, a.threads, 2 * a.num_rows * width, [&](int64_t i) REVGNN_LAMBDA {
    const T *x = static_cast<const T *>(a.x) + i * a.x_stride;
    Out *out = static_cast<Out *>(a.out) + i * a.out_stride;
    V row[NB], sum{}, square{};
#pragma GCC unroll 8
    for (int b = 0; b < NB; b++) row[b] = load<W>(x + block_start<W, NB>(b, width));
#pragma GCC unroll 8
    for (int b = 0; b < NB; b++) sum += only_fresh<NB>(b, row[b], fresh);
    const S mean = reduce_add<S, W>(sum) / S(width);
#pragma GCC unroll 8
    for (int b = 0; b < NB; b++) {
      row[b] -= mean;
      const V away = only_fresh<NB>(b, row[b], fresh);
      square += away * away;
    }
    const S rstd = S(1) / S(__builtin_sqrt(reduce_add<S, W>(square) / S(width) + S(a.eps)));
    if (a.mean != nullptr) {
      static_cast<S *>(a.mean)[i] = mean;
      static_cast<S *>(a.rstd)[i] = rstd;
    }
#pragma GCC unroll 8
    for (int b = 0; b < NB; b++) {
      const int64_t d = block_start<W, NB>(b, width);
      V u = row[b] * rstd * affine.template scale<W>(d) + affine.template shift<W>(d);
      u = u < floor ? floor : u;
      store<W>(out + d, u * keep.template factor<W>(i, d));
    }
  });
}

// ------------------------------------------------------------------ backward
/// The gradient that reaches the normalised row, and that row itself.
template <class T, int W, int kind, Drop drop>
struct Inside {
  using S = Sum<T>;
  using V = Vec<S, W>;
  const revgnn_norm_backward_args &a;
  const Keep<S, drop> keep;
  const Affine<S> affine;
  const V floor;

  explicit Inside(const revgnn_norm_backward_args &args)
      : a(args), keep(args), affine(args), floor(splat<S, W>(args.act ? S(0) : -S(__builtin_inf()))) {}

  /// The row before the affine part.
  REVGNN_INLINE V centred(int64_t i, int64_t d) const {
    const Stats<S, W, kind> stats{static_cast<const S *>(a.mean), static_cast<const S *>(a.rstd), i};
    return stats.centred(load<W>(static_cast<const T *>(a.x) + i * a.x_stride + d), d);
  }

  /// The gradient behind rectifier and dropout; `row` receives the row before the affine part.
  REVGNN_INLINE V at(int64_t i, int64_t d, V *row) const {
    *row = centred(i, d);
    const V u = *row * affine.template scale<W>(d) + affine.template shift<W>(d);
    const V grad = load<W>(static_cast<const T *>(a.grad) + i * a.grad_stride + d) * keep.template factor<W>(i, d);
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

template <class T, int W, int kind, Drop drop>
void norm_backward_by_row(const revgnn_norm_backward_args &a) {
  using S = Sum<T>;
  using V = Vec<S, W>;
  const Inside<T, W, kind, drop> inside(a);
  const Mask<S, W> fresh_at_end = fresh_lanes<S, W>(a.width);
  Partials<S> partials(3 * a.width);
  for_parts(a.threads, 4 * a.num_rows * a.width, [&](int64_t part) REVGNN_LAMBDA {
    const Range rows = rows_of_part(a.num_rows, part);
    S *sums = partials.row(part), *held = sums + 2 * a.width;
    for (int64_t i = rows.first; i < rows.last; i++) {
      V sum{}, dot{};
      for_vectors<S, W>(a.width, fresh_at_end, [&](int64_t d, Mask<S, W> fresh) REVGNN_LAMBDA {
        V centred;
        V grad = inside.at(i, d, &centred);
        const V scale = inside.affine.template scale<W>(d);
        store<W>(held + d, grad * scale);
        grad = fresh ? grad : V{};
        add_affine<S, W>(sums, a.width, d, grad, centred);
        sum += grad * scale;
        dot += grad * scale * centred;
      });
      S mean_grad = 0, mean_dot = 0, rstd = 1;
      if constexpr (kind == REVGNN_NORM_LAYER) {
        mean_grad = reduce_add<S, W>(sum) / S(a.width);
        mean_dot = reduce_add<S, W>(dot) / S(a.width);
        rstd = static_cast<const S *>(a.rstd)[i];
      }
      for_vectors<S, W>(a.width, fresh_at_end, [&](int64_t d, Mask<S, W> fresh) REVGNN_LAMBDA {
        inside.put(i, d, (load<W>(held + d) - mean_grad - inside.centred(i, d) * mean_dot) * rstd, fresh);
      });
    }
  });
  partials.sum_into(static_cast<S *>(a.dbias), 0, a.width);
  partials.sum_into(static_cast<S *>(a.dweight), a.width, a.width);
}

/// The same for the layer norm of rows that fit into registers: nothing is formed twice.
template <class T, int W, int NB, Drop drop>
void norm_backward_by_short_row(const revgnn_norm_backward_args &a) {
  using S = Sum<T>;
  using V = Vec<S, W>;
  const Inside<T, W, REVGNN_NORM_LAYER, drop> inside(a);
  const int64_t width = a.width;
  const Mask<S, W> fresh = fresh_lanes<S, W>(width);
  Partials<S> partials(2 * width);
  for_parts(a.threads, 4 * a.num_rows * width, [&](int64_t part) REVGNN_LAMBDA {
    const Range rows = rows_of_part(a.num_rows, part);
    S *sums = partials.row(part);
    for (int64_t i = rows.first; i < rows.last; i++) {
      V centred[NB], grad[NB], sum{}, dot{};
#pragma GCC unroll 8
      for (int b = 0; b < NB; b++) {
        const int64_t d = block_start<W, NB>(b, width);
        const V outside = inside.at(i, d, &centred[b]);
        add_affine<S, W>(sums, width, d, only_fresh<NB>(b, outside, fresh), centred[b]);
        grad[b] = outside * inside.affine.template scale<W>(d);
        const V own = only_fresh<NB>(b, grad[b], fresh);
        sum += own;
        dot += own * centred[b];
      }
      const S mean_grad = reduce_add<S, W>(sum) / S(width), mean_dot = reduce_add<S, W>(dot) / S(width);
      const S rstd = static_cast<const S *>(a.rstd)[i];
#pragma GCC unroll 8
      for (int b = 0; b < NB; b++) grad[b] = (grad[b] - mean_grad - centred[b] * mean_dot) * rstd;
      put_row<T, W, NB, S>(static_cast<T *>(a.dx) + i * a.dx_stride, width, grad, a.accumulate);
    }
  });
  partials.sum_into(static_cast<S *>(a.dbias), 0, width);
  partials.sum_into(static_cast<S *>(a.dweight), width, width);
}

template <class T, int W, Drop drop>
void norm_backward_by_channel(const revgnn_norm_backward_args &a) {
  using S = Sum<T>;
  using V = Vec<S, W>;
  const Inside<T, W, REVGNN_NORM_BATCH, drop> inside(a);
  const Mask<S, W> fresh_at_end = fresh_lanes<S, W>(a.width);
  S *dbias = static_cast<S *>(a.dbias), *dweight = static_cast<S *>(a.dweight);
  Partials<S> partials(2 * a.width);
  for_parts(a.threads, 3 * a.num_rows * a.width, [&](int64_t part) REVGNN_LAMBDA {
    const Range rows = rows_of_part(a.num_rows, part);
    for (int64_t i = rows.first; i < rows.last; i++) {
      for_vectors<S, W>(a.width, fresh_at_end, [&](int64_t d, Mask<S, W> fresh) REVGNN_LAMBDA {
        V centred;
        const V grad = fresh ? inside.at(i, d, &centred) : V{};
        add_affine<S, W>(partials.row(part), a.width, d, grad, centred);
      });
    }
  });
  partials.sum_into(dbias, 0, a.width);
  partials.sum_into(dweight, a.width, a.width);

  const S *rstd = static_cast<const S *>(a.rstd);
  const S share = a.fixed_stats || a.num_rows == 0 ? S(0) : S(1) / S(a.num_rows);
  for_rows(a.num_rows, a.threads, 4 * a.num_rows * a.width, [&](int64_t i) REVGNN_LAMBDA {
    for_vectors<S, W>(a.width, fresh_at_end, [&](int64_t d, Mask<S, W> fresh) REVGNN_LAMBDA {
      V centred;
      V grad = inside.at(i, d, &centred);
      grad -= (load<W>(dbias + d) + centred * load<W>(dweight + d)) * share;
      inside.put(i, d, grad * inside.affine.template scale<W>(d) * load<W>(rstd + d), fresh);
    });
  });
}

// ------------------------------------------------------------------ statistics of the batch
/// Sums over the rows of one part: the mean, rounded; what the rounding left out, summed; squared deviations.
template <class T, int W>
void add_part(const revgnn_batch_stats_args &a, Range rows, Sum<T> *mean) {
  using S = Sum<T>;
  using V = Vec<S, W>;
  const Mask<S, W> fresh_at_end = fresh_lanes<S, W>(a.width);
  const T *x = static_cast<const T *>(a.x);
  S *left = mean + a.width, *square = left + a.width;
  for (int64_t i = rows.first; i < rows.last; i++) {
    for_vectors<S, W>(a.width, fresh_at_end, [&](int64_t d, Mask<S, W> fresh) REVGNN_LAMBDA {
      store<W>(mean + d, load<W>(mean + d) + (fresh ? load<W>(x + i * a.x_stride + d) : V{}));
    });
  }
  for (int64_t d = 0; d < a.width; d++) mean[d] /= S(rows.last - rows.first);
  for (int64_t i = rows.first; i < rows.last; i++) {
    for_vectors<S, W>(a.width, fresh_at_end, [&](int64_t d, Mask<S, W> fresh) REVGNN_LAMBDA {
      const V away = fresh ? load<W>(x + i * a.x_stride + d) - load<W>(mean + d) : V{};
      store<W>(left + d, load<W>(left + d) + away);
      store<W>(square + d, load<W>(square + d) + away * away);
    });
  }
}

/// The parts are merged in order by their means, so that nothing cancels, whatever the mean.
template <class T, int W>
void channel_stats(const revgnn_batch_stats_args &a) {
  using S = Sum<T>;
  Partials<S> partials(3 * a.width);
  for_parts(a.threads, 2 * a.num_rows * a.width, [&](int64_t part) REVGNN_LAMBDA {
    const Range rows = rows_of_part(a.num_rows, part);
    if (rows.first < rows.last) add_part<T, W>(a, rows, partials.row(part));
  });

  for (int64_t d = 0; d < a.width; d++) {
    double mean = 0, square = 0, count = 0;
    for (int64_t part = 0; part < kParts; part++) {
      const Range rows = rows_of_part(a.num_rows, part);
      const double here = double(rows.last - rows.first);
      if (here == 0) continue;
      const S *sums = partials.row(part) + d;
      const double left = double(sums[a.width]), gap = double(sums[0]) + left / here - mean, total = count + here;
      square += double(sums[2 * a.width]) - left * left / here + gap * gap * count * here / total;
      mean += gap * here / total;
      count = total;
    }
    const double var = count > 0 ? square / count : 0;
    static_cast<S *>(a.mean)[d] = S(mean);
    static_cast<S *>(a.rstd)[d] = S(1 / __builtin_sqrt(var + a.eps));
    if (a.var != nullptr) static_cast<S *>(a.var)[d] = S(var);
  }
}

// ------------------------------------------------------------------ choice of the code
/// Call f(Int<W>, Int<NB>) for a row of NB full vectors; false where it takes more than registers hold, or not one.
template <class S, int W, class F>
REVGNN_INLINE bool with_short_row(int64_t width, F &&f) {
  if (W == 1 || width < W || ceil_div(width, W) > kBlocks<S>) return false;
  with_block_count<W, kBlocks<S>>(width, f);
  return true;
}

template <Drop drop>
struct DropKind {
  static constexpr Drop value = drop;
};

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
      const auto short_rows = [&](auto w, auto nb) REVGNN_LAMBDA {
        norm_short_rows<T, Out, decltype(w)::value, decltype(nb)::value, drop>(a);
      };
      if (a.kind == REVGNN_NORM_LAYER && !with_short_row<Sum<T>, W>(a.width, short_rows)) {
        norm_rows<T, Out, W, REVGNN_NORM_LAYER, drop>(a);
      }
      if (a.kind == REVGNN_NORM_BATCH) norm_rows<T, Out, W, REVGNN_NORM_BATCH, drop>(a);
      if (a.kind == REVGNN_NORM_NONE) norm_rows<T, Out, W, REVGNN_NORM_NONE, drop>(a);
    });
  });
  return 0;
}

}  // namespace

namespace revgnn {
namespace REVGNN_ISA {

int norm(const revgnn_norm_args &a) {
  if (a.dtype == REVGNN_F32 && a.out_dtype == REVGNN_F32) return norm_any<float, float>(a);
  if (a.dtype == REVGNN_F32 && a.out_dtype == REVGNN_BF16) return norm_any<float, bf16>(a);
  if (a.dtype == REVGNN_BF16 && a.out_dtype == REVGNN_BF16) return norm_any<bf16, bf16>(a);
  if (a.dtype == REVGNN_F64 && a.out_dtype == REVGNN_F64) return norm_any<double, double>(a);
  return REVGNN_UNSUPPORTED;
}

int norm_backward(const revgnn_norm_backward_args &a) {
  return with_dtype(a.dtype, [&](auto zero) REVGNN_LAMBDA {
    using T = decltype(zero);
    with_drop(a, [&](auto kind_of_drop) REVGNN_LAMBDA {
      constexpr Drop drop = decltype(kind_of_drop)::value;
      with_lanes<Sum<T>>(a.width, [&](auto w) REVGNN_LAMBDA {
        constexpr int W = decltype(w)::value;
        const auto short_rows = [&](auto w, auto nb) REVGNN_LAMBDA {
          norm_backward_by_short_row<T, decltype(w)::value, decltype(nb)::value, drop>(a);
        };
        if (a.kind == REVGNN_NORM_LAYER && !with_short_row<Sum<T>, W>(a.width, short_rows)) {
          norm_backward_by_row<T, W, REVGNN_NORM_LAYER, drop>(a);
        }
        if (a.kind == REVGNN_NORM_NONE) norm_backward_by_row<T, W, REVGNN_NORM_NONE, drop>(a);
        if (a.kind == REVGNN_NORM_BATCH) norm_backward_by_channel<T, W, drop>(a);
      });
    });
  });
}

int batch_stats(const revgnn_batch_stats_args &a) {
  return with_dtype(a.dtype, [&](auto zero) REVGNN_LAMBDA {
    using T = decltype(zero);
    with_lanes<Sum<T>>(a.width, [&](auto w) REVGNN_LAMBDA { channel_stats<T, decltype(w)::value>(a); });
  });
}

}  // namespace REVGNN_ISA
}  // namespace revgnn
