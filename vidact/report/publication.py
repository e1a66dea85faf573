"""The folder that ``vidact push`` uploads: the weights of a run, its configuration, its figures and a model card.

Nothing of the machine is in it: of local paths only their last parts stay, and names of the clips are left out.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidact import __version__
from vidact.files import is_in_use, replacing
from vidact.hub import CLASS_LISTS, PUBLISHED
from vidact.hub.huggingface import Address, published_in
from vidact.metrics import is_trivial
from vidact.results.figures import in_words, load_results
from vidact.text.local_paths import first_path, without_paths
from vidact.text.names import counted, first_few

if TYPE_CHECKING:
    from vidact.records import Record

WEIGHTS = "model.safetensors"
CARD = "README.md"
MARK = "<!-- `vidact push` replaces this card as long as this line is in it. -->"
# Identifiers of the hub; "other" is for any other licence, which the card of the repository then explains.
LICENCES = {
    "apache-2.0": "free use, with notice",
    "mit": "free use, with notice",
    "bsd-3-clause": "free use, with notice",
    "cc0-1.0": "no rights reserved",
    "cc-by-4.0": "with the author's name",
    "cc-by-sa-4.0": "with the author's name, changes under the same licence",
    "cc-by-nc-4.0": "with the author's name, not commercially",
    "cc-by-nc-sa-4.0": "with the author's name, not commercially, changes under the same licence",
    "openrail": "with restrictions of use",
    "gpl-3.0": "programs made of it are free, too",
    "agpl-3.0": "programs and services made of it are free, too",
    "other": "any other: explain it in the card",
}
MOST_CLASSES = 60  # names in the card; the file has all of them
# Facts of results.json that name files and commands of this machine, or are no figures.
LEFT_OUT = ("command", "commands", "checkpoint", "unreadable", "remarks")


@dataclass
class Publication:
    """What was written for the hub.

    Args:
        folder: the folder.
        files: the names of its files.
        remarks: sentences for the user.
    """

    folder: Path
    files: list[str]
    remarks: list[str]


def refuse_licence(licence: str | None) -> None:
    """Raise ValueError where no licence is chosen, or one that is not in ``LICENCES``; the message lists them."""
    if licence in LICENCES:
        return
    listing = "\n".join(f"  {name:16} {meaning}" for name, meaning in LICENCES.items())
    if licence is None:
        raise ValueError(
            f"a licence is needed, since without one nobody may use the weights: --licence NAME, one of\n{listing}"
        )
    close = difflib.get_close_matches(licence.lower(), LICENCES, 1)
    hint = f"; did you mean {close[0]}?" if close else "."
    raise ValueError(f"--licence is {licence!r}, which is none of these{hint}\n{listing}")


def weights_of(run: Path) -> Path:
    """Return the file of the best weights of a finished run.

    Raises:
        FileNotFoundError: where there is no such folder, weights or figures; the message says what makes them.
        ValueError: where a process is still writing to the run.
    """
    if run.is_file():
        raise FileNotFoundError(f"{run} is a file; name the folder of its run, which has the figures, too")
    if not run.is_dir():
        raise FileNotFoundError(f"there is no folder {run}; name the folder of a run, such as runs/x")
    if is_in_use(run):
        raise ValueError(f"a process is still writing to {run}; wait for its end, or stop it")
    paths = [run / "checkpoints" / "best.ckpt", run / "probe.safetensors"]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        inner = sorted({part.parent.parent for part in run.glob("*/checkpoints/best.ckpt")} |
                       {part.parent for part in run.glob("*/probe.safetensors")})  # fmt: skip
        several = f"; it holds runs: {first_few([str(part) for part in inner])}. Push one of them" if inner else ""
        unfinished = "; its training saved no best weights yet" if (run / "checkpoints").is_dir() else ""
        raise FileNotFoundError(
            f"{run} has no weights ({' or '.join(str(path.relative_to(run)) for path in paths)}){several or unfinished}"
        )
    if not (run / "results.json").is_file():
        raise FileNotFoundError(
            f"{run} has no figures (results.json), so it is not finished: go on with `vidact train --config "
            f"{run}/config.yaml --ckpt last`, or score it with `vidact test --config {run}/config.yaml`"
        )
    return path


def assemble(run: Path, address: Address, licence: str, folder: Path, data: str | None = None) -> Publication:
    """Write the files of a run for the hub to a folder.

    Args:
        run: the folder of a finished run, of a recogniser, a detector or a probe.
        address: the repository that they are for, which the card names.
        licence: one of ``LICENCES``.
        folder: where they are written; files of the same names are replaced.
        data: the name of the data, for the card; None is the name of its folder.
    """
    refuse_licence(licence)
    weights = weights_of(run)
    from vidact.models.weights import attach, load, recipe_of, record_of, save  # after what is refused at once

    network = load(weights)
    record = record_of(network)
    if not record.classes:
        raise ValueError(f"{weights} does not name its classes, so nobody could read its answers")
    attach(network, recipe=without_paths(recipe_of(network)))
    facts = {key: value for key, value in record.to_dict().items() if key not in ("recipe", "input", "format")}
    save(network, folder / WEIGHTS, {**without_paths(facts), "classes": record.classes})
    everything = load_results(run)
    scored = {
        name: Path(str(value["checkpoint"])).name
        for name, value in everything.items()
        if isinstance(value, Mapping) and "checkpoint" in value
    }
    own = [name for name, file in scored.items() if file == weights.name]
    others = [name for name in scored if name not in own]
    results = figures_only({name: value for name, value in everything.items() if name not in others})
    config = configuration(run)
    contents = {"results.json": json.dumps(results, indent=2, ensure_ascii=False) + "\n"}
    if config is not None:
        import yaml

        contents["config.yaml"] = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    origin, remarks = started_from(config, everything, licence)
    remarks += [
        f"the figures of {name} are of {scored[name]}, not of {weights.name}, so they are left out; `vidact test "
        f"--config {run}/config.yaml` makes new ones"
        for name in others
    ]
    name = without_paths(data) if data else data_name(config, everything)
    contents[CARD] = card(network, address, licence, results, own, name, origin)
    for file, text in contents.items():
        if (path := first_path(text)) is not None:
            raise ValueError(f"{file} would hold the local path {path}; nothing was pushed. Please report this")
        with replacing(folder / file) as half:
            half.write_text(text, encoding="utf-8")
    return Publication(folder, [WEIGHTS, *contents], remarks)


# ---------------------------------------------------------------------------------------------- facts of a run


def figures_only(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return results.json without commands, names of files and local paths."""
    kept_facts = {name: value for name, value in results.items() if name not in LEFT_OUT}
    return {
        name: figures_only(value) if isinstance(value, Mapping) else without_paths(value)
        for name, value in kept_facts.items()
    }


