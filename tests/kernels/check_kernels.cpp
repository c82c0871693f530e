// Checks kernels of librevgnn_kernels.so against plain loops in double precision, with no Python: `make aarch64` runs it
// in an emulator. Every instruction set of the library that this machine has is checked.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <vector>

#include "revgnn_kernels.h"

namespace {

constexpr int64_t kRows = 37;
const int64_t kWidths[] = {1, 3, 4, 7, 16, 33, 64, 130};
int failures = 0, checks = 0;

uint32_t state = 1;
/// A number between -1 and 1.
double draw() {
  state = state * 1664525u + 1013904223u;
  return double(state) / 2147483648.0 - 1.0;
}

/// Values as a kernel reads them, and as numbers.
struct Values {
  int dtype;
  std::vector<float> f32;
  std::vector<double> f64;
  std::vector<uint16_t> bf16;

  explicit Values(int dtype, int64_t size, bool drawn = true) : dtype(dtype), f32(size), f64(size), bf16(size) {
    for (int64_t k = 0; k < size; k++) put(k, drawn ? draw() : 0.0);
  }
  void put(int64_t k, double value) {
    f32[k] = float(value);
    f64[k] = value;
    uint32_t bits;
    memcpy(&bits, &f32[k], 4);
    bf16[k] = uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
  }
  void *data() {
    if (dtype == REVGNN_F64) return f64.data();
    return dtype == REVGNN_F32 ? static_cast<void *>(f32.data()) : bf16.data();
  }
  double at(int64_t k) const {
    if (dtype == REVGNN_F64) return f64[k];
    if (dtype == REVGNN_F32) return f32[k];
    const uint32_t bits = uint32_t(bf16[k]) << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
  }
  int64_t size() const { return int64_t(f32.size()); }
};

int sum_of(int dtype) {
  return dtype == REVGNN_BF16 ? int(REVGNN_F32) : dtype;
}

void expect(const char *what, int code, int dtype, int64_t width, const Values &got, const std::vector<double> &wanted) {
  const double tolerance = got.dtype == REVGNN_F64 ? 1e-12 : got.dtype == REVGNN_F32 ? 2e-5 : 2e-2;
  double worst = code == 0 ? 0.0 : INFINITY;
  for (int64_t k = 0; k < got.size(); k++) {
    const double away = fabs(got.at(k) - wanted[k]) / (1.0 + fabs(wanted[k]));
    worst = away <= worst ? worst : away;  // a NaN is the worst
  }
  checks++;
  if (worst <= tolerance) return;
  failures++;
  printf("%s: %s, dtype %d, width %ld: code %d, off by %g\n", revgnn_isa(), what, dtype, long(width), code, worst);
}

/// Row i has i % 6 edges.
struct Graph {
  std::vector<int32_t> indptr{0}, indices;
  revgnn_csr csr;

