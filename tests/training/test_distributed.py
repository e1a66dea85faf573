"""Several processes give what one gives, and a killed run goes on."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from vidact.commands import extract, folds
from vidact.data import load_clips
from vidact.data.synthetic import write_clips
from vidact.models import tsm_resnet_tiny
from vidact.results.figures import load_results
from vidact.results.scores import load_scores

SMALL = ["--config", "debug", "--model.network.size=32", "--trainer.enable_progress_bar=false"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data whose test split does not divide by two."""
    made = tmp_path_factory.mktemp("made")
    write_clips(made, splits={"train": 2, "val": 1, "test": 1}, seed=0)
    clips = load_clips(made)
    folder = tmp_path_factory.mktemp("clips")
    rows = [f"{c.path.resolve()},{clips.classes[c.label]},{c.split}" for c in clips.clips]
    tests = [row for row in rows if row.endswith(",test")]
    if len(tests) % 2 == 0:
        rows.remove(tests[0])
    (folder / "clips.csv").write_text("path,label,split\n" + "\n".join(rows) + "\n")
    (folder / "classes.txt").write_text("\n".join(clips.classes) + "\n")
    assert len(load_clips(folder).split("test")) % 2
    return folder


def vidact(*args: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "vidact.cli", *args], capture_output=True, text=True, env=env, timeout=600
    )


@pytest.mark.slow
def test_two_processes_score_as_one(root: Path, tmp_path: Path) -> None:
    two = ["--trainer.devices=2", "--trainer.strategy=ddp", "--device=cpu"]
    run = tmp_path / "two"
    done = vidact("train", *SMALL, f"--data.root={root}", "--run", str(run), *two)
    assert done.returncode == 0, done.stderr
    both, together = load_results(run)["test"], load_scores(run / "scores.npz")
    assert both["videos"] == len(load_clips(root).split("test"))
    done = vidact("test", "--config", str(run / "config.yaml"), "--trainer.devices=1", "--trainer.strategy=auto")
    assert done.returncode == 0, done.stderr
    alone, single = load_results(run)["test"], load_scores(run / "scores.npz")
    assert together.ids == single.ids
    np.testing.assert_allclose(together.values, single.values, atol=1e-6)
    for name in ("test_top1", "test_top5", "test_mean_class_accuracy", "videos"):
        assert both[name] == alone[name], name
    assert both["test_loss"] == pytest.approx(alone["test_loss"], abs=1e-6)


@pytest.mark.slow
def test_two_processes_unfreeze_together(root: Path, tmp_path: Path) -> None:
    """Parts without gradients do not stop DDP, and both processes end with the same weights, which the test shows."""
    run = tmp_path / "two"
    plan = ["--model.freeze=backbone", "--model.unfreeze=[2,3]", "--trainer.max_epochs=3"]
    two = ["--trainer.devices=2", "--trainer.strategy=ddp", "--device=cpu"]
    done = vidact("train", *SMALL, f"--data.root={root}", "--run", str(run), *two, *plan)
    assert done.returncode == 0, done.stderr
    for words in ("epoch 1: freeze is backbone", "epoch 2: freeze is stage 2", "epoch 3: freeze is none"):
        assert done.stdout.count(words) == 1
    first = ["--trainer.max_epochs=1", "--run", str(tmp_path / "first")]
    done = vidact("train", *SMALL, f"--data.root={root}", *two, *plan[:2], *first)
    assert done.returncode == 0, done.stderr
    (optimizer,) = torch.load(tmp_path / "first/checkpoints/last.ckpt", weights_only=True)["optimizer_states"]
    assert len(optimizer["state"]) == 2  # the classifier's weight and bias: nothing else had a gradient


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launches(launcher: str) -> list[tuple[list[str], dict[str, str], list[str]]]:
    """What two processes are started by, where each of the commands returned runs: command, environment, options."""
    port = str(free_port())
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    module = ["-m", "vidact.cli"]
    if launcher == "torchrun":
        return [([*torchrun, "--nproc_per_node=2", f"--master_port={port}", *module], {}, [])]
    here = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    if launcher == "torchrun on two nodes":
        nodes = ["--nnodes=2", "--nproc_per_node=1", "--master_addr=127.0.0.1", f"--master_port={port}"]
        return [([*torchrun, *nodes, f"--node_rank={rank}", *module], {}, []) for rank in range(2)]
    if launcher == "two nodes by hand":
        options = ["--trainer.num_nodes=2", "--trainer.devices=1"]
        return [([sys.executable, *module], here | {"NODE_RANK": str(rank)}, options) for rank in range(2)]
    job = {
        "SLURM_NTASKS": "2", "SLURM_NNODES": "1", "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "4242",
        "SLURM_STEP_ID": "0", "SLURM_NODELIST": "127.0.0.1", "SLURM_NODEID": "0", "SLURM_NTASKS_PER_NODE": "2",
    }  # fmt: skip
    return [
        ([sys.executable, *module], here | job | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}, [])
        for rank in range(2)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "torchrun on two nodes", "two nodes by hand", "srun"])
