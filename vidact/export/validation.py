"""The validation split of the run that a checkpoint belongs to, or of a folder of data, for the loss of int8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from vidact.export.losses import Judge, OfValidationClips, OfValidationVideos
from vidact.features.files import find_videos
from vidact.features.record import other_features
from vidact.models.online import OnlineNetwork
from vidact.models.weights import record_of
from vidact.runtimes.exported import OnnxGraph
from vidact.text.names import same_names

SPLIT = "val"


class _NoSplitError(ValueError):
    """The error for data on which the loss cannot be measured."""


def validation(
    graph: OnnxGraph, network: nn.Module, checkpoint: Any, data: str | Path | None
) -> tuple[list[Judge], list[str]]:
    """Return the judge on the validation split, if there is one, and a note where the run's data cannot be used.

    Args:
        graph: the graph in single precision: of a clip network, or of an extractor.
        network: the clip network, or the detector whose extractor it is; another network has no figures.
        checkpoint: what was exported; the file of a run leads to its config.yaml.
        data: the folder of the data; None is that of the run.

    Raises ValueError where ``data`` has no validation split of these classes.
    """
    config = _config_of(checkpoint) if isinstance(checkpoint, str | Path) else None
    if not record_of(network).classes:
        if data is None:
            return [], []
        raise ValueError(
            f"data is {data}, but an extractor has no classes to score; export its detector, or leave it out"
        )
    if data is None and config is None:
        return [], []
    try:
        datamodule = _open(config, data, network)
        if isinstance(network, OnlineNetwork):
            return [_of_detector(graph, network, datamodule)], []
        return [_of_clips(graph, network, datamodule)], []
    except (OSError, ValueError) as error:
        if data is not None:
            raise
        return [], [f"the loss is not measured on the validation split of {config}: {error}"]


def _config_of(checkpoint: str | Path) -> Path | None:
    """Return the config.yaml of the run that a file belongs to; None for other files."""
    path = Path(checkpoint)
    folders = [path.parent.parent] if path.parent.name == "checkpoints" else [path.parent]
    return next((folder / "config.yaml" for folder in folders if (folder / "config.yaml").is_file()), None)


def _open(config: Path | None, data: str | Path | None, network: Any) -> Any:
    """Return the datamodule of a run's configuration, of these data if they are named."""
    if config is not None:
        from vidact.training.lightning import make_cli

        root = [] if data is None else [f"--data.root={data}"]
        return make_cli([f"--config={config}", *root], "test").datamodule
    assert data is not None
    if isinstance(network, OnlineNetwork):
        from vidact.data.sequences import SequenceData

        return SequenceData(str(data))
    from vidact.data.clips import ClipData
    from vidact.video.sample import ClipSampler

    return ClipData(str(data), ClipSampler.from_record(dict(record_of(network).sampling or {})))


def _check(found: Any, network: nn.Module, root: Path) -> list[Any]:
    """Return the videos or clips of the split."""
    if not same_names(record_of(network).classes, found.classes):
        raise _NoSplitError(f"{root} has other classes than the network")
    items = found.split(SPLIT)
    if not items:
        raise _NoSplitError(f"{root} has nothing in the split {SPLIT}")
    return items


def _of_clips(graph: OnnxGraph, network: Any, data: Any) -> Judge:
    _check(data.found, network, data.root)
    data.prepare(network.input)
    samples = data.sets[SPLIT]
    samples.skip_unreadable = True
    if (frames := samples.sampler(1000).shape[1]) != graph.facts.frames:
        raise _NoSplitError(f"its clips have {frames} frames, and the exported ones {graph.facts.frames}")
    return OfValidationClips(graph, samples, record_of(network).activation, data.found.multi_label)


def _of_detector(graph: OnnxGraph, network: OnlineNetwork, data: Any) -> Judge:
    record, found = record_of(network), data.found
    sequences = _check(found, network, data.root)
    if differ := other_features(record.features or {}, found.record):
        raise _NoSplitError(f"the features of {data.root} are others than the detector's: {'; '.join(differ)}")
    paths = find_videos(data.root)
    if absent := sorted({sequence.source for sequence in sequences} - paths.keys()):
        raise _NoSplitError(f"the video {absent[0]} is not in {data.root}, so its features cannot be made in int8")
    return OfValidationVideos(sequences, paths, network, record.activation, 1 + len(found.classes), "lstr")
