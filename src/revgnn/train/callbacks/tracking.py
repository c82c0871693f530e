"""Logs a run to experiment trackers: TensorBoard, W&B, MLflow and every other tracker of Accelerate."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers

from .callback import Callback, TrainState

_LOG = logging.getLogger(__name__)
TRACK_FOLDER = "track"
_PACKAGES = {"comet_ml": "comet-ml"}


def check_trackers(names: Sequence[str]) -> None:
    """Check that trackers exist and are installed, before any computation.

    Raises:
        ValueError: Accelerate does not know a name; the message lists the names that it knows.
        ImportError: the package of a tracker is not installed; the message says what to install.
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


class Tracking(Callback):
    """Logs every epoch to trackers.

    Logged for each epoch: ``loss``, ``lr``, ``seconds``, ``memory`` (bytes), ``<split>/<metric>`` and
    ``<split>/loss``, and the quantities that the model reports. Trackers write their files to ``track`` in the run
    folder.

    If a tracker cannot start, the run ends before its first step. If a tracker fails later, it gets no more data, and
    one warning says so: a failing server does not end a long run, and ``curve.jsonl`` has all values.

    Args:
        names: Accelerate's names of the trackers, each once.
        run: the name of the run.
        out: the run folder.
        settings: the configuration by dotted names, logged as hyper-parameters.
    Raises: as `check_trackers`.

    Examples:
        >>> from pathlib import Path
        >>> from revgnn.train import Tracking
        >>> tracking = Tracking([], run="first", out=Path("runs/first"), settings={"lr": 0.01})  # or ["tensorboard"]
    """

    def __init__(self, names: Sequence[str], *, run: str, out: Path, settings: Mapping[str, object]) -> None:
        check_trackers(names)
        self._names, self._out = tuple(dict.fromkeys(names)), out
        self._run = run.replace("/", "-").replace(" ", "-")
        self._settings = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in settings.items()
        }
        self._trackers: list[GeneralTracker] = []

    def __getstate__(self) -> dict[str, object]:
        # A copy of the callback opens its own trackers when its run begins.
        return {**self.__dict__, "_trackers": []}

    def on_start(self, run: TrainState) -> None:
        """Open the trackers.

        Raises: OSError: a tracker cannot start; the message says why.
        """
        self._trackers = [self._opened(name) for name in self._names]

    def on_epoch_end(self, run: TrainState) -> None:
        """Log an epoch."""
        row = run.row
        values: dict[str, object] = {name: row[name] for name in ("loss", "lr", "seconds")}
        if row["memory"] is not None:
            values["memory"] = row["memory"]
        for split, score in (row["scores"] or {}).items():
            named = {f"{split}/{run.metric}": score["metric"], f"{split}/loss": score["loss"]}
            values |= {name: value for name, value in named.items() if value is not None}
        values |= row["observed"]
        for tracker in tuple(self._trackers):
            try:
                tracker.log(values, step=row["epoch"])
            except Exception as fault:  # noqa: BLE001 - a package of others raises what it likes
                self._trackers.remove(tracker)
                _LOG.warning(
                    "--track %s failed at epoch %d and is told no more; curve.jsonl keeps every epoch: %s",
                    tracker.name, row["epoch"], _told(fault),
                )  # fmt: skip

    def on_end(self, run: TrainState) -> None:
        """Close the trackers."""
        for tracker in self._trackers:
            try:
                tracker.finish()
            except Exception as fault:  # noqa: BLE001 - a package of others raises what it likes
                _LOG.warning("--track %s could not be closed: %s", tracker.name, _told(fault))
        self._trackers = []

    def _opened(self, name: str) -> GeneralTracker:
        kind = LOGGER_TYPE_TO_CLASS[name]
        folder = self._out / TRACK_FOLDER
        if kind.requires_logging_directory:
            folder.mkdir(parents=True, exist_ok=True)
        try:
            tracker: GeneralTracker = kind(self._run, folder) if kind.requires_logging_directory else kind(self._run)
            tracker.start()
            tracker.store_init_configuration(self._settings)
        except Exception as fault:
            raise OSError(
                f"--track {name} could not start: {_told(fault)}; mend its own settings, or leave --track {name} out"
            ) from fault
        return tracker


def _told(fault: Exception) -> str:
    """Return a tracker's error message as one line."""
    return " ".join(str(fault).split()) or type(fault).__name__
