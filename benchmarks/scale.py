"""What a graph costs by its numbers: disk, memory of a step, bytes over the network, beside what was measured.

Each formula is one line of arithmetic over counts. `docs/scale.md` shows what they give for a billion nodes, and how
far they are from the points of ``prepare.jsonl``, ``out_of_core.jsonl`` and ``ranks.jsonl`` in ``results/``.
"""

from __future__ import annotations

from dataclasses import dataclass

_HEADER = 128
"""Bytes before the numbers of an .npy file."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A graph, how it is cut, and what is trained on it."""

    nodes: int
    edges: int
    features: int
    parts: int
    together: int
    """Parts of a step."""
    within: float
    """Share of edges between two nodes of one part: 1/P of a random partition, most of one by METIS."""
    id_bytes: float = 8.0
    """Of one of the user's ids on disk, compressed."""
    hidden: int = 64
    parameters: int = 0

    @property
    def disk_bytes(self) -> float:
        """Features, label and split of a node; two ends of an edge; the block table and headers of a part."""
        per_node = 4 * self.features + 8 + 1 + self.id_bytes
        per_part = 8 * (self.parts + 1) + 6 * _HEADER
        return self.nodes * per_node + self.edges * 8 + self.parts * per_part

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return -(-self.parts // self.together)

    @property
    def batch_nodes(self) -> float:
        """Nodes of a step."""
        return self.nodes * self.together / self.parts

    @property
    def batch_edges(self) -> float:
        """Edges of a step: those within its parts, and of the others those whose source is in one of its parts."""
        others = 0.0 if self.parts == 1 else (self.together - 1) / (self.parts - 1)
        return self.edges * self.together / self.parts * (self.within + (1 - self.within) * others)

    @property
    def batch_bytes(self) -> float:
        """Features, label, number and split row of a node; its place, and an index for an edge."""
        return self.batch_nodes * (4 * self.features + 8 + 8 + 8 + 4) + self.batch_edges * 4

    @property
    def read_bytes(self) -> float:
        """From disk for a step: the nodes of its parts, and the blocks between them."""
        return self.batch_nodes * (4 * self.features + 8 + 1) + self.batch_edges * 8

    @property
    def weights_bytes(self) -> float:
        """Weight, gradient and Adam's two moments."""
        return 16 * self.parameters

    def step_bytes(self, streams: float, ahead: int = 2) -> float:
        """Peak of a training step with the batches that wait.

        Args:
            streams: tensors of n x D floats that are alive at once in a reversible step; does not depend on the depth.
            ahead: batches made ahead.
        """
        return self.weights_bytes + (1 + ahead) * self.batch_bytes + streams * self.batch_nodes * self.hidden * 4


def network_bytes(parameters: int, ranks: int) -> float:
    """What one rank sends in a step under ddp: a ring's all-reduce of the gradients, in float32."""
    return 2 * (ranks - 1) / ranks * 4 * parameters


def prepared_scale(row: dict[str, int]) -> Scale:
    """The numbers of a graph that `benchmarks.prepare_scale` prepared, with ids such as "item-123"."""
    parts = row["num_parts"]
    return Scale(
        nodes=row["num_nodes"],
        edges=row["num_edges"],
        features=row["features"],
        parts=parts,
        together=1,
        within=1 / parts,
    )


def measured_scale(row: dict[str, int]) -> Scale:
    """The numbers of a measured point: of the graph that `benchmarks.out_of_core` writes."""
    return Scale(
        nodes=row["num_nodes"],
        edges=row["num_edges"],
        features=row["features"],
        parts=row["num_parts"],
        together=row["parts_per_batch"],
        within=0.6 + 0.4 / row["num_parts"],
        # Numbers in a row take next to nothing.
        id_bytes=0.0,
        hidden=row["hidden"],
        parameters=row["parameters"],
    )


def streams(row: dict[str, int]) -> float:
    """How many tensors of n x D floats a measured step held beside its batches and weights."""
    scale = measured_scale(row)
    return (row["step_peak_bytes"] - scale.step_bytes(0.0)) / (scale.batch_nodes * scale.hidden * 4)


BILLION = Scale(
    nodes=10**9,
    edges=10**10,
    features=128,
    parts=10_000,
    together=10,
    within=0.5,
    hidden=256,
)
