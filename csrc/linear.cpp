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

/// Two numbers in bfloat16 that follow one another along the depth of a product, the first in the low half: what a
/// machine with instructions for them multiplies at once.
using Pair = uint32_t;

/// What products are formed of, by the type of the rows.
template <class T>
struct UnitOf {
  using type = Sum<T>;
};
#if defined(__AVX512BF16__)
template <>
struct UnitOf<bf16> {
  using type = Pair;
};
#endif
template <class T>
using Unit = typename UnitOf<T>::type;

template <>
struct SumOf<Pair> {
  using type = float;
};
/// How many steps along the depth a unit holds.
template <class U>
constexpr int kSteps = 1;
template <>
constexpr int kSteps<Pair> = 2;

/// The elements that units are made of.
template <class U>
struct ElementOf {
  using type = U;
};
template <>
struct ElementOf<Pair> {
  using type = bf16;
};

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

template <class V>
REVGNN_INLINE V multiply_add(V sum, V a, V b) {
  return sum + a * b;
}
#if defined(__AVX512BF16__)
REVGNN_INLINE Vec<float, 16> multiply_add(Vec<float, 16> sum, Vec<Pair, 16> a, Vec<Pair, 16> b) {
  return (Vec<float, 16>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}
#endif

/// Where a tile goes: written (sign 0), added (1) or subtracted (-1), and how much of it there is room for.
template <class Out>
struct Place {
  Out *to;
  int64_t stride;
  int64_t rows;
  int64_t columns;
  int sign;
};

template <int W, class Out, class V>
REVGNN_INLINE void put(Out *to, V value, int sign) {
  if (sign > 0) value = load<W>(to) + value;
  if (sign < 0) value = load<W>(to) - value;
  store<W>(to, value);
}

/// place (+/-)= a b over `depth` units: a step is M units of a and a row of b. Sums begin at `start`, or 0 for NULL.
template <class U, class Out, int N>
REVGNN_INLINE void multiply_tile(
    const U *a, int64_t a_row, int64_t a_step, const U *b, int64_t b_step, int64_t depth, const Sum<U> *start,
    const Place<Out> &place
) {
  using S = Sum<U>;
  constexpr int W = Tile<S>::W, M = Tile<S>::M;
  using V = Vec<S, W>;
  V sum[M][N];
#pragma GCC unroll 8
  for (int m = 0; m < M; m++) {
#pragma GCC unroll 2
    for (int n = 0; n < N; n++) sum[m][n] = start == nullptr ? V{} : load<W>(start + n * W);
  }
  for (int64_t k = 0; k < depth; k++) {
    Vec<U, W> row[N];
#pragma GCC unroll 2
    for (int n = 0; n < N; n++) row[n] = load_as<Vec<U, W>>(b + k * b_step + n * W);
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) {
      const auto factor = splat<U, W>(load_as<U>(a + m * a_row + k * a_step));
#pragma GCC unroll 2
      for (int n = 0; n < N; n++) sum[m][n] = multiply_add(sum[m][n], factor, row[n]);
    }
  }
  if (place.rows >= M && place.columns >= N * W) {
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) {
#pragma GCC unroll 2
      for (int n = 0; n < N; n++) put<W>(place.to + m * place.stride + n * W, sum[m][n], place.sign);
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
    Out *to = place.to + m * place.stride;
    for (int64_t c = 0; c < N * W && c < place.columns; c++) put<1>(to + c, load<1>(held[m] + c), place.sign);
  }
}

/// A tile of full width, or a narrow one where no more columns are left.
template <class U, class Out>
REVGNN_INLINE void multiply(
    const U *a, int64_t a_row, int64_t a_step, const U *b, int64_t b_step, int64_t depth, const Sum<U> *start,
    const Place<Out> &place
) {
  if (place.columns > Tile<Sum<U>>::W) {
    multiply_tile<U, Out, Tile<Sum<U>>::N>(a, a_row, a_step, b, b_step, depth, start, place);
  } else {
    multiply_tile<U, Out, 1>(a, a_row, a_step, b, b_step, depth, start, place);
  }
}

