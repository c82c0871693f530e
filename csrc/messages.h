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

  /// The terms of `Count` edges that follow one another: a row of the weight is loaded once for all of them.
  template <int Count>
  REVGNN_INLINE void make_terms(int64_t edge, V (*terms)[NB]) const {
    const S *e = features(edge);
#pragma GCC unroll 8
    for (int b = 0; b < NB; b++) {
      const V start = bias == nullptr ? V{} : load<W>(bias + block_start<W, NB>(b, width));
#pragma GCC unroll 4
      for (int q = 0; q < Count; q++) terms[q][b] = start;
    }
    for (int64_t k = 0; k < num_features; k++) {
      const S *row = weight + k * full_width;
#pragma GCC unroll 8
      for (int b = 0; b < NB; b++) {
        const V column = load<W>(row + block_start<W, NB>(b, width));
#pragma GCC unroll 4
        for (int q = 0; q < Count; q++) terms[q][b] += column * e[q * num_features + k];
      }
    }
  }
};

/// Edges whose terms are made at once: as many as the registers hold.
template <int NB>
constexpr int kTerms = kVectorBytes == 64 ? (NB <= 5 ? 4 : 2) : (NB <= 2 ? 4 : (NB <= 4 ? 2 : 1));

/// Call f(edge, term) for the edges from `begin` to `end` of the forward graph, in this order.
template <class S, int W, int NB, class F>
REVGNN_INLINE void each_term(const EdgeTerm<S, W, NB> &edge_term, int64_t begin, int64_t end, F &&f) {
  constexpr int Count = kTerms<NB>;
  int64_t e = begin;
  for (; e + Count <= end; e += Count) {
    Vec<S, W> terms[Count][NB];
    edge_term.template make_terms<Count>(e, terms);
#pragma GCC unroll 4
    for (int q = 0; q < Count; q++) f(e + q, terms[q]);
  }
  for (; e < end; e++) {
    Vec<S, W> term[NB];
    edge_term.make(e, term);
    f(e, term);
  }
}

}  // namespace
