"""Train and score an online detector: the papers' losses, and figures over whole videos that are scored token by token.

Shapes: B videos, T tokens, D features, K actions (1 + K outputs with the background), L tokens ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from vidact.batch import SequenceBatch, probabilities
from vidact.events import Detection, EventDetector, always_on, choose_thresholds, scores_to_events
from vidact.features.record import EXTRACTOR, differences
from vidact.metrics import (
    accuracy_of,
    anticipation_map,
    calibrated_map,
    detection_delay,
    diagnose,
    event_f1,
    false_alarms_per_hour,
    frame_map,
    localisation_figures,
    portion_map,
    segment_scores,
    start_map,
    token_confusion,
    verdict,
    yardsticks,
)
from vidact.metrics.event_ap import AMBIGUOUS, TimedLabel
from vidact.models.online import OnlineNetwork, OnlineOutput, multi_hot_cross_entropy
from vidact.models.weights import initialise_from, read, recipe_of
from vidact.records import FeaturesRecord, Record
from vidact.results.timelines import Timelines, stack_timelines
from vidact.tasks.keeping import LAST, num_validated, refuse_callbacks, refuse_no_test
from vidact.tasks.offline_truth import token_labels
from vidact.tasks.resuming import refuse_what_does_not_fit
from vidact.tasks.schedules import ParameterGroups, Schedule
from vidact.tasks.stages import backbone, head_names
from vidact.tasks.training import MakesOptimizer, gather, gradient_norm, make_callbacks, make_optimization
from vidact.text.names import counted

FEATURES = "features"  # the default folder of features below a root, as in vidact.data.sequence_list
OFFSETS_S = tuple(range(1, 11))  # tolerances of start detection, in seconds
F1_TIOU = 0.3
F1_PERCENT = (10, 25, 50)  # least overlaps of the F1 of segments
FEW_EVENTS = 20  # with fewer in the validation videos, chance decides which epoch has the best mAP
OVERLAP = 0.05  # share of the labelled time that may overlap, by imprecise labels, in data of one action at a time


def default_optimizer(params: Iterable[Any]) -> Optimizer:
    """Return AdamW with the default settings of a detector."""
    return torch.optim.AdamW(params, lr=1e-3, weight_decay=0.01)


class OnlineDetection(pl.LightningModule):
    """Learns to name the action of each moment from the past.

    Args:
        network: an online detector of ``vidact.models``.
        optimizer: for example torch.optim.AdamW with its arguments; its lr is meant for ``base_batch`` windows
            a step.
        schedule: the learning rate over time.
        groups: which parameters learn faster or do not decay.
        base_batch: windows a step for which the lr was chosen; None takes the lr as it is.
        init_from: a vidact checkpoint to start from; of the head, the rows of the background and of actions that both
            name are kept, and tensors that do not fit are listed and start fresh.
        loss: softmax: one action or the background at a time, in proportion where several are labelled; sigmoid: each
            action independently.
        loss_tokens: the outputs of a window that enter the loss: "all", "last" (MiniROAD, OadTR), or an int: this many
            at its end, after the state has warmed up.
        future_weight: weight of the loss on future outputs (TRN 1.0, OadTR 0.5).
        label_smoothing: 0…1, share of the target that is spread over all outputs.
        ema: decay of an exponential moving average of the weights, used for validation, test and the saved weights.
        early_stopping: end after this many epochs without a better validation score.
        tf32: let CUDA round the factors of single-precision matrix products to TF32's 10 bits while training.
        protocol: which tokens count in mAP, see ``vidact.metrics.frame_map``.
        event_smoothing: how scores are smoothed before they become events, see ``vidact.events.EventDetector``.
        event_min_seconds: shorter events are dropped.
        event_merge_seconds: gaps up to this are bridged.
        weigh_classes: weigh the loss by the inverse frequency of each class, background included, among the training
            tokens. Losses of a network's own (IDN's) stay as they are.
    """

    compiled = None  # a detector is trained without torch.compile

    def __init__(
        self,
        network: OnlineNetwork,
        optimizer: Callable[[Iterable[Any]], Optimizer] = default_optimizer,
        schedule: Schedule = Schedule(),  # noqa: B008  (a frozen value)
        groups: ParameterGroups = ParameterGroups(),  # noqa: B008
        base_batch: int | None = None,
        init_from: str | None = None,
        loss: Literal["softmax", "sigmoid"] = "softmax",
        loss_tokens: Literal["all", "last"] | int = "all",
        future_weight: float = 1.0,
        label_smoothing: float = 0.0,
        ema: float | None = None,
        early_stopping: int | None = None,
        protocol: Literal["lstr", "oadtr", "gatehub", "legacy-smooth", "idu-smooth"] = "lstr",
        event_smoothing: float = 0.5,
        event_min_seconds: float = 0.5,
        event_merge_seconds: float = 0.5,
        tf32: bool = False,
        weigh_classes: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(loss_tokens, int) and loss_tokens < 1:
            raise ValueError(f"loss_tokens is {loss_tokens}; give all, last or a number from 1")
        self.network: Any = network
        self.make_optimizer = MakesOptimizer(optimizer)
        self.schedule, self.groups, self.base_batch, self.init_from = schedule, groups, base_batch, init_from
        self.kind, self.loss_tokens, self.future_weight = loss, loss_tokens, future_weight
        self.label_smoothing, self.ema, self.early_stopping = label_smoothing, ema, early_stopping
        self.protocol, self.tf32, self.weigh_classes = protocol, tf32, weigh_classes
        self.classes: list[str] = []
        self.tokens_per_second = 0.0
        self.features_record: dict[str, Any] = {}
        self.extractor_state: dict[str, Tensor] = {}  # the network that made the features, for checkpoints that stream
        # The settings that turn scores into events; ``on`` is tuned on the validation videos.
        self.event_settings = {
            "smoothing": event_smoothing,
            "min_seconds": event_min_seconds,
            "merge_seconds": event_merge_seconds,
        }
        self.events: dict[str, Any] = {"on": 0.5, **self.event_settings}
        self.thresholds: dict[str, Any] = {}  # how ``on`` was chosen; empty where it was not
        self.last_counts = False  # whether the last epoch counts as the best, whatever its figures
        self.remarks: list[str] = []  # notes that are printed with the figures of a test
        self.register_buffer("class_weights", None, persistent=False)  # (1 + K,)
        self.collected: Timelines | None = None
        self.test_scores: Timelines | None = None

    # ---- setting up

    def setup(self, stage: str) -> None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if stage == "fit" and data.window is None:
            raise ValueError(
                "data.window is null, which trains offline networks on whole videos; a detector learns "
                "from windows: give a number of tokens"
            )
        if stage == "fit":
            refuse_callbacks(self.trainer)
            refuse_no_test(data, self.trainer.limit_test_batches)
        sequences = data.found
        self.classes, self.tokens_per_second = sequences.classes, sequences.tokens_per_second
        self.features_record = sequences.record
        self.events |= self.event_settings  # a test may set others than the training that tuned the thresholds
        if stage == "fit":
            self.extractor_state = read_extractor(Path(data.features or data.root / FEATURES), sequences.record)
        outputs = 1 + len(self.classes)
        if self.network.num_classes < outputs:
            raise ValueError(
                f"model.network.num_classes is {self.network.num_classes}, but {data.root} needs {outputs}: the "
                f"background and {len(self.classes)} actions ({', '.join(self.classes[:5])}"
                f"{', …' if len(self.classes) > 5 else ''}). Set num_classes to {outputs}, or to 0 to take it from "
                "the data"
            )
        if self.network.feature_dim != sequences.dim:
            raise ValueError(
                f"model.network.feature_dim is {self.network.feature_dim}, but the features of {data.root} have "
                f"{sequences.dim} values a token. Set feature_dim to {sequences.dim}, or to 0 to take it from the data"
            )
        ahead = max(self.network.future_offsets, default=0)
        if stage == "fit" and data.lookahead < ahead:
            raise ValueError(
                f"the network predicts {ahead} tokens ahead, and data.lookahead is {data.lookahead}: there would be no "
                f"labels to learn from. Set data.lookahead to {ahead}"
            )
        if stage == "fit" and data.window <= self.network.delay:
            raise ValueError(
                f"data.window is {data.window}, and the network answers a token {self.network.delay} tokens later:"
                f" no token of a window has an answer. Set data.window to {self.network.delay + 1} or more"
            )
        if stage == "fit":
            self.refuse_unused_videos()
            # Overlapping actions share a softmax's probability, so that one of them must not exclude the others.
            self.last_counts = has_few_events(self.trainer, self.classes, self.early_stopping)
            is_single = overlap([sequence.events for sequence in sequences.split("train")]) <= OVERLAP
            self.events["exclusive"] = self.kind == "softmax" and is_single
        if stage == "fit" and self.weigh_classes:
            self.class_weights = torch.as_tensor(sequences.class_weights(), device=self.device)
        if stage == "fit" and self.init_from and not self.trainer.ckpt_path:
            initialise_from(self.network, self.init_from, self.classes, head_names(self.network))

    @property
    def chosen_by(self) -> str:
        """The figure by which the best epoch is chosen."""
        return LAST if self.last_counts else "val_map"

    def refuse_unused_videos(self) -> None:
        """Print how many training videos are shorter than the window; raise ValueError if none enters the loss.

        Windows lie inside their videos, so the first tokens of each video precede all outputs that enter the loss. A
        video that is shorter than the window has a single window.
        """
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        taught, delay = self.num_in_loss(data.window), self.network.delay
        before = data.window - delay - taught
        lengths = {sequence.id: len(sequence) for sequence in data.found.split("train")}
        short = [name for name, length in lengths.items() if length < data.window]
        unused = [name for name in short if lengths[name] <= before]
        if not before or not short:
            return
        message = (
            f"{len(short)} of {counted(len(lengths), 'training video')} are shorter than the window of {data.window} "
            f"tokens, and of the tokens that come first {before} teach nothing (loss_tokens is {self.loss_tokens})"
        )
        if unused:
            message += (
                f": {counted(len(unused), 'video teaches', 'videos teach')} nothing at all (the first is {unused[0]})"
            )
        advice = (
            f"set data.window to {taught + delay}, data.history to {data.history + before} and loss_tokens to all: "
            "every token teaches, with the same past before it"
        )
        if len(unused) == len(lengths):
            raise ValueError(f"{message}. To learn from them, {advice}")
        if self.trainer.is_global_zero:
            print(f"note: {message}; to learn from all of them, {advice}")

    def num_in_loss(self, window: int) -> int:
        """Return how many outputs at the end of a window enter the loss.

        The last ``delay`` tokens of a window have no answer in it, since what they wait for is not in it.
        """
        answered = window - self.network.delay
        return min(answered, {"all": answered, "last": 1}.get(str(self.loss_tokens)) or int(self.loss_tokens))

    @property
    def backbone(self) -> torch.nn.ModuleList:
        """The modules that Lightning's BackboneFinetuning freezes first."""
        return backbone(self.network)

    @property
    def validated(self) -> tuple[str, ...]:
        """The names of the figures of the validation videos."""
        return "map", "loss"

    @property
    def trained(self) -> tuple[str, ...]:
        """The names of the figures of training, without the parts of a loss that has several."""
        return ("loss",)

    def configure_callbacks(self) -> list[pl.Callback]:
        return make_callbacks(self.ema, self.early_stopping, self.tf32)

    def configure_optimizers(self) -> Any:
        return make_optimization(
            self.trainer, self.network, self.make_optimizer, self.groups, self.schedule, self.base_batch
        )

    def on_fit_start(self) -> None:
        self.train()  # Lightning's fit does not change the mode

    def on_train_epoch_start(self) -> None:
        self.train()

    # ---- training

    def training_step(self, batch: SequenceBatch, batch_idx: int) -> Tensor:
        output = self.outputs(batch)
        losses = {"now": self.loss_now(output, batch)}
        if output.future is not None and self.future_weight:
            losses["future"] = self.future_weight * self.loss_future(output, batch)
        losses |= output.losses
        loss = torch.stack(list(losses.values())).sum()
        figures = {"train_loss": loss}
        if len(losses) > 1:
            figures |= {f"train_loss_{name}": value for name, value in losses.items()}
        self.log_dict(figures, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(batch), sync_dist=True)
        return loss

    def outputs(self, batch: SequenceBatch) -> OnlineOutput:
        """Return the outputs that enter the loss: of those that come with the window's tokens the last ``loss_tokens``.

        They are for the tokens ``delay`` tokens earlier.
        """
        ends = {"lengths": batch.end} if self.network.delay else {}
        if self.network.has_own_losses:
            total, labelled = batch.features.shape[1], slice(batch.history, batch.history + batch.window)
            targets = batch.targets.new_zeros(len(batch), total, batch.targets.shape[2])
            ignore = torch.ones(len(batch), total, dtype=torch.bool, device=targets.device)
            targets[:, labelled] = batch.targets[:, : batch.window]
            ignore[:, labelled] = batch.ignore[:, : batch.window]
            output = self.network(batch.features, batch.start, targets, ignore, **ends)
        else:
            output = self.network(batch.features, batch.start, **ends)
        n = min(self.num_in_loss(batch.window), output.logits.shape[1])
        future = None if output.future is None else output.future[:, -n:]
        return OnlineOutput(output.logits[:, -n:], future, output.losses)

    def loss_now(self, output: OnlineOutput, batch: SequenceBatch) -> Tensor:
        """Return the loss of the outputs for the tokens themselves."""
        end = batch.window - self.network.delay
        rows = slice(end - output.logits.shape[1], end)
        return self.loss(output.logits, batch.targets[:, rows], batch.ignore[:, rows])

    def loss_future(self, output: OnlineOutput, batch: SequenceBatch) -> Tensor:
        """Return the loss of the outputs for later tokens, each against the label of its token."""
        assert output.future is not None
        n = output.future.shape[1]
        first = batch.window - self.network.delay - n
        rows = [slice(first + offset, first + offset + n) for offset in self.network.future_offsets]
        targets = torch.stack([batch.targets[:, row] for row in rows], 2)  # (B, n, L, 1+K)
        ignore = torch.stack([batch.ignore[:, row] for row in rows], 2)
        return self.loss(output.future, targets, ignore)

    def loss(self, logits: Tensor, targets: Tensor, ignore: Tensor) -> Tensor:
        """Return the loss of logits (…, ≥ 1+K) against multi-hot targets (…, 1+K); ignored rows do not count."""
        if self.label_smoothing:
            total = targets.sum(-1, keepdim=True)
            targets = targets * (1 - self.label_smoothing) + total * self.label_smoothing / targets.shape[-1]
        if self.kind == "softmax":
            return multi_hot_cross_entropy(logits, targets, ignore, self.class_weights)
        each = F.binary_cross_entropy_with_logits(
            logits[..., : targets.shape[-1]].float(), targets, weight=self.class_weights, reduction="none"
        )
        weights = (~ignore).to(each.dtype)
        return (each.sum(-1) * weights).sum() / weights.sum().clamp(min=1)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        if (norm := gradient_norm(self.network)) is not None:
            self.log("grad_norm", norm, on_step=False, on_epoch=True, batch_size=1)

    # ---- scoring

    def probabilities(self, logits: Tensor) -> np.ndarray:
        """Return scores (…, 1+K) in 0…1; a further (ambiguous) output takes part in the softmax and is dropped."""
        scores = probabilities(logits, self.kind)
        return scores[..., : 1 + len(self.classes)].cpu().numpy()

    def on_validation_epoch_start(self) -> None:
        offsets = self.network.future_offsets
        self.collected = Timelines(
            [], [], [], [], self.classes, self.tokens_per_second, [] if offsets else None, tuple(offsets)
        )

    def on_test_epoch_start(self) -> None:
        self.on_validation_epoch_start()

    def validation_step(self, batch: SequenceBatch, batch_idx: int) -> None:
        assert self.collected is not None
        output = self.network.scan(batch.features, batch.end)
        scores = self.probabilities(output.logits)
        future = None if output.future is None else self.probabilities(output.future)
        for i, id in enumerate(batch.ids):
            end = int(batch.end[i])
            self.collected.ids.append(id)
            self.collected.scores.append(scores[i, :end])
            self.collected.targets.append(batch.targets[i, :end].float().cpu().numpy())
            self.collected.ignore.append(batch.ignore[i, :end].cpu().numpy())
            if self.collected.future is not None and future is not None:
                self.collected.future.append(future[i, :end])

    def test_step(self, batch: SequenceBatch, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def joined(self) -> Timelines:
        """Return the videos of all processes, sorted by id: the same for any number of processes."""
        return gather(self.collected, stack_timelines)

    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking:
            return
        timelines = self.joined()
        scores, targets, ignore = timelines.joined()
        precision = frame_map(scores, targets, ignore, self.protocol, video_ids=timelines.video_ids)
        counts = ~ignore
        loss = -(targets * np.log(np.clip(scores, 1e-9, 1))).sum(1)[counts].mean() if counts.any() else 0.0
        self.choose_events(timelines)
        figures = {"map": precision.mean, "loss": float(loss), "score": precision.mean}
        if self.last_counts:
            figures["score"] = float(self.trainer.current_epoch)
        for name, value in figures.items():  # every process computed the same number from the same joined scores
            self.log(f"val_{name}", value, prog_bar=name == "map", rank_zero_only=False)

    def choose_events(self, timelines: Timelines) -> None:
        """Choose the thresholds of events on the validation videos."""
        settings = {name: value for name, value in self.events.items() if name not in ("on", "off")}
        # The middle of the targets of a present and of an absent class: 0.5 without label smoothing.
        default = 0.5 * (1 - self.label_smoothing) + self.label_smoothing / (1 + len(self.classes))
        choice = choose_thresholds(
            timelines.scores,
            timelines.targets,
            timelines.ignore,
            tokens_per_second=self.tokens_per_second,
            default=default,
            **settings,
        )
        self.events["on"] = [round(float(value), 6) for value in choice.on]
        self.thresholds = {
            "words": choice.words,
            "videos": choice.videos,
            "events": dict(zip(self.classes, choice.events.tolist(), strict=True)),
            "f1": choice.f1,
            "default": choice.default,
            "f1_at_default": choice.f1_at_default,
        }

    def on_test_epoch_end(self) -> None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self.test_scores = self.joined()
        ids = set(self.test_scores.ids)
        # The takes of a paused video are scored one by one, while their events name the video.
        truth = [
            replace(event, video=sequence.id)
            for sequence in data.found
            if sequence.id in ids
            for event in sequence.events
        ]
        self.test_figures = self.figures(self.test_scores, truth)
        notes = self.test_figures["verdict"], self.thresholds.get("words", ""), self.words_on_delay
        self.remarks = [note for note in notes if note]
        for name, value in self.test_figures.items():
            if isinstance(value, float):
                self.log(f"test_{name}", value)

    def figures(self, timelines: Timelines, truth: list[Any]) -> dict[str, Any]:
        """Return the figures of ``timelines`` and the true events of their videos; rates lie in 0…1."""
        scores, targets, ignore = timelines.joined()
        videos, rate = timelines.video_ids, timelines.tokens_per_second
        precision = frame_map(scores, targets, ignore, self.protocol, video_ids=videos)
        calibrated = calibrated_map(scores, targets, ignore, self.protocol, video_ids=videos)
        figures: dict[str, Any] = {
            "map": precision.mean,
            "mcap": calibrated.mean,
            "tokens_scored": precision.rows,
            **token_figures(scores, targets, ignore, precision.mean, self.classes),
            "classes": [
                {"class": name, "ap": float(ap), "cap": float(cap), "tokens": int(tokens)}
                for name, ap, cap, tokens in zip(
                    self.classes, precision.per_class, calibrated.per_class, targets[~ignore, 1:].sum(0), strict=True
                )
            ],
        }
        segments = segment_figures(timelines, self.true_labels(timelines, truth))
        figures |= {name: value for name, value in segments.items() if name != "accuracy"}  # it is token_accuracy
        ahead = [j for j, offset in enumerate(timelines.future_offsets) if offset >= 1]
        if timelines.future is not None and ahead:
            offsets = [timelines.future_offsets[j] for j in ahead]
            future = np.concatenate(timelines.future)[:, ahead]
            anticipated = anticipation_map(future, targets, offsets, rate, videos, ignore)
            figures["anticipation_map"] = anticipated.mean
            figures["anticipation"] = {
                f"{seconds:g} s": float(value)
                for seconds, value in zip(anticipated.seconds, anticipated.per_offset, strict=True)
            }
        if not any(event.label in self.classes for event in truth):
            return figures  # the figures below need events
        portions = portion_map(scores, targets, videos, ignore)
        figures["portion_mcap"] = {f"{10 * i}-{10 * i + 10} %": float(v) for i, v in enumerate(portions.per_portion)}
        starts = start_map(scores, targets, videos, rate, OFFSETS_S, ignore=ignore)
        figures["start_map"] = starts.mean
        figures["start"] = {f"{s} s": float(v) for s, v in zip(OFFSETS_S, starts.per_offset, strict=True)}
        lengths_s = {id: len(rows) / rate for id, rows in zip(timelines.ids, timelines.scores, strict=True)}
        detections = self.detections(timelines, self.events)
        at_half = self.detections(timelines, {**self.events, "on": 0.5, "off": None})
        everything = always_on(self.classes, lengths_s)
        f1 = event_f1(detections, truth, F1_TIOU)
        late_s = self.network.delay / rate
        delay = detection_delay(detections, truth, late_s)
        figures |= localisation_figures(detections, truth, self.classes)
        figures |= {
            "event_f1": f1.f1,
            "event_precision": f1.precision,
            "event_recall": f1.recall,
            "event_f1_at_0.5": event_f1(at_half, truth, F1_TIOU).f1,
            "event_f1_always_on": event_f1(everything, truth, F1_TIOU).f1,
            "events_true": f1.true,
            "events_found": len(detections),
            "delay_s": delay.median_s,
            **({"answers_late_s": late_s} if late_s else {}),
            "missed": delay.missed,
            "false_alarms_per_hour": false_alarms_per_hour(detections, truth, len(scores) / rate),
            "diagnosis": diagnose(detections, truth, lengths_s).figures(),
        }
        return figures

    @property
    def words_on_delay(self) -> str:
        """A sentence on a network that looks ahead; empty for the others."""
        if not (delay := self.network.delay):
            return ""
        return (
            f"every answer waits for {counted(delay, 'later token')}: it comes {delay / self.tokens_per_second:g} s "
            "after its moment, which the median delay contains"
        )

    def true_labels(self, timelines: Timelines, truth: Iterable[Any]) -> dict[str, np.ndarray]:
        """Return one label (T,) for each token of each video: of several actions that of the shortest event."""
        rows: dict[str, list[tuple[float, float, int]]] = {id: [] for id in timelines.ids}
        for event in truth:
            if event.label in self.classes and event.video in rows:
                rows[event.video].append((event.start_s, event.end_s, self.classes.index(event.label)))
        return {
            id: token_labels(
                torch.from_numpy(targets), torch.tensor(rows[id]).reshape(-1, 3), timelines.tokens_per_second
            ).numpy()
            for id, targets in zip(timelines.ids, timelines.targets, strict=True)
        }

    def detections(self, timelines: Timelines, events: dict[str, Any]) -> list[Detection]:
        """Return the events that ``EventDetector`` makes of all videos with the settings ``events``."""
        detector = EventDetector(self.classes, timelines.tokens_per_second, **events)
        return [
            event
            for id, rows in zip(timelines.ids, timelines.scores, strict=True)
            for event in scores_to_events(rows, id, detector)
        ]

    # ---- saving

    @staticmethod
    def section(data: Any) -> str:
        """Return the key of a test's figures in results.json."""
        return "test" if data.test_split == "test" else f"test on {data.test_split}"

    def save_scores(self, run: Path, data: Any) -> dict[str, Any]:
        """Write timelines.npz and return the facts that results.json holds beside the figures."""
        assert self.test_scores is not None
        self.test_scores.save(run / "timelines.npz")
        return {
            "protocol": self.protocol,
            "tokens_per_second": self.tokens_per_second,
            "events": self.events,
            "thresholds": self.thresholds,
        }

    @property
    def record(self) -> Record:
        """The record of a checkpoint; ``vidact.load`` needs nothing else."""
        return Record(
            recipe=recipe_of(self.network),
            classes=list(self.classes),
            features=FeaturesRecord(self.features_record),
            tokens_per_second=self.tokens_per_second,
            scores=self.kind,
            events=dict(self.events),
            thresholds=dict(self.thresholds),
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["vidact"] = self.record.to_dict()
        if self.extractor_state:
            checkpoint["extractor"] = self.extractor_state

    def adopt(self, record: Record) -> None:
        """Take over what belongs to trained weights: the thresholds of events and the meaning of the logits."""
        if record.kind is not None:
            raise ValueError(
                f"the checkpoint is a {record.kind}, which sees whole videos: test it with the config.yaml of its run, "
                "whose task is vidact.tasks.OfflineDetection"
            )
        if record.events is not None:
            self.events, self.thresholds = dict(record.events), dict(record.thresholds or {})
            self.kind = record.scores or self.kind  # type: ignore[assignment]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        refuse_what_does_not_fit(self, checkpoint)
        record = Record.from_dict(checkpoint.get("vidact") or {}, "the checkpoint")
        if record.thresholds and record.events and record.scores == self.kind:  # the validation is not repeated
            self.events["on"], self.thresholds = record.events["on"], dict(record.thresholds)


def has_few_events(trainer: pl.Trainer, classes: Sequence[str], early_stopping: int | None) -> bool:
    """Return whether the validation videos have too few events to choose an epoch by, and print it."""
    videos = trainer.datamodule.found.split("val")[: num_validated(trainer)]  # type: ignore[attr-defined]
    events = sum(event.label in classes for video in videos for event in video.events)
    if not videos or events >= FEW_EVENTS or early_stopping is not None:
        return False
    if trainer.is_global_zero:
        print(
            f"note: {counted(events, 'event')} of {counted(len(videos), 'validation video')} "
            f"{'is' if events == 1 else 'are'} too few to choose an epoch by (fewer than {FEW_EVENTS}): the last "
            "one counts as the best"
        )
    return True


def token_figures(
    scores: np.ndarray, targets: np.ndarray, ignore: np.ndarray, mean_precision: float, classes: Sequence[str]
) -> dict[str, Any]:
    """Return accuracy and confusion of tokens beside the scores of a guess and of the most frequent label."""
    if ignore.all():
        return {"verdict": ""}
    names = ["background", *classes]
    counts, sticks = token_confusion(scores, targets, ignore), yardsticks(targets, ignore, has_background=True)
    return {
        "token_accuracy": accuracy_of(counts),
        "chance": sticks.chance,
        "majority": sticks.majority,
        "majority_class": names[sticks.majority_class],
        "chance_map": sticks.chance_map,
        "confusion": {"classes": names, "counts": counts.tolist()},
        "verdict": verdict(sticks, names, accuracy_of(counts), mean_precision),
    }


def segment_figures(timelines: Timelines | None, labels: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return accuracy, edit score and F1 of the best class of each token, all in 0…1.

    Figures that end with "_with_background" count the runs of the background as segments.

    Args:
        timelines: the scores.
        labels: (T,) the true label of each token of each video, 0 the background.
    """
    assert timelines is not None
    if all(ignore.all() for ignore in timelines.ignore):
        return dict.fromkeys(("accuracy", "edit", *(f"f1_{percent}" for percent in F1_PERCENT)), 0.0)
    predicted, truth = [scores.argmax(1) for scores in timelines.scores], [labels[id] for id in timelines.ids]
    figures: dict[str, float] = {}
    for suffix, background in (("", 0), ("_with_background", ())):
        scored = segment_scores(predicted, truth, background, F1_PERCENT, timelines.ignore)
        figures |= {"accuracy": scored.accuracy / 100, f"edit{suffix}": scored.edit / 100}
        for percent, value in zip(F1_PERCENT, scored.f1, strict=True):
            figures[f"f1_{percent}{suffix}"] = float(value) / 100
    return figures


def overlap(videos: Iterable[Iterable[TimedLabel]]) -> float:
    """Return the share of the labelled time of all ``videos`` that lies in more than one event; 0 without events."""
    total = covered = 0.0
    for events in videos:
        end = -np.inf
        for event in sorted(events, key=lambda event: event.start_s):
            if event.label.lower() != AMBIGUOUS:
                total += event.end_s - event.start_s
                covered += max(0.0, event.end_s - max(event.start_s, end))
                end = max(end, event.end_s)
    return 1 - covered / total if total else 0.0


def read_extractor(folder: Path, record: dict[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of the extractor in a folder of features; none where it has none (published features).

    Raises ValueError where it is not the extractor that ``record`` (features.json) describes: the detector would stream
    other features than it was trained on.
    """
    path = folder / EXTRACTOR
    if not path.is_file():
        return {}
    tensors, extractor_record = read(path)
    settings: Mapping[str, Any] = {} if extractor_record is None else extractor_record.extractor or {}
    shared = settings.keys() & record.keys()
    if differ := differences({key: settings[key] for key in shared}, {key: record[key] for key in shared}):
        raise ValueError(
            f"{path} is not what made the features beside it: {'; '.join(differ)} (features.json's last). "
            "Extract the features again, or remove the file: the detector can then be trained and cannot stream"
        )
    return tensors
