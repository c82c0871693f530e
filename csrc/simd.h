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

// glibc 2.29 gave these a new version, without which a library that was built on it runs on older ones too.
#if defined(__x86_64__) && defined(__GLIBC__)
__asm__(".symver exp, exp@GLIBC_2.2.5");
__asm__(".symver log, log@GLIBC_2.2.5");
#elif defined(__aarch64__) && defined(__GLIBC__)
__asm__(".symver exp, exp@GLIBC_2.17");
__asm__(".symver log, log@GLIBC_2.17");
#endif

// Kernels are small functions and lambdas that only make sense inside their callers' loops.
#define REVGNN_INLINE inline __attribute__((always_inline))
#define REVGNN_LAMBDA __attribute__((always_inline))

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
REVGNN_INLINE int with_dtype(int dtype, F &&f) {
  switch (dtype) {
    case REVGNN_F32:
      f(float());
      return 0;
    case REVGNN_BF16:
      f(bf16());
      return 0;
    case REVGNN_F64:
      f(double());
      return 0;
    default:
      return REVGNN_UNSUPPORTED;
  }
}

// ------------------------------------------------------------------ load, store
template <class V, class S>
REVGNN_INLINE V load_as(const S *p) {
  V v;
  memcpy(&v, p, sizeof v);
  return v;
}
template <int W>
REVGNN_INLINE Vec<float, W> load(const float *p) {
  return load_as<Vec<float, W>>(p);
}
template <int W>
REVGNN_INLINE Vec<double, W> load(const double *p) {
  return load_as<Vec<double, W>>(p);
}
template <int W>
REVGNN_INLINE Vec<int32_t, W> load(const int32_t *p) {
  return load_as<Vec<int32_t, W>>(p);
}
template <int W>
REVGNN_INLINE Vec<uint8_t, W> load(const uint8_t *p) {
  return load_as<Vec<uint8_t, W>>(p);
}
// Conversions between lanes of different widths: the compiler lowers the generic ones to many shuffles.
template <int W>
REVGNN_INLINE Vec<uint32_t, W> widen(Vec<uint16_t, W> v) {
#if defined(__AVX512F__)
  if constexpr (W == 16) return (Vec<uint32_t, W>)_mm512_cvtepu16_epi32((__m256i)v);
#endif
#if defined(__AVX2__)
  if constexpr (W == 8) return (Vec<uint32_t, W>)_mm256_cvtepu16_epi32((__m128i)v);
#endif
  return __builtin_convertvector(v, Vec<uint32_t, W>);
}
template <int W>
REVGNN_INLINE Vec<uint32_t, W> widen(Vec<uint8_t, W> v) {
#if defined(__AVX512F__)
  if constexpr (W == 16) return (Vec<uint32_t, W>)_mm512_cvtepu8_epi32((__m128i)v);
#endif
#if defined(__AVX2__)
  if constexpr (W == 8) return (Vec<uint32_t, W>)_mm256_cvtepu8_epi32((__m128i){(int64_t)v, 0});
#endif
  return __builtin_convertvector(v, Vec<uint32_t, W>);
}
template <int W>
REVGNN_INLINE Vec<uint16_t, W> narrow(Vec<uint32_t, W> v) {
#if defined(__AVX512F__)
  if constexpr (W == 16) return (Vec<uint16_t, W>)_mm512_cvtepi32_epi16((__m512i)v);
#endif
  return __builtin_convertvector(v, Vec<uint16_t, W>);
}

template <int W>
REVGNN_INLINE Vec<float, W> load(const bf16 *p) {
  return (Vec<float, W>)(widen<W>(load_as<Vec<uint16_t, W>>(p)) << 16);
}

