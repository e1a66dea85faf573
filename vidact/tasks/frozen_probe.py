"""A yardstick beside a training: a linear probe on the network as it was before the first step.

Before training, the clips go through the network once, and a logistic regression is fitted to its features, as
``vidact probe`` does. A training that ends no better has learnt nothing that the network did not know, whatever its
figure is beside a guess.

Shapes: N training clips, M scored clips, D features, K classes.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import nn

from vidact.jobs import Folder
from vidact.models.backbones import lacks_weights
from vidact.models.clip_network import VectorNetwork
from vidact.models.weights import recipe_of
from vidact.results.scores import PROBE_SCORES, figures_of
from vidact.runtimes.choices import RUNTIME_NAMES, refuse_runtime
from vidact.runtimes.networks import graph_or_none
from vidact.tasks.probe import (
    NOTES,
    Encodings,
    clip_state,
    encode_splits,
    fit_heads,
    refuse_absent_classes,
    runtime_of_run,
    scores_of,
    stacked,
    validation_parts,
)
from vidact.text.names import counted

MOST_CLIPS = 2000  # with more, the regression takes minutes of double precision on a CPU


class FrozenProbe(pl.Callback):
    """The callback that fits a linear probe before the first step and writes its scores into the run folder.

    The clips, their splits and the weights are those of the training; a clip is read as in validation, in one view.
    Validation clips choose the regularisation, cross-validation inside the training clips where there are none or where
    they are what is scored. Nothing about the training changes: not its weights, its random draws or its batches. A run
    that is resumed keeps what it had.

    Encoded clips are stored in ``encodings`` of the run folder. A run beside it (another seed, another fold) reads
    them there instead of encoding them again.

    ``facts`` are the figures for results.json, with ``left_out``, a reason, where there is no probe.

    Args:
        enabled: whether there is a probe; False leaves it out.
        runtime: where the network computes the features: "torch", "onnx" or "auto", as in ``networks_in``.
    """

    def __init__(self, enabled: bool = True, runtime: str = "auto") -> None:
        refuse_runtime(runtime)
        self.enabled, self.runtime = enabled, runtime
        self.facts: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        return self.facts

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.facts = state_dict

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.ckpt_path or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if trainer.is_global_zero:
            (Path(trainer.default_root_dir) / PROBE_SCORES).unlink(missing_ok=True)
        if not self.enabled:
            return
        draws = torch.random.get_rng_state()  # a loader draws a seed
        try:
            self.facts = self.fit(trainer, pl_module)
        except ValueError as error:
            self.facts = {"left_out": str(error)}
        finally:
            torch.random.set_rng_state(draws)
        if trainer.is_global_zero:
            print(self.describe(), flush=True)

    def fit(self, trainer: pl.Trainer, task: Any) -> dict[str, Any]:
        """Encode, fit and score; return the figures; raise ValueError, with the reason, where there is no probe."""
        network, data = task.network, trainer.datamodule  # type: ignore[attr-defined]
        refuse_useless(trainer, task)
        scored = scored_split(data)
        clips = {name: data.found.split(name) for name in dict.fromkeys(("train", "val", scored))}
        started = time.perf_counter()
        run = Path(trainer.default_root_dir)
        reading = {"root": str(Path(data.root).resolve()), "sampler": data.sampler.record(), "decoder": data.decoder}
        if data.time_origin != "first_frame":
            reading["time_origin"] = data.time_origin
        is_training = network.training
        try:
            network.eval()
            device = trainer.strategy.root_device
            features, num_encoded, runtime = features_of_splits(
                data, network, run, reading, clips, device, self.runtime
            )
        finally:
            network.train(is_training)
        clips = {name: [clip for clip in part if clip.id in features] for name, part in clips.items()}
        refuse_absent_classes(clips["train"], data.found.classes)
        if not clips[scored]:
            raise ValueError(f"no clip of the split {scored} can be read")
        encoded_s = time.perf_counter() - started
        arrays = {name: stacked(part, features) for name, part in clips.items() if part}
        validation = None if scored == "val" else arrays.get("val")
        groups = [clip.group for clip in clips["train"]]
        parts, chosen_by = validation_parts(*arrays["train"], groups, validation)
        (fitted,) = fit_heads(["linear"], *arrays["train"], parts)
        scores = scores_of(fitted.head, clips[scored], features, data.found.classes)
        scores.save(run / PROBE_SCORES)
        return {
            f"{scored}_top1": figures_of(scores)["top1"],
            "validation_top1": fitted.accuracy,
            "validated_on": chosen_by,
            "strength": fitted.setting,
            "features": len(fitted.head.mean),
            "clips_encoded": num_encoded,
            "runtime": runtime,
            "seconds_encoding": round(encoded_s, 2),
            "seconds_fitting": round(time.perf_counter() - started - encoded_s, 2),
        }

    def describe(self) -> str:
        """Return what the probe cost and reached in validation, or why there is none."""
        facts = self.facts
        if "left_out" in facts:
            return f"linear probe: left out, since {facts['left_out']}"
        return (
            f"linear probe on the network before training: {counted(facts['clips_encoded'], 'clip')} encoded in "
            f"{facts['seconds_encoding']:.1f} s, fitted in {facts['seconds_fitting']:.1f} s, "
            f"{facts['validation_top1']:.3f} right in validation ({facts['validated_on']}); --probe false leaves it out"
        )


def scored_split(data: Any) -> str:
    """Return the split that a test after training scores. Raises ValueError where it has no clips."""
    for name in (data.test_split, "val"):
        if data.found.split(name):
            return name
    raise ValueError(f"the data has no split {data.test_split} and no split val to score it on")


def refuse_useless(trainer: pl.Trainer, task: Any) -> None:
    """Raise ValueError, with the reason, where a probe would say nothing or cost too much."""
    network: nn.Module = task.network
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    if not hasattr(data, "one_view") or not isinstance(network, VectorNetwork):
        raise ValueError(f"{type(network).__name__} gives no features of clips")
    recipe = recipe_of(task.network)
    if recipe is None:
        raise ValueError(f"{type(network).__name__} has no recipe, by which its features could be stored")
    weights = [value for name, value in recipe["arguments"].items() if name == "weights" or name.endswith("_weights")]
    if not task.init_from and (not any(weights) or lacks_weights(network)):
        raise ValueError("the network starts from random weights, whose features mean little")
    if data.found.multi_label:
        raise ValueError("a clip may have several labels here, for which there is no such probe")
    if network.input.flow_fields:
        raise ValueError("the network reads optical flow, which would be computed once more for it")
    if trainer.world_size > 1:
        raise ValueError("several processes train together; vidact probe measures it in one")
    if (number := len(data.found)) > MOST_CLIPS:
        raise ValueError(f"{number} clips are more than {MOST_CLIPS}; vidact probe measures it all the same")
    kinds = {parameter.dtype for parameter in task.parameters()}
    if kinds != {torch.float32}:
        raise ValueError(f"the weights are not in single precision (trainer.precision is {trainer.precision})")


def features_of_splits(
    data: Any,
    network: nn.Module,
    run: Path,
    reading: Mapping[str, Any],
    clips: Mapping[str, Sequence[Any]],
    device: torch.device,
    runtime: str,
) -> tuple[dict[str, np.ndarray], int, str]:
    """Return the features (D,) of all readable clips, by id, how many of them were encoded now, and their runtime.

    Args:
        data: the data of the training.
        network: the network, on ``device`` and in evaluation mode.
        run: the folder of the run; runs beside it are searched for features that they have stored.
        reading: how a clip is read, as plain data.
        clips: the clips of each split.
        device: where the network computes.
        runtime: as in ``networks_in``.
    """
    store = Encodings(run, network, reading, data.sampler(1000).shape[1])
    states: dict[str, dict[str, Any]] = {}
    for clip in (clip for part in clips.values() for clip in part):
        try:
            states[clip.id] = clip_state(clip.path, clip.start_s, clip.end_s)
        except OSError:
            continue  # training lists it as unreadable
    stored = {name: features_beside(store.in_runtime(name), states) for name in RUNTIME_NAMES}
    begun = [name for name, features in stored.items() if features]
    chosen = runtime_of_run(runtime, begun, network, device)
    encoder = network
    if chosen == "onnx" and states.keys() - stored[chosen].keys():
        graph = graph_or_none(store.in_runtime(chosen).network, is_required=runtime != "auto" or chosen in begun)
        chosen, encoder = ("torch", network) if graph is None else (chosen, graph)
    store, features = store.in_runtime(chosen), stored[chosen]
    waiting = states.keys() - features.keys()
    if not waiting:
        return features, 0, chosen
    print(f"linear probe: {counted(len(waiting), 'clip')} to encode in {RUNTIME_NAMES[chosen]}", flush=True)
    with store.folder.locked():
        store.folder.claim(store.settings)
        encode_splits(encoder, data, store, states, waiting, device)
    encoded = {name: vector for name in waiting if (vector := store.read(name, states[name])) is not None}
    return features | encoded, len(encoded), chosen


def features_beside(store: Encodings, states: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Return the features (D,) of clips in these states, by id, that a run or one beside it has stored."""
    stores, out = [store], store.folder.out
    for folder in sorted(store.run.resolve().parent.glob(f"*/{out.parent.name}/{out.name}")):
        other = copy.copy(store)
        other.folder = Folder(folder, NOTES)
        stores.append(other)
    features: dict[str, np.ndarray] = {}
    for each in stores:
        for name in states.keys() - features.keys():
            if (vector := each.read(name, states[name])) is not None:
                features[name] = vector
    return features