def configuration(run: Path) -> dict[str, Any] | None:
    """Return the content of config.yaml without local paths; None for a run without one, such as an old probe's."""
    import yaml

    path = run / "config.yaml"
    if not path.is_file():
        return None
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError(f"{path} is no configuration of a run")
    for name in ("run", "ckpt"):
        config.pop(name, None)
    if isinstance(config.get("trainer"), dict):
        config["trainer"].pop("default_root_dir", None)
    return without_paths(config)


def started_from(config: Mapping[str, Any] | None, results: Mapping[str, Any], licence: str) -> tuple[str, list[str]]:
    """Return which weights the training started from, "" where it is not known, and remarks on their licence."""
    model = ((config or {}).get("model") or {}).get("init_args") or {}
    network = model.get("network") or {}
    builder = str(network.get("class_path", "")).rpartition(".")[2]
    options = network.get("init_args") or {}
    weights = model.get("init_from") or options.get("weights") or (results.get("probe") or {}).get("network") or ""
    start = str(without_paths(str(weights)))
    is_of_builder = start in CLASS_LISTS or start.startswith("unlabelled")  # a name of a network's published weights
    published = PUBLISHED.get(builder if is_of_builder else published_in(start) or start)
    if published is None:
        return start, []
    remarks = []
    if published.is_for_research and "-nc" not in licence:
        remarks.append(
            f"the weights started from {published.name}, whose licence {published.licence} allows no commercial use; "
            f"{licence} says nothing of that. Consider --licence cc-by-nc-4.0"
        )
    return f"{start}, {published.licence}", remarks


