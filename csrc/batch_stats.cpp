// Mean and variance of every channel over the rows, and the running statistics that follow them.
#include "columns.h"
#include "kernels.h"
#include "parallel.h"

namespace {

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

/// to += share (from - to), in the way that is exact for a share of 0 and of 1.
template <class S>
REVGNN_INLINE S moved(S to, S from, S share) {
  return share < S(0.5) ? to + share * (from - to) : from - (from - to) * (S(1) - share);
}

template <class S>
void move_stats(const revgnn_running_stats_args &a) {
  *a.num_batches += 1;
  const S share = S(a.momentum < 0 ? 1 / double(*a.num_batches) : a.momentum);
  const S unbiased = S(double(a.num_rows) / double(a.num_rows > 1 ? a.num_rows - 1 : 1));
  const S *mean = static_cast<const S *>(a.mean), *var = static_cast<const S *>(a.var);
  S *running_mean = static_cast<S *>(a.running_mean), *running_var = static_cast<S *>(a.running_var);
  for (int64_t d = 0; d < a.width; d++) {
    running_mean[d] = moved(running_mean[d], mean[d], share);
    running_var[d] = moved(running_var[d], var[d] * unbiased, share);
  }
}

}  // namespace

namespace revgnn {
namespace REVGNN_ISA {

int batch_stats(const revgnn_batch_stats_args &a) {
  return with_dtype(a.dtype, [&](auto zero) REVGNN_LAMBDA {
    using T = decltype(zero);
    with_lanes<Sum<T>>(a.width, [&](auto w) REVGNN_LAMBDA { channel_stats<T, decltype(w)::value>(a); });
  });
}

int running_stats(const revgnn_running_stats_args &a) {
  return with_dtype(a.dtype, [&](auto zero) REVGNN_LAMBDA { move_stats<Sum<decltype(zero)>>(a); });
}

}  // namespace REVGNN_ISA
}  // namespace revgnn
