"""The paper's target on ogbg-molhiv: a remark without a figure"""

from __future__ import annotations

from .target import Target

_ASSUMED = (
    "batch_size",
    "model.dropout",
    "model.gen",
    "train.epochs",
    "train.lr",
)

TARGETS = {
    "revgen_graphnorm": Target(assumed=_ASSUMED),
    "revgen_batchnorm": Target(assumed=_ASSUMED),
}
"""Recipe -> target."""
