// What attention and its gradients share: runs of heads, tiles of edges, and two weighted sums of a tile's rows.
//
// The columns of several heads lie side by side in a row, so that one visit of a row serves all heads of a run: each
// vector of columns is multiplied by the weight of the head that it belongs to. A tile holds the edges of several short
// rows, or a part of a long one; its entries stand by (edge, head), so that exponentials are taken a full vector at a
// time, and the steps from score to weight of many rows overlap. Nothing is stored per edge beyond the tile.
#pragma once

#include "columns.h"
#include "parallel.h"

namespace {

/// Entries of a tile.
constexpr int kEntries = 512;
/// Rows of a tile at most.
constexpr int kTileRows = 32;
/// Columns that a tile's rows are summed over at a time.
constexpr int kColumns = 256;
/// Vectors of a row that are summed at a time, as many as stay in registers: twice the number with `slopes`.
template <class S, bool slopes>
constexpr int kSumBlocks = sizeof(S) == 8 ? 2 : (slopes && kVectorBytes < 64 ? 4 : 8);
/// How many edges ahead rows are prefetched: more than elsewhere, as a row is visited in pieces.
constexpr int64_t kRowsAhead = 20;

// ------------------------------------------------------------------ heads
/// How the weights of a row's vectors follow from the weights of its heads.
enum class Heads {
  one,   /* all columns belong to one head */
  pairs, /* every two vectors belong to one head */
  even,  /* every vector belongs to one head */
  mixed, /* a vector's lanes may belong to several */
};

/// Heads that are summed together: all, or as many as one vector of entries and kColumns columns hold; or one head's
/// columns, or a piece of them.
template <class S>
struct HeadRun {
  int64_t head;     /* the first one */
  int64_t count;    /* of heads */
  int64_t column;   /* the run's first one, in a row of all heads */
  int64_t width;    /* of its columns */
  int64_t per_head; /* columns of one head in this run */
  int blocks;       /* vectors of a row; the last one ends at the last column */
  LaneInt<S> head_of[kColumns];

  HeadRun(int64_t first_head, int64_t heads, int64_t first_column, int64_t columns, int64_t columns_per_head)
      : head(first_head), count(heads), column(first_column), width(columns), per_head(columns_per_head) {
    constexpr int W = kLanes<S>, Few = W > 4 ? 4 : 1;
    blocks = int(ceil_div(width, width >= W ? W : (width >= Few ? Few : 1)));
    for (int64_t k = 0; k < width; k++) head_of[k] = LaneInt<S>(k / per_head);
  }

