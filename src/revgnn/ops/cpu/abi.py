"""The argument structs of `csrc/revgnn_kernels.h`, field by field; `VERSION` changes with them."""

from __future__ import annotations

import ctypes
import struct
from typing import Any

VERSION = 3

F32, BF16, F64 = 0, 1, 2
NORM_KINDS = {"none": 0, "layer": 1, "batch": 2}
REDUCES = {"sum": 0, "mean": 1, "softmax": 2}


class CsrStruct(ctypes.Structure):
    """Edges by row."""

    _fields_ = [
        ("num_rows", ctypes.c_int64),
        ("num_edges", ctypes.c_int64),
        ("indptr", ctypes.c_void_p),
        ("indices", ctypes.c_void_p),
        ("edge_ids", ctypes.c_void_p),
    ]


_TYPES: dict[str, Any] = {
    "csr": CsrStruct,
    "ptr": ctypes.c_void_p,
    "i32": ctypes.c_int32,
    "u32": ctypes.c_uint32,
    "i64": ctypes.c_int64,
    "u64": ctypes.c_uint64,
    "f64": ctypes.c_double,
}


_CODES = {
    ctypes.c_void_p: "P",
    ctypes.c_int32: "i",
    ctypes.c_uint32: "I",
    ctypes.c_int64: "q",
    ctypes.c_uint64: "Q",
    ctypes.c_double: "d",
}


def packer(kind: type[ctypes.Structure]) -> struct.Struct:
    """Make what turns the fields of a struct, those inside flat, into its bytes: several times as fast as ctypes."""
    found = struct.Struct("@" + _codes(kind) + "0q")
    assert found.size == ctypes.sizeof(kind), kind
    return found


def _codes(kind: type[ctypes.Structure]) -> str:
    types: list[Any] = [entry[1] for entry in kind._fields_]
    return "".join(_CODES[one] if one in _CODES else _codes(one) for one in types)


def _struct(name: str, *lines: str) -> type[ctypes.Structure]:
    """Make a struct from lines of ``type: field field ...``."""
    fields = []
    for line in lines:
        kind, _, names = line.partition(":")
        fields += [(field, _TYPES[kind]) for field in names.split()]
    return type(name, (ctypes.Structure,), {"_fields_": fields})


_DROP = ("f64: scale", "u64: seed", "u32: threshold", "i32: use_seed mask_bits")
_MESSAGES = ("csr: graph", "i64: width num_features", "ptr: x", "i64: x_stride", "ptr: edge_attr weight bias")
_SCORES = (
    "csr: graph",
    "i64: heads width",
    "ptr: x",
    "i64: x_stride",
    "ptr: score_src score_dst keep y",
    "i64: y_stride",
    "ptr: normaliser slope_y slope_sum",
)

