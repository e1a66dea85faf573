"""Law 5: every shipped YAML parses, and each network trains one batch at toy size from its own YAML."""

import inspect
from pathlib import Path

import pytest
import torch
import yaml
from _pytest.mark import ParameterSet
from support.networks import CLIP_NETWORKS, LARGE_CLIP_NETWORKS, skip_without_package

import vidact.models
from vidact.data import SequenceData
from vidact.data.synthetic import write_clips
from vidact.models.offline_decoding import Decoding
from vidact.tasks import OfflineDetection, Schedule
from vidact.training.probe_config import is_probe
from vidact.training.run import train

SHIPPED = Path(__file__).parents[2] / "configs"
CONFIGS = sorted(SHIPPED.rglob("*.yaml"))
ONLINE = [path for path in CONFIGS if "online" in path.relative_to(SHIPPED).parts]
PROBES = [path for path in CONFIGS if is_probe(path)]
OFFLINE = [path for path in CONFIGS if path.relative_to(SHIPPED).parts[0] in ("localise", "segment")]
CLIP = [path for path in CONFIGS if path not in ONLINE + OFFLINE and path not in PROBES]
TOY_SIZES = {  # of the published networks, which a CPU could not afford
    "trn_recurrent": {"hidden_dim": 16, "embedding_dim": 8},
    "idn": {"hidden_dim": 16},
    "oadtr": {"width": 16},
    "lstr": {"width": 16, "long": 8},
    "testra": {"width": 16, "long": 8},
    "miniroad": {"embedding_dim": 16, "hidden_dim": 16},
    "causal_transformer": {"width": 16},
    "causal_ms_tcn": {"dim": 8, "layers": 2},
    "frame_classifier": {},
    "actionformer": {"embedding_dim": 8, "head_dim": 8, "num_heads": 2},
    "actionformer_small": {"embedding_dim": 8, "num_heads": 2},
    "tridet": {"embedding_dim": 16, "head_dim": 8, "mlp_dim": 8, "bins": 4},
    "ms_tcn": {"dim": 4, "layers": 2},
    "ms_tcn_pp": {"dim": 4, "first_layers": 2, "layers": 2},
    "asformer": {"dim": 4, "layers": 2},
}
SMALL = {name for name, _ in CLIP_NETWORKS}
# Networks without a size that a step on a CPU could afford: the same layers, few and narrow, stand for them.
TINY = {"videomae_base": "videomae_tiny", "vjepa2_large": "vjepa2_tiny"}


def name_of(path: Path) -> str:
    return str(path.relative_to(SHIPPED))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder, splits={"train": 1, "val": 1, "test": 1}, seed=0)
    return folder


def network_of(path: Path) -> str:
    """The name in vidact.models."""
    return yaml.safe_load(path.read_text())["model"]["init_args"]["network"]["class_path"].rpartition(".")[2]


def quick_ones(paths: list[Path]) -> list[Path | ParameterSet]:
    """The first recipe of each small network; `pytest -m slow` takes the others."""
    seen = {name for name, _ in LARGE_CLIP_NETWORKS} - SMALL
    chosen: list[Path | ParameterSet] = []
    for path in paths:
        chosen.append(pytest.param(path, marks=pytest.mark.slow) if network_of(path) in seen else path)
        seen.add(network_of(path))
    return chosen