def test_several_processes_have_one_run_folder(launcher: str, root: Path, tmp_path: Path) -> None:
    """The first process names it, nobody else makes one, and its best weights are scored."""
    started = []
    for i, (command, environment, options) in enumerate(launches(launcher)):
        if i:
            time.sleep(1.5)  # by another second its clock would name another folder
        known = [*SMALL, f"--data.root={root}", "--device=cpu", *options]
        env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(subprocess.Popen([*command, "train", *known], cwd=tmp_path, env=env, **pipes))
    said = [process.communicate(timeout=500)[0] for process in started]
    assert [process.returncode for process in started] == [0] * len(started), said
    (run,) = (tmp_path / "runs").glob("*/*")
    assert load_results(run)["test"]["videos"] == len(load_clips(root).split("test"))
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert "".join(said).count("report: ") == 1
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 2


@pytest.mark.slow
def test_folds_under_torchrun(root: Path, tmp_path: Path) -> None:
    made = tmp_path / "people"
    clips = load_clips(root)
    for i, clip in enumerate(clip for clip in clips.clips if clip.split == "train"):
        target = made / clips.classes[clip.label] / f"{'ab'[i % 2]}_{i}.mp4"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(clip.path.read_bytes())
    (command, _, _) = launches("torchrun")[0]
    asked = [*SMALL, f"--data.root={made}", "--data.group=([ab])_[^/]*$", "--data.fractions=[1,0,0]", "--device=cpu"]
    done = subprocess.run(
        [*command, "folds", *asked, "--run_folder", str(tmp_path / "out")],
        capture_output=True, text=True, timeout=500, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = load_results(tmp_path / "out")
    assert figures["folds"] == 2
    assert figures["videos"] == len(list(made.rglob("*.mp4")))
    for fold in "ab":
        assert (tmp_path / "out" / fold / "checkpoints/best.ckpt").is_file()
    assert done.stdout.count("mean  top-1") == 1


@pytest.mark.slow
@pytest.mark.parametrize("frozen", ["--model.freeze_norms=all", "--model.freeze=backbone"])
def test_two_processes_learn_what_one_learns_from_the_same_batches(root: Path, tmp_path: Path, frozen: str) -> None:
    """Where every video counts alike: with batch norms that keep their statistics and without dropout."""
    known = [
        *SMALL, f"--data.root={root}", "--device=cpu", frozen, "--model.network.dropout=0",
        "--trainer.limit_train_batches=null", "--trainer.max_epochs=2",
    ]  # fmt: skip
    weights = {}
    for processes in (1, 2):
        run = tmp_path / str(processes)
        strategy = "ddp" if processes == 2 else "auto"
        done = vidact(
            "train", *known, "--run", str(run), f"--data.batch_size={4 // processes}",
            f"--trainer.devices={processes}", f"--trainer.strategy={strategy}",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        weights[processes] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    torch.manual_seed(0)  # the seed of the configuration
    fresh = tsm_resnet_tiny(len(load_clips(root).classes), size=32).state_dict()
    moved = max(float((weights[1][f"network.{key}"] - value).abs().max()) for key, value in fresh.items())
    apart = max(float((weights[1][key] - weights[2][key]).abs().max()) for key in weights[1])
    assert moved > 1e-3
    assert apart < 1e-3 * moved


@pytest.mark.slow
def test_two_processes_go_on_inside_an_epoch(noise_sequences: Path, tmp_path: Path) -> None:
    """With one process more or less they go on at an epoch's end alone."""
    args = [
        "train", "--config", "online/synthetic/miniroad", f"--data.root={noise_sequences}", "--data.window=10",
        "--data.stride=10", "--data.batch_size=2", "--model.loss_tokens=all", "--model.network.embedding_dim=8",
        "--model.network.hidden_dim=8", "--model.schedule.kind=constant", "--model.schedule.warmup_epochs=0",
        "--model.ema=0.8", "--device=cpu",
    ]  # fmt: skip
    two = ["--trainer.devices=2", "--trainer.strategy=ddp"]
    whole, part, on = (str(tmp_path / name) for name in ("whole", "part", "on"))
    for run, steps in ((whole, 7), (part, 6)):  # four batches an epoch
        done = vidact(*args, *two, "--run", run, f"--trainer.max_steps={steps}", "--trainer.max_epochs=9")
        assert done.returncode == 0, done.stderr
    goes_on = [*args, "--run", on, "--ckpt", f"{part}/checkpoints/last.ckpt", "--trainer.max_steps=7"]
    done = vidact(*goes_on, *two)
    assert done.returncode == 0, done.stderr
    assert "goes on in epoch 2 after 2 of 4 batches" in done.stdout
    weights = [torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in (whole, on)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    done = vidact(*goes_on[:-5], "--run", f"{on}2", "--ckpt", f"{part}/checkpoints/last.ckpt", "--trainer.max_steps=7")
    assert done.returncode == 2
    assert "processes 2 and 1" in done.stderr


@pytest.mark.slow
def test_a_killed_run_resumes_and_ends_with_a_report(root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    args = [
        *SMALL, f"--data.root={root}", "--run", str(run), "--trainer.max_epochs=6",
        "--trainer.limit_train_batches=null", "--data.batch_size=1",
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "vidact.cli", "train", *args], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    log = run / "logs" / "version_0" / "metrics.csv"
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:  # two epochs are logged: the third is under way
        if (run / "checkpoints" / "last.ckpt").exists() and log.exists() and log.read_text().count("\n") > 3:
            break
        time.sleep(0.02)
    assert process.poll() is None, "the run ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (run / "results.json").exists()
    done = vidact("train", "--config", str(run / "config.yaml"), "--ckpt", "last")
    assert done.returncode == 0, done.stderr
    results = json.loads((run / "results.json").read_text())
    assert results["test"]["videos"] == len(load_clips(root).split("test"))
    assert "<html" in (run / "report.html").read_text()
    epochs = [line.split(",")[0] for line in (run / "metrics.csv").read_text().splitlines()[1:]]
    assert sorted(set(epochs), key=int) == [str(epoch) for epoch in range(1, 7)]


@pytest.mark.slow
def test_folds_hold_each_group_out_once_and_keep_what_is_done(root: Path, tmp_path: Path) -> None:
    made = tmp_path / "people"
    clips = load_clips(root)
    for i, clip in enumerate(clip for clip in clips.clips if clip.split == "train"):
        target = made / clips.classes[clip.label] / f"{'abc'[i % 3]}_{i}.mp4"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(clip.path.read_bytes())
    args = [*SMALL, f"--data.root={made}", "--run", str(tmp_path / "out"), "--data.group=([abc])_[^/]*$"]
    out = tmp_path / "out"
    folds.main([*args, "--data.fractions=[1,0,0]", "--folds", "a,c"])
    figures = load_results(out)
    assert figures["folds"] == 2
    before = (out / "a" / "results.json").stat().st_mtime_ns
    folds.main([*args, "--data.fractions=[1,0,0]"])
    figures = load_results(out)
    assert figures["folds"] == 3
    assert figures["videos"] == len(list(made.rglob("*.mp4")))
    assert (out / "a" / "results.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_folds_of_several_configurations_are_one_table(root: Path, tmp_path: Path) -> None:
    made = tmp_path / "people"
    clips = load_clips(root)
    for i, clip in enumerate(clip for clip in clips.clips if clip.split == "train"):
        target = made / clips.classes[clip.label] / f"{'abcd'[i % 4]}_{i}.mp4"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(clip.path.read_bytes())
    names = ["tsn_resnet_tiny", "tsn_resnet_tiny_flow"]
    extract.main(["flow", "--videos", str(made), "--out", str(tmp_path / "flow"), "--bound", "5", "--size", "64"])
    out = tmp_path / "out"
    folds.main(
        ["--config", *(f"clip/synthetic/{name}" for name in names), f"--data.root={made}",
         "--run", str(tmp_path / "out"), "--flow", str(tmp_path / "flow"),
         "--data.group=([abcd])_[^/]*$", "--data.fractions=[1,0,0]", "--num_folds", "2", "--fuse", "+".join(names),
         "--model.network.size=32", "--trainer.max_epochs=1", "--data.batch_size=4", "--device=cpu"]
    )  # fmt: skip
    figures = load_results(out)
    read = [yaml.safe_load((out / name / "a+b" / "config.yaml").read_text())["data"]["init_args"] for name in names]
    assert [data["flow"] for data in read] == [None, str(tmp_path / "flow")]
    fused = figures[" + ".join(names)]
    assert {path.name for path in (out / names[0]).iterdir() if path.is_dir()} >= {"a+b", "c+d"}
    assert fused["videos"] == figures[names[0]]["videos"] == len(list(made.rglob("*.mp4")))
    assert fused["parameters"] == sum(figures[name]["parameters"] for name in names)
    assert fused["seconds an epoch"] == pytest.approx(sum(figures[name]["seconds an epoch"] for name in names))
    parts = [load_scores(out / name / "scores.npz").values for name in names]
    right = (parts[0] + 1.5 * parts[1]).argmax(1) == load_scores(out / names[0] / "scores.npz").labels
    assert fused["errors"] == (~right).sum()
    page = (out / "report.html").read_text()
    assert all(name in page for name in names)
