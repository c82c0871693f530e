"""Labels as an input and a teacher to learn from: each against a hand-written reference of the official steps."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from revgnn.data.batch import Batch
from revgnn.graph import Graph
from revgnn.train import LabelOptions, TeacherOptions, TrainConfig, distillation, fit, step_seed
from revgnn.train.distill import LOGITS_FILE, load_teacher, rows_of, save_logits, with_teacher
from revgnn.train.label_inputs import reuse_labels, toss
from tolerances import TOLERANCES, assert_close

NODES, FEATURES, CLASSES = 63, 5, 4


class Net(nn.Module):
    """A linear map with dropout and BatchNorm that remembers what it was given."""

    def __init__(self, channels: int = FEATURES + CLASSES, classes: int = CLASSES) -> None:
        super().__init__()
        self.norm, self.lin = nn.BatchNorm1d(channels), nn.Linear(channels, classes)
        self.seen: list[dict[str, Any]] = []

    def forward(self, x: Tensor, graph: Any, edge_attr: Any = None, *, seed: int | None = None) -> Tensor:
        self.seen.append({"x": x, "seed": seed, "training": self.training, "grad": torch.is_grad_enabled()})
        x = self.norm(x)
        if self.training:
            assert seed is not None
            keep = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) > 0.25
            x = x * keep / 0.75
        out: Tensor = self.lin(x)
        return out


def batch(y: Tensor | None = None) -> Batch:
    graph = Graph.from_edge_index(torch.randint(NODES, (2, 130)), NODES)
    order = torch.randperm(NODES)
    rows = {"train": order[:40], "valid": order[40:50], "test": order[50:]}
    y = torch.randint(CLASSES, (NODES,)) if y is None else y
    return Batch(x=torch.randn(NODES, FEATURES), graph=graph, y=y, rows=rows)


class GraphSource:
    """One batch, for training and evaluation."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return 1

    def train(self, epoch: int) -> Any:
        yield self.batch

    def evaluate(self) -> Any:
        yield self.batch


def reuse(net: Net, data: Batch, seed: int | None, **options: Any) -> tuple[Tensor, Batch]:
    return reuse_labels(
        lambda b, s: net(b.x, b.graph, b.edge_attr, seed=s),
        data,
        LabelOptions(reuse=True, **options),
        model=net,
        num_outputs=CLASSES,
        seed=seed,
    )


# ------------------------------------------------------------------ label reuse
def test_the_coin_splits_the_training_rows_at_its_rate() -> None:
    train = torch.randperm(20_000)[:9_999]
    for rate in (0.0, 0.25, 0.5, 0.65):
        given, predicted = toss(train, rate, seed=7)
        assert torch.equal(torch.cat([given, predicted]).sort().values, train.sort().values)
        assert given.numel() == pytest.approx(rate * 9_999, abs=4 * math.sqrt(9_999 * 0.25))
    assert all(torch.equal(a, b) for a, b in zip(toss(train, 0.5, 3), toss(train, 0.5, 3), strict=True))
    assert not torch.equal(toss(train, 0.5, 3)[0], toss(train, 0.5, 4)[0])


def test_something_is_always_left_to_predict() -> None:
    for seed in range(50):
        given, predicted = toss(torch.tensor([5]), 0.9, seed)
        assert (given.numel(), predicted.tolist()) == (0, [5])
    assert toss(torch.empty(0, dtype=torch.int64), 0.5, 1)[1].numel() == 0


@pytest.mark.parametrize("refine", [0, 1, 3])
def test_a_training_step_is_the_hand_written_one(refine: int) -> None:
    data, net, seed = batch(), Net(), 11
    given, predicted = toss(data.rows["train"], 0.5, seed)
    logits, used = reuse(net, data, seed, refine=refine)
    assert torch.equal(used.rows["train"], predicted)
    assert torch.equal(used.rows["valid"], data.rows["valid"])
    assert [(one["training"], one["grad"]) for one in net.seen] == [(True, False)] * refine + [(True, True)]

    # The official code: one-hot labels of the given rows; predictions go to every other row.
    feat = torch.zeros(NODES, CLASSES)
    feat[given, data.y[given]] = 1.0
    others = torch.tensor(sorted(set(range(NODES)) - set(given.tolist())))
    reference = Net()
    reference.load_state_dict(Net.state_dict(net))
    reference.norm.reset_running_stats()
    for number, one in enumerate(net.seen):
        x = torch.cat([data.x, feat], dim=1)
        assert_close(one["x"], x)
        pred = reference(x, data.graph, seed=one["seed"])
        if number < refine:
            feat = feat.clone()
            feat[others] = F.softmax(pred[others].detach(), dim=-1)
    assert_close(logits, pred)
    assert len({one["seed"] for one in net.seen}) == refine + 1, "each pass drops on its own"
    assert net.seen[-1]["seed"] == seed


def test_batch_statistics_move_in_the_last_pass_alone() -> None:
    data, net = batch(), Net()
    _, used = reuse(net, data, 3, refine=2)
    assert int(net.norm.num_batches_tracked) == 1
    assert_close(net.norm.running_mean, 0.1 * used.x.mean(0))


