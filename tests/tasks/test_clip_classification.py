"""Training and scoring a clip network through Lightning, at toy size."""

from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import nn

import vidact
from vidact.data.clips import ClipData
from vidact.data.synthetic import write_clips
from vidact.models import tsm_resnet_tiny, tsn_resnet_tiny
from vidact.tasks import ClipClassification, Schedule
from vidact.video import SegmentSampler

pytestmark = pytest.mark.usefixtures("without_pages")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder, splits={"train": 1, "val": 1, "test": 1}, seed=0)
    return folder


def clip_data(root: Path, **options) -> ClipData:
    return ClipData(str(root), SegmentSampler(4), **{"batch_size": 6, "num_workers": 0, **options})


def network(root: Path, **options) -> nn.Module:
    return tsm_resnet_tiny(num_classes=len(clip_data(root).found.classes), weights=None, size=32, **options)


def trainer(run: Path, **options) -> pl.Trainer:
    return pl.Trainer(
        **{
            "default_root_dir": run, "accelerator": "cpu", "max_epochs": 1, "logger": False,
            "enable_progress_bar": False, "enable_checkpointing": False, "enable_model_summary": False,
            "use_distributed_sampler": False, "num_sanity_val_steps": 0, **options,
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        {"label_smoothing": 0.1, "mixup": 0.2, "cutmix": 1.0},
        {"weigh_classes": True, "checkpoint_blocks": True},
        {"ema": 0.9, "average": "softmax", "schedule": Schedule("cosine", warmup_epochs=0.5)},
        {"freeze_norms": "partial"},
    ],
    ids=lambda options: "+".join(options),
)
def test_every_option_trains(root: Path, tmp_path: Path, options: dict) -> None:
    task = ClipClassification(network(root), **options)
    before = [parameter.clone() for parameter in task.network.parameters()]
    trainer(tmp_path).fit(task, clip_data(root))
    moved = [not torch.equal(a, b) for a, b in zip(before, task.network.parameters(), strict=True)]
    assert any(moved)
    if options.get("freeze_norms") is None:
        assert all(moved)


class Census(pl.Callback):
    """Modes of the batch norms while a batch is trained on."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        norms = [m for m in module.network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        self.training = [norm.training for norm in norms]
        self.learning = [norm.weight.requires_grad for norm in norms]
        self.rest = module.network.training


@pytest.mark.parametrize("start", ["fresh", "train", "eval"])
@pytest.mark.parametrize("which", ["none", "partial", "all"])
def test_frozen_norms_hold_from_every_starting_state(root: Path, tmp_path: Path, start: str, which: str) -> None:
    """Lightning's fit keeps the modes it finds, so the recipe must not depend on them."""
    task = ClipClassification(network(root), freeze_norms=which)
    if start != "fresh":
        task.train(start == "train")
    census = Census()
    trainer(tmp_path, callbacks=[census], limit_train_batches=1, max_epochs=2).fit(task, clip_data(root))
    free = {"none": len(census.training), "partial": 1, "all": 0}[which]
    expected = [i < free for i in range(len(census.training))]
    assert census.training == expected
    assert census.learning == expected
    assert census.rest


def test_disagreeing_num_classes_names_both(root: Path, tmp_path: Path) -> None:
    task = ClipClassification(tsm_resnet_tiny(num_classes=3, weights=None, size=32))
    with pytest.raises(ValueError, match=r"num_classes is 3, but .* has \d+ classes") as caught:
        trainer(tmp_path).fit(task, clip_data(root))
    assert "0 to take it from the data" in str(caught.value)


def test_a_checkpoint_is_all_that_prediction_needs(root: Path, tmp_path: Path) -> None:
    task = ClipClassification(network(root))
    fitting = trainer(tmp_path, max_epochs=1)
    fitting.fit(task, clip_data(root))
    path = tmp_path / "a.ckpt"
    fitting.save_checkpoint(path)
    loaded = vidact.load(path)
    assert not loaded.training
    assert loaded.record["classes"] == task.classes
    clip = torch.randn(1, 4, 3, 32, 32)
    torch.testing.assert_close(loaded(clip), task.network.eval()(clip))
    best = vidact.predict(root, path, top=3)
    assert [len(prediction.labels) for prediction in best] == [3] * len(best)
    assert len(best) == len(clip_data(root).found.clips)
    (tmp_path / "lost").mkdir()
    (tmp_path / "lost/a.mp4").symlink_to(tmp_path / "gone.mp4")
    (tmp_path / "lost/._b.mp4").write_bytes(b"what macOS leaves")
    assert [("a.mp4 does not exist" in one.error) for one in vidact.predict(tmp_path / "lost", path)] == [True]


