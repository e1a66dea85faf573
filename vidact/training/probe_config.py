"""The configurations of probes.

``vidact probe`` writes a config.yaml into its run folder, with which ``vidact test`` scores probe.safetensors as it
scores any run. A recipe such as ``clip/folder/probe`` says what is encoded and which heads are fitted; ``train``,
``folds`` and ``compare`` take it where they take the recipe of a training::

    probe: {network: mobilenet_v2, weights: default, heads: [linear, knn, prototype]}
    data: {root: data/folder}
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidact.features.choices import HEADS, TOKEN_HEADS
from vidact.files import replacing
from vidact.runtimes.choices import refuse_runtime
from vidact.text.names import first_few

if TYPE_CHECKING:
    from vidact.data.clips import ClipData
    from vidact.models.probe import Probe

CHECKPOINT = "probe.safetensors"
BUILDERS = ("vidact.models.clip_probe", "vidact.models.attentive_probe")  # the networks of such a config.yaml


@dataclass(frozen=True)
class ProbeSettings:
    """What is encoded, by which network, and which heads are fitted; the options of ``vidact probe``.

    Args:
        data: a folder of class folders, or one with clips.csv.
        network: an image network, a clip network with features, or the file of a trained one.
        weights: a name or file of the network's weights; "none" is random ones.
        size: crop side in pixels; None is the network's own.
        frames: frames that are read of a clip, spread over it; None is the network's own number, or ``SEGMENTS``, or
            several windows for a network that was trained on windows (``vidact.models.clip_windows``).
        heads: some of ``HEADS`` and ``TOKEN_HEADS``.
        group: a regular expression with one group, as in ``ClipData``.
        held_out: groups whose clips are the test split.
        fractions: shares of train, val and test where the data give no split.
        seed: the seed of that split, and of the draws of a learning curve.
        head_seed: the seed of a head that is trained in mini-batches; None is ``seed``.
        runtime: where the network computes: "torch", "onnx" or "auto", as in ``vidact.tasks.probe.networks_in``.
        device: cpu, cuda or mps; None is the best there is.
        decoder: pyav, decord, opencv or torchcodec.
    """

    data: Path
    network: str = "mobilenet_v2"
    weights: str = "default"
    size: int | None = None
    frames: int | None = None
    heads: Sequence[str] = HEADS
    group: str | None = None
    held_out: Sequence[str] | None = None
    fractions: Sequence[float] = (0.7, 0.15, 0.15)
    seed: int = 0
    device: str | None = None
    decoder: str = "pyav"
    head_seed: int | None = None
    runtime: str = "auto"


def default_run(data: Path) -> Path:
    """Return the run folder of a probe of the clips in ``data``, where no option names one."""
    return Path("runs") / f"{data.resolve().name}-probe"


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


# ---------------------------------------------------------------------------------------------- recipes


def as_list(value: Any) -> list[Any]:
    """Return a list as it is, and a single value in one; a text may hold a list as YAML or JSON."""
    import yaml

    if isinstance(value, str) and value.lstrip().startswith("["):
        value = yaml.safe_load(value)
    return value if isinstance(value, list) else [value]


# The options of a probe, their names in ``ProbeSettings``, and what their values become.
OPTIONS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "probe.network": ("network", str),
    "probe.weights": ("weights", str),
    "probe.size": ("size", int),
    "probe.frames": ("frames", int),
    "probe.heads": ("heads", as_list),
    "probe.runtime": ("runtime", str),
    "data.root": ("data", Path),
    "data.group": ("group", str),
    "data.held_out": ("held_out", lambda value: [str(each) for each in as_list(value)]),
    "data.fractions": ("fractions", lambda value: [float(each) for each in as_list(value)]),
    "data.seed": ("seed", int),
    "data.decoder": ("decoder", str),
    "device": ("device", str),
    "seed_everything": ("head_seed", int),
}


def is_probe(config: Path) -> bool:
    """Return whether a YAML is the recipe of a probe: its key ``probe`` holds settings, not the switch of a training.

    A file that cannot be read is none; the parser of a training reports its error.
    """
    import yaml

    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(content, dict) and isinstance(content.get("probe"), dict)


def options_in(words: Sequence[str]) -> dict[str, list[str]]:
    """Return the values of each option, by its name without dashes; of an option that stands twice, the last ones."""
    options: dict[str, list[str]] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if word.startswith("--"):
            options[name.lstrip("-")] = [value] if equals else []
        elif options:
            options[[*options][-1]].append(word)
        else:
            raise ValueError(f"{word} belongs to no option")
    return options


def of_trainings(words: Sequence[str], configs: Sequence[Path]) -> list[str]:
    """Return the options that trainings take: all but ``--probe.…``, where a recipe of a probe among ``configs`` does.

    Without such a recipe all are returned, so that the parser of a training refuses what it does not have.
    """
    if not any(is_probe(config) for config in configs):
        return list(words)
    chosen, is_own = [], False
    for word in words:
        if word.startswith("--"):
            is_own = word.startswith("--probe.")
        if not is_own:
            chosen.append(word)
    return chosen


def not_of_probes(words: Sequence[str]) -> list[str]:
    """Return the options that mean nothing to a probe, each once."""
    return [f"--{name}" for name in options_in(words) if name not in OPTIONS]


def read_settings(config: Path, words: Sequence[str], beside: ClipData | None = None) -> ProbeSettings:
    """Return the settings of a recipe, changed by options.

    Args:
        config: the recipe.
        words: options of the command line; those that are not in ``OPTIONS`` are left to the caller.
        beside: the clips of a training in the same table, whose folder and split the probe takes.

    Raises:
        ValueError: for an unknown key or head, a value of another kind, or clips that a probe would cut otherwise.
    """
    import yaml

    from vidact.device import refuse_device

    unknown = [f"--{name}" for name in options_in(words) if name.startswith("probe.") and name not in OPTIONS]
    if unknown:
        own = [f"--{name}" for name in OPTIONS if name.startswith("probe.")]
        raise ValueError(f"a probe has no {first_few(unknown)}; it has {', '.join(own)}")
    content = yaml.safe_load(config.read_text(encoding="utf-8"))
    values: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            values |= {f"{name}.{key}": each for key, each in value.items()}
        else:
            values[name] = value
    if unknown := sorted(set(values) - set(OPTIONS)):
        raise ValueError(f"{config}: a probe has no {first_few(unknown)}; it has {', '.join(OPTIONS)}")
    values |= {name: " ".join(parts) for name, parts in options_in(words).items() if name in OPTIONS}
    if "probe.weights" in values and values["probe.weights"] is None:
        values["probe.weights"] = "none"
    settings: dict[str, Any] = {}
    for name, value in values.items():
        field, kind = OPTIONS[name]
        if value is None or value == "null":
            continue
        try:
            settings[field] = kind(value)
        except (TypeError, ValueError, yaml.YAMLError):
            raise ValueError(f"--{name} is {value!r}; see vidact probe --help for what it can be") from None
    if unknown := [str(head) for head in settings.get("heads", ()) if head not in (*HEADS, *TOKEN_HEADS)]:
        raise ValueError(f"probe.heads has {first_few(unknown)}; the heads are {', '.join((*HEADS, *TOKEN_HEADS))}")
    if "runtime" in settings:
        refuse_runtime(settings["runtime"])
    if beside is not None:
        settings |= shared_clips(beside)
    if "data" not in settings:
        raise ValueError(f"{config} names no data: --data.root is the folder of your clips")
    refuse_device(settings.get("device"))
    return ProbeSettings(**settings)


def shared_clips(data: ClipData) -> dict[str, Any]:
    """Return the settings with which a probe reads the clips of a training in the same splits."""
    if not hasattr(data, "held_out"):
        raise ValueError(f"a probe recognises clips, and {data.root} is read by a detector; compare them separately")
    if data.time_origin != "first_frame":
        raise ValueError(
            f"data.time_origin is {data.time_origin}, and a probe counts the seconds of clips from the first frame; "
            "leave one of the two out"
        )
    held_out = as_list(data.held_out) if data.held_out else None
    return {
        "data": data.root, "group": data.group, "held_out": held_out, "fractions": data.fractions, "seed": data.seed,
        "decoder": data.decoder,
    }  # fmt: skip


def refuse_recipe(configs: Sequence[Path], words: Sequence[str], command: str) -> None:
    """Raise ValueError where a recipe of a probe, or an option of one, is given to what only a training can do.

    Args:
        configs: the configurations.
        words: the options.
        command: what was to be done, such as "vidact test".
    """
    for config in configs:
        if is_probe(config):
            raise ValueError(
                f"{config} is the recipe of a probe, which {command} does not take: vidact train makes the probe, and "
                "vidact test takes the config.yaml in its run folder"
            )
    if options := [word.partition("=")[0] for word in words if word.startswith("--probe.")]:
        raise ValueError(
            f"{first_few(options)} changes the recipe of a probe, such as clip/folder/probe, and no configuration here "
            "is one"
        )


def refuse_processes() -> None:
    """Raise ValueError where several processes would train together."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("several processes train together, and a probe is fitted in one: run it without torchrun")
