"""A network that cannot learn is noticed at its first batch or before it, with what to do."""

from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from vidact.data.clips import ClipData
from vidact.data.synthetic import write_clips
from vidact.models import tsm_mobilenet_v2, tsm_resnet_tiny
from vidact.tasks import ClipClassification, Schedule
from vidact.tasks.learning import refuse_folded_norms
from vidact.training.run import train
from vidact.video import SegmentSampler

pytestmark = pytest.mark.usefixtures("without_pages")

NAMES = ["moving left", "moving right", "pulsing cross"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder, splits={"train": 2, "val": 1, "test": 1}, seed=0, classes=NAMES)
    return folder


def network(**options) -> nn.Module:
    torch.manual_seed(0)
    return tsm_resnet_tiny(num_classes=3, weights=None, **{"size": 32, "width": 8, **options})


def fold(module: nn.Module) -> nn.Module:
    """As converters to integers do: the norm's scale goes into the convolution, its shift stays."""
    convs = [part for part in module.modules() if isinstance(part, nn.Conv2d)]
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    with torch.no_grad():
        for conv, norm in zip(convs, norms, strict=False):
            norm.bias.copy_(torch.linspace(-5, 5, len(norm.bias)))
            norm.running_mean.copy_(torch.linspace(-1, 1, len(norm.bias)))
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            if len(conv.weight) == len(scale):
                conv.weight.mul_(scale[:, None, None, None])
            norm.bias.sub_(norm.running_mean * scale)
            norm.weight.fill_(1)
            norm.running_mean.zero_()
            norm.running_var.fill_(1)
    return module


def fit(root: Path, run: Path, task: ClipClassification, data: pl.LightningDataModule | None = None, **options) -> None:
    trainer = pl.Trainer(
        **{
            "default_root_dir": run, "accelerator": "cpu", "max_epochs": 1, "logger": False,
            "enable_progress_bar": False, "enable_checkpointing": False, "enable_model_summary": False,
            "use_distributed_sampler": False, "num_sanity_val_steps": 0, **options,
        }
    )  # fmt: skip
    trainer.fit(task, data or ClipData(str(root), SegmentSampler(4), batch_size=6, num_workers=0))


# ---- folded norms


def test_folded_norms_that_would_be_normalised_anew(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"keep mean 0 and variance 1.*folded.*--model\.freeze_norms all"):
        fit(root, tmp_path, ClipClassification(fold(network())))
    for which in ("all", "partial"):
        fit(root, tmp_path, ClipClassification(fold(network()), freeze_norms=which))
    fit(root, tmp_path, ClipClassification(fold(network()), freeze="backbone"))


def test_norms_that_are_not_folded_are_let_alone(root: Path) -> None:
    refuse_folded_norms(network())  # fresh: mean 0 and variance 1, and no shift
    trained = network().train()
    trained(torch.randn(2, 4, 3, 32, 32))
    for norm in (part for part in trained.modules() if isinstance(part, nn.BatchNorm2d)):
        nn.init.normal_(norm.bias)
    refuse_folded_norms(trained)
    refuse_folded_norms(nn.Linear(2, 2))


def test_the_imagenet_weights_of_an_integer_network(shared_data: Path) -> None:
    made = tsm_mobilenet_v2(10, weights=str(shared_data / "weights/mobilenet_v2_imagenet.safetensors"), size=112)
    with pytest.raises(ValueError, match="52 of 52"):
        refuse_folded_norms(made)


# ---- anything else that does not learn


def test_a_rate_of_nothing(root: Path, tmp_path: Path) -> None:
    task = ClipClassification(network(), lambda params: torch.optim.SGD(params, lr=0.0))
    with pytest.raises(ValueError, match=r"optimizer's lr is 0"):
        fit(root, tmp_path, task)
    warm = Schedule(warmup_epochs=1, warmup_start=0.0)  # which begins at a rate of 0 and leaves it
    fit(root, tmp_path, ClipClassification(network(), schedule=warm))


def test_nothing_that_learns(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no parameter of TSM learns: all are frozen"):
        fit(root, tmp_path, ClipClassification(network().requires_grad_(False)))


class Deaf(nn.Module):
    """Its answer does not depend on what it learns."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()
        self.num_classes, self.input = 3, self.inner.input

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        return self.inner(clip) * 0.0


def test_gradients_that_are_all_zero(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"all gradients of the first batch are zero"):
        fit(root, tmp_path, ClipClassification(Deaf()))


def test_a_head_that_begins_at_zero_may_learn(root: Path, tmp_path: Path) -> None:
    """Then all other gradients are zero, for one step."""
    made = network()
    nn.init.zeros_(made.fc.weight)
    nn.init.zeros_(made.fc.bias)
    fit(root, tmp_path, ClipClassification(made))


def test_weights_that_are_no_numbers(root: Path, tmp_path: Path) -> None:
    made = network()
    with torch.no_grad():
        made.fc.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"loss of the first batch is nan.*the weights of network\.fc\.weight"):
        fit(root, tmp_path, ClipClassification(made))


def test_weights_that_become_no_numbers(root: Path, tmp_path: Path) -> None:
    task = ClipClassification(network(), lambda params: torch.optim.SGD(params, lr=1e30))
    with pytest.raises(ValueError, match=r"in epoch 1 the weights became nan or infinite.*smaller learning rate"):
        fit(root, tmp_path, task, ClipData(str(root), SegmentSampler(4), batch_size=2, num_workers=0), max_epochs=3)


def test_the_same_features_for_every_clip_are_told(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = "what the classifier sees of the 6 clips of the first batch is the same"
    fit(root, tmp_path, ClipClassification(network()))
    assert words not in capsys.readouterr().out
    made = network()
    for norm in (part for part in made.modules() if isinstance(part, nn.BatchNorm2d)):
        nn.init.zeros_(norm.weight)
        nn.init.ones_(norm.bias)
    fit(root, tmp_path, ClipClassification(made))
    assert words in capsys.readouterr().out


def test_a_batch_without_a_label_is_no_sign(noise_sequences: Path, tmp_path: Path) -> None:
    """A detector's window may be all ambiguous; it teaches nothing, and the next one does."""
    import re
    import shutil

    shutil.copytree(noise_sequences, tmp_path / "a")
    table = tmp_path / "a/events.csv"
    table.write_text(re.sub(r"^a,.*\n", "", table.read_text(), flags=re.M) + "a,0,20,ambiguous\na,30,33,x\n")
    run = train([
        "--config", "online/fir/frame_classifier", f"--data.root={tmp_path / 'a'}", "--device=cpu",
        "--data.batch_size=1", "--data.window=8", "--trainer.max_epochs=1", f"--run={tmp_path / 'run'}",
    ])  # fmt: skip
    assert (run / "checkpoints/best.ckpt").is_file()