template <int W>
REVGNN_INLINE void store(float *p, Vec<float, W> v) {
  memcpy(p, &v, sizeof v);
}
template <int W>
REVGNN_INLINE void store(double *p, Vec<double, W> v) {
  memcpy(p, &v, sizeof v);
}
template <int W>
REVGNN_INLINE void store(int32_t *p, Vec<int32_t, W> v) {
  memcpy(p, &v, sizeof v);
}
/// Rounded to bfloat16, in the upper half of each lane: to nearest even; a NaN stays one.
template <int W>
REVGNN_INLINE Vec<uint32_t, W> rounded_bits(Vec<float, W> v) {
  const auto u = (Vec<uint32_t, W>)v;
  return v == v ? u + 0x7fff + ((u >> 16) & 1) : u | 0x400000;
}
template <int W>
REVGNN_INLINE void store(bf16 *p, Vec<float, W> v) {
#if defined(__AVX512BF16__)
  if constexpr (W == 16) {
    const auto half = _mm512_cvtneps_pbh((__m512)v);
    memcpy(p, &half, sizeof half);
    return;
  }
#endif
  const auto half = narrow<W>(rounded_bits<W>(v) >> 16);
  memcpy(p, &half, sizeof half);
}

/// The lanes of 2 W numbers in turns: those at even places, then those at odd ones. Taking them apart costs a shift and a
/// mask, where widening one half after the other costs two shuffles more.
template <int W>
struct Halves {
  Vec<float, W> even, odd;
};
template <int W>
REVGNN_INLINE Halves<W> load_halves(const bf16 *p) {
  const auto both = load_as<Vec<uint32_t, W>>(p);
  return {(Vec<float, W>)(both << 16), (Vec<float, W>)(both & 0xffff0000u)};
}
template <int W>
REVGNN_INLINE void store_halves(bf16 *p, Halves<W> v) {
  const auto both = (rounded_bits<W>(v.even) >> 16) | (rounded_bits<W>(v.odd) & 0xffff0000u);
  memcpy(p, &both, sizeof both);
}
template <int W>
REVGNN_INLINE Halves<W> load_halves(const float *p) {
  Halves<W> v;
  for (int lane = 0; lane < W; lane++) v.even[lane] = p[2 * lane], v.odd[lane] = p[2 * lane + 1];
  return v;
}
template <int W>
REVGNN_INLINE void store_halves(float *p, Halves<W> v) {
  for (int lane = 0; lane < W; lane++) p[2 * lane] = v.even[lane], p[2 * lane + 1] = v.odd[lane];
}

template <class S, int W>
REVGNN_INLINE Vec<S, W> splat(S s) {
  return s - Vec<S, W>{};
}

// ------------------------------------------------------------------ lanes
template <class S, int W>
REVGNN_INLINE S reduce_add(Vec<S, W> v) {
  if constexpr (W == 1) {
    return v[0];
  } else {
    Vec<S, W / 2> half[2];
    memcpy(half, &v, sizeof v);
    return reduce_add<S, W / 2>(half[0] + half[1]);
  }
}

template <class S, int W>
REVGNN_INLINE bool any(Mask<S, W> mask) {
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
REVGNN_INLINE Vec<I, W> iota() {
  Vec<I, W> v;
  for (int lane = 0; lane < W; lane++) v[lane] = I(lane);
  return v;
}

/// Lane l of the result is lane from[l] of v.
template <class S, int W>
REVGNN_INLINE Vec<S, W> permute(Vec<S, W> v, Mask<S, W> from) {
#if defined(__clang__)
  Vec<S, W> out;
  for (int lane = 0; lane < W; lane++) out[lane] = v[from[lane]];
  return out;
#else
  return __builtin_shuffle(v, from);
#endif
}

/// A product as it would be stored: the compiler may not fuse it with what follows, which would round it differently from
/// where it was stored.
template <class V>
REVGNN_INLINE V rounded(V v) {
#if defined(__SSE2__)
  asm("" : "+v"(v));
#elif defined(__aarch64__)
  asm("" : "+w"(v));
#else
  asm("" : "+m"(v));
#endif
  return v;
}

/// max(0, x); a NaN stays one.
template <class V>
REVGNN_INLINE V relu(V x) {
  V zero{};
  // Of two that do not compare the instruction takes the second.
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64 && sizeof(x[0]) == 4) return (V)_mm512_max_ps((__m512)zero, (__m512)x);
#endif
#if defined(__AVX2__)
  if constexpr (sizeof(V) == 32 && sizeof(x[0]) == 4) return (V)_mm256_max_ps((__m256)zero, (__m256)x);
#endif
  return x < zero ? zero : x;
}

