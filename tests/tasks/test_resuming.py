"""A run on the command line that is stopped, continued and scored; options of Lightning that a run has to live with."""

from __future__ import annotations

import csv
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support.commands import fails

import vidact.report.page
from vidact import cli
from vidact.models import weights
from vidact.results.figures import load_results
from vidact.tasks import OnlineDetection
from vidact.training.run import train

ADD = "--trainer.callbacks+=lightning.pytorch.callbacks."


@pytest.fixture(autouse=True, scope="module")
def without_pages() -> Iterator[None]:
    """Pages have their own tests and take longer than the training here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vidact.report.page, "write_report", lambda run: run / "report.html")
        yield


@pytest.fixture(scope="module")
def options(noise_sequences: Path) -> list[str]:
    """Of a detector with ten training windows in five batches an epoch; three epochs."""
    return [
        "--config", "online/synthetic/miniroad", f"--data.root={noise_sequences}", "--model.network.embedding_dim=8",
        "--model.network.hidden_dim=8", "--data.window=15", "--data.stride=15", "--data.batch_size=2",
        "--model.loss_tokens=all", "--device=cpu", "--trainer.max_epochs=3", "--model.schedule.kind=constant",
        "--model.schedule.warmup_epochs=0",
    ]  # fmt: skip


def stop_in_epoch(number: int, args: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Train and press Ctrl-C when epoch ``number`` (from 1) begins."""
    begin = OnlineDetection.on_train_epoch_start

    def ctrl_c(task: OnlineDetection) -> None:
        begin(task)
        if task.current_epoch == number - 1:
            raise KeyboardInterrupt

    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(OnlineDetection, "on_train_epoch_start", ctrl_c)
        try:
            with pytest.raises(KeyboardInterrupt):
                train(args)
        finally:
            signal.signal(signal.SIGINT, handler)  # which Lightning has taken away


def read(run: Path, name: str = "last") -> dict[str, Any]:
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


def same(a: dict, b: dict) -> bool:
    return all(torch.equal(a["state_dict"][name], b["state_dict"][name]) for name in a["state_dict"])