def test_views_are_averaged_by_video(root: Path, tmp_path: Path) -> None:
    """Scores of the test are the mean of the network's answers to each view, whatever the batch size."""
    task = ClipClassification(network(root), views_at_once=5)
    data = clip_data(root, views="2x3", batch_size=4)
    trainer(tmp_path).test(task, data, verbose=False)
    scores = task.test_scores
    assert scores.ids == sorted(scores.ids)
    assert scores.views == "2x3"
    index = [clip.id for clip in data.sets["test"].clips].index(scores.ids[3])
    sample = data.sets["test"][index]
    with torch.no_grad():
        expected = task.network.eval()(sample.clips).mean(0).numpy()
    np.testing.assert_allclose(scores.values[3], expected, atol=1e-5)


def test_two_tests_are_equal(root: Path, tmp_path: Path) -> None:
    task = ClipClassification(network(root))
    runs = []
    for _ in range(2):
        trainer(tmp_path).test(task, clip_data(root), verbose=False)
        runs.append(task.test_scores)
    assert runs[0].ids == runs[1].ids
    np.testing.assert_allclose(runs[0].values, runs[1].values, atol=1e-6)


def test_two_classes_have_a_top5(tmp_path: Path) -> None:
    write_clips(tmp_path / "many", splits={"train": 1, "val": 1, "test": 1}, seed=0)
    lines = (tmp_path / "many" / "clips.csv").read_text().splitlines()
    kept = sorted({line.split(",")[1] for line in lines[1:]})[:2]
    (tmp_path / "many" / "clips.csv").write_text(
        "\n".join([lines[0], *(line for line in lines[1:] if line.split(",")[1] in kept)]) + "\n"
    )
    (tmp_path / "many" / "classes.txt").unlink()
    task = ClipClassification(tsn_resnet_tiny(num_classes=2, weights=None, size=32))
    trainer(tmp_path).test(task, clip_data(tmp_path / "many"), verbose=False)
    assert task.test_figures["top5"] == 1.0


def test_multi_label_data_trains_and_scores_map(root: Path, tmp_path: Path) -> None:
    clips = clip_data(root).found
    lines = ["path,label,split"]
    for i, clip in enumerate(clips.clips):
        both = f"{clips.classes[clip.label]};{clips.classes[(clip.label + i % 2) % len(clips.classes)]}"
        lines.append(f"{clip.path.resolve()},{both if i % 2 else clips.classes[clip.label]},{clip.split}")
    (tmp_path / "clips.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "classes.txt").write_text("\n".join(clips.classes) + "\n")
    task = ClipClassification(network(root))
    data = clip_data(tmp_path)
    trainer(tmp_path).fit(task, data)
    trainer(tmp_path).test(task, data, verbose=False)
    assert task.multi_label
    assert 0 <= task.test_figures["map"] <= 1
    assert task.test_scores.labels.shape == task.test_scores.values.shape


def test_too_many_unreadable_videos_stop_training_and_are_named(root: Path, tmp_path: Path) -> None:
    lines = (root / "clips.csv").read_text().splitlines()
    header, rows = lines[0], lines[1:]
    out = [header]
    for i, row in enumerate(rows):
        path, rest = row.split(",", 1)
        target = (root / path).resolve()
        if "train" in rest and i % 2:
            target = tmp_path / f"broken{i}.mp4"
            target.write_bytes(b"")
        out.append(f"{target},{rest}")
    (tmp_path / "clips.csv").write_text("\n".join(out) + "\n")
    (tmp_path / "classes.txt").write_text((root / "classes.txt").read_text())
    with pytest.raises(ValueError, match=r"max_unreadable allows 5%"):
        trainer(tmp_path).fit(ClipClassification(network(root)), clip_data(tmp_path))
    assert "broken1" in (tmp_path / "unreadable.json").read_text()
    trainer(tmp_path).fit(ClipClassification(network(root)), clip_data(tmp_path, max_unreadable=0.9))


def test_fine_tuning_names_what_starts_anew(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from vidact.models import weights

    other = tsm_resnet_tiny(num_classes=3, weights=None, size=32)
    weights.save(other, tmp_path / "other.safetensors")
    task = ClipClassification(network(root), init_from=str(tmp_path / "other.safetensors"))
    trainer(tmp_path, limit_train_batches=1).fit(task, clip_data(root))
    assert "fc.weight" in capsys.readouterr().out


def test_fine_tuning_keeps_the_rows_of_classes_of_the_same_name(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    from vidact.models import weights

    classes = clip_data(root).found.classes
    other = tsm_resnet_tiny(num_classes=2, weights=None, size=32)
    weights.save(other, tmp_path / "other.safetensors", {"classes": ["nothing of this", classes[1]]})
    task = ClipClassification(network(root), init_from=str(tmp_path / "other.safetensors"), optimizer=still)
    trainer(tmp_path, limit_train_batches=1).fit(task, clip_data(root))
    assert f"the rows of 1 of {len(classes)} classes kept ({classes[1]})" in capsys.readouterr().out
    torch.testing.assert_close(task.network.fc.weight[1], other.fc.weight[1])
    assert not torch.equal(task.network.fc.weight[0], other.fc.weight[0])


def still(params) -> torch.optim.Optimizer:
    """An optimiser whose steps are too small to see."""
    return torch.optim.SGD(params, lr=1e-30)
