"""A trained model from its run folder: the module with its metadata, predictions and embeddings in Python."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
import torch
from torch import Tensor, nn

from .data import (
    SPLITS,
    Dataset,
    DatasetSource,
    GraphInfo,
    InferenceSource,
    LoaderConfig,
    Store,
    StoredViews,
    StoreSource,
    make_batches,
)
from .data.from_pyg import dataset_of
from .data.task import lists
from .experiment import Experiment, make_model, read_experiment
from .files import read_object
from .graph import Graph
from .nn.inputs import read_inputs
from .run_file import read_schema
from .run_folder import REPORT_FILE
from .shared import find_files, read_shared, write_shared
from .train import Inference, Sums, check_weights, load_best
from .train.device import Device, check_device

if TYPE_CHECKING:
    from torch_geometric.data import Data

_ROWS_PER_TABLE = 2**16
"""Rows that are given together after averaging several views."""

Which = Literal["all", "train", "valid", "test"]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Some rows of a prediction."""

    numbers: Tensor
    """[n] int64 row numbers of nodes or graphs."""
    table: pa.Table
    """[n] rows with the columns id, split, those of the task, and embedding if it was requested."""


class TrainedModel(nn.Module):
    """A trained network with the metadata of the graph that it was built for; `load` makes it.

    ``model(x, graph)`` gives logits, or numbers in the unit of the training labels. ``model.predict(data)`` gives the
    table that ``revgnn predict`` writes.

    Args:
        run: the experiment that trained it.
        info: metadata of its graph.
        module: the network with its best weights.
        scores: name -> value of its scores, for the model card.

    Examples:
        >>> import revgnn
        >>> model = revgnn.load("runs/first", device="cpu")
        >>> isinstance(model, revgnn.TrainedModel), model.info.task
        (True, 'multiclass')
        >>> model.save_pretrained("shared")
    """

    def __init__(
        self, run: Experiment, info: GraphInfo, module: nn.Module, scores: Mapping[str, float] | None = None
    ) -> None:
        super().__init__()
        self.run, self.info, self.module, self.scores = run, info, module, dict(scores or {})

    def save_pretrained(self, folder: Path | str, *, scores: Mapping[str, float] | None = None) -> None:
        """Write the model to a folder that `from_pretrained` reads: safetensors, JSON and a model card, no pickle.

        Args:
            folder: made if it is not there; files of an earlier call are replaced.
            scores: name -> value, for the model card; ``None``: those of the run that it was loaded from.
        Raises: OSError: a full disk and the like.
        """
        write_shared(Path(folder), self.run, self.info, self.module, self.scores if scores is None else scores)

    def forward(self, x: Tensor | Data, graph: Graph | Tensor | None = None, edge_attr: Tensor | None = None) -> Tensor:
        """Compute logits [n, T] from features [N, F] and a `Graph` or ``edge_index`` [2, E], or from a PyG ``Data``."""
        found = read_inputs(x, graph, edge_attr)
        return self.info.in_unit(self.module(found.x, found.graph, found.edge_attr))

    def predict(self, data: Dataset | Store | Data) -> pa.Table:
        """Predict every row of a graph.

        Args:
            data: a data set, a prepared graph, or PyG's ``Data`` with ``x`` and ``edge_index`` as they were before the
                run added reverse edges and self loops; for a graph-level model also a ``Batch`` of several.
        Returns: an Arrow table in the order of the rows: id, split, prediction and, except for numbers, probabilities;
            ``.to_pandas()`` makes a frame of it.
        Raises: ValueError: the graph does not have the features and edges of the training.
        """
        source, views = self._source(data)
        with closing(self.tables(source, views)) as tables:
            pieces = list(tables)
        order = torch.cat([piece.numbers for piece in pieces]).argsort()
        return pa.concat_tables([piece.table for piece in pieces]).take(pa.array(order.numpy()))

    def embed(self, data: Dataset | Store | Data) -> Tensor:
        """Return the last hidden state [n, D] of every row of a graph, float32; arguments as in `predict`.

        Raises: ValueError: as `predict`; or the network has no head whose input is the last hidden state.
        """
        source, views = self._source(data)
        sums: Sums | None = None
        found, came = torch.empty(0), torch.zeros(source.num_rows, dtype=torch.bool)
        # Always closed, because gradients are disabled in this process while the generator is open.
        answers = self._inference(embeddings=True).answers(source.batches())
        with closing(answers):
            for batch, answer in answers:
                assert batch.ids is not None, "batches of an inference source have ids"
                assert answer.hidden is not None, "asked for"
                if views > 1 and not batch.is_permuted:
                    sums = sums or Sums(answer.hidden.size(1))
                    sums.add(batch.ids, answer.hidden)
                else:
                    found = found if len(found) else torch.empty(source.num_rows, answer.hidden.size(1))
                    found[batch.ids] = answer.hidden
                    came[batch.ids] = True
        if sums is not None:
            return sums.means(0, len(sums))[1]
        return found if bool(came.all()) else found[came]

    def _source(self, data: Dataset | Store | Data) -> tuple[InferenceSource, int]:
        """Return a graph's batches, and how many views of it they are, as in the run's final evaluation."""
        known = data if isinstance(data, Dataset | Store) else dataset_of(data, self.info)
        loader = evaluation_loader(self.run.loader, on_disk=isinstance(known, Store))
        return self.source(known, loader), loader.eval_views

    def _inference(self, *, embeddings: bool) -> Inference:
        return Inference(
            self.module,
            labels=self.run.train.labels,
            num_outputs=self.info.num_outputs,
            precision=self.run.train.precision,
            hidden=embeddings,
        )

    def source(self, data: Dataset | Store, loader: LoaderConfig) -> InferenceSource:
        """Check that a graph fits the model, and return its batches.

        Raises: ValueError: it does not; the message lists every difference.
        """
        self.info.check_applies(data.info)
        same_labels = (data.info.num_outputs, data.info.class_names) == (self.info.num_outputs, self.info.class_names)
        if self.run.train.labels.reuse and not same_labels:
            raise ValueError(
                f"the model reads labels, and {data.name} has other classes than it was trained on; apply it to a "
                "graph with the same"
            )
        seed = self.run.train.seed
        if loader.node_order == "auto":
            # Another order pays over many passes, and takes a copy of the features; this is one pass.
            loader = replace(loader, node_order="given")
        if isinstance(data, Store):
            return StoreSource(data, StoredViews(data, loader.eval_parts, loader.eval_views, seed))
        return DatasetSource(data, make_batches(data, self.run.batch_size, seed, loader))

    def tables(
        self,
        source: InferenceSource,
        views: int,
        *,
        embeddings: bool = False,
        split: Which = "all",
        progress: Callable[[int, int], None] = lambda done, of: None,
    ) -> Generator[Rows]:
        """Yield the predictions of a graph batch by batch; several views are averaged first.

        Args:
            source: from `source`.
            views: how often the source has every row.
            embeddings: whether to add the last hidden state.
            split: only rows of this split.
            progress: called with the rows that are done and the total.
        """
        done, total = 0, source.num_rows * views
        logits: Sums | None = None
        hidden: Sums | None = None
        for batch, answer in self._inference(embeddings=embeddings).answers(source.batches()):
            assert batch.ids is not None, "batches of an inference source have ids"
            if batch.is_permuted:
                last = None if answer.hidden is None else batch.in_order(answer.hidden)
                yield self._rows(source, torch.arange(source.num_rows), batch.in_order(answer.logits), last, split)
            elif views == 1:
                yield self._rows(source, batch.ids, answer.logits, answer.hidden, split)
            else:
                logits = logits or Sums(answer.logits.size(1))
                logits.add(batch.ids, answer.logits)
                if answer.hidden is not None:
                    hidden = hidden or Sums(answer.hidden.size(1))
                    hidden.add(batch.ids, answer.hidden)
            done += batch.ids.numel()
            progress(done, total)
        for low in range(0, 0 if logits is None else len(logits), _ROWS_PER_TABLE):
            assert logits is not None, "an empty range otherwise"
            high = low + _ROWS_PER_TABLE
            ids, mean = logits.means(low, high)
            yield self._rows(source, ids, mean, None if hidden is None else hidden.means(low, high)[1], split)

    def _rows(
        self, source: InferenceSource, numbers: Tensor, logits: Tensor, hidden: Tensor | None, split: Which
    ) -> Rows:
        """Make a table of rows with the user's ids, without rows of other splits than the requested one."""
        keys = source.keys(numbers)
        names = pa.array([*SPLITS, None])
        # Tables are read as large strings; strings are the usual type, which joins need.
        ids = keys.ids.cast(pa.string()) if pa.types.is_large_string(keys.ids.type) else keys.ids
        columns = {"id": ids, "split": names.take(pa.array(keys.split.numpy() % len(names)))}
        columns |= self.info.task_spec.answers(self.info.in_unit(logits), self.info.class_names)
        if hidden is not None:
            columns["embedding"] = lists(hidden)
        table = pa.table(columns)
        if split == "all":
            return Rows(numbers=numbers, table=table)
        kept = keys.split == SPLITS.index(split)
        return Rows(numbers=numbers[kept], table=table.filter(pa.array(kept.numpy())))