@pytest.fixture
def stopped(options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was stopped after its first epoch."""
    run = tmp_path / "run"
    stop_in_epoch(2, [*options, f"--run={run}"], monkeypatch)
    return run


@pytest.fixture(scope="module")
def left_alone(options: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, for tests that change nothing there."""
    run = tmp_path_factory.mktemp("left") / "run"
    with pytest.MonkeyPatch.context() as patch:
        stop_in_epoch(2, [*options, f"--run={run}"], patch)
    return run


# ---- going on


def test_a_resumed_run_ends_as_the_whole_one_and_is_tested_as_it(
    options: list[str], stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The checkpoint it went on from is asked once: a later test scores the best one."""
    whole = train([*options, f"--run={tmp_path / 'whole'}"])
    capsys.readouterr()
    train(["--config", str(stopped / "config.yaml"), "--ckpt", "last", "--data.num_workers=1"])
    said = capsys.readouterr().out
    assert "goes on after epoch 1\n" in said
    assert "data.num_workers 1 (before None)" in said
    assert same(read(stopped), read(whole))
    config = yaml.safe_load((stopped / "config.yaml").read_text())
    assert config["ckpt"] is None
    assert config["data"]["init_args"]["num_workers"] == 1
    assert load_results(stopped)["test"]["checkpoint"].endswith("best.ckpt")
    cli.main(["test", "--config", str(stopped / "config.yaml")])
    assert load_results(stopped)["test"]["checkpoint"].endswith("best.ckpt")
    train(["--config", str(stopped / "config.yaml"), "--ckpt", "last"])
    assert "nothing is left to train: 3 epochs are done, trainer.max_epochs is 3" in capsys.readouterr().out


def test_thresholds_of_a_validation_are_kept(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the last validation hold where a training ends before the next one, wherever it went on."""
    more = [*options, "--trainer.max_steps=7"]
    whole = train([*more, f"--run={tmp_path / 'whole'}"])
    stop_in_epoch(2, [*more, f"--run={tmp_path / 'parts'}"], monkeypatch)
    parts = train([*more, f"--run={tmp_path / 'parts'}", "--ckpt=last"])
    for name in ("last", "best"):
        record = read(whole, name)["vidact"]
        assert record["thresholds"]["videos"] == 1
        assert read(parts, name)["vidact"] == record
    assert load_results(parts)["test"]["events"] == load_results(whole)["test"]["events"]


def test_another_rate_is_what_the_run_goes_on_with(
    options: list[str], stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A rate this small changes no weight any more, and a decay is that of the groups that had one."""
    again = [*options, f"--run={stopped}", "--ckpt=last"]
    before = read(stopped)
    train([*again, "--model.optimizer.init_args.lr=1e-30", "--model.optimizer.init_args.weight_decay=0.5"])
    said = capsys.readouterr().out
    assert re.search(
        r"goes on with other options than .*config.yaml: .*model.optimizer.lr 1e-30 \(before 0.001\)", said
    )
    after = read(stopped)
    assert after["global_step"] == 3 * before["global_step"]
    assert same(before, after)
    groups = after["optimizer_states"][0]["param_groups"]
    assert max(group["lr"] for group in groups) <= 1e-30
    assert {group["weight_decay"] for group in groups} == {0.5, 0.0}
    text = (stopped / "config.yaml").read_text()
    assert yaml.safe_load(text)["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 1e-30
    assert re.search(r"^# resumed .* from last; until then: .*model.optimizer.lr 0.001", text, re.M)


def test_a_schedule_goes_on_from_the_same_epoch_with_other_batches(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rate falls after epoch 2 also where the epochs that come have three steps instead of five."""
    steps = [
        "--model.schedule.kind=step",
        "--model.schedule.milestones=[2]",
        f"--run={tmp_path}",
        "--trainer.max_epochs=4",
    ]
    stop_in_epoch(2, [*options, *steps], monkeypatch)
    rates: list[tuple[int, float]] = []

    def note(task: OnlineDetection, optimizer: torch.optim.Optimizer) -> None:
        rates.append((task.current_epoch + 1, optimizer.param_groups[0]["lr"]))

    monkeypatch.setattr(OnlineDetection, "on_before_optimizer_step", note)
    train([*options, *steps, "--ckpt=last", "--data.batch_size=4"])
    assert rates == [(2, 0.001)] * 3 + [(3, pytest.approx(0.0001))] * 3 + [(4, pytest.approx(0.0001))] * 3


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--model.network.hidden_dim=16"], "model.network.hidden_dim was 8 and is to be 16, which a run that goes on"),
        (["--model.optimizer.class_path=torch.optim.SGD"], "model.optimizer.class_path was torch.optim.AdamW"),
        (["--data.val_fraction=0.5"], "videos that were trained on would be tested"),
        (["--data.seed=1"], "data.seed was 0 and is to be 1"),
        (["--model.init_from=other.ckpt"], "starts from its checkpoint alone"),
    ],
)
def test_what_cannot_change_is_refused(
    more: list[str], words: str, options: list[str], left_alone: Path, capsys: pytest.CaptureFixture
) -> None:
    before = (left_alone / "config.yaml").read_text()
    said = fails(["train", *options, f"--run={left_alone}", "--ckpt=last", *more], capsys)
    assert words in said
    assert "--model.init_from" in said
    assert (left_alone / "config.yaml").read_text() == before


@pytest.mark.parametrize("more", [["--data.root=nowhere"], ["--model.optimizer.lr=0"]])
def test_what_fails_before_a_batch_leaves_the_configuration(
    more: list[str], options: list[str], left_alone: Path, capsys: pytest.CaptureFixture
) -> None:
    before = (left_alone / "config.yaml").read_text()
    fails(["train", *options, f"--run={left_alone}", "--ckpt=last", "--trainer.max_epochs=5", *more], capsys)
    assert (left_alone / "config.yaml").read_text() == before


def test_a_checkpoint_without_its_run_is_compared_all_the_same(
    options: list[str], left_alone: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    alone = tmp_path / "alone.ckpt"
    alone.write_bytes((left_alone / "checkpoints/last.ckpt").read_bytes())
    again = ["train", *options, f"--run={tmp_path / 'new'}", f"--ckpt={alone}"]
    assert "another network than the one that is asked for: hidden_dim 8 and 16 (there and asked)" in fails(
        [*again, "--model.network.hidden_dim=16"], capsys
    )
    content = read(left_alone)
    torch.save({name: content[name] for name in ("state_dict", "vidact", "pytorch-lightning_version")}, alone)
    assert "holds weights and no state of a training" in fails(again, capsys)


def test_batches_of_another_size_go_on_at_an_epochs_end_only(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = train([*options, f"--run={tmp_path / 'a'}", "--trainer.max_steps=3"])
    again = [*options, f"--ckpt={run}/checkpoints/last.ckpt", f"--run={tmp_path / 'b'}", "--trainer.max_steps=7"]
    assert "from the middle of epoch 1, and its batches were others than those asked for: data.batch_size 2 and 3" in (
        fails(["train", *again, "--data.batch_size=3"], capsys)
    )
    train(again)
    assert "goes on in epoch 1 after 3 of 5 batches" in capsys.readouterr().out
    assert same(read(tmp_path / "b"), read(train([*options, f"--run={tmp_path / 'c'}", "--trainer.max_steps=7"])))


def test_a_run_that_goes_on_fetches_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network's own are needed once; config.yaml names them still."""
    from vidact.data.synthetic import write_clips

    write_clips(tmp_path / "clips", {"train": 1, "val": 1, "test": 1}, classes=["moving left", "moving right"])
    start = tmp_path / "start.safetensors"
    from vidact.models import tsm_resnet_tiny

    weights.save(tsm_resnet_tiny(2, weights=None, size=32), start)
    args = [
        *["--config", "debug", "--model.network.size=32", f"--data.root={tmp_path / 'clips'}"],
        *[f"--run={tmp_path / 'run'}", f"--model.network.weights={start}"],
    ]
    train(args)
    start.unlink()
    train([*args, "--ckpt=last", "--trainer.max_epochs=2"])
    assert read(tmp_path / "run")["epoch"] == 1
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert config["model"]["init_args"]["network"]["init_args"]["weights"] == str(start)


def test_a_checkpoint_of_an_older_version_goes_on(options: list[str], stopped: Path) -> None:
    """It has no state of ours, and Lightning's names for the callbacks that keep checkpoints."""
    path = stopped / "checkpoints/last.ckpt"
    content = read(stopped)
    del content["training"]
    scheduler = content["lr_schedulers"][0]
    content["lr_schedulers"] = [{k: v for k, v in scheduler.items() if k not in ("shift", "steps_per_epoch")}]
    old = "ModelCheckpoint{'monitor': 'val_score', 'mode': 'max', 'every_n_train_steps': 0, 'every_n_epochs': 1, " \
          "'train_time_interval': None}"  # fmt: skip
    states = content["callbacks"]
    states[old] = states.pop("best.ckpt") | {"best_model_score": torch.tensor(99.0)}  # a score that nothing beats
    states[old]["best_k_models"] = {states[old]["best_model_path"]: torch.tensor(99.0)}
    states[old]["kth_best_model_path"] = states[old]["best_model_path"]
    torch.save(content, path)
    train([*options, f"--run={stopped}", "--ckpt=last"])
    assert read(stopped)["epoch"] == 2
    assert read(stopped, "best")["epoch"] == 0


def test_options_that_an_older_version_did_not_know_are_no_change(
    options: list[str], stopped: Path, capsys: pytest.CaptureFixture
) -> None:
    """Its config.yaml also says which checkpoint it was continued from, which no test asks for any more."""
    path = stopped / "config.yaml"
    config = yaml.safe_load(path.read_text())
    del config["data"]["init_args"]["group"], config["model"]["init_args"]["tf32"]
    path.write_text(yaml.safe_dump(config))
    train([*options, f"--run={stopped}", "--ckpt=last", "--trainer.logger=lightning.pytorch.loggers.CSVLogger",
               f"--trainer.logger.save_dir={stopped}/mine"])  # fmt: skip
    said = capsys.readouterr().out
    assert "tf32" not in said
    assert "group" not in said
    assert "trainer.logger {'trainer.logger.class_path'" in said
    config = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(config | {"ckpt": "last"}))
    cli.main(["test", "--config", str(path)])
    assert load_results(stopped)["test"]["checkpoint"].endswith("best.ckpt")


# ---- options of Lightning


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            ["--trainer.limit_val_batches=0"],
            "nothing is validated, since trainer.limit_val_batches is 0: the last epoch",
        ),
        pytest.param(
            *(["--trainer.check_val_every_n_epoch=4"], "trainer.check_val_every_n_epoch is 4 and trainer.max_epochs 3"),
            marks=pytest.mark.slow,
        ),
        (["--trainer.max_steps=3"], "training ended before its first validation: the last epoch counts as the best"),
        pytest.param(
            *(
                ["--trainer.val_check_interval=00:01:00:00"],
                "training ended before its first validation: the last epoch",
            ),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_without_a_validation_the_last_epoch_counts_as_the_best(
    more: list[str], words: str, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = train([*options, *more, f"--run={tmp_path}"])
    assert words in capsys.readouterr().out
    assert read(run, "best")["global_step"] == read(run)["global_step"]
    assert load_results(run)["test"]["checkpoint"].endswith("best.ckpt")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            ["--model.early_stopping=2", "--trainer.limit_val_batches=0"],
            "stop early by val_score, and nothing is valid",
        ),
        ([f"{ADD}EarlyStopping", "--trainer.callbacks.monitor=val_map", "--trainer.limit_val_batches=0"], "by val_map"),
        (
            [f"{ADD}EarlyStopping", "--trainer.callbacks.monitor=val_acc"],
            "EarlyStopping is to monitor val_acc, and this training has no such figure. It has val_map, val_loss,",
        ),
        ([f"{ADD}ModelCheckpoint", "--trainer.callbacks.monitor=accuracy"], "ModelCheckpoint is to monitor accuracy,"),
        (["--trainer.max_epochs=0"], "trainer.max_epochs is 0, so that nothing would be learnt"),
        (["--trainer.max_steps=0"], "trainer.max_steps is 0"),
        (["--trainer.limit_train_batches=0"], "trainer.limit_train_batches is 0"),
        (["--trainer.barebones=true"], "trainer.barebones measures what Lightning itself costs"),
        (["--trainer.limit_val_batches=0.1"], "You requested to check 0.1 of the `val_dataloader`"),
        (["--trainer.limit_test_batches=0.9"], "limit_test_batches is 0.9, which of 1 batches of the split test is"),
        (["--trainer.val_check_interval=0"], "trainer.val_check_interval is 0"),
        (["--trainer.check_val_every_n_epoch=0"], "trainer.check_val_every_n_epoch is 0"),
        (["--trainer.accumulate_grad_batches=0"], "trainer.accumulate_grad_batches is 0"),
        (["--trainer.devices=-1"], "should be an int > 0"),
        (["--model.early_stopping=-1"], "early_stopping is -1"),
        (["--model.ema=1"], "ema is 1"),
        (["--trainer.max_time=00:00:00:00"], "training ended before its first batch"),
        ([f"{ADD}EarlyStopping", "--trainer.callbacks.monitor=train_top1"], "EarlyStopping is to monitor train_top1"),
        ([f"{ADD}ModelCheckpoint", "--trainer.callbacks.monitor=lr-AdamW"], "ModelCheckpoint is to monitor lr-AdamW"),
        (
            [f"{ADD}EarlyStopping", "--trainer.callbacks.monitor=val_loss", "--trainer.check_val_every_n_epoch=2",
             "--trainer.callbacks.check_on_train_epoch_end=true"],
            "EarlyStopping is to look at val_loss after every epoch, and not every epoch is validated",
        ),
        (
            [f"{ADD}ModelCheckpoint", "--trainer.callbacks.monitor=val_map", "--trainer.limit_val_batches=0"],
            "ModelCheckpoint is to monitor val_map, and nothing is validated, since trainer.limit_val_batches is 0",
        ),
        (
            [f"{ADD}ModelCheckpoint", "--trainer.callbacks.dirpath=RUN/checkpoints",
             "--trainer.callbacks.filename=best"],
            "would write best.ckpt, which is the run's own",
        ),
        (
            [f"{ADD}ModelCheckpoint", "--trainer.callbacks.save_last=true", "--trainer.logger=false"],
            "would write last.ckpt, which is the run's own",
        ),
        (
            [f"{ADD}StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.01", "--model.ema=0.9"],
            "two averages of the weights",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_said_before(
    more: list[str], words: str, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    more = [word.replace("RUN", str(tmp_path)) for word in more]
    assert words in fails(["train", *options, *more, f"--run={tmp_path}"], capsys)
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("--trainer.enable_checkpointing=false", "trainer.enable_checkpointing is false, so no weights are kept"),
        ("--trainer.limit_test_batches=0", "trainer.limit_test_batches is 0"),
        ("--trainer.limit_test_batches=0.5", "limit_test_batches is 0.5, which of 1 batches of the split test is none"),
        ("--trainer.fast_dev_run=true", "trainer.fast_dev_run keeps nothing"),
    ],
)
def test_runs_that_leave_nothing_to_compare_are_refused_before_them(
    more: str, words: str, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert words in fails(["compare", *options, more, "--seeds", "0", f"--run={tmp_path / 'runs'}"], capsys)
    assert not (tmp_path / "runs").exists()


def test_a_trial_of_a_test_keeps_what_is_known(
    options: list[str], left_alone: Path, capsys: pytest.CaptureFixture
) -> None:
    args = ["test", "--config", str(left_alone / "config.yaml"), "--ckpt", "last"]
    files = {path: path.stat().st_mtime_ns for path in left_alone.rglob("*") if path.is_file()}
    cli.main([*args, "--trainer.fast_dev_run=true"])
    assert "a batch was scored, and nothing is written" in capsys.readouterr().out
    assert "limit_test_batches is 0, so that nothing would be scored" in fails(
        [*args, "--trainer.limit_test_batches=0"], capsys
    )
    assert "trainer.barebones measures" in fails([*args, "--trainer.barebones=true"], capsys)
    assert {path: path.stat().st_mtime_ns for path in left_alone.rglob("*") if path.is_file()} == files


def without_validation(sequences: Path, root: Path, split: str) -> Path:
    """The same videos in ``root``, those for validation in another split."""
    root.mkdir()
    for name in ("events.csv", "features"):
        (root / name).symlink_to(sequences / name)
    (root / "videos.csv").write_text((sequences / "videos.csv").read_text().replace(",val", f",{split}"))
    return root


def test_a_test_of_a_part_says_so(
    options: list[str], noise_sequences: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    root = without_validation(noise_sequences, tmp_path / "data", "test")
    part = ["--trainer.limit_test_batches=1", "--data.test_batch_size=1", "--trainer.max_epochs=1"]
    train([*options, *part, f"--data.root={root}", f"--run={tmp_path / 'run'}", "--data.val_fraction=0"])
    assert "note: only 1 of the 2 videos of the split test were scored" in capsys.readouterr().out


def test_averages_of_lightning_are_what_is_scored(options: list[str], tmp_path: Path) -> None:
    """Its StochasticWeightAveraging takes the weights in as an epoch begins, here from the second of four on, and puts
    their mean into the network when training is over.
    """
    average = ["StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.01", "--trainer.callbacks.swa_epoch_start=2"]
    every = [f"{ADD}ModelCheckpoint", f"--trainer.callbacks.dirpath={tmp_path / 'every'}",
             "--trainer.callbacks.every_n_train_steps=5", "--trainer.callbacks.save_top_k=-1"]  # fmt: skip
    more = ["--trainer.max_epochs=4", ADD + average[0], *average[1:], *every]
    run = train([*options, *more, f"--run={tmp_path / 'run'}"])
    ends = [torch.load(path, weights_only=True)["state_dict"] for path in sorted((tmp_path / "every").glob("*.ckpt"))]
    assert len(ends) == 4
    for name, weight in read(run, "best")["state_dict"].items():
        torch.testing.assert_close(weight, torch.stack([end[name] for end in ends[:3]]).mean(0))
    assert all(torch.equal(weight, ends[3][name]) for name, weight in read(run)["state_dict"].items())
    assert load_results(run)["chosen"] == {"epoch": 4, "of": 4, "by": "stochastic weight averaging", "validated": 1}


def test_early_stopping_without_a_split_to_validate_on(
    options: list[str], noise_sequences: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    root = without_validation(noise_sequences, tmp_path / "data", "train")
    args = ["train", *options, f"--data.root={root}", f"--run={tmp_path / 'run'}", "--data.val_fraction=0"]
    assert "since the data has no split val. Leave early stopping out" in fails(
        [*args, "--model.early_stopping=2"], capsys
    )


@pytest.mark.parametrize(
    "more",
    [
        ["--trainer.logger=false"],
        pytest.param(["--trainer.logger=true"], marks=pytest.mark.slow),
        pytest.param(
            ["--trainer.logger=lightning.pytorch.loggers.CSVLogger", "--trainer.logger.save_dir=OUT"],
            marks=pytest.mark.slow,
        ),
        ["--trainer.max_epochs=-1", "--trainer.max_time=00:00:00:01"],
        [f"{ADD}BackboneFinetuning", "--trainer.callbacks.unfreeze_backbone_at_epoch=1"],
        [f"{ADD}ModelCheckpoint", "--trainer.callbacks.dirpath=OUT"],
        pytest.param([f"{ADD}StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.01"], marks=pytest.mark.slow),
        pytest.param([f"{ADD}RichProgressBar"], marks=pytest.mark.slow),
        pytest.param(["--trainer.plugins=lightning.pytorch.plugins.io.AsyncCheckpointIO"], marks=pytest.mark.slow),
        pytest.param(["--trainer.precision=bf16-true"], marks=pytest.mark.slow),
    ],
    ids=lambda more: more[-1][10:50],
)
def test_options_that_a_run_works_with(more: list[str], options: list[str], tmp_path: Path) -> None:
    more = [word.replace("OUT", str(tmp_path / "out")) for word in more]
    run = train([*options, *more, f"--run={tmp_path / 'run'}"])
    assert load_results(run)["test"]["checkpoint"].endswith("best.ckpt")
    assert (run / "metrics.csv").is_file() == ("--trainer.logger=false" not in more)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            ["--trainer.enable_checkpointing=false"],
            "trainer.enable_checkpointing is false, so no weights are kept: nothing",
        ),
        (["--trainer.limit_test_batches=0"], "trainer.limit_test_batches is 0: nothing will be scored"),
    ],
)
def test_what_leaves_nothing_to_score(
    more: list[str], words: str, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = train([*options, *more, f"--run={tmp_path}"])
    assert words in capsys.readouterr().out
    assert "test" not in load_results(run)


# ---- what is said, and in which numbers


def test_epochs_count_from_one(
    options: list[str], stopped: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In lines, in every metrics.csv, in one that joins sessions, also with one of an older version, and in the bar."""
    log = stopped / "logs/version_0/metrics.csv"
    rows = [*csv.DictReader(log.read_text().splitlines())]
    assert {row["epoch"] for row in rows} == {"1", ""}  # rates are logged without
    (log.parent / "hparams.yaml").unlink()  # as an older version left it, which counted from 0
    with log.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0]])
        writer.writeheader()
        writer.writerows(row | {"epoch": row["epoch"].replace("1", "0")} for row in rows)
    capsys.readouterr()
    train([*options, f"--run={stopped}", "--ckpt=last"])
    said = capsys.readouterr().out
    assert [line.split()[1] for line in said.splitlines() if re.match(r"epoch +\d", line)] == ["2/3", "3/3"]
    rows = csv.DictReader((stopped / "metrics.csv").read_text().splitlines())
    assert {row["epoch"] for row in rows} == {"1", "2", "3"}
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    train([*options, f"--run={stopped}", "--ckpt=last", "--trainer.max_epochs=4"])
    said = capsys.readouterr().out
    assert "Epoch 4/4" in said
    assert "Epoch 3" not in said


def test_a_file_has_no_bar(options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = train([*options, f"--run={tmp_path}", "--trainer.max_epochs=1"])
    capsys.readouterr()
    cli.main(["test", "--config", str(run / "config.yaml")])
    said = capsys.readouterr()
    assert "DataLoader" not in said.out + said.err
    assert "it/s" not in said.out + said.err
