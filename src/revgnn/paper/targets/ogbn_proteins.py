"""The paper's targets on ogbn-proteins: Tables 1 and 6; Table 6 is second-hand"""

from __future__ import annotations

from .target import TableRow, Target

_SECOND_HAND = "Table 6 is known from a reader's transcription only."
_ABLATION = (
    "model.dropout",
    "train.epochs",
)
_EQUILIBRIUM = (
    "model.dropout",
    "train.epochs",
    "model.equilibrium",
)

TARGETS = {
    "gcn": Target(
        places=(TableRow(table=1, row=1, name="GCN"),),
        metric=72.51,
        std=0.35,
        memory_gb=4.68,
        parameters=96_880,
        printed="96.9k",
        runs=10,
    ),
    "sage": Target(
        places=(TableRow(table=1, row=2, name="GraphSAGE"),),
        metric=77.68,
        std=0.2,
        memory_gb=3.12,
        parameters=193_136,
        printed="193k",
        runs=10,
    ),
    "deepergcn": Target(
        places=(TableRow(table=1, row=3, name="DeeperGCN"),),
        metric=86.16,
        std=0.16,
        memory_gb=27.1,
        parameters=2_374_568,
        printed="2.37M",
        notes=("The printed score is a later one of several views; OGB's leaderboard has 85.80.",),
    ),
    "unimp": Target(
        places=(TableRow(table=1, row=4, name="UniMP"),),
        metric=86.42,
        std=0.08,
        memory_gb=27.2,
        parameters=1_909_104,
        printed="1.91M",
        runs=10,
    ),
    "gat": Target(
        places=(TableRow(table=1, row=5, name="GAT"),),
        metric=86.82,
        std=0.21,
        memory_gb=6.74,
        parameters=2_475_232,
        printed="2.48M",
        runs=10,
        notes=(
            (
                "Its authors lower the rate on plateaus and evaluate with 100 sampled neighbours; here the rate "
                "stays and evaluation sees 5 random parts."
            ),
            (
                "32 sampled neighbours in each of six layers reach nearly every node, and here each layer is computed "
                "on all of them. Its authors' code computes a layer on the nodes that later layers need."
            ),
        ),
    ),
    "unimp_cef": Target(
        places=(TableRow(table=1, row=6, name="UniMP+CEF"),),
        metric=86.91,
        std=0.18,
        memory_gb=27.2,
        parameters=1_959_984,
        printed="1.96M",
        runs=10,
        notes=(
            (
                "Its code concatenates the summary of edges to the node features, which is 1,976,368 parameters;"
                " the published count leaves that out, and so it is added to each head here."
            ),
        ),
    ),
    "revgnn_deep": Target(
        places=(TableRow(table=1, row=7, name="RevGNN-Deep"),),
        metric=87.74,
        std=0.13,
        memory_gb=2.86,
        parameters=20_031_384,
        printed="20.03M",
        notes=(
            (
                "The printed score averages logits over 10 views, random partitions in 3 parts; of one view it "
                "is 87.06 ± 0.20."
            ),
        ),
    ),
    "revgnn_wide": Target(
        places=(TableRow(table=1, row=8, name="RevGNN-Wide"),),
        metric=88.24,
        std=0.15,
        memory_gb=7.91,
        parameters=68_471_608,
        printed="68.47M",
        notes=(
            (
                "The printed score averages logits over 10 views, random partitions in 3 parts; of one view it "
                "is 87.62 ± 0.18."
            ),
        ),
    ),
    "resgnn_64": Target(
        places=(TableRow(table=6, row=1, name="ResGNN-64"),),
        metric=85.94,
        memory_gb=27.1,
        parameters=2_374_456,
        printed="2.37M",
        notes=(_SECOND_HAND,),
        assumed=_ABLATION,
    ),
    "resgnn_224": Target(
        places=(TableRow(table=6, row=2, name="ResGNN-224"),),
        parameters=28_380_536,
        printed="28.4M",
        notes=(
            "The paper ran out of memory here.",
            _SECOND_HAND,
        ),
        assumed=_ABLATION,
    ),
    "revgnn_64": Target(
        places=(TableRow(table=6, row=3, name="RevGNN-64"),),
        metric=85.48,
        memory_gb=2.09,
        parameters=1_457_080,
        printed="1.46M",
        notes=(_SECOND_HAND,),
        assumed=_ABLATION,
    ),
    "revgnn_80": Target(
        places=(TableRow(table=6, row=4, name="RevGNN-80"),),
        metric=85.97,
        memory_gb=2.56,
        parameters=2_251_384,
        printed="2.25M",
        notes=(_SECOND_HAND,),
        assumed=_ABLATION,
    ),
    "revgnn_224": Target(
        places=(TableRow(table=6, row=5, name="RevGNN-224"),),
        metric=87.02,
        memory_gb=7.3,
        parameters=17_141_560,
        printed="17.1M",
        notes=(_SECOND_HAND,),
        assumed=_ABLATION,
    ),
    "wt_resgnn_64": Target(
        places=(TableRow(table=6, row=6, name="WT-ResGNN-64"),),
        metric=83.3,
        memory_gb=27.4,
        parameters=51_256,
        printed="51.2k",
        notes=(
            (
                "The printed count does not reproduce: two distinct layers have 51,256 parameters, which prints "
                "as 51.3k; without the map of the species they have 51,184. The printed figure may be a slip of "
                "the transcription."
            ),
            _SECOND_HAND,
        ),
        assumed=_ABLATION,
    ),
    "wt_revgnn_64": Target(
        places=(TableRow(table=6, row=7, name="WT-RevGNN-64"),),
        metric=82.89,
        memory_gb=1.6,
        parameters=35_000,
        printed="35.0k",
        notes=(_SECOND_HAND,),
        assumed=_ABLATION,
    ),
    "wt_revgnn_80": Target(
        places=(TableRow(table=6, row=8, name="WT-RevGNN-80"),),
        metric=83.46,
        memory_gb=2.08,
        parameters=51_384,
        printed="51.4k",
        notes=(_SECOND_HAND,),
        assumed=_ABLATION,
    ),
    "wt_revgnn_224": Target(
        places=(TableRow(table=6, row=9, name="WT-RevGNN-224"),),
        metric=85.28,
        memory_gb=5.55,
        parameters=337_080,
        printed="337k",
        notes=(_SECOND_HAND,),
        assumed=_ABLATION,
    ),
    "deq_gnn_64": Target(
        places=(TableRow(table=6, row=10, name="DEQ-GNN-64"),),
        metric=83.17,
        memory_gb=2.22,
        parameters=51_256,
        printed="51.3k",
        notes=(_SECOND_HAND,),
        assumed=_EQUILIBRIUM,
    ),
    "deq_gnn_224": Target(
        places=(TableRow(table=6, row=11, name="DEQ-GNN-224"),),
        metric=85.84,
        memory_gb=7.6,
        parameters=537_336,
        printed="537k",
        notes=(_SECOND_HAND,),
        assumed=_EQUILIBRIUM,
    ),
}
"""Recipe -> target."""