def data_name(config: Mapping[str, Any] | None, results: Mapping[str, Any]) -> str:
    """Return the last part of the path of the data of a run."""
    root = (((config or {}).get("data") or {}).get("init_args") or {}).get("root")
    if root is None:  # a probe of an old version has no configuration; its command names the data
        match = re.search(r"--data[= ](\S+)", str(results.get("command", "")))
        root = without_paths(match[1]) if match else None
    return re.split(r"[/\\]", str(root).rstrip("/\\"))[-1] if root else "data of its own"


# ---------------------------------------------------------------------------------------------- the card


def card(
    network: Any,
    address: Address,
    licence: str,
    results: Mapping[str, Any],
    own: Sequence[str],
    data: str,
    origin: str,
) -> str:
    """Return the text of the repository's README.md: a header in YAML, and sections for people.

    ``own`` names the sections of ``results`` with figures of the network itself, which the header lists.
    """
    import yaml

    from vidact.models.online import OnlineNetwork
    from vidact.models.weights import record_of

    record = record_of(network)
    assert record.recipe is not None
    builder = record.recipe["builder"].rpartition(".")[2]
    is_detector = isinstance(network, OnlineNetwork)
    kind = "online action detection" if is_detector else "action recognition"
    tables = list(tested(results, len(record.classes)))
    is_probe = "head" in (results.get("probe") or {})
    start = "Its head was fitted to frozen features of" if is_probe else "It started from"
    sentence = f" {start} {plain(origin)}." if origin else ""
    header = {
        "license": licence,
        "library_name": "vidact",
        "pipeline_tag": "video-classification",
        "tags": ["vidact", "video-classification", kind.replace(" ", "-"), builder],
        "model-index": [
            {
                "name": address.repository.partition("/")[2],
                "results": [
                    {
                        "task": {"type": "video-classification", "name": kind.capitalize()},
                        "dataset": {"name": data, "type": re.sub(r"[^\w.-]+", "-", data.lower())},
                        "metrics": [
                            {"type": metric_type(name), "name": f"{in_words(name)} ({section})", "value": value}
                            for section, figures in tables
                            if section in own
                            for name, value in figures.items()
                            if isinstance(value, float) and math.isfinite(value) and metric_type(name)
                        ],
                    }
                ],
            }
        ],
    }
    if not header["model-index"][0]["results"][0]["metrics"]:
        del header["model-index"]
    return "\n".join(
        [
            "---",
            yaml.safe_dump(header, sort_keys=False, allow_unicode=True).rstrip(),
            "---",
            "",
            MARK,
            "",
            f"# {address.repository.partition('/')[2]}",
            "",
            f"A network for {kind}, `{builder}` of vidact {__version__}, trained on {plain(data)}.{sentence}",
            "",
            "## Use",
            "",
            *use(network, address, is_detector),
            "",
            "## Classes",
            "",
            *classes(record),
            "",
            "## Figures",
            "",
            *figure_lines(tables),
            "",
            "## Input",
            "",
            *input_lines(network, record, is_detector),
            "",
            "## Licence",
            "",
            f"`{licence}`",
            "",
        ]
    )


def use(network: Any, address: Address, is_detector: bool) -> Iterator[str]:
    """Yield the lines that show how the repository is used."""
    from vidact.models.weights import extractor_state_of
    from vidact.stream.model import refuse_clips

    yield "```bash"
    if not is_detector:
        yield f"vidact predict --checkpoint {address} clip.mp4"
    try:
        if not is_detector:
            refuse_clips(network, str(address))
        extractor = "" if not is_detector or extractor_state_of(network) else " --extractor FEATURES"
        yield f"vidact stream --checkpoint {address} --source 0{extractor}"
        yield f"vidact serve --checkpoint {address}{extractor}"
    except ValueError:  # it needs whole clips
        pass
    yield f"vidact export --checkpoint {address} --out network.onnx"
    yield "```"
    yield ""
    yield f'In Python: `vidact.load("{address}")`; `record["classes"]` of the network has the names of its outputs.'