  Graph() {
    for (int64_t i = 0; i < kRows; i++) {
      for (int64_t e = 0; e < i % 6; e++) indices.push_back(int32_t((7 * i + 11 * e) % kRows));
      indptr.push_back(int32_t(indices.size()));
    }
    csr = {kRows, int64_t(indices.size()), indptr.data(), indices.data(), nullptr};
  }
};

void check_spmm(const Graph &g, int dtype, int64_t width, bool mean) {
  Values x(dtype, kRows * width), out(dtype, kRows * width, false), weight(sum_of(dtype), g.csr.num_edges);
  revgnn_spmm_args a = {};
  a.graph = g.csr, a.width = width, a.x = x.data(), a.x_stride = width, a.weight = weight.data(), a.out = out.data();
  a.out_stride = width, a.dtype = a.out_dtype = dtype, a.mean = mean, a.threads = 2;
  std::vector<double> wanted(kRows * width);
  for (int64_t i = 0; i < kRows; i++) {
    for (int32_t e = g.indptr[i]; e < g.indptr[i + 1]; e++) {
      const double share = mean ? 1.0 / (g.indptr[i + 1] - g.indptr[i]) : 1.0;
      for (int64_t d = 0; d < width; d++) wanted[i * width + d] += share * weight.at(e) * x.at(g.indices[e] * width + d);
    }
  }
  expect(mean ? "spmm, mean" : "spmm", revgnn_spmm(&a), dtype, width, out, wanted);
}

void check_max(const Graph &g, int dtype, int64_t width) {
  Values x(dtype, kRows * width), out(dtype, kRows * width, false);
  revgnn_max_args a = {};
  a.graph = g.csr, a.width = width, a.x = x.data(), a.x_stride = width, a.out = out.data(), a.out_stride = width;
  a.dtype = dtype, a.threads = 2;
  std::vector<double> wanted(kRows * width);
  for (int64_t i = 0; i < kRows; i++) {
    for (int32_t e = g.indptr[i]; e < g.indptr[i + 1]; e++) {
      for (int64_t d = 0; d < width; d++) {
        const double value = x.at(g.indices[e] * width + d);
        double &top = wanted[i * width + d];
        top = e == g.indptr[i] ? value : std::max(top, value);
      }
    }
  }
  expect("max", revgnn_max(&a), dtype, width, out, wanted);
}

uint32_t mix(uint32_t h) {
  h ^= h >> 16, h *= 0x7feb352du;
  h ^= h >> 15, h *= 0x846ca68bu;
  return h ^ (h >> 16);
}

void check_norm(int dtype, int64_t width) {
  const int sum = sum_of(dtype);
  Values x(dtype, kRows * width), out(dtype, kRows * width, false), weight(sum, width), bias(sum, width);
  revgnn_norm_args a = {};
  a.num_rows = kRows, a.width = width, a.x = x.data(), a.x_stride = width, a.weight = weight.data();
  a.bias = bias.data(), a.out = out.data(), a.out_stride = width, a.eps = 1e-5, a.scale = 2.0, a.seed = 12345678901u;
  a.threshold = 1u << 31, a.use_seed = 1, a.kind = REVGNN_NORM_LAYER, a.act = 1, a.dtype = a.out_dtype = dtype;
  a.threads = 2;
  std::vector<double> wanted(kRows * width);
  for (int64_t i = 0; i < kRows; i++) {
    double mean = 0, var = 0;
    for (int64_t d = 0; d < width; d++) mean += x.at(i * width + d) / double(width);
    for (int64_t d = 0; d < width; d++) var += pow(x.at(i * width + d) - mean, 2) / double(width);
    for (int64_t d = 0; d < width; d++) {
      const uint64_t position = uint64_t(i * width + d);
      const uint32_t inner = mix(uint32_t(position) ^ uint32_t(a.seed));
      const bool kept = mix(inner ^ uint32_t(a.seed >> 32)) >= a.threshold;
      const double u = (x.at(i * width + d) - mean) / sqrt(var + a.eps) * weight.at(d) + bias.at(d);
      wanted[i * width + d] = kept ? a.scale * std::max(u, 0.0) : 0.0;
    }
  }
  expect("norm", revgnn_norm(&a), dtype, width, out, wanted);
}

void check_softmax(const Graph &g, int dtype, int64_t width) {
  const int sum = sum_of(dtype);
  Values x(dtype, kRows * width), out(dtype, kRows * width, false), t(sum, width), edge_attr(sum, g.csr.num_edges * 3);
  Values weight(sum, 3 * width);
  revgnn_gen_aggr_args a = {};
  a.graph = g.csr, a.width = width, a.num_features = 3, a.x = x.data(), a.x_stride = width;
  a.edge_attr = edge_attr.data(), a.weight = weight.data(), a.t = t.data(), a.y = out.data(), a.y_stride = width;
  a.eps = 1e-7, a.reduce = REVGNN_SOFTMAX, a.dtype = dtype, a.threads = 2;
  std::vector<double> wanted(kRows * width);
  for (int64_t i = 0; i < kRows; i++) {
    for (int64_t d = 0; d < width; d++) {
      double above = 0, below = 0;
      for (int32_t e = g.indptr[i]; e < g.indptr[i + 1]; e++) {
        double m = x.at(g.indices[e] * width + d);
        for (int64_t k = 0; k < 3; k++) m += edge_attr.at(e * 3 + k) * weight.at(k * width + d);
        m = std::max(m, 0.0) + a.eps;
        above += exp(t.at(d) * m) * m, below += exp(t.at(d) * m);
      }
      wanted[i * width + d] = below > 0 ? above / below : 0.0;
    }
  }
  expect("gen_aggr, softmax", revgnn_gen_aggr(&a), dtype, width, out, wanted);
}

void check_attention(const Graph &g, int dtype, int64_t width) {
  const int64_t heads = 3, row = heads * width;
  const int sum = sum_of(dtype);
  Values x(dtype, kRows * row), out(dtype, kRows * row, false), from(sum, kRows * heads), to(sum, kRows * heads);
  revgnn_attention_args a = {};
  a.graph = g.csr, a.heads = heads, a.width = width, a.x = x.data(), a.x_stride = row, a.score_src = from.data();
  a.score_dst = to.data(), a.y = out.data(), a.y_stride = row, a.negative_slope = 0.2, a.dtype = dtype, a.threads = 2;
  std::vector<double> wanted(kRows * row);
  for (int64_t i = 0; i < kRows; i++) {
    for (int64_t h = 0; h < heads; h++) {
      double below = 0;
      for (int32_t e = g.indptr[i]; e < g.indptr[i + 1]; e++) {
        const double score = from.at(g.indices[e] * heads + h) + to.at(i * heads + h);
        const double p = exp(score > 0 ? score : 0.2 * score);
        below += p;
        for (int64_t d = 0; d < width; d++) {
          wanted[i * row + h * width + d] += p * x.at(g.indices[e] * row + h * width + d);
        }
      }
      for (int64_t d = 0; below > 0 && d < width; d++) wanted[i * row + h * width + d] /= below;
    }
  }
  expect("attention", revgnn_attention(&a), dtype, width, out, wanted);
}

void check_linear(int dtype, int64_t width) {
  const int64_t out_width = 19;
  const int sum = sum_of(dtype);
  Values x(dtype, kRows * width), weight(sum, out_width * width), bias(sum, out_width);
  Values out(dtype, kRows * out_width, false);
  revgnn_linear_args a = {};
  a.num_rows = kRows, a.in_width = width, a.out_width = out_width, a.x = x.data(), a.x_stride = width;
  a.weight = weight.data(), a.bias = bias.data(), a.out = out.data(), a.out_stride = out_width;
  a.dtype = a.out_dtype = dtype, a.threads = 2;
  std::vector<double> wanted(kRows * out_width);
  for (int64_t i = 0; i < kRows; i++) {
    for (int64_t o = 0; o < out_width; o++) {
      wanted[i * out_width + o] = bias.at(o);
      for (int64_t d = 0; d < width; d++) wanted[i * out_width + o] += x.at(i * width + d) * weight.at(o * width + d);
    }
  }
  expect("linear", revgnn_linear(&a), dtype, width, out, wanted);
}

}  // namespace

int main() {
  const Graph graph;
  for (const char *isa : {"avx512_bf16", "avx512", "avx2", "baseline"}) {
    if (revgnn_use_isa(isa) != 0) continue;
    checks = 0;
    for (const int dtype : {REVGNN_F32, REVGNN_BF16, REVGNN_F64}) {
      for (const int64_t width : kWidths) {
        check_spmm(graph, dtype, width, false);
        check_spmm(graph, dtype, width, true);
        check_max(graph, dtype, width);
        check_norm(dtype, width);
        check_softmax(graph, dtype, width);
        check_attention(graph, dtype, width);
        check_linear(dtype, width);
      }
    }
    printf("%s: %d comparisons\n", revgnn_isa(), checks);
  }
  printf("%d failed\n", failures);
  return failures != 0;
}