KERNELS = {
    "spmm": _struct(
        "Spmm",
        "csr: graph",
        "i64: width",
        "ptr: x",
        "i64: x_stride",
        "ptr: weight src_scale dst_scale out",
        "i64: out_stride",
        "i32: dtype out_dtype mean accumulate threads",
    ),
    "edge_dot": _struct(
        "EdgeDot",
        "csr: graph",
        "i64: width",
        "ptr: x",
        "i64: x_stride",
        "ptr: grad",
        "i64: grad_stride",
        "ptr: out",
        "i32: dtype mean threads",
    ),
    "max": _struct(
        "Max",
        "csr: graph",
        "i64: width",
        "ptr: x",
        "i64: x_stride",
        "ptr: out",
        "i64: out_stride",
        "ptr: arg",
        "i32: dtype threads",
    ),
    "max_backward": _struct(
        "MaxBackward",
        "csr: graph",
        "i64: width",
        "ptr: grad",
        "i64: grad_stride",
        "ptr: arg dx",
        "i64: dx_stride",
        "i32: dtype accumulate threads",
    ),
    "norm": _struct(
        "Norm",
        "i64: num_rows width",
        "ptr: x",
        "i64: x_stride",
        "ptr: weight bias mean rstd mask",
        "i64: mask_stride",
        "ptr: out",
        "i64: out_stride",
        "f64: eps",
        *_DROP,
        "i32: kind act dtype out_dtype threads",
    ),
    "norm_backward": _struct(
        "NormBackward",
        "i64: num_rows width",
        "ptr: x",
        "i64: x_stride",
        "ptr: weight bias mean rstd mask",
        "i64: mask_stride",
        "ptr: grad",
        "i64: grad_stride",
        "ptr: dx",
        "i64: dx_stride",
        "ptr: dweight dbias",
        *_DROP,
        "i32: kind act fixed_stats dtype accumulate threads",
    ),
    "gen_aggr": _struct(
        "GenAggr",
        *_MESSAGES,
        "ptr: t y",
        "i64: y_stride",
        "ptr: lse scratch",
        "f64: eps",
        "i32: reduce dtype threads",
    ),
    "gen_aggr_backward": _struct(
        "GenAggrBackward",
        *_MESSAGES,
        "ptr: t y",
        "i64: y_stride",
        "ptr: lse degree_indptr grad",
        "i64: grad_stride",
        "ptr: scratch dx",
        "i64: dx_stride",
        "ptr: dweight dbias dedge_attr dt",
        "f64: eps",
        "i32: constant_weights reduce dtype accumulate threads",
    ),
    "edge_max": _struct(
        "EdgeMax",
        *_MESSAGES,
        "ptr: y",
        "i64: y_stride",
        "ptr: arg",
        "f64: eps",
        "i32: dtype threads",
    ),
    "edge_max_backward": _struct(
        "EdgeMaxBackward",
        "csr: graph",
        "i64: width num_features",
        "ptr: edge_attr weight grad",
        "i64: grad_stride",
        "ptr: arg dweight dbias dedge_attr",
        "i32: dtype threads",
    ),
    "attention": _struct("Attention", *_SCORES, "f64: negative_slope", "i32: dtype threads"),
    "attention_backward": _struct(
        "AttentionBackward",
        *_SCORES,
        "ptr: grad",
        "i64: grad_stride",
        "ptr: scratch dx",
        "i64: dx_stride",
        "ptr: dscore_src dscore_dst",
        "f64: negative_slope",
        "i32: dtype accumulate threads",
    ),
    "attention_scores": _struct(
        "AttentionScores",
        "i64: num_rows heads width",
        "ptr: x",
        "i64: x_stride",
        "ptr: attn_src attn_dst score_src score_dst",
        "i32: dtype threads",
    ),
    "attention_scores_backward": _struct(
        "AttentionScoresBackward",
        "i64: num_rows heads width",
        "ptr: x",
        "i64: x_stride",
        "ptr: attn_src attn_dst dscore_src dscore_dst dx",
        "i64: dx_stride",
        "ptr: dattn_src dattn_dst",
        "i32: dtype accumulate threads",
    ),
    "batch_stats": _struct(
        "BatchStats",
        "i64: num_rows width",
        "ptr: x",
        "i64: x_stride",
        "ptr: mean rstd var",
        "f64: eps",
        "i32: dtype threads",
    ),
    "linear": _struct(
        "Linear",
        "i64: num_rows in_width out_width",
        "ptr: x",
        "i64: x_stride",
        "ptr: plus",
        "i64: plus_stride",
        "ptr: weight bias out",
        "i64: out_stride",
        "i32: sign dtype threads",
    ),
    "linear_backward": _struct(
        "LinearBackward",
        "i64: num_rows in_width out_width",
        "ptr: x",
        "i64: x_stride",
        "ptr: plus",
        "i64: plus_stride",
        "ptr: weight bias grad",
        "i64: grad_stride",
        "ptr: value",
        "i64: value_stride",
        "ptr: dx",
        "i64: dx_stride",
        "ptr: dweight dbias",
        "i32: sign dtype accumulate threads",
    ),
    "keep_bits": _struct("KeepBits", "i64: num_bytes", "ptr: bits", "u64: seed", "u32: threshold", "i32: threads"),
}
"""The struct that each kernel takes."""