/// A NaN wins over everything before it and over everything after it.
template <class S, int W>
REVGNN_INLINE Mask<S, W> beats(Vec<S, W> value, Vec<S, W> top) {
  return (value > top) | ((value != value) & (top == top));
}

// ------------------------------------------------------------------ exp, log
#if defined(__AVX512F__)
/// With instructions for rounding and for scaling by 2^k, which also takes care of the upper end.
REVGNN_INLINE __m512 exp_512(__m512 x) {
  const __m512 k = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 8);
  __m512 r = _mm512_fnmadd_ps(k, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fmadd_ps(k, _mm512_set1_ps(2.12194440e-4f), r);
  __m512 p = _mm512_fmadd_ps(r, _mm512_set1_ps(1.f / 720), _mm512_set1_ps(1.f / 120));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.f / 24));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.f / 6));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.f));
  return _mm512_scalef_ps(p, k);
}
#endif

/// For x between -87 and 88, or a NaN, which stays one; relative error below 3e-7.
template <int W>
REVGNN_INLINE Vec<float, W> vexp_inside(Vec<float, W> x) {
  using V = Vec<float, W>;
#if defined(__AVX512F__)
  if constexpr (W == 16) return (V)exp_512((__m512)x);
#endif
  const float magic = 12582912.f;  // 1.5 * 2^23: adding it rounds to an integer, held in the low bits
  const V shifted = x * 1.44269504f + magic;
  const V k = shifted - magic;
  const V r = (x - k * 0.693359375f) + k * 2.12194440e-4f;  // ln 2 in two parts: the first product is exact
  V p = r * (1.f / 720) + 1.f / 120;
  p = p * r + 1.f / 24;
  p = p * r + 1.f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.f;
  p = p * r + 1.f;
  const V power = (V)(((Vec<int32_t, W>)shifted << 23) + (127 << 23));  // the magic's own bits shift out
  return p * power;
}

/// 0 far below 0, finite or infinite far above; a NaN stays one.
template <int W>
REVGNN_INLINE Vec<float, W> vexp(Vec<float, W> x) {
  using V = Vec<float, W>;
#if defined(__AVX512F__)
  if constexpr (W == 16) return (V)exp_512(_mm512_max_ps(_mm512_set1_ps(-104.f), (__m512)x));  // NaN: the second
#endif
  const V low = splat<float, W>(-87.3f), high = splat<float, W>(88.f);
  V c = x < low ? low : x;
  c = c > high ? high : c;
  return x < low ? V{} : vexp_inside<W>(c);
}

/// For finite x > 0; relative error below 2e-7.
template <int W>
REVGNN_INLINE Vec<float, W> vlog(Vec<float, W> x) {
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
REVGNN_INLINE Vec<double, W> vexp(Vec<double, W> x) {
  for (int lane = 0; lane < W; lane++) x[lane] = __builtin_exp(x[lane]);
  return x;
}
template <int W>
REVGNN_INLINE Vec<double, W> vexp_inside(Vec<double, W> x) {
  return vexp<W>(x);
}
template <int W>
REVGNN_INLINE Vec<double, W> vlog(Vec<double, W> x) {
  for (int lane = 0; lane < W; lane++) x[lane] = __builtin_log(x[lane]);
  return x;
}

}  // namespace