def classes(record: Record) -> Iterator[str]:
    """Yield the names of the classes."""
    names = ["`{}`".format(" ".join(name.replace("`", "'").split())) for name in record.classes[:MOST_CLASSES]]
    more = len(record.classes) - len(names)
    yield f"{len(record.classes)}: {', '.join(names)}" + (f", and {more} more in the file." if more else ".")
    if record.features is None and not record.multi_label:
        yield ""
        yield "Every video gets one of these names, also one that shows something else."


def tested(results: Mapping[str, Any], num_classes: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each section of results.json with figures of a test, and its figures by name."""
    for section, values in results.items():
        if not isinstance(values, Mapping) or not any(re.match(r"(test|val)_", name) for name in values):
            continue
        figures = {
            name: value
            for name, value in values.items()
            if re.match(r"(test|val)_", name) and isinstance(value, float | str) and not is_trivial(name, num_classes)
        }
        for name in ("videos", "views"):
            if name in values:
                figures[name] = values[name]
        yield section, figures


def figure_lines(tables: Sequence[tuple[str, dict[str, Any]]]) -> Iterator[str]:
    """Yield tables of figures, those of trivial answers included, and what they mean."""
    if not tables:
        yield "It was not scored."
    for section, figures in tables:
        split = "validation" if any(name.startswith("val_") for name in figures) else "test"
        videos = figures.get("videos")
        yield (
            f"On the {split} split"
            + (f" ({counted(videos, 'video')})" if isinstance(videos, int) else "")
            + f", {section}:"
        )
        yield ""
        yield "| figure | value |"
        yield "|---|---|"
        sentences = [str(value) for name, value in figures.items() if name.endswith("verdict") and value]
        for name, value in figures.items():
            if not name.endswith("verdict") and name != "videos":
                text = f"{value:.4f}" if isinstance(value, float) else plain(str(value))
                yield f"| {plain(in_words(name))} | {text} |"
        yield ""
        for sentence in sentences:
            yield f"Note: {plain(sentence)}."
            yield ""
    if tables:
        yield "`results.json` has all figures." + (
            " The validation split also chose the weights, which flatters them."
            if any(name.startswith("val_") for _, figures in tables for name in figures)
            else ""
        )


def input_lines(network: Any, record: Record, is_detector: bool) -> Iterator[str]:
    """Yield what the network reads."""
    if is_detector:
        features = record.features
        maker = (features.builder if features else None) or "another program"
        from vidact.models.weights import extractor_state_of

        inside = "is in the file, too" if extractor_state_of(network) else "is not in the file"
        rate = f"{record.tokens_per_second or 0:g} a second"
        yield f"Features by `{maker.rpartition('.')[2]}`, {rate}; their extractor {inside}."
        return
    clip = record.input or {}
    size = clip.get("size")
    sampling = record.sampling or {}
    arguments = ", ".join(f"{name} {value}" for name, value in (sampling.get("arguments") or {}).items())
    kind = "Optical flow" if clip.get("flow_fields") else "RGB frames"
    yield f"{kind}, {size} x {size} pixels, chosen by `{sampling.get('name', '?')}` ({arguments})."


def metric_type(name: str) -> str | None:
    """Return the hub's name of a figure of a test; None for other figures, such as those of trivial answers."""
    plain_name = re.sub(r"^(test|val)_", "", name)
    if plain_name in ("top1", "top5", "mean_class_accuracy", "token_accuracy"):
        return "accuracy"
    if plain_name in ("map", "event_map", "tiou_map", "mcap"):
        return "mean_average_precision"
    return "f1" if plain_name == "event_f1" else None


def plain(text: str) -> str:
    """Return a text that Markdown shows as it is, on one line."""
    return re.sub(r"([|<>`*_\[\]])", r"\\\1", " ".join(text.split()))
