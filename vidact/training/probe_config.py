"""The config.yaml of a probe's run folder, with which ``vidact test`` scores probe.safetensors as it scores any run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidact.files import replacing

if TYPE_CHECKING:
    from vidact.data.clips import ClipData
    from vidact.models.probe import Probe

CHECKPOINT = "probe.safetensors"
BUILDERS = ("vidact.models.clip_probe", "vidact.models.attentive_probe")  # the networks of such a config.yaml


def save_config(
    probe: Probe,
    data: ClipData,
    run: Path,
    split: str | None,
    held_out: Sequence[str] | None,
    fractions: Sequence[float],
) -> None:
    """Write config.yaml: the network, the clips, their split, and how a clip is read.

    Paths are absolute, as in the config.yaml of a training, and follow when run and data are moved together.

    Args:
        probe: the network that probe.safetensors contains.
        data: the clips, prepared for the network.
        run: the run folder.
        split: the split that was scored; None where none was.
        held_out: groups whose clips are the split test.
        fractions: the shares of train, val and test where the data give no split.
    """
    import yaml

    from vidact.models.weights import recipe_of

    recipe, sampler = recipe_of(probe), data.sampler.record()
    assert recipe is not None
    folder = os.path.abspath(run)
    clips: dict[str, Any] = {
        "root": os.path.abspath(data.root),
        "sampler": {"class_path": f"vidact.video.{sampler['name']}", "init_args": sampler["arguments"]},
        "batch_size": data.batch_size,
        "test_split": split or "test",
        "group": data.group,
        "held_out": list(held_out) if held_out else None,
        "fractions": list(fractions),
        "decoder": data.decoder,
        "seed": data.seed,
    }
    network = {"class_path": recipe["builder"], "init_args": dict(recipe["arguments"])}
    config = {
        "seed_everything": 0,
        "trainer": {"default_root_dir": folder},
        "model": {"class_path": "vidact.tasks.ClipClassification", "init_args": {"network": network}},
        "data": {"class_path": "vidact.data.ClipData", "init_args": clips},
        "run": folder,
    }
    with replacing(run / "config.yaml") as half:
        text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        half.write_text(f"# a probe: vidact test scores it, and vidact probe makes it again\n{text}", encoding="utf-8")


def refuse_probe(path: Path | None, builder: str) -> None:
    """Raise ValueError where the config.yaml of a probe, at ``path``, is given to a training.

    Args:
        path: the config.yaml of a run; None for any other configuration.
        builder: the dotted name of the function that builds its network.
    """
    if path is not None and builder in BUILDERS:
        raise ValueError(
            f"{path} is the configuration of a probe, whose head is fitted and not trained: vidact probe makes it "
            f"again, and vidact test --config {path} scores it"
        )
