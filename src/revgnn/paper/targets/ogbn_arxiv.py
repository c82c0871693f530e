"""The paper's targets on ogbn-arxiv: Tables 2 and 3"""

from __future__ import annotations

from .target import TableRow, Target

_ASSUMED = (
    "dataset.undirected",
    "dataset.self_loops",
    "model.norm",
    "model.dropout",
    "train.epochs",
    "train.lr",
)

TARGETS = {
    "sage": Target(
        places=(TableRow(table=2, row=1, name="GraphSAGE"),),
        metric=71.49,
        std=0.27,
        memory_gb=1.99,
        parameters=218_664,
        printed="219k",
        runs=10,
    ),
    "gcn": Target(
        places=(TableRow(table=2, row=2, name="GCN"),),
        metric=71.74,
        std=0.29,
        memory_gb=1.9,
        parameters=110_120,
        printed="143k",
        runs=10,
        notes=(
            (
                "The printed count is 142,888, OGB's first entry, which stood for an input of 256 columns; the "
                "network with this score has 110,120, as OGB says since."
            ),
        ),
    ),
    "dagnn": Target(
        places=(TableRow(table=2, row=3, name="DAGNN"),),
        metric=72.09,
        std=0.25,
        memory_gb=2.4,
        parameters=43_857,
        printed="43.9k",
        runs=10,
    ),
    "gcnii": Target(
        places=(TableRow(table=2, row=5, name="GCNII"),),
        metric=72.74,
        std=0.16,
        memory_gb=17.0,
        parameters=2_148_648,
        printed="2.15M",
        runs=10,
    ),
    "gat": Target(
        places=(TableRow(table=2, row=6, name="GAT"),),
        metric=73.91,
        std=0.12,
        memory_gb=5.52,
        parameters=1_441_580,
        printed="1.44M",
        runs=10,
        assumed=(
            "model.dropout",
            "model.input_dropout",
            "model.edge_drop",
        ),
    ),
    "unimp_v2": Target(
        places=(TableRow(table=2, row=7, name="UniMP_v2"),),
        metric=73.97,
        std=0.15,
        memory_gb=25.0,
        parameters=684_969,
        printed="687k",
        runs=10,
        notes=(
            (
                "The printed count does not reproduce: its authors' log says 687,377, their code as it reads "
                "today has 684,969 parameters, and why is unknown. Left out: the three virtual nodes of its data"
                " preparation."
            ),
        ),
    ),
    "resgcn": Target(
        places=(TableRow(table=3, row=1, name="ResGCN 28 x 128"),),
        metric=72.46,
        std=0.29,
        memory_gb=11.15,
        parameters=491_176,
        printed="491k",
        assumed=_ASSUMED,
    ),
    "revgcn_deep": Target(
        places=(
            TableRow(table=2, row=8, name="RevGCN-Deep"),
            TableRow(table=3, row=2, name="RevGCN 28 x 128"),
        ),
        metric=73.01,
        std=0.31,
        memory_gb=1.84,
        parameters=262_056,
        printed="262k",
        assumed=_ASSUMED,
    ),
    "revgcn_wide": Target(
        places=(TableRow(table=3, row=3, name="RevGCN 28 x 180"),),
        metric=73.22,
        std=0.19,
        memory_gb=2.73,
        parameters=499_540,
        printed="500k",
        assumed=_ASSUMED,
    ),
    "ressage": Target(
        places=(TableRow(table=3, row=4, name="ResSAGE 28 x 128"),),
        metric=72.46,
        std=0.29,
        memory_gb=8.93,
        parameters=949_928,
        printed="950k",
        assumed=_ASSUMED,
    ),
    "revsage": Target(
        places=(TableRow(table=3, row=5, name="RevSAGE 28 x 128"),),
        metric=72.69,
        std=0.23,
        memory_gb=1.17,
        parameters=491_432,
        printed="491k",
        assumed=_ASSUMED,
    ),
    "revsage_wide": Target(
        places=(TableRow(table=3, row=6, name="RevSAGE 28 x 180"),),
        metric=72.73,
        std=0.1,
        memory_gb=1.57,
        parameters=953_140,
        printed="953k",
        assumed=_ASSUMED,
    ),
    "resgen": Target(
        places=(
            TableRow(table=2, row=4, name="DeeperGCN"),
            TableRow(table=3, row=7, name="ResGEN 28 x 128"),
        ),
        metric=72.32,
        std=0.27,
        memory_gb=21.63,
        parameters=491_176,
        printed="491k",
        assumed=_ASSUMED,
    ),
    "revgen": Target(
        places=(TableRow(table=3, row=8, name="RevGEN 28 x 128"),),
        metric=72.34,
        std=0.18,
        memory_gb=4.08,
        parameters=262_056,
        printed="262k",
        assumed=_ASSUMED,
    ),
    "revgen_wide": Target(
        places=(TableRow(table=3, row=9, name="RevGEN 28 x 180"),),
        metric=72.93,
        std=0.1,
        memory_gb=5.67,
        parameters=499_540,
        printed="500k",
        assumed=_ASSUMED,
    ),
    "resgat": Target(
        places=(TableRow(table=3, row=10, name="ResGAT 5 x 768"),),
        metric=73.76,
        std=0.13,
        memory_gb=9.96,
        parameters=3_867_728,
        printed="3.87M",
        runs=10,
    ),
    "revgat": Target(
        places=(TableRow(table=3, row=11, name="RevGAT 5 x 768"),),
        metric=74.02,
        std=0.18,
        memory_gb=6.3,
        parameters=2_098_256,
        printed="2.10M",
        runs=10,
    ),
    "revgat_wide": Target(
        places=(
            TableRow(table=2, row=9, name="RevGAT-Wide"),
            TableRow(table=3, row=12, name="RevGAT 5 x 1068"),
        ),
        metric=74.05,
        std=0.11,
        memory_gb=8.49,
        parameters=3_879_056,
        printed="3.88M",
        runs=10,
    ),
    "revgat_selfkd": Target(
        places=(TableRow(table=2, row=10, name="RevGAT-SelfKD"),),
        metric=74.26,
        std=0.17,
        memory_gb=6.6,
        parameters=2_098_256,
        printed="2.10M",
        runs=10,
    ),
}
"""Recipe -> target."""
