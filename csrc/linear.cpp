// Dense layers of narrow width over many rows, and their gradients in one visit.
//
// Rows are taken in blocks that stay in the cache. A block of x (and of the gradient) is copied once, padded to whole
// tiles, and serves every product: the layer's value, the gradient of x and that of the weights. So the gradient of x
// may overwrite x itself. A product is formed tile by tile in registers; what an element sums, and in which order,
// depends on no tile's place, so that a value rebuilt in the backward has the bits of the forward's.
#include "columns.h"
#include "kernels.h"
#include "parallel.h"

namespace {

/// Rows of a block: enough to pay for loading and storing the tiles of the weights' gradient, few enough for the cache.
constexpr int64_t kBlockRows = 48;
/// Rows of a part of the sums over all rows.
constexpr int64_t kPartRows = 1024;

template <class S>
struct Tile {
  static constexpr int W = kLanes<S>;
#if defined(__AVX512F__)
  static constexpr int M = 8; /* kBlockRows is a multiple of it */
#else
  static constexpr int M = 6;
#endif
  static constexpr int N = 2;
  static constexpr int kColumns = N * W;
};

/// Where a tile goes: written (sign 0), added (1) or subtracted (-1), and how much of it there is room for.
template <class S>
struct Place {
  S *to;
  int64_t stride;
  int64_t rows;
  int64_t columns;
  int sign;
};

/// place (+/-)= a b over `depth` steps: a step is M numbers of a and a row of b. Sums begin at `start`, or 0 for NULL.
template <class S, int N>
REVGNN_INLINE void multiply_tile(
    const S *a, int64_t a_row, int64_t a_step, const S *b, int64_t b_step, int64_t depth, const S *start,
    const Place<S> &place
) {
  constexpr int W = Tile<S>::W, M = Tile<S>::M;
  using V = Vec<S, W>;
  V sum[M][N];
#pragma GCC unroll 8
  for (int m = 0; m < M; m++) {
#pragma GCC unroll 2
    for (int n = 0; n < N; n++) sum[m][n] = start == nullptr ? V{} : load<W>(start + n * W);
  }
  for (int64_t k = 0; k < depth; k++) {
    V row[N];
#pragma GCC unroll 2
    for (int n = 0; n < N; n++) row[n] = load<W>(b + k * b_step + n * W);
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) {
      const V factor = splat<S, W>(a[m * a_row + k * a_step]);
#pragma GCC unroll 2
      for (int n = 0; n < N; n++) sum[m][n] += factor * row[n];
    }
  }
  if (place.rows >= M && place.columns >= N * W) {
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) {
#pragma GCC unroll 2
      for (int n = 0; n < N; n++) {
        S *to = place.to + m * place.stride + n * W;
        if (place.sign > 0) sum[m][n] = load<W>(to) + sum[m][n];
        if (place.sign < 0) sum[m][n] = load<W>(to) - sum[m][n];
        store<W>(to, sum[m][n]);
      }
    }
    return;
  }
  S held[M][N * W];
#pragma GCC unroll 8
  for (int m = 0; m < M; m++) {
#pragma GCC unroll 2
    for (int n = 0; n < N; n++) store<W>(held[m] + n * W, sum[m][n]);
  }
  for (int64_t m = 0; m < M && m < place.rows; m++) {
    S *to = place.to + m * place.stride;
    for (int64_t c = 0; c < N * W && c < place.columns; c++) {
      to[c] = place.sign == 0 ? held[m][c] : (place.sign > 0 ? to[c] + held[m][c] : to[c] - held[m][c]);
    }
  }
}

/// A tile of full width, or a narrow one where no more columns are left.
template <class S>
REVGNN_INLINE void multiply(
    const S *a, int64_t a_row, int64_t a_step, const S *b, int64_t b_step, int64_t depth, const S *start,
    const Place<S> &place
) {
  if (place.columns > Tile<S>::W) {
    multiply_tile<S, Tile<S>::N>(a, a_row, a_step, b, b_step, depth, start, place);
  } else {
    multiply_tile<S, 1>(a, a_row, a_step, b, b_step, depth, start, place);
  }
}

REVGNN_INLINE int64_t round_up(int64_t size, int64_t multiple) {
  return (size + multiple - 1) / multiple * multiple;
}

/// A matrix cut into panels of a tile's columns, each [depth, kColumns], padded with zeros.
template <class S>
class Panels {
 public:
  static constexpr int64_t C = Tile<S>::kColumns;

