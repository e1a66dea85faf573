"""Train and score a clip network: the loss, the papers' recipes, and scores joined by video.

Shapes: B videos, V views, T frames, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torchvision import tv_tensors
from torchvision.transforms import v2

from vidact.batch import ClipBatch, probabilities
from vidact.files import write_json
from vidact.metrics import mean_average_precision, mean_class_accuracy, topk_accuracy
from vidact.models.backbones import channels_last, set_gradient_checkpointing
from vidact.models.weights import initialise_from, recipe_of
from vidact.records import Record
from vidact.results.scores import PROBE_SCORES, Scores, load_scores
from vidact.tasks import keeping
from vidact.tasks.freezing import Unfreezing, allow_unused_parameters, freeze_norms
from vidact.tasks.keeping import refuse_callbacks
from vidact.tasks.learning import refuse_folded_norms
from vidact.tasks.resuming import callbacks_of, refuse_what_does_not_fit
from vidact.tasks.schedules import ParameterGroups, Schedule
from vidact.tasks.stages import backbone, head_names
from vidact.tasks.training import (
    MakesOptimizer,
    compiled,
    explain_compiler_errors,
    gather,
    gradient_norm,
    make_callbacks,
    make_optimization,
)
from vidact.text.names import counted

VERDICTS = ("verdict", "probe_verdict")  # figures that are sentences, where a test is no better than a yardstick


def default_optimizer(params: Iterable[Any]) -> Optimizer:
    """Return SGD with the default settings of a recogniser."""
    return torch.optim.SGD(params, lr=0.01, momentum=0.9, weight_decay=5e-4)


class ClipClassification(pl.LightningModule):
    """Learns to name the action of a clip.

    Args:
        network: a clip network of ``vidact.models``.
        optimizer: for example torch.optim.SGD with its arguments; its lr is meant for ``base_batch`` videos a step.
        schedule: the learning rate over time.
        groups: which parameters learn faster or do not decay.
        base_batch: videos a step (all devices and accumulation together) for which the lr was chosen; the lr is scaled
            by the real number over this one. None takes the lr as it is.
        init_from: what `vidact predict` takes as a checkpoint, to start from; of the head, the rows of
            classes that both name are kept, and tensors that do not fit are listed and start fresh.
        freeze: parts that do not learn and stay in evaluation mode (norms, dropout): none; backbone, everything except
            the classifiers; stage N, such as "stage 2", the first N stages of the backbone and all before them.
        unfreeze: epochs, counted from 1, from which parts that ``freeze`` names learn after all: with [4, 7] the later
            half of the frozen stages from epoch 4, and everything from epoch 7.
        freeze_norms: batch norms that keep their statistics and do not learn: none, all but the first, or all.
        label_smoothing: 0…1, share of the target that is spread over all classes.
        mixup: alpha of MixUp, 0 is off.
        cutmix: alpha of CutMix, 0 is off; with both on, each batch takes one of them.
        weigh_classes: weigh the loss by the inverse frequency of each class in the training split.
        ema: decay of an exponential moving average of the weights, used for validation, test and the saved weights.
        checkpoint_blocks: recompute each block in the backward pass: less memory, about a third slower.
        compile: torch.compile of the network for training batches of data.batch_size: never; gpu, where training runs
            on CUDA and nowhere else; always, on a CPU too. The first step takes a minute or more; scoring and whatever
            is saved stay as they are.
        tf32: let CUDA round the factors of single-precision matrix products to TF32's 10 bits while training.
            (PyTorch does so in convolutions anyway; mixed precision has few such products.)
        early_stopping: end after this many epochs without a better validation score.
        average: what is averaged over the views of a video.
        views_at_once: views that go through the network together at test; fewer need less memory.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Callable[[Iterable[Any]], Optimizer] = default_optimizer,
        schedule: Schedule = Schedule(),  # noqa: B008  (a frozen value)
        groups: ParameterGroups = ParameterGroups(),  # noqa: B008
        base_batch: int | None = None,
        init_from: str | None = None,
        freeze_norms: Literal["none", "partial", "all"] = "none",
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        weigh_classes: bool = False,
        ema: float | None = None,
        checkpoint_blocks: bool = False,
        early_stopping: int | None = None,
        average: Literal["logits", "softmax"] = "logits",
        views_at_once: int = 32,
        compile: Literal["never", "gpu", "always"] = "never",
        tf32: bool = False,
        freeze: str = "none",
        unfreeze: list[int] | None = None,
    ) -> None:
        super().__init__()
        self.network: Any = network
        self.make_optimizer = MakesOptimizer(optimizer)
        self.schedule, self.groups, self.base_batch, self.init_from = schedule, groups, base_batch, init_from
        self.norms, self.label_smoothing, self.weigh_classes = freeze_norms, label_smoothing, weigh_classes
        self.frozen = Unfreezing(network, freeze, unfreeze or [])
        self.described = "none"  # the frozen parts that were printed last
        self.ema, self.early_stopping = ema, early_stopping
        self.average, self.views_at_once = average, views_at_once
        if compile not in ("never", "gpu", "always"):
            raise ValueError(f"compile is {compile!r}; it can be 'never', 'gpu' or 'always'")
        self.compile_where, self.tf32 = compile, tf32
        self.compiled: Callable[[Tensor], Tensor] | None = None  # training calls it instead of the network
        num_classes = network.num_classes
        mixes = [
            mix(alpha=alpha, num_classes=num_classes)
            for mix, alpha in ((v2.MixUp, mixup), (v2.CutMix, cutmix))
            if alpha
        ]
        self.mix = v2.RandomChoice(mixes) if mixes else None
        set_gradient_checkpointing(network, "block" if checkpoint_blocks else "none")
        self.classes: list[str] = []
        self.chosen_by = "val_top1"  # the figure by which the best epoch is chosen
        self.multi_label = False
        self.sampling: dict[str, Any] | None = None
        self.flow: dict[str, Any] | None = None
        self.skipped: dict[str, str] = {}  # videos that could not be read in training: id → reason
        self.excluded: dict[str, str] = {}  # videos that could not be read in validation and test
        self.collected: list[tuple[str, np.ndarray, np.ndarray]] = []  # id, score (K,), target
        self.test_scores: Scores | None = None
        self.remarks: list[str] = []  # notes that are printed with the figures of a test
        self.register_buffer("class_weights", None, persistent=False)

    # ---- setting up

    def setup(self, stage: str) -> None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if stage == "fit":
            refuse_callbacks(self.trainer)
            keeping.refuse_no_test(data, self.trainer.limit_test_batches)
        self.classes, self.multi_label = data.found.classes, data.found.multi_label
        self.sampling, self.flow = data.sampler.record(), data.flow_record
        if len(self.classes) != self.network.num_classes:
            raise ValueError(
                f"model.network.num_classes is {self.network.num_classes}, but {data.root} has {len(self.classes)} "
                f"classes ({', '.join(self.classes[:5])}{', …' if len(self.classes) > 5 else ''}). "
                f"Set num_classes to {len(self.classes)}, or to 0 to take it from the data."
            )
        self.chosen_by = "val_map" if self.multi_label else "val_top1"
        if stage == "fit" and 0 < (num := keeping.num_validated(self.trainer)) < keeping.FEW_CLIPS:
            self.chosen_by = "val_loss"
            if self.trainer.is_global_zero:
                print(
                    f"{counted(num, 'validation clip is', 'validation clips are')} too few to choose an epoch by "
                    + ("mAP" if self.multi_label else f"accuracy, of which one is {100 / num:.1f} points")
                    + ": the one with the smallest validation loss counts as the best"
                )
        if self.multi_label and self.mix:
            raise ValueError("mixup and cutmix need one label a clip; this data has several: set both to 0")
        if self.weigh_classes:
            self.class_weights = torch.as_tensor(data.class_weights, dtype=torch.float32, device=self.device)
        if stage == "fit" and self.init_from and not self.trainer.ckpt_path:
            initialise_from(self.network, self.init_from, self.classes, head_names(self.network))
        if stage == "fit":
            self.set_frozen()  # before the optimiser collects the trainable parameters
        device = self.trainer.strategy.root_device  # Lightning moves the network there later
        channels_last(self.network, device)  # a step on a CPU is a fifth to a third quicker
        self.compiled = self.make_compiled(device) if stage == "fit" else None

    def set_frozen(self) -> None:
        """Freeze the parts of ``freeze`` and ``freeze_norms``, but for those that ``unfreeze`` lets learn later."""
        choice = self.frozen.first.choice
        if choice != "none" and callbacks_of(self.trainer, pl.callbacks.BaseFinetuning):
            raise ValueError(
                f"model.freeze is {choice!r}, and Lightning's BackboneFinetuning decides, too, which parts learn. "
                "Leave one of them out"
            )
        if len(self.frozen.choices) > 1:
            allow_unused_parameters(self.trainer)
        self.described = "none"
        self.frozen.choices[-1].apply()
        self.frozen.release()
        if self.norms == "none" and not self.trainer.ckpt_path:
            refuse_folded_norms(self.network)
        freeze_norms(self.network, self.norms)

    def make_compiled(self, device: torch.device) -> Callable[[Tensor], Tensor] | None:
        """Return the compiled forward pass, or None without one; print why unless model.compile is never."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        videos = -(-len(data.sets["train"]) // self.trainer.world_size)
        reason = None
        if self.compile_where == "never":
            return None
        if self.compile_where == "gpu" and device.type != "cuda":
            reason = f"model.compile is gpu and training runs on {device.type}"
        elif videos < data.batch_size:
            reason = f"model.compile is {self.compile_where} and {videos} videos make no batch of {data.batch_size}"
        if reason is None:
            # Compilations of networks that trained before in this process would count towards PyTorch's limit.
            torch.compiler.reset()
            return compiled(self.network, data.batch_size)
        if self.trainer.is_global_zero:
            print(f"{reason}: the network is not compiled")
        return None

    @property
    def backbone(self) -> torch.nn.ModuleList:
        """The modules that Lightning's BackboneFinetuning freezes first."""
        return backbone(self.network)

    @property
    def validated(self) -> tuple[str, ...]:
        """The names of the figures of validation, for these data."""
        clips = self.trainer.datamodule.found  # type: ignore[attr-defined]
        return ("map", "loss") if clips.multi_label else ("top1", "top5", "mean_class_accuracy", "loss")

    @property
    def trained(self) -> tuple[str, ...]:
        """The names of the figures of training; mixed clips have no single label and so no accuracy."""
        return ("loss",) if self.trainer.datamodule.found.multi_label or self.mix else ("loss", "top1")  # type: ignore[attr-defined]

    def configure_callbacks(self) -> list[pl.Callback]:
        return make_callbacks(self.ema, self.early_stopping, self.tf32)

    def configure_optimizers(self) -> Any:
        return make_optimization(
            self.trainer, self.network, self.make_optimizer, self.groups, self.schedule, self.base_batch
        )

    def set_modes(self, epoch: int) -> None:
        """Set the modes for training in an epoch, counted from 1, in which parts may be frozen.

        Lightning's fit does not set them, and ``train()`` itself is not overridden.
        """
        self.train()
        frozen = self.frozen.apply(epoch)
        freeze_norms(self.network, self.norms)
        if frozen.choice != self.described and self.trainer.is_global_zero:
            when = f"epoch {epoch}: " if self.frozen.epochs[1:] else ""
            print(f"{when}{frozen.describe(self.network)}", flush=True)
        self.described = frozen.choice

    def on_fit_start(self) -> None:
        self.train()

    def on_train_start(self) -> None:
        self.set_modes(self.trainer.current_epoch + 1)  # at on_fit_start it is not yet the one that a run resumes in

    def on_train_epoch_start(self) -> None:
        self.set_modes(self.trainer.current_epoch + 1)
        self.skipped.clear()

    # ---- training

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        self.skipped |= batch.skipped
        if len(batch) == 0:  # no video was readable; every process must still take part in the backward pass
            learning = [parameter.sum() * 0 for parameter in self.network.parameters() if parameter.requires_grad]
            return torch.stack(learning).sum()
        clips, targets = batch.clips.flatten(0, 1), batch.targets  # V is 1
        if self.mix:
            clips, targets = self.mix(tv_tensors.Video(clips), targets)
            clips = clips.as_subclass(Tensor)
        logits = (self.compiled or self.network)(clips).float()
        loss = self.loss(logits, targets)
        figures = {"train_loss": loss}
        if targets.ndim == 1:
            figures["train_top1"] = (logits.argmax(1) == targets).float().mean()
        self.log_dict(figures, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(batch), sync_dist=True)
        return loss

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy for class indices (B,) or mixed ones (B, K), binary for multi-label (B, K)."""
        if self.multi_label:
            smooth = targets * (1 - self.label_smoothing) + self.label_smoothing / 2
            return F.binary_cross_entropy_with_logits(logits, smooth, weight=self.class_weights)
        return F.cross_entropy(logits, targets, weight=self.class_weights, label_smoothing=self.label_smoothing)

    def backward(self, loss: Tensor, *args: Any, **options: Any) -> None:
        if self.compiled is None:
            return super().backward(loss, *args, **options)
        with explain_compiler_errors(self.network, loss.device):
            super().backward(loss, *args, **options)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        if (norm := gradient_norm(self.network)) is not None:
            self.log("grad_norm", norm, on_step=False, on_epoch=True, batch_size=1)

    def on_train_epoch_end(self) -> None:
        skipped = gather(self.skipped, lambda parts: {k: v for part in parts for k, v in part.items()})
        if not skipped:
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        total = len(data.sets["train"])
        report = Path(self.trainer.default_root_dir) / "unreadable.json"
        if self.trainer.is_global_zero:
            write_json(report, {"split": "train", "videos": total, "skipped": skipped})
        message = f"{len(skipped)} of {counted(total, 'training video')} could not be read; {report} names them"
        if len(skipped) > data.max_unreadable * total:
            first, reason = next(iter(skipped.items()))
            raise ValueError(
                f"{message}. data.max_unreadable allows {data.max_unreadable:.0%}. The first is {first}: {reason}"
            )
        if self.trainer.is_global_zero:
            print(message)

    # ---- scoring

    def scores(self, clips: Tensor) -> Tensor:
        """Return one score a class (B, K) of clips (B, V, T, C, H, W), averaged over the views."""
        views = torch.cat([self.network(part).float() for part in clips.flatten(0, 1).split(self.views_at_once)])
        if self.average == "softmax":
            views = probabilities(views, "sigmoid" if self.multi_label else "softmax")
        return views.unflatten(0, clips.shape[:2]).mean(1)

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> None:
        self.excluded |= batch.skipped
        if len(batch):
            scores = self.scores(batch.clips).cpu().numpy()
            self.collected += zip(batch.ids, scores, batch.targets.cpu().numpy(), strict=True)

    def test_step(self, batch: ClipBatch, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def on_validation_epoch_start(self) -> None:
        self.collected.clear()
        self.excluded.clear()

    def on_test_epoch_start(self) -> None:
        self.on_validation_epoch_start()

    def joined(self, views: str) -> Scores:
        """Return the scores of all processes, one row a video, sorted by id: the same for any number of processes."""
        rows = gather(self.collected, lambda parts: [row for part in parts for row in part])
        by_id = {id: (score, target) for id, score, target in rows}
        ids = sorted(by_id)
        if not ids:
            raise ValueError(
                f"no video of the split could be read: {len(self.excluded)} were skipped, "
                f"such as {next(iter(self.excluded.items()), ('none', ''))}"
            )
        return Scores(
            ids=ids,
            labels=np.stack([by_id[id][1] for id in ids]),
            values=np.stack([by_id[id][0] for id in ids]).astype(np.float32),
            classes=self.classes,
            kind=self.average,
            views=views,
        )

    def figures(self, scores: Scores) -> dict[str, Any]:
        """Return the figures of ``scores``; rates lie in 0…1."""
        labels, values = torch.from_numpy(scores.labels), torch.from_numpy(scores.values)
        if self.multi_label:
            figures = {"map": mean_average_precision(scores.values, scores.labels)}
        else:
            figures = {
                "top1": topk_accuracy(scores.values, scores.labels, 1),
                "top5": topk_accuracy(scores.values, scores.labels, 5),
                "mean_class_accuracy": mean_class_accuracy(scores.values, scores.labels),
            }
        if self.average == "logits":
            loss = F.binary_cross_entropy_with_logits if self.multi_label else F.cross_entropy
            figures["loss"] = float(loss(values, labels))
        elif self.multi_label:  # the values are probabilities
            figures["loss"] = float(F.binary_cross_entropy(values.double(), labels.double()))
        else:
            figures["loss"] = float(F.nll_loss(values.double().clamp(min=1e-12).log(), labels))
        return figures

    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking:
            return
        figures = self.figures(self.joined("1x1"))
        figures["score"] = keeping.score_of(figures, self.chosen_by)
        for name, value in figures.items():  # every process computed the same number from the same joined scores
            self.log(f"val_{name}", value, prog_bar=name in ("top1", "map"), rank_zero_only=False)

    def on_test_epoch_end(self) -> None:
        self.excluded = gather(self.excluded, lambda parts: {k: v for part in parts for k, v in part.items()})
        self.test_scores = self.joined(self.trainer.datamodule.views)  # type: ignore[attr-defined]
        self.test_figures = self.figures(self.test_scores) | self.test_scores.beside_yardsticks()
        probe = Path(self.trainer.default_root_dir) / PROBE_SCORES
        if probe.is_file():
            self.test_figures |= self.test_scores.beside_probe(load_scores(probe))
        self.remarks = [self.test_figures[name] for name in VERDICTS if self.test_figures.get(name)]
        for name, value in self.test_figures.items():
            if isinstance(value, float):
                self.log(f"test_{name}", value)

    # ---- saving

    @staticmethod
    def section(data: Any) -> str:
        """Return the key, in results.json, of the figures of a test with the data's views."""
        return "test" if data.views == "1x1" else f"test {data.views}"

    def save_scores(self, run: Path, data: Any) -> dict[str, Any]:
        """Write scores.npz and return the facts that results.json holds beside the figures."""
        assert self.test_scores is not None
        paths = {clip.id: str(clip.path) for clip in data.found}
        scores = replace(self.test_scores, paths=[paths[id] for id in self.test_scores.ids])
        scores.save(run / "scores.npz")
        return {
            "views": data.views,
            "average": self.average,
            "excluded": len(self.excluded),
            "unreadable": self.excluded,
        }

    @property
    def record(self) -> Record:
        """The record of a checkpoint; ``vidact.load`` needs nothing else."""
        return Record(
            recipe=recipe_of(self.network),
            input=self.network.input.as_dict(),
            classes=list(self.classes),
            sampling=self.sampling,
            multi_label=self.multi_label,
            flow=self.flow,
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["vidact"] = self.record.to_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        refuse_what_does_not_fit(self, checkpoint)
