"""Train and score an offline network: events, or a label for every token, of whole videos.

Shapes: B videos, T tokens, D features, K actions (1 + K outputs of a segmenter, the background first).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vidact.batch import SequenceBatch
from vidact.events import Detection, always_on, equal_events
from vidact.metrics import (
    THUMOS_TIOUS,
    choose_min_score,
    diagnose,
    event_f1,
    event_map,
    false_alarms_per_hour,
    frame_map,
    localisation_figures,
)
from vidact.models.offline import OfflineNetwork, Truth
from vidact.models.offline_decoding import Decoding, Grid, detections
from vidact.models.weights import attach, initialise_from, recipe_of
from vidact.records import FeaturesRecord, Record
from vidact.results.found_events import EVENTS, TRUE_EVENTS, save_found
from vidact.results.timelines import Timelines, stack_timelines
from vidact.tasks.keeping import LAST, refuse_callbacks, refuse_no_test, score_of
from vidact.tasks.offline_truth import localiser_truth, segmenter_truth
from vidact.tasks.online_detection import (
    F1_TIOU,
    FEATURES,
    has_few_events,
    read_extractor,
    segment_figures,
    token_figures,
)
from vidact.tasks.resuming import refuse_what_does_not_fit
from vidact.tasks.schedules import ParameterGroups, Schedule
from vidact.tasks.training import MakesOptimizer, gather, gradient_norm, make_callbacks, make_optimization
from vidact.text.names import counted


def default_optimizer(params: Iterable[Any]) -> Optimizer:
    """Return AdamW with the settings of ActionFormer."""
    return torch.optim.AdamW(params, lr=1e-4, weight_decay=0.05)


@dataclass
class Answers:
    """What a network answered for whole videos: the detections and the length of each, and a segmenter's timelines.

    ``losses`` are the training losses of the batches in which the videos were scored.
    """

    detections: dict[str, list[Detection]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    labels: dict[str, np.ndarray] = field(default_factory=dict)  # (T,) the true label of each token, 0 the background
    timelines: Timelines | None = None

    @property
    def ids(self) -> list[str]:
        """The videos, in the order of their names."""
        return sorted(self.seconds)

    @property
    def events(self) -> list[Detection]:
        """The detections of all videos."""
        return [event for id in self.ids for event in self.detections[id]]


def joined(parts: Sequence[Answers]) -> Answers:
    """Return the answers of several processes together, each video once."""
    whole = Answers()
    for part in parts:
        for name in ("detections", "seconds", "losses", "labels"):
            getattr(whole, name).update(getattr(part, name))
    timelines = [part.timelines for part in parts if part.timelines is not None]
    whole.timelines = stack_timelines(timelines) if timelines else None
    return whole


class OfflineDetection(pl.LightningModule):
    """Learns to find the events of a video, or to label each moment of it, from the whole video.

    Args:
        network: an offline network of ``vidact.models``: a localiser (K outputs) or a segmenter (1 + K).
        optimizer: for example torch.optim.AdamW with its arguments; its lr is meant for ``base_batch`` videos a step.
        schedule: the learning rate over time.
        groups: which parameters learn faster or do not decay.
        base_batch: videos a step for which the lr was chosen; None takes the lr as it is.
        init_from: a vidact checkpoint to start from; of the head, the rows of the background and of actions that both
            name are kept, and tensors that do not fit are listed and start fresh.
        ema: decay of an exponential moving average of the weights, used for validation, test and the saved weights;
            None is without.
        warm_ema: let the average keep less in the first steps: (1 + n) / (10 + n) after n of them, up to ``ema``.
            Otherwise the start values outlast a short training.
        early_stopping: end after this many epochs without a better validation score.
        least_inside: an event that a crop cuts is learned where at least this share of it lies inside the crop;
            otherwise its part is neither event nor background.
        tiou: the temporal overlaps at which mAP is computed: those of THUMOS'14 by default; ActivityNet's are 0.5 to
            0.95 in steps of 0.05, EPIC-Kitchens' 0.1 to 0.5.
        decoding: how the outputs of a localiser become events; None is as the network was built.
        tf32: let CUDA round the factors of single-precision matrix products to TF32's 10 bits while training.
    """

    compiled = None  # trained without torch.compile

    def __init__(
        self,
        network: OfflineNetwork,
        optimizer: Callable[[Iterable[Any]], Optimizer] = default_optimizer,
        schedule: Schedule = Schedule(),  # noqa: B008  (a frozen value)
        groups: ParameterGroups = ParameterGroups(),  # noqa: B008
        base_batch: int | None = None,
        init_from: str | None = None,
        ema: float | None = 0.999,
        warm_ema: bool = True,
        early_stopping: int | None = None,
        least_inside: float = 0.5,
        tiou: tuple[float, ...] = THUMOS_TIOUS,
        decoding: Decoding | None = None,
        tf32: bool = False,
    ) -> None:
        super().__init__()
        if not 0 < least_inside <= 1:
            raise ValueError(f"least_inside is {least_inside:g}; it is a share of an event, above 0 and at most 1")
        if not tiou or not all(0 < level <= 1 for level in tiou):
            raise ValueError(f"tiou is {tuple(tiou)}; give temporal overlaps above 0, up to 1")
        self.network: Any = network
        self.make_optimizer = MakesOptimizer(optimizer)
        self.schedule, self.groups, self.base_batch, self.init_from = schedule, groups, base_batch, init_from
        self.ema, self.warm_ema, self.early_stopping, self.tf32 = ema, warm_ema, early_stopping, tf32
        self.least_inside, self.tiou, self.decoding = least_inside, tuple(tiou), decoding
        if decoding is not None and not self.is_localiser:
            raise ValueError(
                f"model.decoding is for localisers; the events of {type(network).__name__} are the runs of its best "
                "class. Leave it out"
            )
        if decoding is not None:
            attach(network, decoding=decoding)
        self.classes: list[str] = []
        self.tokens_per_second = 0.0
        self.features_record: dict[str, Any] = {}
        self.extractor_state: dict[str, Tensor] = {}  # the network that made the features
        self.min_score = 0.0  # of the events that are shown; chosen on the validation videos
        self.thresholds: dict[str, Any] = {}  # how it was chosen; empty where it was not
        self.last_counts = False  # whether the last epoch counts as the best, whatever its figures
        self.remarks: list[str] = []  # notes that are printed with the figures of a test
        self.collected = Answers()
        self.test_scores: Answers | None = None

    @property
    def is_localiser(self) -> bool:
        """Whether the network answers with events, and not with labels."""
        return hasattr(self.network, "decoding")

    @property
    def kind(self) -> str:
        return "localiser" if self.is_localiser else "segmenter"

    # ---- setting up

    def setup(self, stage: str) -> None:
        if not isinstance(self.network, OfflineNetwork):
            raise ValueError(
                f"{type(self.network).__name__} is no offline network; vidact.tasks.OnlineDetection trains and tests "
                "online detectors, with the configurations online/…"
            )
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if stage == "fit":
            refuse_callbacks(self.trainer)
            refuse_no_test(data, self.trainer.limit_test_batches)
        if data.history or data.lookahead or data.drop_ambiguous_last:
            raise ValueError(
                "data.history, data.lookahead and data.drop_ambiguous_last are for online detectors: an offline "
                "network reads whole videos or crops of data.window tokens; leave them out"
            )
        sequences = data.found
        self.classes, self.tokens_per_second = sequences.classes, sequences.tokens_per_second
        self.features_record = sequences.record
        outputs = len(self.classes) + (not self.is_localiser)
        if self.network.num_classes != outputs:
            names = f"{', '.join(self.classes[:5])}{', …' if len(self.classes) > 5 else ''}"
            what = f"{len(self.classes)} actions ({names})"
            what = f"the {what}" if self.is_localiser else f"the background and {what}"
            raise ValueError(
                f"model.network.num_classes is {self.network.num_classes}, but {data.root} needs {outputs} for {what}. "
                f"Set num_classes to {outputs}, or to 0 to take it from the data"
            )
        if self.network.feature_dim != sequences.dim:
            raise ValueError(
                f"model.network.feature_dim is {self.network.feature_dim}, but the features of {data.root} have "
                f"{sequences.dim} values a token. Set feature_dim to {sequences.dim}, or to 0 to take it from the data"
            )
        if stage != "fit":
            return
        self.extractor_state = read_extractor(Path(data.features or data.root / FEATURES), sequences.record)
        self.last_counts = has_few_events(self.trainer, self.classes, self.early_stopping)
        if self.trainer.is_global_zero and (note := self.note_on_truth(sequences.split("train"))):
            print(f"note: {note}")
        if self.init_from and not self.trainer.ckpt_path:
            initialise_from(self.network, self.init_from, self.classes, self.heads)

    def note_on_truth(self, videos: Iterable[Any]) -> str:
        """Return what of the training videos' truth the network cannot learn; "" if it learns all."""
        if not self.is_localiser:
            crowded = sum(int((video.multi_hot[:, 1:].sum(1) > 1).sum()) for video in videos)
            sentence = "a segmenter learns one label a token, that of the shortest event"
            return f"{counted(crowded, 'training token')} with several actions: {sentence}" if crowded else ""
        lost, total, grid = 0, 0, Grid.of(self.tokens_per_second)
        for video in videos:
            times_s = [(event.start_s, event.end_s, 0.0) for event in video.events if event.label in self.classes]
            rows = grid.places(torch.tensor(times_s).reshape(-1, 3))
            lost, total = lost + int(self.network.out_of_reach(rows, len(video)).sum()), total + len(times_s)
        if not lost:
            return ""
        token_s = 1 / self.tokens_per_second
        return (
            f"{lost} of {counted(total, 'training event')} are never learned: no place of the network lies inside them "
            f"(a token is {token_s:.3g} s), or they are longer than its regression_ranges. Features with more tokens "
            "a second see shorter events"
        )

    @property
    def heads(self) -> list[str]:
        """The names of the classifiers: the last convolutions with an output a class."""
        return [
            name
            for name, module in self.network.named_modules()
            if isinstance(module, nn.Conv1d)
            and name.rpartition(".")[2] == "output"
            and module.out_channels == self.network.num_classes
        ]

    @property
    def chosen_by(self) -> str:
        """The figure by which the best epoch is chosen."""
        return LAST if self.last_counts else "val_tiou_map" if self.is_localiser else "val_f1_50"

    @property
    def validated(self) -> tuple[str, ...]:
        """The names of the figures of the validation videos."""
        return ("tiou_map", "loss") if self.is_localiser else ("tiou_map", "f1_50", "accuracy", "loss")

    @property
    def trained(self) -> tuple[str, ...]:
        """The names of the figures of training, without the parts of a loss that has several."""
        return ("loss",)

    def configure_callbacks(self) -> list[pl.Callback]:
        return make_callbacks(self.ema, self.early_stopping, self.tf32, self.warm_ema)

    def configure_optimizers(self) -> Any:
        return make_optimization(
            self.trainer, self.network, self.make_optimizer, self.groups, self.schedule, self.base_batch
        )

    def on_fit_start(self) -> None:
        self.train()  # Lightning's fit does not change the mode

    def on_train_epoch_start(self) -> None:
        self.train()

    # ---- training

    def truth(self, batch: SequenceBatch) -> Truth:
        """Return what the network learns from the batch, and what its loss is measured against."""
        if self.is_localiser:
            return localiser_truth(batch, self.tokens_per_second, self.least_inside)
        return segmenter_truth(batch, self.tokens_per_second)

    def training_step(self, batch: SequenceBatch, batch_idx: int) -> Tensor:
        output = self.network(batch.features, lengths=batch.end)
        losses = self.network.losses(output, self.truth(batch))
        loss = torch.stack(list(losses.values())).sum()
        figures = {"train_loss": loss, **{f"train_loss_{name}": value for name, value in losses.items()}}
        self.log_dict(figures, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(batch), sync_dist=True)
        return loss

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        if (norm := gradient_norm(self.network)) is not None:
            self.log("grad_norm", norm, on_step=False, on_epoch=True, batch_size=1)

    # ---- scoring

    def on_validation_epoch_start(self) -> None:
        self.collected = Answers()
        if not self.is_localiser:
            self.collected.timelines = Timelines([], [], [], [], self.classes, self.tokens_per_second)

    def on_test_epoch_start(self) -> None:
        self.on_validation_epoch_start()

    def validation_step(self, batch: SequenceBatch, batch_idx: int) -> None:
        output, truth = self.network(batch.features, lengths=batch.end), self.truth(batch)
        loss = float(torch.stack(list(self.network.losses(output, truth).values())).sum())
        grid = Grid.of(self.tokens_per_second)
        margin_s = Grid.of_record({**self.features_record, "tokens_per_second": self.tokens_per_second}).start_s
        for i, (id, rows) in enumerate(zip(batch.ids, self.network.events(output), strict=True)):
            end = int(batch.end[i])
            seconds = end / self.tokens_per_second
            self.collected.seconds[id], self.collected.losses[id] = seconds, loss
            self.collected.detections[id] = detections(rows, id, self.classes, grid, seconds, margin_s=margin_s)
            if self.collected.timelines is not None:
                assert truth.targets is not None
                timelines = self.collected.timelines
                timelines.ids.append(id)
                timelines.scores.append(output.scores[i, :end].float().cpu().numpy())
                timelines.targets.append(batch.targets[i, :end].float().cpu().numpy())
                timelines.ignore.append(batch.ignore[i, :end].cpu().numpy())
                self.collected.labels[id] = truth.targets[i, :end].argmax(1).cpu().numpy()

    def test_step(self, batch: SequenceBatch, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def true_events(self, ids: Iterable[str]) -> list[Any]:
        """Return the true events of the videos, ambiguous ones included; the takes of a paused video are videos."""
        among = set(ids)
        sequences = self.trainer.datamodule.found  # type: ignore[attr-defined]
        return [replace(e, video=s.id) for s in sequences if s.id in among for e in s.events]

    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking:
            return
        answers = gather(self.collected, joined)
        truth = self.true_events(answers.ids)
        figures = {"tiou_map": 0.0, "loss": float(np.mean([answers.losses[id] for id in answers.ids]))}
        if self.has_action(truth):
            figures["tiou_map"] = event_map(answers.events, truth, self.tiou, interpolated=True).mean
            choice = choose_min_score(answers.events, truth, F1_TIOU)
            self.min_score = round(choice.min_score, 6)
            num_events = counted(sum(event.label in self.classes for event in truth), "event")
            self.thresholds = {
                "words": f"events with a score from {self.min_score:.3g} are shown, chosen on {num_events} of "
                f"{counted(len(answers.ids), 'validation video')} (F1 {choice.f1:.3f})",
                "f1": choice.f1,
            }
        if not self.is_localiser:
            segments = segment_figures(answers.timelines, answers.labels)
            figures |= {name: value for name, value in segments.items() if name in self.validated}
        by = self.chosen_by
        figures["score"] = float(self.trainer.current_epoch) if by == LAST else score_of(figures, by)
        for name, value in figures.items():  # every process computed the same number from the same joined answers
            self.log(f"val_{name}", value, prog_bar=f"val_{name}" == by, rank_zero_only=False)

    def has_action(self, truth: Iterable[Any]) -> bool:
        """Return whether one of the events is of a class, and not ambiguous."""
        return any(event.label in self.classes for event in truth)

    def on_test_epoch_end(self) -> None:
        self.test_scores = gather(self.collected, joined)
        self.test_figures = self.figures(self.test_scores, self.true_events(self.test_scores.ids))
        notes = self.test_figures["verdict"], self.thresholds.get("words", "")
        self.remarks = [note for note in notes if note]
        for name, value in self.test_figures.items():
            if isinstance(value, float):
                self.log(f"test_{name}", value)

    def figures(self, answers: Answers, truth: list[Any]) -> dict[str, Any]:
        """Return the figures of ``answers`` and the true events of their videos; rates lie in 0…1."""
        figures: dict[str, Any] = {"verdict": ""}
        if answers.timelines is not None:
            figures |= segment_figures(answers.timelines, answers.labels)
            scores, targets, ignore = answers.timelines.joined()
            precision = frame_map(scores, targets, ignore, video_ids=answers.timelines.video_ids)
            figures |= {"map": precision.mean, "tokens_scored": precision.rows}
            figures |= token_figures(scores, targets, ignore, precision.mean, self.classes)
        if not self.has_action(truth):
            return figures  # the figures below need events
        shown = [event for event in answers.events if event.score >= self.min_score]
        f1 = event_f1(shown, truth, F1_TIOU)
        figures |= localisation_figures(answers.events, truth, self.classes, self.tiou)
        figures |= {
            "event_f1": f1.f1,
            "event_precision": f1.precision,
            "event_recall": f1.recall,
            "event_f1_always_on": event_f1(always_on(self.classes, answers.seconds), truth, F1_TIOU).f1,
            "events_true": f1.true,
            "events_found": len(shown),
            "false_alarms_per_hour": false_alarms_per_hour(shown, truth, sum(answers.seconds.values())),
            "diagnosis": diagnose(answers.events, truth, answers.seconds).figures(),
        }
        sequences = self.trainer.datamodule.found  # type: ignore[attr-defined]
        training = [event for sequence in sequences.split("train") for event in sequence.events]
        if self.has_action(training):
            blind = event_map(equal_events(training, self.classes, answers.seconds), truth, self.tiou).mean
            figures["event_map_blind"] = blind
            if figures["event_map"] <= blind:
                sentence = (
                    f"the event mAP ({figures['event_map']:.3f}) is no better than that of events of usual length side "
                    f"by side, whatever the video shows ({blind:.3f})"
                )
                figures["verdict"] = " and ".join(filter(None, (figures["verdict"], sentence)))
        return figures

    # ---- saving

    @staticmethod
    def section(data: Any) -> str:
        """Return the key of a test's figures in results.json."""
        return "test" if data.test_split == "test" else f"test on {data.test_split}"

    def save_scores(self, run: Path, data: Any) -> dict[str, Any]:
        """Write the tables of events, and a segmenter's timelines.npz, and return the facts beside the figures."""
        assert self.test_scores is not None
        begins = {sequence.id: (sequence.source, sequence.start_s) for sequence in data.found}
        for name, events in ((EVENTS, self.test_scores.events), (TRUE_EVENTS, self.true_events(self.test_scores.ids))):
            save_found(run / name, [_in_video(event, *begins[event.video]) for event in events])
        if self.test_scores.timelines is not None:
            self.test_scores.timelines.save(run / "timelines.npz")
        return {
            "kind": self.kind,
            "tokens_per_second": self.tokens_per_second,
            "min_score": self.min_score,
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
            kind=self.kind,
            decoding=asdict(self.network.decoding) if self.is_localiser else None,
            min_score=self.min_score,
            thresholds=dict(self.thresholds),
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["vidact"] = self.record.to_dict()
        if self.extractor_state:
            checkpoint["extractor"] = self.extractor_state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        refuse_what_does_not_fit(self, checkpoint)
        self.adopt(Record.from_dict(checkpoint.get("vidact") or {}, "the checkpoint"))

    def adopt(self, record: Record) -> None:
        """Take over what belongs to trained weights: which events are shown, and, unless set, the decoding."""
        if record.min_score is not None:
            self.min_score, self.thresholds = float(record.min_score), dict(record.thresholds or {})
        if record.decoding is not None and self.decoding is None and self.is_localiser:
            attach(self.network, decoding=Decoding(**record.decoding))


def _in_video(event: Any, video: str, start_s: float) -> Any:
    """Return an event of a sequence, which begins ``start_s`` into its video, in seconds of the video."""
    return replace(event, video=video, start_s=max(0.0, event.start_s + start_s), end_s=event.end_s + start_s)
