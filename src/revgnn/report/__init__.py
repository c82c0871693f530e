"""Reports of finished runs: ``report.json`` for programs, an HTML page, and a Markdown row"""

from __future__ import annotations

from .collect import build_report, circumstances
from .evaluation import describe_evaluation, strides
from .page import write_report
from .row import MARKDOWN_HEADER, markdown_row

__all__ = [
    "MARKDOWN_HEADER",
    "build_report",
    "circumstances",
    "describe_evaluation",
    "markdown_row",
    "strides",
    "write_report",
]
