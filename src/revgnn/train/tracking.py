"""What a run shows also goes to experiment trackers: TensorBoard, W&B, MLflow and whatever else Accelerate knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate.state import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers

from .curve import Row
from .progress import Progress

TRACK_FOLDER = "track"
_PACKAGES = {"comet_ml": "comet-ml"}


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that cannot work, before anything is computed.

    Raises:
        ValueError: a name that Accelerate does not know, with those that it does.
        ImportError: the package of a tracker is not installed, with what to install.
    """
    built_in = {"aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb"}
    available = {str(one) for one in get_available_trackers()}
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise ValueError(f"--track {name} is unknown; choose one of {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}")
        if name in built_in and name not in available:
            raise ImportError(
                f"--track {name} needs a package that is not installed: pip install {_PACKAGES.get(name, name)}"
            )


class Tracking:
    """A `Progress` that tells trackers of every epoch, and passes on what it is told.

    Logged for each epoch: ``loss``, ``lr``, ``seconds``, ``memory`` (bytes), ``<split>/<metric>`` and
    ``<split>/loss``, and what the model shows of itself. Files of trackers lie in the run folder's ``track``.

    Args:
        inner: told as well.
        names: of trackers, as Accelerate calls them; each once.
        run: what the run is called.
        out: the run folder.
        settings: the configuration by dotted names, kept as hyper-parameters.
    Raises: as `check_trackers`.
    """

    def __init__(
        self, inner: Progress, names: Sequence[str], *, run: str, out: Path, settings: Mapping[str, Any]
    ) -> None:
        check_trackers(names)
        self._inner, self._names, self._out = inner, tuple(dict.fromkeys(names)), out
        self._run = run.replace("/", "-").replace(" ", "-")
        self._settings = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in settings.items()
        }
        self._trackers: list[GeneralTracker] = []
        self._metric = "metric"

    def begin(self, *, epochs: int, steps: int, done: int, metric: str) -> None:
        """Open the trackers."""
        self._metric = metric
        if PartialState().is_main_process:
            self._trackers = [self._opened(LOGGER_TYPE_TO_CLASS[name]) for name in self._names]
        self._inner.begin(epochs=epochs, steps=steps, done=done, metric=metric)

    def step(self, *, epoch: int, step: int, loss: float) -> None:
        """Pass it on."""
        self._inner.step(epoch=epoch, step=step, loss=loss)

    def epoch(self, row: Row) -> None:
        """Log the figures of an epoch."""
        values: dict[str, Any] = {name: row[name] for name in ("loss", "lr", "seconds")}
        if row["memory"] is not None:
            values["memory"] = row["memory"]
        for split, score in (row["scores"] or {}).items():
            named = {f"{split}/{self._metric}": score["metric"], f"{split}/loss": score["loss"]}
            values |= {name: value for name, value in named.items() if value is not None}
        values |= row["observed"]
        for tracker in self._trackers:
            tracker.log(values, step=row["epoch"])
        self._inner.epoch(row)

    def end(self) -> None:
        """Close the trackers."""
        for tracker in self._trackers:
            tracker.finish()
        self._trackers = []
        self._inner.end()

    def _opened(self, kind: Any) -> GeneralTracker:
        if kind.requires_logging_directory:
            folder = self._out / TRACK_FOLDER
            folder.mkdir(parents=True, exist_ok=True)
            tracker: GeneralTracker = kind(self._run, folder)
        else:
            tracker = kind(self._run)
        tracker.start()
        tracker.store_init_configuration(self._settings)
        return tracker
