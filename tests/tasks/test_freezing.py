"""Parts that are frozen stay as they are, and everything else learns."""

from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from support.networks import CLIP_NETWORKS, skip_without_package
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import vidact.models
from vidact.data.clips import ClipData
from vidact.data.synthetic import write_clips
from vidact.models import frame_classifier, tsm_resnet_tiny
from vidact.tasks import ClipClassification
from vidact.tasks.freezing import Freeze, Unfreezing, allow_unused_parameters
from vidact.video import SegmentSampler

pytestmark = pytest.mark.usefixtures("without_pages")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    names = ["moving left", "moving right", "pulsing cross"]
    write_clips(folder, splits={"train": 2, "val": 1, "test": 1}, seed=0, classes=names)
    return folder


def clip_data(root: Path) -> ClipData:
    return ClipData(str(root), SegmentSampler(4), batch_size=2, num_workers=0)


def network(**options) -> nn.Module:
    torch.manual_seed(0)
    return tsm_resnet_tiny(3, weights=None, **{"size": 32, "width": 8, "dropout": 0.5, **options})


def trainer(run: Path, **options) -> pl.Trainer:
    return pl.Trainer(
        **{
            "default_root_dir": run, "accelerator": "cpu", "max_epochs": 2, "logger": False,
            "enable_progress_bar": False, "enable_checkpointing": False, "enable_model_summary": False,
            "use_distributed_sampler": False, "num_sanity_val_steps": 0, **options,
        }
    )  # fmt: skip


def frozen_names(network: nn.Module, freeze: str) -> set[str]:
    Freeze(network, freeze).apply()
    return {name for name, parameter in network.named_parameters() if not parameter.requires_grad}


# ---- which parts


def test_the_stages_of_a_resnet_are_its_layers() -> None:
    for number in range(1, 5):
        parts = [f"backbone.{part}." for part in ("conv1", "bn1", *(f"layer{i}" for i in range(1, number + 1)))]
        names = [name for name, _ in network().named_parameters()]
        expected = {name for name in names if name.startswith(tuple(parts))}
        assert frozen_names(network(), f"stage {number}") == expected
    assert frozen_names(network(), "backbone") == {name for name in names if not name.startswith("fc.")}
    assert frozen_names(network(), "none") == set()


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("tsn_mobilenet_v2", 19),
        ("tsm_efficientnet_b0", 9),
        ("gsm_bn_inception_tiny", 3),
        ("two_stream_resnet_tiny", 4),
        ("tdn_resnet_tiny", 4),
        ("tdn_mobilenet_v2", 19),
        ("r3d_18", 4),
        ("s3d", 12),
        ("swin3d_t", 7),
        ("mvit_v2_s", 16),
    ],
)
def test_a_stage_beyond_the_last_is_refused_with_their_number(name: str, most: int) -> None:
    with torch.device("meta"):
        made = getattr(vidact.models, name)(5, weights=None)
    names = frozen_names(made, f"stage {most}")
    assert names
    assert all("backbone." in name or "trunk." in name for name in names)
    for number in (0, most + 1):
        with pytest.raises(
            ValueError, match=rf"freeze is 'stage {number}', and {type(made).__name__} has the stages 1 to {most}\."
        ):
            Freeze(made, f"stage {number}")


