// Rows over threads. Each row has one owner, so results depend on neither the number of threads nor their timing.
#pragma once

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "simd.h"

namespace {

/// How many rows ahead the gathers prefetch: enough to cover the memory's latency, few enough to stay in the L1 cache.
constexpr int64_t kAhead = 16;
/// Fewer elements than this a thread, and starting it costs more than it brings.
constexpr int64_t kWorkPerThread = 16384;
/// Reductions over rows are formed in this many parts, always the same ones, and then added in order.
constexpr int64_t kParts = 64;

REVGNN_INLINE int team(int threads, int64_t work) {
  const int64_t useful = work / kWorkPerThread + 1;
  return useful < threads ? int(useful) : (threads < 1 ? 1 : threads);
}

/// Call f(i) for every row; `work` is the number of elements touched in all.
template <class F>
REVGNN_INLINE void for_rows(int64_t rows, int threads, int64_t work, F &&f) {
  const int members = team(threads, work);
  int64_t chunk = rows / (int64_t(members) * 16);
  chunk = chunk < 1 ? 1 : (chunk > 128 ? 128 : chunk);
#pragma omp parallel for num_threads(members) schedule(dynamic, chunk)
  for (int64_t i = 0; i < rows; i++) f(i);
}

/// Call f(part) for each part.
template <class F>
REVGNN_INLINE void for_parts(int threads, int64_t work, F &&f, int64_t parts = kParts) {
  const int members = team(threads, work);
#pragma omp parallel for num_threads(members) schedule(dynamic, 1)
  for (int64_t part = 0; part < parts; part++) f(part);
}

struct Range {
  int64_t first, last;
};

/// The rows of a part, by number of rows.
REVGNN_INLINE Range rows_of_part(int64_t rows, int64_t part, int64_t parts = kParts) {
  return {rows * part / parts, rows * (part + 1) / parts};
}

/// The first row whose edges start at or after `edge`.
REVGNN_INLINE int64_t row_of_edge(const int32_t *indptr, int64_t rows, int64_t edge) {
  int64_t low = 0, high = rows;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (indptr[middle] < edge) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

/// The rows of a part, by number of edges.
REVGNN_INLINE Range rows_of_part(const int32_t *indptr, int64_t rows, int64_t edges, int64_t part) {
  const int64_t first = part == 0 ? 0 : row_of_edge(indptr, rows, edges * part / kParts);
  const int64_t last = part == kParts - 1 ? rows : row_of_edge(indptr, rows, edges * (part + 1) / kParts);
  return {first, last};
}

/// Zeroed memory that frees itself; it begins with a cache line, so that vectors do not straddle two.
template <class S>
class Buffer {
 public:
  explicit Buffer(int64_t size) {
    const size_t bytes = (size_t(size) * sizeof(S) + 64) / 64 * 64;
    data_ = static_cast<S *>(aligned_alloc(64, bytes));
    memset(data_, 0, bytes);
  }
  ~Buffer() { free(data_); }
  Buffer(const Buffer &) = delete;
  Buffer &operator=(const Buffer &) = delete;

  S *data() const { return data_; }

 private:
  S *data_;
};

/// Partial sums of a reduction, zero at first: so many rows of `size`.
template <class S>
class Partials {
 public:
  explicit Partials(int64_t size, int64_t parts = kParts) : size_(size), parts_(parts), buffer_(parts * size) {}

  S *row(int64_t part) const { return buffer_.data() + part * size_; }

  /// out_k = sum over parts of element `first + k`, in the order of the parts.
  void sum_into(S *out, int64_t first, int64_t count) const {
    for (int64_t k = 0; k < count; k++) out[k] = S(0);
    for (int64_t part = 0; part < parts_; part++) {
      const S *from = row(part) + first;
      for (int64_t k = 0; k < count; k++) out[k] += from[k];
    }
  }

 private:
  int64_t size_;
  int64_t parts_;
  Buffer<S> buffer_;
};

}  // namespace