def load(folder: Path | str, *, device: Device = "auto") -> TrainedModel:
    """Load the trained model of a finished run.

    Args:
        folder: the run folder.
        device: "auto" uses an accelerator if there is one.
    Returns: the model in evaluation mode, with the best weights of the run.
    Raises:
        FileNotFoundError: the folder has no finished run.
        ValueError: its files are damaged, or another version wrote them.

    Examples:
        >>> import revgnn
        >>> model = revgnn.load("runs/first", device="cpu")
        >>> data = revgnn.load_dataset(model.run.dataset, root=".")
        >>> model.predict(data).column_names
        ['id', 'split', 'prediction', 'probabilities']
    """
    folder = Path(folder)
    run, info = read_experiment(folder), read_schema(folder)
    model = _loaded(run, info, load_best(folder), device)
    model.scores = _scores_of(folder)
    return model


def _scores_of(folder: Path) -> dict[str, float]:
    """Return the scores in a run's report by split and metric; none where the report is missing."""
    if not (folder / REPORT_FILE).is_file():
        return {}
    result = read_object(folder / REPORT_FILE)["result"]
    found = {f"{split} {result['metric']}": score["metric"] for split, score in result["scores"].items()}
    return {name: float(value) for name, value in found.items() if isinstance(value, int | float)}