  /// A further piece of a head whose first piece came before.
  bool continues(int64_t full_width) const { return column > head * full_width; }
};

/// Call f(run) for every run of heads.
template <class S, class F>
REVGNN_INLINE void for_head_runs(int64_t heads, int64_t width, F &&f) {
  if (width == 0) return;
  if (width > kColumns) {
    const int64_t pieces = ceil_div(width, kColumns);
    for (int64_t head = 0; head < heads; head++) {
      for (int64_t piece = 0; piece < pieces; piece++) {
        const int64_t first = width * piece / pieces, columns = width * (piece + 1) / pieces - first;
        f(HeadRun<S>(head, 1, head * width + first, columns, columns));
      }
    }
    return;
  }
  const int64_t fit = kColumns / width < kLanes<S> ? kColumns / width : kLanes<S>;
  for (int64_t head = 0; head < heads; head += fit) {
    const int64_t count = heads - head < fit ? heads - head : fit;
    f(HeadRun<S>(head, count, head * width, count * width, width));
  }
}

/// Call f(Int<Lanes>) with the number of entries an edge has: the heads of a run, rounded up to a power of two, so that
/// a head keeps its lane in every vector of entries.
template <class S, int Lanes = 1, class F>
REVGNN_INLINE void with_entry_lanes(int64_t heads, F &&f) {
  if (heads <= Lanes) {
    f(Int<Lanes>{});
  } else if constexpr (Lanes < kLanes<S>) {
    with_entry_lanes<S, 2 * Lanes>(heads, f);
  }
}

/// The values of a run's heads, in every lane that belongs to them.
template <class S, int Lanes>
REVGNN_INLINE Vec<S, kLanes<S>> in_lanes(const S *values, int64_t heads) {
  constexpr int W = kLanes<S>;
  if (values == nullptr) return Vec<S, W>{};
  if constexpr (Lanes == 1) return splat<S, W>(values[0]);
  Vec<S, W> v{};
  if (heads == Lanes) {
    memcpy(&v, values, Lanes * sizeof(S));
  } else {
    for (int64_t h = 0; h < heads; h++) v[h] = values[h];
  }
  return permute<S, W>(v, iota<LaneInt<S>, W>() & LaneInt<S>(Lanes - 1));
}

/// Combine the lanes of each head, and give every one of them the result.
template <class S, int Lanes, class Combine>
REVGNN_INLINE Vec<S, kLanes<S>> across_heads(Vec<S, kLanes<S>> v, Combine &&combine) {
  constexpr int W = kLanes<S>;
  for (int step = W / 2; step >= Lanes; step /= 2) {
    v = combine(v, permute<S, W>(v, (iota<LaneInt<S>, W>() + LaneInt<S>(step)) & LaneInt<S>(W - 1)));
  }
  return v;
}

/// Copy the values of a run's heads; the entries of heads that are not there become zero.
template <class S, int Lanes>
REVGNN_INLINE void copy_heads(S *to, const S *from, int64_t heads) {
  constexpr int some = Lanes / 2 + 1;  // never fewer: Lanes is the next power of two
  if (some == Lanes || heads == Lanes) {
    memcpy(to, from, Lanes * sizeof(S));
  } else {
    memcpy(to, from, some * sizeof(S));
    for (int h = some; h < Lanes; h++) to[h] = h < heads ? from[h] : S(0);
  }
}

/// Write the values of a run's heads.
template <class S, int Lanes>
REVGNN_INLINE void put_heads(S *to, Vec<S, kLanes<S>> values, int64_t heads) {
  if (heads == Lanes) {
    memcpy(to, &values, Lanes * sizeof(S));
  } else {
    for (int64_t h = 0; h < heads; h++) to[h] = values[h];
  }
}

// ------------------------------------------------------------------ tiles
/// Entries are padded by a vector, which may be read and written with the last ones.
template <class T>
struct Tile {
  using S = Sum<T>;
  int64_t start;          /* the first edge */
  const T *row[kEntries]; /* the run's columns at the edge's other end */
  S score[kEntries + kLanes<S>];
  S p[kEntries + kLanes<S>];       /* weights */
  S slope_p[kEntries + kLanes<S>]; /* times the rectifier's slope there */
};

/// Scores become logits; `slope` receives the rectifier's slopes. The score of a dropped edge stays -inf.
template <class V, class S>
REVGNN_INLINE V rectify(V score, S negative, V *slope) {
  const V none = V{} - S(__builtin_inf());
  *slope = score > V{} ? V{} + S(1) : V{} + negative;
  return score == none ? none : score * *slope;
}

/// Lanes below `left` are entries of the row at hand, the others of the next one.
template <class S>
REVGNN_INLINE Mask<S, kLanes<S>> entries_left(int left) {
  return iota<LaneInt<S>, kLanes<S>>() < LaneInt<S>(left);
}

/// Whether edge e stays.
REVGNN_INLINE bool kept(const revgnn_csr &g, const uint8_t *keep, int64_t e) {
  return keep[g.edge_ids == nullptr ? e : g.edge_ids[e]] != 0;
}

/// Call kernel.batch(tile, first, last) for consecutive rows whose edges fit into one tile, and kernel.long_row(tile,
/// row) for a row that fills more than one.
template <int Lanes, class Tile, class Kernel>
REVGNN_INLINE void for_tiles(const revgnn_csr &g, int threads, int64_t work, const Kernel &kernel) {
  constexpr int64_t room = kEntries / Lanes;
  for_rows(ceil_div(g.num_rows, kTileRows), threads, work, [&](int64_t block) REVGNN_LAMBDA {
    Tile tile;
    const int64_t last = (block + 1) * kTileRows < g.num_rows ? (block + 1) * kTileRows : g.num_rows;
    for (int64_t row = block * kTileRows; row < last;) {
      int64_t end = row;
      while (end < last && g.indptr[end + 1] - g.indptr[row] <= room) end++;
      if (end > row) {
        kernel.batch(tile, row, end);
        row = end;
      } else {
        kernel.long_row(tile, row++);
      }
    }
  });
}

// ------------------------------------------------------------------ weighted sums of rows
/// The weights of NB vectors of a row, from the weights of the heads.
template <class S, int W, int NB, Heads kind>
struct ColumnWeights {
  using V = Vec<S, W>;
  LaneInt<S> head[NB];
  Mask<S, W> heads[NB];

  REVGNN_INLINE void prepare(int b, const LaneInt<S> *head_of) {
    head[b] = head_of[0];
    memcpy(&heads[b], head_of, sizeof heads[b]);
  }