class LastLayersFirst(nn.Module):
    """A network without a trunk, whose class makes its classifier before its blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.num_classes = 3
        self.hidden, self.fc = nn.Linear(8, 8), nn.Linear(8, 3)
        self.conv = nn.Linear(8, 8)
        self.blocks = nn.ModuleList([nn.ModuleList([nn.Linear(8, 8)]), nn.ModuleList([nn.Linear(8, 8)])])
        self.after = nn.Linear(8, 8)


def test_what_lies_before_the_classifier_in_a_class_is_no_stem() -> None:
    names = {"conv.weight", "conv.bias", "blocks.0.0.weight", "blocks.0.0.bias"}
    assert frozen_names(LastLayersFirst(), "stage 1") == names
    with pytest.raises(ValueError, match=r"has the stages 1 to 2\."):
        Freeze(LastLayersFirst(), "stage 3")


def test_other_choices_are_refused() -> None:
    with pytest.raises(ValueError, match=r"freeze is 'layer2'; it can be 'none', 'backbone' or 'stage N'"):
        ClipClassification(network(), freeze="layer2")
    with pytest.raises(ValueError, match=r"FrameClassifier has no backbone with stages\. It can be 'none' or 'backb"):
        Freeze(frame_classifier(3, 4), "stage 1")
    headless = network()
    headless.fc = nn.Identity()
    with pytest.raises(ValueError, match=r"TSM has no classifier apart from it: nothing would learn"):
        Freeze(headless, "backbone")


@pytest.mark.parametrize("freeze", ["backbone", "stage 1"])
@pytest.mark.parametrize(("name", "options"), CLIP_NETWORKS, ids=str)
def test_every_network_learns_behind_what_is_frozen(name: str, options: dict, freeze: str) -> None:
    """What frozen parts compute needs no gradient, changes no statistics, and all other parameters get gradients."""
    skip_without_package(name)
    torch.manual_seed(0)
    made = getattr(vidact.models, name)(num_classes=3, weights=None, **options)
    choice = Freeze(made.train(), freeze)
    choice.apply()
    results: list[Tensor] = []
    for part in (part for module in choice.modules for part in module.modules()):
        part.register_forward_hook(lambda module, inputs, output: results.append(output))
    before = {key: value.clone() for key, value in made.state_dict().items()}
    frames = made.input.frames or 4
    clip = torch.randn(2, frames, made.input.channels, made.input.size, made.input.size)
    made(clip).square().sum().backward()
    if freeze == "stage 1" and not name.startswith("tdn"):  # TDN adds the maps of its motion branch, which learns
        assert results
        assert not any(result.requires_grad for result in results if isinstance(result, Tensor))
    frozen = {id(parameter) for parameter in choice.parameters}
    for key, parameter in made.named_parameters():
        assert (parameter.grad is None) == (id(parameter) in frozen), key
    statistics = {
        f"{key}.{part}"
        for key, module in made.named_modules()
        if not module.training
        for part in ("running_mean", "running_var")
    }
    assert all(torch.equal(before[key], value) for key, value in made.state_dict().items() if key in statistics)


# ---- training


class Modes(pl.Callback):
    """The modes of all modules while a batch is trained on."""

    def __init__(self) -> None:
        self.modes: list[dict[str, bool]] = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        self.modes.append({name: part.training for name, part in module.network.named_modules()})


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize(("freeze", "free"), [("backbone", ("fc",)), ("stage 3", ("fc", "backbone.layer4"))])
def test_frozen_parts_stay_and_the_rest_learns(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture, freeze: str, free: tuple[str, ...], mode: bool
) -> None:
    """Also through validations inside an epoch, with averaged weights and decay, whatever the mode before."""
    task = ClipClassification(network(), freeze=freeze, ema=0.5).train(mode)
    before = {key: value.clone() for key, value in task.network.state_dict().items()}
    modes = Modes()
    fitting = trainer(tmp_path, callbacks=[modes], val_check_interval=1)
    fitting.fit(task, clip_data(root))
    assert {key for key, value in task.network.state_dict().items() if not torch.equal(before[key], value)} == {
        key for key in before if key.startswith(free)
    }
    optimized = {id(value) for group in fitting.optimizers[0].param_groups for value in group["params"]}
    assert optimized == {id(value) for key, value in task.network.named_parameters() if key.startswith(free)}
    assert len(modes.modes) == 6
    for modules in modes.modes:
        assert modules["dropout"], "the dropout before the classifier belongs to what learns"
        norms = {name: training for name, training in modules.items() if "bn" in name}
        assert norms == {name: name.startswith(free) for name in norms}
    learning = sum(value.numel() for key, value in task.network.named_parameters() if key.startswith(free))
    total = sum(value.numel() for value in task.network.parameters())
    assert (
        f"freeze is {freeze}: {total - learning:,} parameters of TSM stay, {learning:,} learn"
        in capsys.readouterr().out
    )


def test_a_resumed_training_ends_as_the_whole_one(root: Path, tmp_path: Path) -> None:
    def fit(epochs: int, name: str, path: Path | None = None) -> ClipClassification:
        pl.seed_everything(0, verbose=False)
        task = ClipClassification(network(), freeze="stage 2")
        fitting = trainer(tmp_path, max_epochs=epochs)
        fitting.fit(task, clip_data(root), ckpt_path=path)
        fitting.save_checkpoint(tmp_path / name)
        return task

    whole = fit(2, "whole.ckpt")
    fit(1, "part.ckpt")
    parts = fit(2, "parts.ckpt", tmp_path / "part.ckpt")
    for key, value in whole.network.state_dict().items():
        assert torch.equal(value, parts.network.state_dict()[key]), key
    with pytest.raises(ValueError, match=r"Resume with the model\.groups, model\.freeze, model\.unfreeze, model\."):
        trainer(tmp_path).fit(ClipClassification(network()), clip_data(root), ckpt_path=tmp_path / "part.ckpt")


def test_two_rules_of_what_learns_are_refused(root: Path, tmp_path: Path) -> None:
    task = ClipClassification(network(), freeze="backbone")
    callback = pl.callbacks.BackboneFinetuning(unfreeze_backbone_at_epoch=1)
    with pytest.raises(
        ValueError, match=r"model\.freeze is 'backbone', and Lightning's BackboneFinetuning decides, too"
    ):
        trainer(tmp_path, callbacks=[callback]).fit(task, clip_data(root))


# ---- parts that learn later


@pytest.mark.parametrize(
    ("freeze", "epochs", "choices"),
    [
        ("backbone", [3], ["backbone", "none"]),
        ("backbone", [2, 4], ["backbone", "stage 2", "none"]),
        ("backbone", [2, 3, 7], ["backbone", "stage 3", "stage 2", "none"]),
        ("backbone", [2, 3, 4, 5], ["backbone", "stage 3", "stage 2", "stage 1", "none"]),
        ("stage 3", [2, 4], ["stage 3", "stage 2", "none"]),
        ("stage 1", [5], ["stage 1", "none"]),
    ],
)
def test_the_last_stages_learn_first(freeze: str, epochs: list[int], choices: list[str]) -> None:
    made = network()
    plan = Unfreezing(made, freeze, epochs)
    assert [plan.at(epoch).choice for epoch in [1, *epochs]] == choices
    assert [plan.at(epoch - 1).choice for epoch in epochs] == choices[:-1]
    assert plan.at(99).choice == "none"
    before: set[str] | None = None
    for epoch in [1, *epochs]:
        plan.apply(epoch)
        frozen = {name for name, value in made.named_parameters() if not value.requires_grad}
        assert before is None or frozen < before
        before = frozen
    assert before == set()


def test_plans_that_cannot_be_followed_are_refused() -> None:
    for epochs in ([1], [3, 3], [5, 2], [0], [-1]):
        with pytest.raises(ValueError, match=r"unfreeze is \[.+\]; give epochs in rising order, from 2"):
            ClipClassification(network(), freeze="backbone", unfreeze=epochs)
    with pytest.raises(ValueError, match=r"unfreeze is \[3\], and freeze is none, so that nothing is frozen at first"):
        ClipClassification(network(), unfreeze=[3])
    with pytest.raises(ValueError, match=r"5 epochs, and TSM has 4 frozen stages; give at most 4"):
        ClipClassification(network(), freeze="backbone", unfreeze=[2, 3, 4, 5, 6])
    with pytest.raises(ValueError, match=r"2 epochs, and TSM has 1 frozen stages; give at most 1"):
        ClipClassification(network(), freeze="stage 1", unfreeze=[2, 3])


def test_only_ddp_changes_what_processes_exchange() -> None:
    together = SimpleNamespace(world_size=2, strategy=pl.strategies.SingleDeviceStrategy("cpu"))
    with pytest.raises(ValueError, match=r"model\.unfreeze changes what learns, and SingleDeviceStrat"):
        allow_unused_parameters(together)
    together.strategy = pl.strategies.DDPStrategy()
    allow_unused_parameters(together)
    assert together.strategy._ddp_kwargs == {"find_unused_parameters": True}


class Changes(pl.Callback):
    """Which parameters changed in each epoch, and which norms updated their statistics."""

    def __init__(self) -> None:
        self.changed: list[set[str]] = []

    def on_train_epoch_start(self, trainer, module) -> None:
        self.before = {key: value.clone() for key, value in module.network.state_dict().items()}

    def on_train_epoch_end(self, trainer, module) -> None:
        now = module.network.state_dict()
        self.changed.append({key for key, value in self.before.items() if not torch.equal(value, now[key])})


def test_parts_learn_from_their_epoch_on(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """With averaged weights, clipping, decay, and norms of the trunk that are frozen for good."""
    changes = Changes()
    task = ClipClassification(
        network(), lambda params: torch.optim.AdamW(params, lr=0.01, weight_decay=0.1), freeze="backbone",
        unfreeze=[2, 3], ema=0.5, freeze_norms="partial",
    )  # fmt: skip
    fitting = trainer(tmp_path, callbacks=[changes], max_epochs=3, gradient_clip_val=0.5)
    fitting.fit(task, clip_data(root))
    parts = [("fc",), ("fc", "backbone.layer3", "backbone.layer4"), ("fc", "backbone")]
    frozen_norms = {
        f"{name}." for name, part in list(task.network.named_modules())
        if isinstance(part, nn.BatchNorm2d) and name != "backbone.bn1"
    }  # fmt: skip
    for changed, learning in zip(changes.changed, parts, strict=True):
        assert changed == {
            key for key in task.network.state_dict()
            if key.startswith(learning) and not key.startswith(tuple(frozen_norms))
        }  # fmt: skip
    printed = capsys.readouterr().out
    total = sum(value.numel() for value in task.network.parameters())
    fc = sum(value.numel() for value in task.network.fc.parameters())
    assert f"epoch 1: freeze is backbone: {total - fc:,} parameters of TSM stay, {fc:,} learn" in printed
    assert "epoch 2: freeze is stage 2:" in printed
    assert "epoch 3: freeze is none:" in printed


class Saves(pl.callbacks.Checkpoint):
    """A checkpoint after the first epoch, while parts are frozen that the second one frees, and inside the second."""

    def on_train_epoch_end(self, trainer, module) -> None:
        if trainer.current_epoch == 0:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "between.ckpt")

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        if (trainer.current_epoch, batch_idx) == (1, 0):
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "inside.ckpt")


@pytest.mark.parametrize("place", ["between", "inside"])
def test_a_resumed_training_unfreezes_as_the_whole_one(root: Path, tmp_path: Path, place: str) -> None:
    def fit(path: Path | None = None, **options) -> tuple[dict[str, Tensor], list]:
        pl.seed_everything(0, verbose=False)
        task = ClipClassification(
            network(), lambda params: torch.optim.AdamW(params, lr=0.01), freeze="backbone", unfreeze=[2, 3], ema=0.5
        )
        fitting = trainer(tmp_path, max_epochs=3, **options)
        fitting.fit(task, clip_data(root), ckpt_path=path)
        return task.state_dict(), tree_leaves(fitting.optimizers[0].state_dict())

    whole, momenta = fit(callbacks=[Saves()], enable_checkpointing=True)
    resumed, resumed_momenta = fit(tmp_path / f"{place}.ckpt")
    assert [key for key in whole if not torch.equal(whole[key], resumed[key])] == []
    assert len(momenta) == len(resumed_momenta)
    for mine, other in zip(momenta, resumed_momenta, strict=True):
        assert torch.equal(mine, other) if isinstance(mine, Tensor) else mine == other