def test_the_loss_reaches_no_pass_but_the_last() -> None:
    data, net = batch(), Net()
    logits, used = reuse(net, data, 3, refine=1)
    F.cross_entropy(logits[used.rows["train"]], data.y[used.rows["train"]]).backward()
    gradient = net.lin.weight.grad
    net.zero_grad()
    alone = net(used.x, data.graph, seed=3)
    F.cross_entropy(alone[used.rows["train"]], data.y[used.rows["train"]]).backward()
    assert_close(net.lin.weight.grad, gradient)


def test_evaluation_gives_every_training_label_and_refines_the_rest() -> None:
    data, net = batch(), Net().eval()
    with torch.no_grad():
        logits, used = reuse(net, data, None, refine=1)
    assert used.rows == data.rows
    feat = torch.zeros(NODES, CLASSES)
    train = data.rows["train"]
    feat[train, data.y[train]] = 1.0
    others = torch.cat([data.rows["valid"], data.rows["test"]])
    feat[others] = F.softmax(net(torch.cat([data.x, feat], dim=1), data.graph)[others], dim=-1)
    assert_close(logits, net(torch.cat([data.x, feat], dim=1), data.graph))


def test_no_label_of_another_split_is_ever_an_input() -> None:
    data = batch()
    hidden = torch.cat([data.rows["valid"], data.rows["test"]])
    other = data.y.clone()
    other[hidden] = (other[hidden] + 1) % CLASSES
    for training, seed in ((True, 5), (False, None)):
        nets = [Net().train(training) for _ in range(2)]
        nets[1].load_state_dict(nets[0].state_dict())
        one, _ = reuse(nets[0], data, seed)
        two, _ = reuse(nets[1], replace(data, y=other), seed)
        assert torch.equal(one, two)


def test_labels_of_tasks_are_given_as_they_are_and_refined_by_a_sigmoid() -> None:
    y = torch.randint(2, (NODES, CLASSES)).float()
    y[::7, 1] = math.nan
    data, net, seed = batch(y), Net(), 2
    given, _ = toss(data.rows["train"], 0.5, seed)
    reuse(net, data, seed, refine=1)
    first, last = (one["x"][:, FEATURES:] for one in net.seen)
    assert torch.equal(first[given], y[given].nan_to_num(0.0))
    others = torch.ones(NODES, dtype=torch.bool).index_fill(0, given, False)
    assert bool((first[others] == 0).all())
    assert torch.equal(last[given], first[given])
    assert bool(((last[others] > 0) & (last[others] < 1)).all())


def test_fit_trains_on_the_predicted_rows_alone() -> None:
    data, net = batch(), Net()
    config = TrainConfig(epochs=2, lr=0.01, labels=LabelOptions(reuse=True), loss="log_cross_entropy", select="loss")
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    result = fit(net, GraphSource(data), config, metric="accuracy", device="cpu", num_outputs=CLASSES)

    reference = Net()
    reference.load_state_dict(weights)
    logits, used = reuse(reference, data, step_seed(0, 1, 0))
    rows = used.rows["train"]
    eps = 1.0 - math.log(2.0)
    entropy = -torch.log_softmax(logits[rows], 1)[torch.arange(rows.numel()), data.y[rows]]
    expected = (torch.log(eps + entropy) - math.log(eps)).mean().detach()
    assert result.curve[0]["loss"] == pytest.approx(float(expected), rel=TOLERANCES[torch.float32][0])
    with pytest.raises(ValueError, match="labels.reuse=True needs num_outputs"):
        fit(Net(), GraphSource(data), config, metric="accuracy", device="cpu")


@pytest.mark.parametrize(("options", "message"), [({"rate": 1.0}, r"in \[0, 1\)"), ({"refine": -1}, "0 or more")])
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LabelOptions(**options)


# ------------------------------------------------------------------ a teacher
@pytest.mark.parametrize("temperature", [0.7, 1.0, 3.0])
def test_distillation_is_torch_s_divergence_with_reduction_mean(temperature: float) -> None:
    student = torch.randn(NODES, CLASSES, dtype=torch.double, requires_grad=True)
    teacher = torch.randn(NODES, CLASSES, dtype=torch.double)
    s, t = F.log_softmax(student / temperature, -1), F.softmax(teacher / temperature, -1)
    with pytest.warns(UserWarning, match="reduction"):
        expected = temperature**2 * F.kl_div(s, t, reduction="mean")
    by_hand = temperature**2 * (t * (t.log() - s)).sum() / (NODES * CLASSES)
    ours = distillation(student, teacher, temperature)
    assert_close(ours, expected)
    assert_close(ours, by_hand)
    gradients = [torch.autograd.grad(value, student, retain_graph=True)[0] for value in (ours, by_hand)]
    assert_close(*gradients)