REVGNN_INLINE int64_t round_up(int64_t size, int64_t multiple) {
  return (size + multiple - 1) / multiple * multiple;
}

/// A matrix cut into panels of a tile's columns, each [depth, kColumns] units, padded with zeros.
template <class U>
class Panels {
 public:
  using S = Sum<U>;
  static constexpr int64_t C = Tile<S>::kColumns;

  /// Element (k, c) is from[k * row + c * column].
  Panels(const S *from, int64_t row, int64_t column, int64_t depth, int64_t width)
      : depth_(ceil_div(depth, kSteps<U>)), buffer_(depth_ * round_up(width, C)) {
    for (int64_t c = 0; c < width; c++) {
      for (int64_t k = 0; k < depth; k++) {
        set(buffer_.data() + (c / C * depth_ + k / kSteps<U>)*C + c % C, k, from[k * row + c * column]);
      }
    }
  }

  int64_t depth() const { return depth_; }
  const U *at(int64_t column) const { return buffer_.data() + column * depth_; }

 private:
  static void set(S *to, int64_t, S value) { *to = value; }
  static void set(Pair *to, int64_t k, float value) {
    bf16 half;
    store<1>(&half, splat<float, 1>(value));
    *to |= Pair(half.bits) << (k % 2 * 16);
  }

  int64_t depth_;
  Buffer<U> buffer_;
};

/// A block of rows in memory of its own: dense, and zero where rows or columns are missing to whole tiles.
template <class U>
class Block {
 public:
  using S = Sum<U>;
  using Element = typename ElementOf<U>::type;
  static constexpr int W = Tile<S>::W;

  Block(int64_t width, int64_t multiple)
      : width_(width),
        stride_(round_up(width, multiple)),
        buffer_(kBlockRows * stride_),
        pairs_(kSteps<U> == 1 ? 0 : kBlockRows / kSteps<U> * stride_) {}

  /// Take rows `first` to `last` of x, plus those of `plus` where there is one.
  template <class T>
  void fill(const T *x, int64_t x_stride, const T *plus, int64_t plus_stride, Range rows) {
    Element *to = buffer_.data();
    for (int64_t i = rows.first; i < rows.last; i++, to += stride_) {
      const T *from = x + i * x_stride, *other = plus == nullptr ? nullptr : plus + i * plus_stride;
      each_column<S>(width_, [&](auto w, int64_t d) REVGNN_LAMBDA {
        constexpr int L = decltype(w)::value;
        const auto value = load<L>(from + d);
        store<L>(to + d, other == nullptr ? value : value + load<L>(other + d));
      });
    }
    const int64_t missing = round_up(rows.last - rows.first, Tile<S>::M) - (rows.last - rows.first);
    if (missing > 0) memset(to, 0, size_t(missing * stride_) * sizeof(Element));
  }

  /// Units along the columns, for depth along a row; a row is `unit_stride` of them.
  const U *along_columns() const { return reinterpret_cast<const U *>(buffer_.data()); }
  int64_t unit_stride() const { return stride_ / kSteps<U>; }

  /// Units along the rows, for depth along a column; the next step is `stride` of them away.
  const U *along_rows(int64_t rows) const {
    if constexpr (kSteps<U> == 1) {
      return buffer_.data();
    } else {
      for (int64_t r = 0; r < rows; r += 2) {
        const Element *from = buffer_.data() + r * stride_;
        each_column<float>(width_, [&](auto w, int64_t d) REVGNN_LAMBDA {
          using Halves = Vec<uint16_t, decltype(w)::value>;
          const auto low = load_as<Halves>(from + d), high = load_as<Halves>(from + stride_ + d);
          const auto both = widen<decltype(w)::value>(low) | widen<decltype(w)::value>(high) << 16;
          memcpy(pairs_.data() + r / 2 * stride_ + d, &both, sizeof both);
        });
      }
      return pairs_.data();
    }
  }
  int64_t stride() const { return stride_; }