def from_pretrained(source: Path | str, *, device: Device = "auto", own_code: bool = False) -> TrainedModel:
    """Read a model that `TrainedModel.save_pretrained` wrote, from a folder or the Hugging Face hub.

    Args:
        source: a folder; or the id ``owner/name`` of a model on the hub, which needs ``pip install huggingface_hub``.
        device: "auto" uses an accelerator if there is one.
        own_code: whether the files may name classes outside of this package, which are imported: code of whoever wrote
            them, or of packages that are installed here.
    Returns: the model in evaluation mode.
    Raises:
        FileNotFoundError: there is no such folder, and it is no id.
        ModuleNotFoundError: an id without huggingface_hub.
        ValueError: the files are damaged, another version wrote them, or they name a class and ``own_code`` is False.

    Examples:
        >>> import revgnn
        >>> revgnn.load("runs/first", device="cpu").save_pretrained("my_model")
        >>> model = revgnn.from_pretrained("my_model", device="cpu")
    """
    run, info, weights = read_shared(find_files(str(source)), own_code=own_code)
    return _loaded(run, info, weights, device)


def _loaded(run: Experiment, info: GraphInfo, weights: dict[str, Tensor], device: Device) -> TrainedModel:
    check_device(device)
    try:
        module = make_model(run, info)
    except (TypeError, OverflowError, RuntimeError) as error:
        # Sizes that no tensor has.
        reason = str(error).partition("\n")[0]
        raise ValueError(f"the network that the files describe cannot be built: {reason}") from error
    check_weights(weights, module)
    module.load_state_dict(weights)
    found = None if device == "cpu" else torch.accelerator.current_accelerator()
    module.to(torch.device("cpu") if found is None else found)
    return TrainedModel(run, info, module).eval()


def evaluation_loader(
    loader: LoaderConfig, *, on_disk: bool, parts: int | None = None, views: int | None = None
) -> LoaderConfig:
    """Return the loader of a prediction: the final evaluation of a run, or with other parts and views.

    Args:
        loader: the loader of the run.
        on_disk: whether the graph is read from disk part by part.
        parts, views: ``None``: as in the run's final evaluation; with other parts, one view.
    Raises: ValueError: several views of a graph that is not cut.
    """
    own_parts, own_views = loader.final_evaluation
    if parts is not None:
        own_parts, own_views = parts, 1
    own_views = own_views if views is None else views
    if own_views > 1 and own_parts == 1:
        raise ValueError(
            f"views={own_views} are averaged over partitions, got parts=1: set parts (--parts) to 2 or more"
        )
    if on_disk:
        return LoaderConfig(kind="ondisk", eval_parts=own_parts, eval_views=own_views)
    if loader.kind == "ondisk":
        return LoaderConfig(eval_parts=own_parts, eval_views=own_views)
    return replace(loader, eval_parts=own_parts, eval_views=own_views, final_parts=None, final_views=1, prefetch=0)