def test_the_loss_is_mixed_by_alpha_over_all_rows() -> None:
    student, teacher = torch.randn(9, CLASSES), torch.randn(9, CLASSES)
    options = TeacherOptions(path="x", alpha=0.95, temperature=0.7)
    expected = 0.05 * 2.0 + 0.95 * distillation(student, teacher, 0.7)
    assert_close(with_teacher(torch.tensor(2.0), student, teacher, options), expected)
    with pytest.raises(ValueError, match=r"\[8, 4\] must have the shape of the student's \[9, 4\]"):
        with_teacher(torch.tensor(2.0), student, teacher[:8], options)


def test_a_student_learns_from_the_teacher_of_its_seed(tmp_path: Path) -> None:
    data = batch()
    teach = TrainConfig(epochs=3, seed=4, keep_logits=True)
    net = Net(FEATURES)
    fit(net, GraphSource(data), teach, metric="accuracy", device="cpu", out=tmp_path / "seed-4")
    options = TeacherOptions(path=f"{tmp_path}/seed-{{seed}}/{LOGITS_FILE}", alpha=1.0)
    kept = load_teacher(options, seed=4)
    assert kept is not None
    with torch.no_grad():
        assert_close(kept, net.eval()(data.x, data.graph))

    # With alpha=1 the labels have no say: a student of other labels takes the same first step.
    config = TrainConfig(epochs=1, seed=4, teacher=options)
    torch.manual_seed(1)
    first = Net(FEATURES)
    weights = {name: value.clone() for name, value in first.state_dict().items()}
    second = Net(FEATURES)
    second.load_state_dict(weights)
    fit(first, GraphSource(data), config, metric="accuracy", device="cpu")
    fit(second, GraphSource(replace(data, y=data.y.flip(0))), config, metric="accuracy", device="cpu")
    assert torch.equal(first.lin.weight, second.lin.weight)
    assert not torch.equal(first.lin.weight, weights["lin.weight"])


def test_a_student_of_a_part_learns_from_its_rows_of_the_teacher(tmp_path: Path) -> None:
    data, teacher = batch(), torch.randn(3 * NODES, CLASSES)
    ids = torch.randperm(3 * NODES)[:NODES]
    for name, logits in (("whole", teacher), ("part", teacher[ids])):
        (tmp_path / name).mkdir()
        save_logits(tmp_path / name, logits)
    start, nets = Net(FEATURES), [Net(FEATURES), Net(FEATURES)]
    for net, name, given in zip(nets, ("whole", "part"), (replace(data, ids=ids), data), strict=True):
        net.load_state_dict(start.state_dict())
        options = TeacherOptions(path=str(tmp_path / name / LOGITS_FILE), alpha=0.9)
        fit(net, GraphSource(given), TrainConfig(epochs=3, teacher=options), metric="accuracy", device="cpu")
    assert torch.equal(nets[0].lin.weight, nets[1].lin.weight)
    assert not torch.equal(nets[0].lin.weight, start.lin.weight)
    with pytest.raises(ValueError, match=r"has row 188 of the data set, and the teacher's logits are of 188 rows"):
        rows_of(teacher[:-1], torch.tensor([3, 188]))
    assert rows_of(teacher, ids[:0]).shape == (0, CLASSES)


def test_a_teacher_of_nodes_in_another_order_keeps_them_by_number(tmp_path: Path) -> None:
    ids = torch.randperm(NODES)
    data, net = replace(batch(), ids=ids), Net(FEATURES)
    config = TrainConfig(epochs=1, keep_logits=True)
    fit(net, GraphSource(data), config, metric="accuracy", device="cpu", out=tmp_path)
    kept = load_teacher(TeacherOptions(path=str(tmp_path / LOGITS_FILE)), seed=0)
    assert kept is not None
    with torch.no_grad():
        assert_close(rows_of(kept, ids), net.eval()(data.x, data.graph))


def test_a_missing_or_broken_teacher_says_how_one_is_made(tmp_path: Path) -> None:
    options = TeacherOptions(path=str(tmp_path / "seed-{seed}.safetensors"))
    with pytest.raises(FileNotFoundError, match=r"seed-3\.safetensors; train the teacher first"):
        load_teacher(options, seed=3)
    (tmp_path / "seed-3.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="does not hold logits"):
        load_teacher(options, seed=3)
    assert load_teacher(TeacherOptions(), seed=3) is None
    with pytest.raises(ValueError, match="alpha must lie in"):
        TeacherOptions(alpha=1.5)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        TeacherOptions(temperature=0.0)


def test_logits_are_kept_of_one_whole_graph_in_a_folder(tmp_path: Path) -> None:
    class Two(GraphSource):
        def evaluate(self) -> Any:
            yield self.batch
            yield self.batch

    config = TrainConfig(epochs=1, keep_logits=True)
    for batches, out in ((GraphSource(batch()), None), (Two(batch()), tmp_path)):
        with pytest.raises(ValueError, match="needs a run folder, and one whole graph"):
            fit(Net(FEATURES), batches, config, metric="accuracy", device="cpu", out=out)
    assert save_logits(tmp_path, torch.ones(2, 3)).name == LOGITS_FILE