@pytest.mark.parametrize("path", quick_ones(CLIP), ids=name_of)
def test_every_clip_config_trains_one_batch(
    path: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    size = "64" if any(word in network_of(path) for word in ("slowfast", "x3d", "bn_inception")) else "32"
    swapped = []
    if tiny := TINY.get(network_of(path)):
        pytest.importorskip("transformers")
        swapped = [f"--model.network=vidact.models.{tiny}"]
    train_one_batch(root, tmp_path / "run", "--config", str(path), *swapped, f"--model.network.size={size}")


def train_one_batch(root: Path, run: Path, *args: str) -> None:
    train(
        [
            *args, f"--data.root={root}", "--data.group=null", "--data.batch_size=2", "--data.num_workers=0",
            "--data.cache=none", "--model.network.num_classes=0", "--model.network.weights=null",
            "--trainer.precision=32", "--trainer.fast_dev_run=true", "--device=cpu",
            "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--run", str(run),
        ]
    )  # fmt: skip
    assert not (run / "checkpoints").exists()


# What no recipe names is trained by the recipe for one's own videos, in which one line names the network.
RECIPES = {network_of(path) for path in CLIP}
WITHOUT = {name: arguments for name, arguments in [*LARGE_CLIP_NETWORKS, *CLIP_NETWORKS] if name not in RECIPES}


@pytest.mark.parametrize(
    "name", [name if name in SMALL else pytest.param(name, marks=pytest.mark.slow) for name in sorted(WITHOUT)]
)
def test_a_network_without_a_recipe_trains_one_batch(
    name: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without_package(name)
    monkeypatch.chdir(tmp_path)
    arguments = WITHOUT[name]
    with torch.device("meta"):
        network = getattr(vidact.models, name)(num_classes=2, weights=None, **arguments)
    frames = network.input.frames or max(4, getattr(network, "min_frames", 4))
    train_one_batch(
        root, tmp_path / "run", "--config", "clip/folder/tsm_mobilenetv2", f"--model.network=vidact.models.{name}",
        *(f"--model.network.{key}={value}" for key, value in arguments.items()),
        f"--data.sampler.num_segments={frames}",
    )  # fmt: skip


def offline_ones() -> list[Path | ParameterSet]:
    """The recipes for generated videos; `pytest -m slow` takes the others, which the test after this one reads."""
    return [path if path.parent.name == "synthetic" else pytest.param(path, marks=pytest.mark.slow) for path in OFFLINE]


@pytest.mark.parametrize("path", quick_ones(ONLINE) + offline_ones(), ids=name_of)
def test_every_detection_config_trains_one_batch(path: Path, noise_sequences: Path, tmp_path: Path) -> None:
    toy = [f"--model.network.{key}={value}" for key, value in TOY_SIZES[network_of(path)].items()]
    train(
        [
            "--config", str(path), f"--data.root={noise_sequences}", "--data.batch_size=2", "--data.num_workers=0",
            "--model.network.num_classes=0", "--model.network.feature_dim=0", *toy, "--trainer.precision=32",
            "--trainer.fast_dev_run=true", "--device=cpu", "--trainer.enable_progress_bar=false", "--run",
            str(tmp_path / "run"),
        ]
    )  # fmt: skip
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("path", OFFLINE, ids=name_of)
def test_the_options_of_offline_configs_exist(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    network = dict(model["network"]["init_args"])
    inspect.signature(getattr(vidact.models, network_of(path))).bind(**network)
    inspect.signature(OfflineDetection).bind(**model)
    inspect.signature(SequenceData).bind(**data)
    Schedule(**model["schedule"])
    Decoding(**model.get("decoding", {}))
    is_localiser = path.relative_to(SHIPPED).parts[0] == "localise"
    assert (data["window"] is not None) == is_localiser
    assert network["num_classes"] == network["feature_dim"] == 0  # of the data
    if is_localiser:
        with torch.device("meta"):
            built = getattr(vidact.models, network_of(path))(**{**network, "num_classes": 2, "feature_dim": 4})
        assert built.max_tokens == data["window"]


@pytest.mark.parametrize("path", ONLINE, ids=name_of)
def test_online_data_gives_what_the_network_looks_at(path: Path) -> None:
    """History and window together reach as far back as the network does, or as far as its recipe says."""
    config = yaml.safe_load(path.read_text())
    data, network = config["data"]["init_args"], config["model"]["init_args"]["network"]["init_args"]
    given = data["window"] + data.get("history", 0)
    if "long" in network or network_of(path) in ("lstr", "testra"):
        work = network.get("work", 32)
        assert given == work + network.get("long", 512) * network.get("long_stride", 4)
        assert data["window"] == work
    if network_of(path) == "oadtr":
        assert (data["window"], given) == (1, network.get("window", 64))


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_configs_name_no_machine(path: Path) -> None:
    text = path.read_text()
    assert "/home" not in text
    assert ": /" not in text