 private:
  int64_t width_;
  int64_t stride_;
  Buffer<Element> buffer_;
  Buffer<U> pairs_;
};

/// to (+/-)= block b + start for the rows of a block; `start` is padded to whole panels, or NULL.
template <class U, class Out>
REVGNN_INLINE void multiply_block(
    const Block<U> &block, const Panels<U> &b, const Sum<U> *start, int64_t width, Out *to, int64_t stride, Range rows,
    int sign
) {
  constexpr int64_t M = Tile<Sum<U>>::M, C = Tile<Sum<U>>::kColumns;
  const int64_t count = rows.last - rows.first;
  for (int64_t column = 0; column < width; column += C) {
    for (int64_t m = 0; m < count; m += M) {
      multiply<U, Out>(
          block.along_columns() + m * block.unit_stride(), block.unit_stride(), 1, b.at(column), C, b.depth(),
          start == nullptr ? nullptr : start + column,
          {to + (rows.first + m) * stride + column, stride, count - m, width - column, sign}
      );
    }
  }
}

/// sums += grad^T x over the rows of a block; the sums are [out, in] padded to whole tiles.
template <class U>
REVGNN_INLINE void add_weights(const Block<U> &grad, const Block<U> &x, int64_t rows, int64_t out_width, Sum<U> *sums) {
  constexpr int64_t M = Tile<Sum<U>>::M, C = Tile<Sum<U>>::kColumns;
  const U *left = grad.along_rows(rows), *right = x.along_rows(rows);
  for (int64_t i = 0; i < x.stride(); i += C) {
    for (int64_t o = 0; o < out_width; o += M) {
      multiply<U, Sum<U>>(
          left + o, 1, grad.stride(), right + i, x.stride(), ceil_div(rows, kSteps<U>), nullptr,
          {sums + o * x.stride() + i, x.stride(), M, x.stride() - i, 1}
      );
    }
  }
}

