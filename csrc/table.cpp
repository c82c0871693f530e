// The table of one instruction set's kernels.
#include "kernels.h"

namespace revgnn {
namespace REVGNN_ISA {

#define REVGNN_ENTRY(name) name,
extern const Table table;
const Table table = {REVGNN_KERNELS(REVGNN_ENTRY)};
#undef REVGNN_ENTRY

}  // namespace REVGNN_ISA
}  // namespace revgnn
