/* The C ABI of the CPU kernels: plain pointers and sizes, so that one library serves every torch.

   Every kernel takes one argument struct and returns 0, or REVGNN_UNSUPPORTED for a dtype it has no code for.
   Matrices are row-major with a row stride in elements and unit column stride. "Sum" is the type sums are kept in:
   float for float and bfloat16, double for double. Vectors that belong to a Sum (weights, statistics, scores) are
   always of type Sum. A struct holds sizes and operands first, then what is no tensor. Results depend neither on the
   number of threads nor on the run. `python dev/abi.py` writes src/revgnn/ops/cpu/abi.py from this file;
   revgnn_abi_version changes with the structs. */
#ifndef REVGNN_KERNELS_H
#define REVGNN_KERNELS_H

#include <stdint.h>

#define REVGNN_ABI_VERSION 5
#define REVGNN_UNSUPPORTED (-1)

#ifdef __cplusplus
extern "C" {
#endif

enum revgnn_dtype { REVGNN_F32 = 0, REVGNN_BF16 = 1, REVGNN_F64 = 2 };
enum revgnn_norm_kind { REVGNN_NORM_NONE = 0, REVGNN_NORM_LAYER = 1, REVGNN_NORM_BATCH = 2 };
enum revgnn_reduce { REVGNN_SUM = 0, REVGNN_MEAN = 1, REVGNN_SOFTMAX = 2 };

/* Edges of row i: positions indptr[i] .. indptr[i+1] of indices. */
typedef struct {
  int64_t num_rows;
  int64_t num_edges;
  const int32_t *indptr;
  const int32_t *indices;
  const int64_t *edge_ids; /* where each edge's own values stand; NULL: at its position */
} revgnn_csr;

/* out_i (+)= dst_scale_i / (mean ? degree_i : 1) * sum_e weight_e src_scale_j x_j */
typedef struct {
  revgnn_csr graph;
  int64_t width;
  const void *x;
  int64_t x_stride;
  const void *weight;    /* [E] Sum, read through edge_ids; NULL: 1 */
  const void *src_scale; /* [N] Sum; NULL: 1 */
  const void *dst_scale; /* [N] Sum; NULL: 1 */
  void *out;
  int64_t out_stride;
  int32_t dtype;
  int32_t out_dtype; /* dtype, or F32 for BF16 input */
  int32_t mean;
  int32_t accumulate;
  int32_t threads;
} revgnn_spmm_args;

/* out_e = <g_i, x_j> / (mean ? degree_i : 1): the gradient of the edge weights of spmm, over the forward graph */
typedef struct {
  revgnn_csr graph;
  int64_t width;
  const void *x;
  int64_t x_stride;
  const void *grad;
  int64_t grad_stride;
  void *out; /* [E] Sum */
  int32_t dtype;
  int32_t mean;
  int32_t threads;
} revgnn_edge_dot_args;

/* out_i = max_e x_j per channel; arg: the first position that attains it, -1 where there is no edge */
typedef struct {
  revgnn_csr graph;
  int64_t width;
  const void *x;
  int64_t x_stride;
  void *out;
  int64_t out_stride;
  int32_t *arg; /* [N, width], or NULL */
  int32_t dtype;
  int32_t threads;
} revgnn_max_args;

/* dx_j (+)= sum over out-edges e = (j -> i) of grad_i where arg_i == e; `graph` is the reverse */
typedef struct {
  revgnn_csr graph;
  int64_t width;
  const void *grad;
  int64_t grad_stride;
  const int32_t *arg;
  void *dx;
  int64_t dx_stride;
  int32_t dtype;
  int32_t accumulate;
  int32_t threads;
} revgnn_max_backward_args;

/* y_i = reduce_e m_e per channel, m_e = relu(x_j + bias + edge_attr_e weight) + eps; softmax: sum_e p_e m_e with
   p = softmax_e(t m_e). Without a weight: m_e = relu(x_j) + eps, softmax only; with a scratch exponentials are then
   taken per node wherever the channels' ranges of t m allow it. */
typedef struct {
  revgnn_csr graph;
  int64_t width;
  int64_t num_features;
  const void *x;
  int64_t x_stride;
  const void *edge_attr; /* [E, num_features] Sum */
  const void *weight;    /* [num_features, width] Sum, or NULL: no edge features */
  const void *bias;      /* [width] Sum, or NULL */
  const void *t;         /* [width] Sum; softmax only */
  void *y;
  int64_t y_stride;
  void *lse;     /* [N, width] Sum: log of the sum of exp(t (m - y)), or NULL; softmax only */
  void *scratch; /* [N, 2 width] of dtype, or NULL; softmax without a weight */
  double eps;
  int32_t reduce;
  int32_t dtype;
  int32_t threads;
} revgnn_gen_aggr_args;

/* Gradients of the above; `graph` is the reverse. Without a weight and with a scratch the sums are formed per node
   wherever the channels' ranges of t m allow it (no exponential per edge); else per edge. */
typedef struct {
  revgnn_csr graph;
  int64_t width;
  int64_t num_features;
  const void *x;
  int64_t x_stride;
  const void *edge_attr;
  const void *weight;
  const void *bias;
  const void *t;
  const void *y;
  int64_t y_stride;
  const void *lse;
  const int32_t *degree_indptr; /* indptr of the forward graph; mean only */
  const void *grad;
  int64_t grad_stride;
  void *scratch; /* [N, 2 width] of dtype, or NULL */
  void *dx;
  int64_t dx_stride;
  void *dweight;            /* [num_features, width] Sum; with a weight */
  void *dbias;              /* [width] Sum; with a weight */
  void *dedge_attr;         /* [E, num_features] Sum, or NULL */
  void *dt;                 /* [width] Sum, or NULL; softmax only */
  double eps;
  int32_t constant_weights; /* no gradient through the softmax into the messages */
  int32_t reduce;
  int32_t dtype;
  int32_t accumulate; /* into dx alone */
  int32_t threads;
} revgnn_gen_aggr_backward_args;

/* y_i = max_e m_e with m as above; arg: the first position that attains it, -1 where the rectifier is shut */
typedef struct {
  revgnn_csr graph;
  int64_t width;
  int64_t num_features;
  const void *x;
  int64_t x_stride;
  const void *edge_attr;
  const void *weight;
  const void *bias;
  void *y;
  int64_t y_stride;
  int32_t *arg; /* [N, width], or NULL */
  double eps;
  int32_t dtype;
  int32_t threads;
} revgnn_edge_max_args;

/* Gradients of the above for the edge map; dx comes from revgnn_max_backward. `graph` is the forward one. */
typedef struct {
  revgnn_csr graph;
  int64_t width;
  int64_t num_features;
  const void *edge_attr;
  const void *weight;
  const void *grad;
  int64_t grad_stride;
  const int32_t *arg;
  void *dweight;    /* [num_features, width] Sum */
  void *dbias;      /* [width] Sum */
  void *dedge_attr; /* [E, num_features] Sum, or NULL */
  int32_t dtype;
  int32_t threads;
} revgnn_edge_max_backward_args;

/* y_i = sum_e p_e x_j per head, p = softmax_e(leaky_relu(score_src_j + score_dst_i)) over the kept edges */
typedef struct {
  revgnn_csr graph;
  int64_t heads;
  int64_t width; /* of one head */
  const void *x; /* [N, heads, width]: rows of heads * width */
  int64_t x_stride;
  const void *score_src; /* [N, heads] Sum */
  const void *score_dst; /* [N, heads] Sum, or NULL */
  const uint8_t *keep; /* [E], read through edge_ids; NULL keeps all */
  void *y;
  int64_t y_stride;
  void *normaliser; /* [N, 2, heads] Sum, or NULL: the largest logit, then 1 / sum exp(logit - largest) */
  void *slope_y;   /* [N, heads, width] Sum: sum p slope x_j, for the gradient of score_dst; or NULL */
  void *slope_sum; /* [N, heads] Sum: sum p slope; with slope_y */
  double negative_slope;
  int32_t dtype;
  int32_t threads;
} revgnn_attention_args;

typedef struct {
  revgnn_csr graph; /* the reverse */
  int64_t heads;
  int64_t width;
  const void *x;
  int64_t x_stride;
  const void *score_src;
  const void *score_dst;
  const uint8_t *keep;
  const void *y;
  int64_t y_stride;
  const void *normaliser;
  const void *slope_y;
  const void *slope_sum;
  const void *grad;
  int64_t grad_stride;
  void *scratch; /* [N, heads, 4] Sum */
  void *dx;
  int64_t dx_stride;
  void *dscore_src; /* [N, heads] Sum */
  void *dscore_dst; /* [N, heads] Sum, or NULL */
  double negative_slope;
  int32_t dtype;
  int32_t accumulate; /* into dx alone */
  int32_t threads;
} revgnn_attention_backward_args;

/* score_src_ih = <x_ih, attn_src_h>, and score_dst likewise: the products that attention takes */
typedef struct {
  int64_t num_rows;
  int64_t heads;
  int64_t width; /* of one head */
  const void *x; /* [N, heads, width]: rows of heads * width */
  int64_t x_stride;
  const void *attn_src; /* [heads, width] Sum */
  const void *attn_dst; /* likewise, or NULL */
  void *score_src;      /* [N, heads] Sum */
  void *score_dst;      /* likewise; with attn_dst */
  int32_t dtype;
  int32_t threads;
} revgnn_attention_scores_args;

typedef struct {
  int64_t num_rows;
  int64_t heads;
  int64_t width;
  const void *x;
  int64_t x_stride;
  const void *attn_src;
  const void *attn_dst;
  const void *dscore_src; /* [N, heads] Sum */
  const void *dscore_dst; /* likewise; with attn_dst */
  void *dx;
  int64_t dx_stride;
  void *dattn_src; /* [heads, width] Sum */
  void *dattn_dst; /* likewise; with attn_dst */
  int32_t dtype;
  int32_t accumulate; /* into dx alone */
  int32_t threads;
} revgnn_attention_scores_backward_args;

/* out = keep * relu(norm(x)) * scale. Kept is what `mask` says, or what (seed, i * width + d) hashes to. */
typedef struct {
  int64_t num_rows;
  int64_t width;
  const void *x;
  int64_t x_stride;
  const void *weight; /* [width] Sum, or NULL: 1 */
  const void *bias;   /* [width] Sum, or NULL: 0 */
  void *mean; /* layer: [N], written (NULL: not kept); batch: [width], read */
  void *rstd; /* likewise */
  const uint8_t *mask;
  int64_t mask_stride;
  void *out;
  int64_t out_stride;
  double eps;
  double scale;
  uint64_t seed;
  uint32_t threshold; /* of the hash: kept at or above it */
  int32_t use_seed;
  int32_t mask_bits; /* the mask is packed: bit d % 8 of byte d / 8; its stride is in bytes */
  int32_t kind;
  int32_t act;
  int32_t dtype;
  int32_t out_dtype; /* dtype, or BF16 for F32 input */
  int32_t threads;
} revgnn_norm_args;

typedef struct {
  int64_t num_rows;
  int64_t width;
  const void *x;
  int64_t x_stride;
  const void *weight;
  const void *bias;
  const void *mean; /* layer: [N]; batch: [width] */
  const void *rstd;
  const uint8_t *mask;
  int64_t mask_stride;
  const void *grad;
  int64_t grad_stride;
  void *dx;
  int64_t dx_stride;
  void *dweight; /* [width] Sum */
  void *dbias;   /* [width] Sum */
  double scale;
  uint64_t seed;
  uint32_t threshold;
  int32_t use_seed;
  int32_t mask_bits; /* the mask is packed: bit d % 8 of byte d / 8; its stride is in bytes */
  int32_t kind;
  int32_t act;
  int32_t fixed_stats; /* batch: mean and rstd are constants, not the batch's own */
  int32_t dtype;
  int32_t grad_dtype; /* dtype, or BF16 for F32 x and dx */
  int32_t accumulate; /* into dx alone */
  int32_t threads;
} revgnn_norm_backward_args;

/* mean_d and rstd_d = 1 / sqrt(biased variance + eps) over the rows; var_d: the variance itself, or NULL */
typedef struct {
  int64_t num_rows;
  int64_t width;
  const void *x;
  int64_t x_stride;
  void *mean;
  void *rstd;
  void *var;
  double eps;
  int32_t dtype;
  int32_t threads;
} revgnn_batch_stats_args;

/* Move running statistics by those of `num_rows` > 0 rows: r += share (new - r), the new variance unbiased, and share
   the momentum, or for a negative one 1 / num_batches after it was counted up. */
typedef struct {
  int64_t num_rows;
  int64_t width;
  const void *mean;
  const void *var; /* biased */
  void *running_mean;
  void *running_var;
  int64_t *num_batches;
  double momentum;
  int32_t dtype;
} revgnn_running_stats_args;

/* out (+/-)= (x + plus) weight^T + bias; with BF16 rows the factors may be rounded to BF16, the sums are not */
typedef struct {
  int64_t num_rows;
  int64_t in_width;
  int64_t out_width;
  const void *x;
  int64_t x_stride;
  const void *plus; /* [N, in_width], or NULL: 0 */
  int64_t plus_stride;
  const void *weight; /* [out_width, in_width] Sum, dense */
  const void *bias;   /* [out_width] Sum, or NULL: 0 */
  void *out;
  int64_t out_stride;
  int32_t sign;  /* 0 writes, 1 adds, -1 subtracts */
  int32_t dtype; /* of x and plus */
  int32_t out_dtype; /* dtype, or F32 for BF16 */
  int32_t narrow;    /* F32: factors may be rounded to BF16 */
  int32_t threads;
} revgnn_linear_args;

/* Gradients of the above, with its value from the same visit. dx may be x, grad or plus itself. */
typedef struct {
  int64_t num_rows;
  int64_t in_width;
  int64_t out_width;
  const void *x;
  int64_t x_stride;
  const void *plus;
  int64_t plus_stride;
  const void *weight;
  const void *bias;
  const void *grad;
  int64_t grad_stride;
  void *value; /* [N, out_width] Sum (+/-)= the value, or NULL */
  int64_t value_stride;
  void *dx; /* or NULL */
  int64_t dx_stride;
  void *dweight; /* [out_width, in_width] Sum, dense; written */
  void *dbias;   /* [out_width] Sum, or NULL; written */
  int32_t sign;  /* of value */
  int32_t dtype; /* of x, plus and dx */
  int32_t grad_dtype; /* dtype, or F32 for BF16 */
  int32_t narrow;     /* F32: factors may be rounded to BF16 */
  int32_t accumulate; /* into dx alone */
  int32_t threads;
} revgnn_linear_backward_args;

/* Bit p of `bits` (bit p % 8 of byte p / 8) is set where (seed, p) hashes to the threshold or above */
typedef struct {
  int64_t num_bytes;
  uint8_t *bits;
  uint64_t seed;
  uint32_t threshold;
  int32_t threads;
} revgnn_keep_bits_args;

/* One line per kernel: the dispatcher and the tables are made from it. */
#define REVGNN_KERNELS(K) \
  K(spmm)                 \
  K(edge_dot)             \
  K(max)                  \
  K(max_backward)         \
  K(norm)                 \
  K(norm_backward)        \
  K(batch_stats)          \
  K(running_stats)        \
  K(gen_aggr)             \
  K(gen_aggr_backward)    \
  K(edge_max)             \
  K(edge_max_backward)    \
  K(attention)            \
  K(attention_backward)   \
  K(linear)               \
  K(linear_backward)      \
  K(keep_bits)            \
  K(attention_scores)     \
  K(attention_scores_backward)

#if defined(_WIN32)
#define REVGNN_API __declspec(dllexport)
#else
#define REVGNN_API __attribute__((visibility("default")))
#endif

#define REVGNN_DECLARE(name) REVGNN_API int revgnn_##name(const revgnn_##name##_args *args);
REVGNN_KERNELS(REVGNN_DECLARE)
#undef REVGNN_DECLARE

/* Make `num_calls` calls of kernels, `num_rounds` times over. Call c of round r takes the struct at
   args + r * round_bytes + offsets[c]; kernels[c] counts the lines of REVGNN_KERNELS. */
REVGNN_API int revgnn_calls(
    int64_t num_rounds, int64_t num_calls, const int32_t *kernels, const int64_t *offsets, const void *args,
    int64_t round_bytes
);

REVGNN_API int revgnn_abi_version(void);
/* The instruction set in use: "avx512_bf16", "avx512", "avx2" or "baseline". */
REVGNN_API const char *revgnn_isa(void);
/* Use another one, for tests; 0, or REVGNN_UNSUPPORTED where this machine or build lacks it. */
REVGNN_API int revgnn_use_isa(const char *name);

#ifdef __cplusplus
}
#endif
#endif