  /// Element (k, c) is from[k * row + c * column].
  Panels(const S *from, int64_t row, int64_t column, int64_t depth, int64_t width)
      : depth_(depth), buffer_(depth * round_up(width, C)) {
    for (int64_t c = 0; c < width; c++) {
      for (int64_t k = 0; k < depth; k++) buffer_.data()[(c / C * depth + k) * C + c % C] = from[k * row + c * column];
    }
  }

  const S *at(int64_t column) const { return buffer_.data() + column * depth_; }

 private:
  int64_t depth_;
  Buffer<S> buffer_;
};

/// A block of rows in memory of its own: dense, and zero where rows or columns are missing to whole tiles.
template <class S>
class Block {
 public:
  static constexpr int W = Tile<S>::W;

  Block(int64_t width, int64_t multiple)
      : width_(width), stride_(round_up(width, multiple)), buffer_(kBlockRows * stride_) {}

  /// Take rows `first` to `last` of x, plus those of `plus` where there is one.
  void fill(const S *x, int64_t x_stride, const S *plus, int64_t plus_stride, Range rows) {
    S *to = buffer_.data();
    for (int64_t i = rows.first; i < rows.last; i++, to += stride_) {
      const S *from = x + i * x_stride, *other = plus == nullptr ? nullptr : plus + i * plus_stride;
      int64_t d = 0;
      for (; d + W <= width_; d += W) {
        const auto value = load<W>(from + d);
        store<W>(to + d, other == nullptr ? value : value + load<W>(other + d));
      }
      for (; d < width_; d++) to[d] = other == nullptr ? from[d] : from[d] + other[d];
    }
    const int64_t missing = round_up(rows.last - rows.first, Tile<S>::M) - (rows.last - rows.first);
    if (missing > 0) memset(to, 0, size_t(missing * stride_) * sizeof(S));
  }

  int64_t stride() const { return stride_; }
  const S *data() const { return buffer_.data(); }

 private:
  int64_t width_;
  int64_t stride_;
  Buffer<S> buffer_;
};

/// to (+/-)= block b + start for the rows of a block; `start` is padded to whole panels, or NULL.
template <class S>
REVGNN_INLINE void multiply_block(
    const Block<S> &block, const Panels<S> &b, const S *start, int64_t depth, int64_t width, S *to, int64_t stride,
    Range rows, int sign
) {
  constexpr int64_t M = Tile<S>::M, C = Tile<S>::kColumns;
  const int64_t count = rows.last - rows.first;
  for (int64_t column = 0; column < width; column += C) {
    for (int64_t m = 0; m < count; m += M) {
      multiply<S>(
          block.data() + m * block.stride(), block.stride(), 1, b.at(column), C, depth,
          start == nullptr ? nullptr : start + column,
          {to + (rows.first + m) * stride + column, stride, count - m, width - column, sign}
      );
    }
  }
}

/// sums += grad^T x over the rows of a block; the sums are [out, in] padded to whole tiles.
template <class S>
REVGNN_INLINE void add_weights(const Block<S> &grad, const Block<S> &x, int64_t rows, int64_t out_width, S *sums) {
  constexpr int64_t M = Tile<S>::M, C = Tile<S>::kColumns;
  for (int64_t i = 0; i < x.stride(); i += C) {
    for (int64_t o = 0; o < out_width; o += M) {
      multiply<S>(
          grad.data() + o, 1, grad.stride(), x.data() + i, x.stride(), rows, nullptr,
          {sums + o * x.stride() + i, x.stride(), M, x.stride() - i, 1}
      );
    }
  }
}

template <class S>
REVGNN_INLINE void add_rows(const Block<S> &grad, int64_t rows, int64_t width, S *sums) {
  for (int64_t r = 0; r < rows; r++) {
    for (int64_t o = 0; o < width; o++) sums[o] += grad.data()[r * grad.stride() + o];
  }
}

/// The bias, padded to whole panels.
template <class S>
void pad(const Buffer<S> &to, const void *bias, int64_t width) {
  if (bias != nullptr) memcpy(to.data(), bias, size_t(width) * sizeof(S));
}

template <class F>
REVGNN_INLINE void for_blocks(Range rows, F &&f) {
  for (int64_t first = rows.first; first < rows.last; first += kBlockRows) {
    f(Range{first, first + kBlockRows < rows.last ? first + kBlockRows : rows.last});
  }
}

