"""``revgnn doctor``: say what works on this machine, and how to get the rest; and the line of ``revgnn --version``"""

from __future__ import annotations

import os
import platform
from argparse import Namespace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import torch

from .. import __version__
from ..console import print_table, results_console
from ..graph import Graph
from ..nn.model import ModelConfig, build_model
from ..ops import cpu, implementation
from .output import print_json, print_lines

_PACKAGES = (
    ("triton", "the kernels on a GPU", "part of torch's CUDA build"),
    ("pymetis", "parts by METIS clusters", "pip install 'revgnn[metis]'"),
    ("matplotlib", "pictures of reports", "pip install 'revgnn[plot]'"),
    ("ogb", "downloads of OGB's data", "pip install 'revgnn[ogb]'"),
    ("rdkit", "molecules", "pip install 'revgnn[mol]'"),
    ("daft", "tables joined on a Ray cluster", "pip install 'revgnn[prepare]'"),
    ("ray", "training on a Ray cluster", "pip install 'revgnn[ray]'"),
    ("huggingface_hub", "models on the hub", "pip install 'revgnn[hub]'"),
    ("onnxscript", "models as ONNX files", "pip install 'revgnn[onnx]'"),
    ("shtab", "completion in a shell", "pip install 'revgnn[completion]'"),
)
"""Optional package, what it is for, how to get it."""


def run(arguments: Namespace) -> None:
    """Print the version line, or one row for everything that works or is missing."""
    if arguments.command is None:
        print_lines([_version_line()])
        return
    rows = _rows()
    if arguments.json:
        print_json([dict(zip(("what", "state", "remedy"), row, strict=True)) for row in rows])
        return
    print_lines([_version_line(), ""])
    print_table(results_console(), ["what", "on this machine", "how to get it"], rows, text=3)


def _version_line() -> str:
    kernels = f"kernels {cpu.isa()}" if cpu.AVAILABLE else "no compiled kernels"
    return f"revgnn {__version__}, torch {torch.__version__}, {kernels}, Python {platform.python_version()}"


def _rows() -> list[list[str]]:
    built = "" if cpu.AVAILABLE else "install a C++ compiler (GCC or Clang) and reinstall revgnn from its source"
    if platform.system() != "Linux":
        built = "they are built on Linux alone"
    cores = os.cpu_count() or 1
    threads = "" if torch.get_num_threads() <= cores else "set OMP_NUM_THREADS to the number of cores"
    cuda = torch.cuda.is_available()
    return [
        ["CPU kernels", cpu.isa() if cpu.AVAILABLE else f"missing: {cpu.STATE}", built],
        ["threads", f"{torch.get_num_threads()} of {cores} cores", threads],
        ["CUDA", torch.cuda.get_device_name() if cuda else "no device", "" if cuda else "not needed: the CPU works"],
        ["a training step", _step(), ""],
        *([name, _installed(name, use), "" if find_spec(name) else remedy] for name, use, remedy in _PACKAGES),
    ]


def _installed(name: str, use: str) -> str:
    if find_spec(name) is None:
        return f"missing: {use}"
    try:
        return f"{version(name)}: {use}"
    except PackageNotFoundError:
        return f"there, without metadata: {use}"


def _step() -> str:
    """Train one step of a small reversible network, and compare its gradients with the stored one's."""
    x, edges = torch.randn(50, 8), torch.randint(50, (2, 200))
    graph, found = Graph.from_edge_index(edges, 50), []
    for backprop in ("reversible", "store"):
        torch.manual_seed(0)
        config = ModelConfig(conv="sage", num_layers=6, hidden_channels=16, backprop=backprop)
        model = build_model(config, in_channels=8, out_channels=2)
        model(x, graph, seed=1).square().mean().backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    difference = float((found[0] - found[1]).norm() / found[1].norm())
    verdict = "reversible gradients equal stored ones" if difference < 1e-3 else "WRONG reversible gradients"
    return f"{implementation('cpu')}: {verdict} (difference {difference:.0e})"