  REVGNN_INLINE V at(int b, const S *weights) const {
    if constexpr (kind == Heads::one) return splat<S, W>(weights[0]);
    if constexpr (kind == Heads::pairs) return splat<S, W>(weights[head[b & ~1]]);
    if constexpr (kind == Heads::even) return splat<S, W>(weights[head[b]]);
    if constexpr (W == kLanes<S>) return permute<S, W>(load<W>(weights), heads[b]);
    V v;
    for (int lane = 0; lane < W; lane++) v[lane] = weights[heads[b][lane]];
    return v;
  }
};

/// What a row's sums are made of: edges first .. first + edges of a tile, whose entries are `lanes` apart, and what the
/// sums of each head are multiplied by at the end.
template <class S>
struct TileEdges {
  int first;
  int edges;
  int lanes;
  const S *share; /* as padded as a tile's entries */
};

/// Sum a tile's rows, weighted by p and, with `slopes`, by p times slope too.
template <class T, class Out, int W, int NB, Heads kind, bool slopes>
void sum_rows(
    const Tile<T> &tile, TileEdges<Sum<T>> at, const revgnn_csr &g, const T *x, int64_t stride,
    const HeadRun<Sum<T>> &run, Out *out, Sum<T> *slope_out
) {
  using S = Sum<T>;
  using V = Vec<S, W>;
  const int64_t ahead = tile.start + at.first + kRowsAhead;
  for (int block = 0; block < run.blocks; block += NB) {
    const int64_t first = (block + NB <= run.blocks ? block : run.blocks - NB) * W;
    const int64_t last = first + NB * W <= run.width ? first + (NB - 1) * W : run.width - W;
    ColumnWeights<S, W, NB, kind> weights;
    V sum[NB], slope_sum[NB];
#pragma GCC unroll 8
    for (int b = 0; b < NB; b++) {
      weights.prepare(b, run.head_of + (b == NB - 1 ? last : first + b * W));
      sum[b] = slope_sum[b] = V{};
    }
    const S *p = tile.p + at.first * at.lanes, *slope_p = tile.slope_p + at.first * at.lanes;
    for (int k = 0; k < at.edges; k++) {
      if (ahead + k < g.num_edges) prefetch<NB * W * sizeof(T)>(x + g.indices[ahead + k] * stride + first);
      const T *row = tile.row[at.first + k];
#pragma GCC unroll 8
      for (int b = 0; b < NB; b++) {
        const V value = load<W>(row + (b == NB - 1 ? last : first + b * W));
        sum[b] += value * weights.at(b, p);
        if constexpr (slopes) slope_sum[b] += value * weights.at(b, slope_p);
      }
      p += kind == Heads::one ? 1 : at.lanes;
      slope_p += kind == Heads::one ? 1 : at.lanes;
    }
#pragma GCC unroll 8
    for (int b = 0; b < NB; b++) {
      const int64_t column = b == NB - 1 ? last : first + b * W;
      const V share = weights.at(b, at.share);
      store<W>(out + column, sum[b] * share);
      if constexpr (slopes) store<W>(slope_out + column, slope_sum[b] * share);
    }
  }
}

template <class T, class Out>
using SumRows =
    void (*)(const Tile<T> &, TileEdges<Sum<T>>, const revgnn_csr &, const T *, int64_t, const HeadRun<Sum<T>> &, Out *, Sum<T> *);

template <class T, class Out, int W, int NB, bool slopes>
SumRows<T, Out> sum_rows_of(const HeadRun<Sum<T>> &run) {
  if (run.count == 1) return sum_rows<T, Out, W, NB, Heads::one, slopes>;
  if constexpr (NB % 2 == 0) {
    if (run.per_head % (2 * W) == 0 && run.blocks % NB == 0) return sum_rows<T, Out, W, NB, Heads::pairs, slopes>;
  }
  if (W == 1 || run.per_head % W == 0) return sum_rows<T, Out, W, NB, Heads::even, slopes>;
  return sum_rows<T, Out, W, NB, Heads::mixed, slopes>;
}

template <class T, class Out, int NB, bool slopes>
SumRows<T, Out> sum_rows_of_blocks(const HeadRun<Sum<T>> &run, int64_t blocks) {
  if constexpr (NB > 1) {
    if (blocks < NB) return sum_rows_of_blocks<T, Out, NB - 1, slopes>(run, blocks);
  }
  return sum_rows_of<T, Out, kLanes<Sum<T>>, NB, slopes>(run);
}

/// The code that sums the rows of a run, into a row of type Out.
template <class T, class Out, bool slopes>
SumRows<T, Out> sum_rows_for(const HeadRun<Sum<T>> &run) {
  using S = Sum<T>;
  constexpr int W = kLanes<S>, Few = W > 4 ? 4 : 1, Most = kSumBlocks<S, slopes>;
  if (run.width < Few) return sum_rows_of<T, Out, 1, 1, slopes>(run);
  if (run.width < W) return sum_rows_of<T, Out, Few, 1, slopes>(run);
  return sum_rows_of_blocks<T, Out, Most, slopes>(run, ceil_div(run.blocks, ceil_div(run.blocks, Most)));
}

}  // namespace