/// sums += the rows of a block of the gradient, as they came.
template <class G>
REVGNN_INLINE void add_rows(const G *grad, int64_t stride, Range rows, int64_t width, Sum<G> *sums) {
  for (int64_t i = rows.first; i < rows.last; i++) {
    each_column<Sum<G>>(width, [&](auto w, int64_t d) REVGNN_LAMBDA {
      constexpr int L = decltype(w)::value;
      store<L>(sums + d, load<L>(sums + d) + load<L>(grad + i * stride + d));
    });
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

/// Rows of type T, multiplied in units of type U.
template <class T, class Out, class U = Unit<T>>
int linear_rows(const revgnn_linear_args &a) {
  using S = Sum<T>;
  const Panels<U> weight(static_cast<const S *>(a.weight), 1, a.in_width, a.in_width, a.out_width);
  const Buffer<S> bias(round_up(a.out_width, Tile<S>::kColumns));
  pad(bias, a.bias, a.out_width);
  const int64_t parts = ceil_div(a.num_rows, 4 * kBlockRows);
  const auto compute = [&](int64_t part) {
    Block<U> x(a.in_width, Tile<S>::W);
    for_blocks(rows_of_part(a.num_rows, part, parts), [&](Range rows) REVGNN_LAMBDA {
      x.fill(static_cast<const T *>(a.x), a.x_stride, static_cast<const T *>(a.plus), a.plus_stride, rows);
      multiply_block(x, weight, bias.data(), a.out_width, static_cast<Out *>(a.out), a.out_stride, rows, a.sign);
    });
  };
  for_parts(a.threads, a.num_rows * a.in_width * a.out_width, compute, parts);
  return 0;
}

/// Rows of type T, gradients of type G, multiplied in units of type U.
template <class T, class G, class U = Unit<T>>
int linear_backward_rows(const revgnn_linear_backward_args &a) {
  using S = Sum<T>;
  constexpr int64_t M = Tile<S>::M, C = Tile<S>::kColumns;
  const S *w = static_cast<const S *>(a.weight);
  const Panels<U> by_output(w, 1, a.in_width, a.in_width, a.value == nullptr ? 0 : a.out_width);
  const Panels<U> by_input(w, a.in_width, 1, a.out_width, a.dx == nullptr ? 0 : a.in_width);
  const Buffer<S> bias(round_up(a.out_width, C));
  pad(bias, a.bias, a.out_width);
  const int64_t in_padded = round_up(a.in_width, Tile<S>::W), out_padded = round_up(a.out_width, M);
  int64_t parts = ceil_div(a.num_rows, kPartRows);
  parts = parts < kParts ? parts : kParts;
  const Partials<S> partials(out_padded * (in_padded + 1), parts);
  const auto compute = [&](int64_t part) {
    Block<U> x(a.in_width, Tile<S>::W), grad(a.out_width, M);
    const G *from = static_cast<const G *>(a.grad);
    S *dweight = partials.row(part), *dbias = dweight + out_padded * in_padded;
    for_blocks(rows_of_part(a.num_rows, part, parts), [&](Range rows) REVGNN_LAMBDA {
      x.fill(static_cast<const T *>(a.x), a.x_stride, static_cast<const T *>(a.plus), a.plus_stride, rows);
      grad.template fill<G>(from, a.grad_stride, nullptr, 0, rows);
      add_rows(from, a.grad_stride, rows, a.out_width, dbias);
      if (a.value != nullptr) {
        multiply_block(x, by_output, bias.data(), a.out_width, static_cast<S *>(a.value), a.value_stride, rows, a.sign);
      }
      if (a.dx != nullptr) {
        multiply_block<U, T>(
            grad, by_input, nullptr, a.in_width, static_cast<T *>(a.dx), a.dx_stride, rows, a.accumulate
        );
      }
      add_weights(grad, x, rows.last - rows.first, a.out_width, dweight);
    });
  };
  for_parts(a.threads, 3 * a.num_rows * a.in_width * a.out_width, compute, parts);

  S *dweight = static_cast<S *>(a.dweight);
  for (int64_t o = 0; o < a.out_width; o++) {
    partials.sum_into(dweight + o * a.in_width, o * in_padded, a.in_width);
  }
  if (a.dbias != nullptr) partials.sum_into(static_cast<S *>(a.dbias), out_padded * in_padded, a.out_width);
  return 0;
}

}  // namespace

namespace revgnn {
namespace REVGNN_ISA {

int linear(const revgnn_linear_args &a) {
  if (a.dtype == REVGNN_F32 && a.narrow) return linear_rows<float, float, Unit<bf16>>(a);
  if (a.dtype == REVGNN_F32 && a.out_dtype == REVGNN_F32) return linear_rows<float, float>(a);
  if (a.dtype == REVGNN_BF16 && a.out_dtype == REVGNN_F32) return linear_rows<bf16, float>(a);
  if (a.dtype == REVGNN_BF16 && a.out_dtype == REVGNN_BF16) return linear_rows<bf16, bf16>(a);
  if (a.dtype == REVGNN_F64 && a.out_dtype == REVGNN_F64) return linear_rows<double, double>(a);
  return REVGNN_UNSUPPORTED;
}

int linear_backward(const revgnn_linear_backward_args &a) {
  if (a.dtype == REVGNN_F32 && a.narrow) return linear_backward_rows<float, float, Unit<bf16>>(a);
  if (a.dtype == REVGNN_F32 && a.grad_dtype == REVGNN_F32) return linear_backward_rows<float, float>(a);
  if (a.dtype == REVGNN_BF16 && a.grad_dtype == REVGNN_F32) return linear_backward_rows<bf16, float>(a);
  if (a.dtype == REVGNN_BF16 && a.grad_dtype == REVGNN_BF16) return linear_backward_rows<bf16, bf16>(a);
  if (a.dtype == REVGNN_F64 && a.grad_dtype == REVGNN_F64) return linear_backward_rows<double, double>(a);
  return REVGNN_UNSUPPORTED;
}

}  // namespace REVGNN_ISA
}  // namespace revgnn
