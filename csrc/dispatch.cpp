// The exported functions: each forwards to the kernels of the best instruction set that this processor has.
#include <string.h>

#include "kernels.h"

namespace revgnn {
namespace baseline {
extern const Table table;
}
#ifdef REVGNN_X86
namespace avx2 {
extern const Table table;
}
namespace avx512 {
extern const Table table;
}
namespace avx512_bf16 {
/// A kernel that is built for bfloat16 alone leaves other types to AVX-512's, whose code would be the same.
#define REVGNN_DECLARE_KERNEL(name)                                       \
  int name(const revgnn_##name##_args &args);                             \
  int name##_of_any_type(const revgnn_##name##_args &args) {              \
    const int code = name(args);                                          \
    return code == REVGNN_UNSUPPORTED ? avx512::table.name(args) : code;  \
  }
REVGNN_BF16_KERNELS(REVGNN_DECLARE_KERNEL)
#undef REVGNN_DECLARE_KERNEL

Table completed() {
  Table table = avx512::table;
#define REVGNN_REPLACE(name) table.name = name##_of_any_type;
  REVGNN_BF16_KERNELS(REVGNN_REPLACE)
#undef REVGNN_REPLACE
  return table;
}

const Table table = completed();
}  // namespace avx512_bf16
#endif

namespace {

struct Isa {
  const char *name;
  const Table *table;
  bool runs;
};

const Isa *best(const char *wanted) {
#ifdef REVGNN_X86
  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  const bool has_bf16 = has_avx512 && __builtin_cpu_supports("avx512bf16");
  static const Isa all[] = {
      {"avx512_bf16", &avx512_bf16::table, has_bf16},
      {"avx512", &avx512::table, has_avx512},
      {"avx2", &avx2::table, has_avx2},
      {"baseline", &baseline::table, true},
  };
#else
  static const Isa all[] = {{"baseline", &baseline::table, true}};
#endif
  for (const Isa &isa : all) {
    if (isa.runs && (wanted == nullptr || strcmp(isa.name, wanted) == 0)) return &isa;
  }
  return nullptr;
}

const Isa *active = best(nullptr);

enum Kernel : int32_t {
#define REVGNN_NUMBER(name) number_of_##name,
  REVGNN_KERNELS(REVGNN_NUMBER)
#undef REVGNN_NUMBER
};

int call(int32_t kernel, const void *args) {
  switch (kernel) {
#define REVGNN_CASE(name)   \
  case number_of_##name:    \
    return active->table->name(*static_cast<const revgnn_##name##_args *>(args));
    REVGNN_KERNELS(REVGNN_CASE)
#undef REVGNN_CASE
  }
  return REVGNN_UNSUPPORTED;
}

}  // namespace
}  // namespace revgnn

extern "C" {

#define REVGNN_FORWARD(name)                            \
  int revgnn_##name(const revgnn_##name##_args *args) { \
    return revgnn::active->table->name(*args);          \
  }
REVGNN_KERNELS(REVGNN_FORWARD)
#undef REVGNN_FORWARD

int revgnn_calls(
    int64_t num_rounds, int64_t num_calls, const int32_t *kernels, const int64_t *offsets, const void *args,
    int64_t round_bytes
) {
  const char *of_round = static_cast<const char *>(args);
  for (int64_t round = 0; round < num_rounds; round++, of_round += round_bytes) {
    for (int64_t c = 0; c < num_calls; c++) {
      const int status = revgnn::call(kernels[c], of_round + offsets[c]);
      if (status != 0) return status;
    }
  }
  return 0;
}

int revgnn_abi_version(void) {
  return REVGNN_ABI_VERSION;
}

const char *revgnn_isa(void) {
  return revgnn::active->name;
}

int revgnn_use_isa(const char *name) {
  const revgnn::Isa *isa = revgnn::best(name);
  if (isa == nullptr) return REVGNN_UNSUPPORTED;
  revgnn::active = isa;
  return 0;
}
}