template <class S>
void linear_rows(const revgnn_linear_args &a) {
  const Panels<S> weight(static_cast<const S *>(a.weight), 1, a.in_width, a.in_width, a.out_width);
  const Buffer<S> bias(round_up(a.out_width, Tile<S>::kColumns));
  pad(bias, a.bias, a.out_width);
  const int64_t parts = ceil_div(a.num_rows, 4 * kBlockRows);
  const auto compute = [&](int64_t part) {
    Block<S> x(a.in_width, Tile<S>::W);
    for_blocks(rows_of_part(a.num_rows, part, parts), [&](Range rows) REVGNN_LAMBDA {
      x.fill(static_cast<const S *>(a.x), a.x_stride, static_cast<const S *>(a.plus), a.plus_stride, rows);
      multiply_block(
          x, weight, bias.data(), a.in_width, a.out_width, static_cast<S *>(a.out), a.out_stride, rows, a.sign
      );
    });
  };
  for_parts(a.threads, a.num_rows * a.in_width * a.out_width, compute, parts);
}

template <class S>
void linear_backward_rows(const revgnn_linear_backward_args &a) {
  constexpr int64_t M = Tile<S>::M, C = Tile<S>::kColumns;
  const S *w = static_cast<const S *>(a.weight);
  const Panels<S> by_output(w, 1, a.in_width, a.in_width, a.value == nullptr ? 0 : a.out_width);
  const Panels<S> by_input(w, a.in_width, 1, a.out_width, a.dx == nullptr ? 0 : a.in_width);
  const Buffer<S> bias(round_up(a.out_width, C));
  pad(bias, a.bias, a.out_width);
  const int64_t in_padded = round_up(a.in_width, Tile<S>::W), out_padded = round_up(a.out_width, M);
  int64_t parts = ceil_div(a.num_rows, kPartRows);
  parts = parts < kParts ? parts : kParts;
  const Partials<S> partials(out_padded * (in_padded + 1), parts);
  const auto compute = [&](int64_t part) {
    Block<S> x(a.in_width, Tile<S>::W), grad(a.out_width, M);
    S *dweight = partials.row(part), *dbias = dweight + out_padded * in_padded;
    for_blocks(rows_of_part(a.num_rows, part, parts), [&](Range rows) REVGNN_LAMBDA {
      x.fill(static_cast<const S *>(a.x), a.x_stride, static_cast<const S *>(a.plus), a.plus_stride, rows);
      grad.fill(static_cast<const S *>(a.grad), a.grad_stride, nullptr, 0, rows);
      if (a.value != nullptr) {
        multiply_block(
            x, by_output, bias.data(), a.in_width, a.out_width, static_cast<S *>(a.value), a.value_stride, rows, a.sign
        );
      }
      if (a.dx != nullptr) {
        multiply_block(
            grad, by_input, static_cast<const S *>(nullptr), a.out_width, a.in_width, static_cast<S *>(a.dx),
            a.dx_stride, rows, a.accumulate
        );
      }
      add_weights(grad, x, rows.last - rows.first, a.out_width, dweight);
      add_rows(grad, rows.last - rows.first, a.out_width, dbias);
    });
  };
  for_parts(a.threads, 3 * a.num_rows * a.in_width * a.out_width, compute, parts);

  S *dweight = static_cast<S *>(a.dweight);
  for (int64_t o = 0; o < a.out_width; o++) {
    partials.sum_into(dweight + o * a.in_width, o * in_padded, a.in_width);
  }
  if (a.dbias != nullptr) partials.sum_into(static_cast<S *>(a.dbias), out_padded * in_padded, a.out_width);
}

}  // namespace

namespace revgnn {
namespace REVGNN_ISA {

int linear(const revgnn_linear_args &a) {
  if (a.dtype == REVGNN_F32) return linear_rows<float>(a), 0;
  if (a.dtype == REVGNN_F64) return linear_rows<double>(a), 0;
  return REVGNN_UNSUPPORTED;
}

int linear_backward(const revgnn_linear_backward_args &a) {
  if (a.dtype == REVGNN_F32) return linear_backward_rows<float>(a), 0;
  if (a.dtype == REVGNN_F64) return linear_backward_rows<double>(a), 0;
  return REVGNN_UNSUPPORTED;
}

}  // namespace REVGNN_ISA
}  // namespace revgnn
