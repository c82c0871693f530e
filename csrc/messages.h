// The messages of GEN, made where they are used: relu(x_j + bias + edge_attr_e weight) + eps.
#pragma once

#include "columns.h"

namespace {

/// The part of a message that belongs to the edge, for the columns of one piece of a row.
template <class S, int W, int NB>
struct EdgeTerm {
  using V = Vec<S, W>;
  const S *edge_attr;
  const S *weight;
  const S *bias;
  int64_t num_features;
  int64_t full_width;
  int64_t width;

  template <class Args>
  EdgeTerm(const Args &a, int64_t first, int64_t piece_width)
      : edge_attr(static_cast<const S *>(a.edge_attr)),
        weight(a.weight == nullptr ? nullptr : static_cast<const S *>(a.weight) + first),
        bias(a.bias == nullptr ? nullptr : static_cast<const S *>(a.bias) + first),
        num_features(a.num_features),
        full_width(a.width),
        width(piece_width) {}

  const S *features(int64_t edge) const { return edge_attr + edge * num_features; }

  /// term[b] = bias + edge_attr weight
  REVGNN_INLINE void make(int64_t edge, V *term) const {
    const S *e = features(edge);
#pragma GCC unroll 8
    for (int b = 0; b < NB; b++) term[b] = bias == nullptr ? V{} : load<W>(bias + block_start<W, NB>(b, width));
    for (int64_t k = 0; k < num_features; k++) {
      const S *row = weight + k * full_width;
#pragma GCC unroll 8
      for (int b = 0; b < NB; b++) term[b] += load<W>(row + block_start<W, NB>(b, width)) * e[k];
    }
  }
};

}  // namespace
