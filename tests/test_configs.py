"""Law 5: every shipped YAML parses, and each network trains one batch at toy size from its own YAML."""

from pathlib import Path

import pytest
import yaml

from vidact import cli
from vidact.data.synthetic import write_clips

CONFIGS = sorted((Path(__file__).parents[1] / "configs").rglob("*.yaml"))
NAMES = [str(path.relative_to(path.parents[len(path.parts) - path.parts.index("configs") - 2])) for path in CONFIGS]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder, splits={"train": 1, "val": 1, "test": 1}, seed=0)
    return folder


def network_of(path: Path) -> str:
    return yaml.safe_load(path.read_text())["model"]["init_args"]["network"]["class_path"]


@pytest.mark.parametrize("path", CONFIGS, ids=NAMES)
def test_every_config_trains_one_batch(path: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    size = "64" if any(word in network_of(path) for word in ("slowfast", "x3d", "bn_inception")) else "32"
    cli.train(
        [
            "--config", str(path), f"--data.root={root}", "--data.group=null", "--data.batch_size=2",
            "--data.num_workers=0", "--data.cache=none", "--model.network.num_classes=0",
            "--model.network.weights=null", f"--model.network.size={size}", "--trainer.precision=32",
            "--trainer.fast_dev_run=true", "--device=cpu", "--trainer.enable_progress_bar=false",
            "--trainer.enable_model_summary=false", "--run", str(tmp_path / "run"),
        ]
    )  # fmt: skip
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("path", CONFIGS, ids=NAMES)
def test_configs_name_no_machine(path: Path) -> None:
    text = path.read_text()
    assert "/home" not in text
    assert ": /" not in text
