// Short vectors on GCC's and Clang's vector extensions: one source for AVX-512, AVX2, SSE2 and NEON.
//
// Everything lies in an unnamed namespace: this header is compiled once per instruction set, and no two of the copies
// may be merged by the linker.
#pragma once

#include <stdint.h>
#include <string.h>

#include "revgnn_kernels.h"

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

struct bf16 {
  uint16_t bits;
};

template <class T>
struct SumOf {
  using type = T;
};
template <>
struct SumOf<bf16> {
  using type = float;
};
template <class T>
using Sum = typename SumOf<T>::type;

template <class S, int W>
struct VecOf {
  typedef S type __attribute__((vector_size(W * sizeof(S))));
};
template <class S, int W>
using Vec = typename VecOf<S, W>::type;

template <int Bytes>
struct IntOf;
template <>
struct IntOf<4> {
  using type = int32_t;
};
template <>
struct IntOf<8> {
  using type = int64_t;
};
template <class S>
using LaneInt = typename IntOf<sizeof(S)>::type;
/// What a comparison of Vec<S, W> gives: lanes of all ones or all zeros.
template <class S, int W>
using Mask = Vec<LaneInt<S>, W>;

template <class S>
constexpr int kLanes = kVectorBytes / int(sizeof(S));

/// Call f with a zero of the element type that a dtype code names.
template <class F>
inline int with_dtype(int dtype, F &&f) {
  switch (dtype) {
    case REVGNN_F32: f(float()); return 0;
    case REVGNN_BF16: f(bf16()); return 0;
    case REVGNN_F64: f(double()); return 0;
    default: return REVGNN_UNSUPPORTED;
  }
}

// ------------------------------------------------------------------ load, store
template <class V, class S>
inline V load_as(const S *p) {
  V v;
  memcpy(&v, p, sizeof v);
  return v;
}
template <int W>
inline Vec<float, W> load(const float *p) {
  return load_as<Vec<float, W>>(p);
}
template <int W>
inline Vec<double, W> load(const double *p) {
  return load_as<Vec<double, W>>(p);
}
template <int W>
inline Vec<int32_t, W> load(const int32_t *p) {
  return load_as<Vec<int32_t, W>>(p);
}
template <int W>
inline Vec<uint8_t, W> load(const uint8_t *p) {
  return load_as<Vec<uint8_t, W>>(p);
}
template <int W>
inline Vec<float, W> load(const bf16 *p) {
  const auto half = load_as<Vec<uint16_t, W>>(p);
  return (Vec<float, W>)(__builtin_convertvector(half, Vec<uint32_t, W>) << 16);
}

template <int W>
inline void store(float *p, Vec<float, W> v) {
  memcpy(p, &v, sizeof v);
}
template <int W>
inline void store(double *p, Vec<double, W> v) {
  memcpy(p, &v, sizeof v);
}
template <int W>
inline void store(int32_t *p, Vec<int32_t, W> v) {
  memcpy(p, &v, sizeof v);
}
/// Round to nearest even; a NaN stays one.
template <int W>
inline void store(bf16 *p, Vec<float, W> v) {
  const auto u = (Vec<uint32_t, W>)v;
  auto rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
  rounded = (v == v) ? rounded : ((u >> 16) | 0x40);
  const auto half = __builtin_convertvector(rounded, Vec<uint16_t, W>);
  memcpy(p, &half, sizeof half);
}

template <class S, int W>
inline Vec<S, W> splat(S s) {
  return s - Vec<S, W>{};
}

// ------------------------------------------------------------------ lanes
template <class S, int W>
inline S reduce_add(Vec<S, W> v) {
  if constexpr (W == 1) {
    return v[0];
  } else {
    Vec<S, W / 2> half[2];
    memcpy(half, &v, sizeof v);
    return reduce_add<S, W / 2>(half[0] + half[1]);
  }
}

template <class S, int W>
inline bool any(Mask<S, W> mask) {
#if defined(__AVX512F__)
  if constexpr (sizeof(S) * W == 64) return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#endif
#if defined(__AVX2__)
  if constexpr (sizeof(S) * W == 32) return _mm256_movemask_epi8((__m256i)mask) != 0;
#endif
  Mask<S, W> zero{};
  return memcmp(&mask, &zero, sizeof mask) != 0;
}

/// Lane numbers 0 .. W-1.
template <class I, int W>
inline Vec<I, W> iota() {
  Vec<I, W> v;
  for (int lane = 0; lane < W; lane++) v[lane] = I(lane);
  return v;
}

/// max(0, x); a NaN stays one.
template <class V>
inline V relu(V x) {
  V zero{};
  return x < zero ? zero : x;
}

// ------------------------------------------------------------------ exp, log
/// Relative error below 3e-7; 0 below -87.3, finite above 88; a NaN stays one.
template <int W>
inline Vec<float, W> vexp(Vec<float, W> x) {
  using V = Vec<float, W>;
  const V low = splat<float, W>(-87.3f), high = splat<float, W>(88.f);
  V c = x < low ? low : x;
  c = c > high ? high : c;
  const float magic = 12582912.f;  // 1.5 * 2^23: adding it rounds to an integer, held in the low bits
  const V shifted = c * 1.44269504f + magic;
  const V k = shifted - magic;
  const V r = (c - k * 0.693359375f) + k * 2.12194440e-4f;  // ln 2 in two parts: the first product is exact
  V p = r * (1.f / 720) + 1.f / 120;
  p = p * r + 1.f / 24;
  p = p * r + 1.f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.f;
  p = p * r + 1.f;
  const V power = (V)(((Vec<int32_t, W>)shifted << 23) + (127 << 23));  // the magic's own bits shift out
  const V y = p * power;
  return x < low ? V{} : y;
}

/// For finite x > 0; relative error below 2e-7.
template <int W>
inline Vec<float, W> vlog(Vec<float, W> x) {
  using V = Vec<float, W>;
  using I = Vec<int32_t, W>;
  const int32_t sqrt_half = 0x3f3504f3;
  const I bits = (I)x - sqrt_half;
  const V exponent = __builtin_convertvector(bits >> 23, V);
  const V m = (V)((bits & 0x7fffff) + sqrt_half);  // in [sqrt(1/2), sqrt(2))
  const V s = (m - 1.f) / (m + 1.f), q = s * s;
  V p = q * (2.f / 9) + 2.f / 7;
  p = p * q + 2.f / 5;
  p = p * q + 2.f / 3;
  p = p * q + 2.f;
  return exponent * 0.69314718f + s * p;
}

// float64 serves the numerics tests: lane by lane is fast enough.
template <int W>
inline Vec<double, W> vexp(Vec<double, W> x) {
  for (int lane = 0; lane < W; lane++) x[lane] = __builtin_exp(x[lane]);
  return x;
}
template <int W>
inline Vec<double, W> vlog(Vec<double, W> x) {
  for (int lane = 0; lane < W; lane++) x[lane] = __builtin_log(x[lane]);
  return x;
}

}  // namespace
