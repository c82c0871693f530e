"""The interface of the compiled kernels, written from `csrc/revgnn_kernels.h` by `dev/abi.py`."""

VERSION = 5
"""Of the interface; a library of another one is not used."""

DTYPE = {"f32": 0, "bf16": 1, "f64": 2}
NORM_KIND = {"none": 0, "layer": 1, "batch": 2}
REDUCE = {"sum": 0, "mean": 1, "softmax": 2}

FORMATS = {
    "spmm": "qqPPPqPqPPPPqiiiii",
    "edge_dot": "qqPPPqPqPqPiii",
    "max": "qqPPPqPqPqPii",
    "max_backward": "qqPPPqPqPPqiii",
    "norm": "qqPqPPPPPqPqddQIiiiiiii",
    "norm_backward": "qqPqPPPPPqPqPqPPdQIiiiiiiiii",
    "batch_stats": "qqPqPPPdii",
    "running_stats": "qqPPPPPdi",
    "gen_aggr": "qqPPPqqPqPPPPPqPPdiii",
    "gen_aggr_backward": "qqPPPqqPqPPPPPqPPPqPPqPPPPdiiiii",
    "edge_max": "qqPPPqqPqPPPPqPdii",
    "edge_max_backward": "qqPPPqqPPPqPPPPii",
    "attention": "qqPPPqqPqPPPPqPPPdii",
    "attention_backward": "qqPPPqqPqPPPPqPPPPqPPqPPdiii",
    "linear": "qqqPqPqPPPqiiiii",
    "linear_backward": "qqqPqPqPPPqPqPqPPiiiiii",
    "keep_bits": "qPQIi",
    "attention_scores": "qqqPqPPPPii",
    "attention_scores_backward": "qqqPqPPPPPqPPiii",
}
"""The fields of the struct that each kernel takes, as `struct` packs them; that of a graph flat."""
