"""``vidact push`` to a hub on 127.0.0.1: what arrives there, what stays here, and what is refused."""

import getpass
import json
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support.hub_server import HubServer, Repository, hub_serving, use
from torch import nn

import vidact
from vidact import cli
from vidact.data.clips import ClipData
from vidact.features.extractor import FeatureExtractor
from vidact.features.names import build_network
from vidact.files import in_use, is_in_use
from vidact.hub.huggingface import Address
from vidact.models.weights import describe, recipe_of, record_of, save
from vidact.report.publication import LICENCES, assemble, started_from
from vidact.text.local_paths import first_path, without_paths
from vidact.training.probe_config import save_config
from vidact.video.sample import SegmentSampler

ADDRESS = "hf://somebody/waves"
CLASSES = ["bow", "jump", "wave"]
SAMPLING = {"name": "SegmentSampler", "arguments": {"num_segments": 3, "segment_length": 1}}
FIGURES = {
    "test_top1": 0.75,
    "test_top5": 1.0,
    "test_chance": 1 / 3,
    "test_majority": 0.4,
    "test_majority_class": "bow",
    "test_verdict": "",
    "videos": 12,
    "views": "1x1",
    "classes": 3,
}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """An empty hub, and its token."""
    with hub_serving() as started:
        use(started, tmp_path / "hf", monkeypatch)
        monkeypatch.setenv("HF_TOKEN", started.token)
        monkeypatch.chdir(tmp_path)
        yield started


def write_run(run: Path, network: nn.Module, record: Mapping[str, Any], **config: Any) -> Path:
    """A run as training leaves it: with its optimiser's state, whole paths, and the command that made it."""
    (run / "checkpoints").mkdir(parents=True)
    torch.save(
        {
            "state_dict": {f"network.{key}": value for key, value in network.state_dict().items()},
            "vidact": {"format": 1, **record, **describe(network).to_dict()},
            "optimizer_states": [{"state": torch.zeros(300_000)}],
            "extractor": dict(getattr(network, "extractor_state", {})),
        },
        run / "checkpoints" / "best.ckpt",
    )
    command = f"vidact train --data.root {run.parent}/clips --run={run} --model.network.weights ~/x/a.pth"
    section = {**FIGURES, "checkpoint": f"{run}/checkpoints/best.ckpt", "unreadable": {"a": f"{run}/a.mp4 is empty"}}
    (run / "results.json").write_text(
        json.dumps({"test": section, "command": command, "commands": {command: ["test"]}})
    )
    content = {
        "run": str(run),
        "ckpt": None,
        "trainer": {"default_root_dir": str(run), "max_epochs": 3},
        "model": {
            "init_args": {"init_from": None, "network": {"class_path": "vidact.models.tsn_resnet_tiny"}, **config}
        },
        "data": {"init_args": {"root": f"{run.parent}/clips", "flow": str(Path.home() / "flow" / "clips")}},
    }
    (run / "config.yaml").write_text(yaml.safe_dump(content) + f"# resumed from {run}\n")
    return run


@pytest.fixture
def recogniser() -> nn.Module:
    torch.manual_seed(0)
    network = vidact.models.tsn_resnet_tiny(3, weights=None)
    recipe_of(network)["arguments"]["weights"] = "/home/jane/secret/a.pth"
    return network


@pytest.fixture
def run(tmp_path: Path, recogniser: nn.Module) -> Path:
    return write_run(
        tmp_path / "runs" / "x", recogniser, {"classes": CLASSES, "sampling": SAMPLING, "multi_label": False}
    )


def test_figures_of_other_networks_are_not_taken_for_those_of_this(run: Path, tmp_path: Path) -> None:
    """Of a probe beside the training, and of another checkpoint of the run."""
    results = json.loads((run / "results.json").read_text())
    others = {
        "linear probe": {"test_top1": 0.9},
        "test, last": {**FIGURES, "checkpoint": "runs/x/checkpoints/last.ckpt"},
    }
    (run / "results.json").write_text(json.dumps(results | others))
    publication = assemble(run, Address("somebody/waves"), "mit", tmp_path / "out")
    assert publication.remarks == [
        "the figures of test, last are of last.ckpt, not of best.ckpt, so they are left out; `vidact test --config "
        f"{run}/config.yaml` makes new ones"
    ]
    assert set(json.loads((tmp_path / "out" / "results.json").read_text())) == {"test", "linear probe"}
    _, header, body = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)
    metrics = yaml.safe_load(header)["model-index"][0]["results"][0]["metrics"]
    assert [metric["name"] for metric in metrics] == ["top-1 (test)"]
    assert "| top-1 | 0.9000 |" in body


@pytest.mark.slow
def test_a_card_that_somebody_wrote_is_kept(server: HubServer, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["push", str(run), ADDRESS, "--licence=mit"])
    cli.main(["push", str(run), ADDRESS, "--licence=cc-by-4.0"])
    assert b"license: cc-by-4.0" in on_hub(server)["README.md"]
    server.repositories["somebody/waves"].commit({"README.md": b"# Mine"})
    capsys.readouterr()
    cli.main(["push", str(run), ADDRESS, "--licence=mit"])
    output = capsys.readouterr().out
    assert "pushed model.safetensors, results.json, config.yaml: http" in output
    assert "note: README.md of the repository is not vidact's and was kept" in output
    assert on_hub(server)["README.md"] == b"# Mine"
    assert "model.safetensors" in on_hub(server)


def on_hub(server: HubServer, branch: str = "main") -> dict[str, bytes]:
    repository = server.repositories["somebody/waves"]
    return {name: data for name, data in repository.commits[repository.references[branch]].items() if data}


def fails(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["push", *words])
    assert stopped.value.code == 2
    return capsys.readouterr().err


def assert_nothing_of_this_machine(files: Mapping[str, bytes], tmp_path: Path, token: str) -> None:
    for name, data in files.items():
        for private in (str(tmp_path), tmp_path.name, str(Path.home()) + "/", f"/{getpass.getuser()}/", "jane", token):
            assert private.encode() not in data, (name, private)


# ---------------------------------------------------------------------------------------------- what arrives


def test_a_run_is_pushed_and_opened_from_the_hub(
    server: HubServer, run: Path, recogniser: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["push", str(run), ADDRESS, "--licence=mit"])
    output = capsys.readouterr().out
    assert f"pushed model.safetensors, results.json, config.yaml, README.md: {server.address}/somebody/waves/" in output
    assert output.endswith("vidact predict --checkpoint hf://somebody/waves clip.mp4\n")
    files = on_hub(server)
    assert sorted(files) == ["README.md", "config.yaml", "model.safetensors", "results.json"]
    assert_nothing_of_this_machine(files, tmp_path, server.token)
    assert len(files["model.safetensors"]) < (run / "checkpoints" / "best.ckpt").stat().st_size - 1_000_000
    network = vidact.load(ADDRESS)
    assert record_of(network).classes == CLASSES
    assert record_of(network).sampling == SAMPLING
    for key, value in recogniser.state_dict().items():
        assert torch.equal(network.state_dict()[key], value)
    assert not server.repositories["somebody/waves"].is_private
    config = yaml.safe_load(files["config.yaml"])
    assert config["data"]["init_args"] == {"root": "clips", "flow": "clips"}
    assert config["trainer"] == {"max_epochs": 3}
    assert json.loads(files["results.json"]) == {"test": FIGURES}
    cli.main(["push", str(run), ADDRESS, "--licence=mit"])  # again: the same files
    assert on_hub(server) == files


def test_the_card(server: HubServer, run: Path) -> None:
    cli.main(["push", str(run), ADDRESS, "--license", "cc-by-4.0", "--data_name=Waves | at sea"])
    text = on_hub(server)["README.md"].decode()
    _, header, body = text.split("---\n", 2)
    facts = yaml.safe_load(header)
    assert facts["license"] == "cc-by-4.0"
    assert facts["library_name"] == "vidact"
    assert facts["pipeline_tag"] == "video-classification"
    assert {"vidact", "action-recognition", "tsn_resnet_tiny"} <= set(facts["tags"])
    result = facts["model-index"][0]["results"][0]
    assert result["dataset"]["name"] == "Waves | at sea"
    assert result["metrics"] == [{"type": "accuracy", "name": "top-1 (test)", "value": 0.75}]  # top-5 of 3 says nothing
    for line in (
        "trained on Waves \\| at sea.",
        "vidact predict --checkpoint hf://somebody/waves clip.mp4",
        "vidact stream --checkpoint hf://somebody/waves --source 0",
        "3: `bow`, `jump`, `wave`.",
        "On the test split (12 videos), test:",
        "| top-1 | 0.7500 |",
        "| accuracy of a guess | 0.3333 |",
        "| accuracy of always answering the most frequent class | 0.4000 |",
        "RGB frames, 64 x 64 pixels, chosen by `SegmentSampler` (num_segments 3, segment_length 1).",
    ):
        assert line in body


def test_the_card_is_one_that_the_hub_reads(server: HubServer, run: Path, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    assemble(run, Address("somebody/waves"), "mit", tmp_path / "out")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == "mit"
    assert [(each.metric_type, each.metric_value) for each in card.data.eval_results] == [("accuracy", 0.75)]


@pytest.mark.parametrize("has_config", [True, False])  # older versions wrote none
def test_a_probe_is_pushed(server: HubServer, tmp_path: Path, has_config: bool) -> None:
    trunk = build_network("resnet_tiny", None, 32)
    trunk_recipe = {**recipe_of(trunk), "arguments": {**recipe_of(trunk)["arguments"], "weights": "/home/jane/x.pth"}}
    probe = vidact.models.clip_probe(trunk_recipe, "linear", 3)
    save(probe, tmp_path / "p" / "probe.safetensors", {"classes": CLASSES, "sampling": SAMPLING, "multi_label": False})
    results = {"test": FIGURES, "probe": {"network": "/home/jane/x.ckpt", "head": "linear"}}
    command = {"command": "vidact probe --data /home/jane/gestures", "commands": {}}
    (tmp_path / "p" / "results.json").write_text(json.dumps(results | command))
    if has_config:
        data = ClipData("/home/jane/gestures", SegmentSampler(4))
        save_config(probe, data, tmp_path / "p", "test", None, data.fractions)
    cli.main(["push", "p", ADDRESS, "--licence=mit"])
    files = on_hub(server)
    assert sorted(files) == ["README.md", *["config.yaml"] * has_config, "model.safetensors", "results.json"]
    assert_nothing_of_this_machine(files, tmp_path, server.token)
    text = files["README.md"].decode()
    assert "trained on gestures. Its head was fitted to frozen features of x.ckpt." in text
    clip = torch.randn(1, 3, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(vidact.load(ADDRESS)(clip), probe.eval()(clip))


def test_a_detector_is_pushed_with_its_extractor(server: HubServer, tmp_path: Path) -> None:
    extractor = FeatureExtractor(build_network("resnet_tiny", None, 32), device="cpu")
    features = {"tokens_per_second": extractor.tokens_per_second, "dim": extractor.dim, **extractor.record()}
    network = vidact.models.frame_classifier(num_classes=3, feature_dim=extractor.dim)
    vars(network)["extractor_state"] = extractor.state()
    record = {"classes": CLASSES[:2], "features": features, "tokens_per_second": extractor.tokens_per_second}
    run = write_run(tmp_path / "d", network, record)
    cli.main(["push", str(run), ADDRESS, "--licence=mit"])
    files = on_hub(server)
    assert_nothing_of_this_machine(files, tmp_path, server.token)
    opened = vidact.load(ADDRESS)
    assert opened.extractor_state.keys() == extractor.state().keys()
    text = files["README.md"].decode()
    assert "vidact stream --checkpoint hf://somebody/waves --source 0\n" in text
    assert "Features by `image_backbone`, 4 a second; their extractor is in the file, too." in text
    assert "vidact predict" not in text
    assert "online-action-detection" in text


@pytest.mark.slow
def test_a_branch_and_a_repository_with_other_files(
    server: HubServer, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.repositories["somebody/waves"] = repository = Repository()
    repository.commit({"old.safetensors": b"old", "notes.md": b"mine"})
    cli.main(["push", str(run), f"{ADDRESS}@v2", "--licence=mit"])
    assert "--checkpoint hf://somebody/waves@v2/model.safetensors clip.mp4" in capsys.readouterr().out
    assert on_hub(server) == {"old.safetensors": b"old", "notes.md": b"mine"}
    assert on_hub(server, "v2")["notes.md"] == b"mine"
    assert record_of(vidact.load(f"{ADDRESS}@v2/model.safetensors")).classes == CLASSES


@pytest.mark.slow
def test_a_private_repository(server: HubServer, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["push", str(run), ADDRESS, "--licence=mit", "--private"])
    assert server.repositories["somebody/waves"].is_private
    server.repositories["somebody/waves"].is_private = False
    words = fails(capsys, str(run), ADDRESS, "--licence=mit", "--private")
    assert f"exists and is public; leave --private out, or make it private at {server.address}/somebody/waves" in words


def test_a_dry_run_uploads_nothing(
    server: HubServer, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["push", str(run), ADDRESS, "--licence=mit", "--dry_run"])
    output = capsys.readouterr().out
    files = {path.name: path.read_bytes() for path in (run / "push").iterdir()}
    assert sorted(files) == ["README.md", "config.yaml", "model.safetensors", "results.json"]
    assert all(f"{run}/push/{name}: " in output for name in files)
    assert "nothing was uploaded; without --dry_run these files go to hf://somebody/waves" in output
    assert not server.requests
    cli.main(["push", str(run), ADDRESS, "--licence=mit"])
    assert on_hub(server) == files


def test_classes_are_no_paths_and_figures_that_are_no_numbers_are_not_in_the_header(
    recogniser: nn.Module, tmp_path: Path
) -> None:
    names = ["drink /eat", "../x", "wave"]
    run = write_run(tmp_path / "y", recogniser, {"classes": names, "sampling": SAMPLING, "multi_label": False})
    figures = {**FIGURES, "test_map": float("nan"), "checkpoint": "best.ckpt"}
    (run / "results.json").write_text(json.dumps({"test": figures}))
    assemble(run, Address("somebody/waves"), "mit", tmp_path / "out", f"{Path.home()}/waves")
    assert record_of(vidact.load(tmp_path / "out" / "model.safetensors")).classes == names
    _, header, body = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)
    assert ".nan" not in header
    assert "| mAP | nan |" in body
    assert "trained on waves." in body


@pytest.mark.parametrize(
    ("builder", "weights", "is_for_research"),
    [
        ("videomae_base", "kinetics400", True),
        ("videomae_base", "unlabelled_something_v2", True),
        ("vjepa2_large", "diving48", False),
        ("x3d_s", "hf://MCG-NJU/videomae-base-finetuned-kinetics", True),
        ("x3d_s", "/home/jane/kinetics400.pth", None),
    ],
)
def test_the_licence_of_the_weights_that_a_training_started_from(
    builder: str, weights: str, is_for_research: bool | None
) -> None:
    network = {"class_path": f"vidact.models.{builder}", "init_args": {"weights": weights}}
    origin, remarks = started_from({"model": {"init_args": {"network": network}}}, {}, "mit")
    assert ("," in origin) == (is_for_research is not None)
    assert bool(remarks) == bool(is_for_research)


@pytest.mark.slow
def test_a_licence_that_forbids_what_the_new_one_allows_is_named(
    server: HubServer, tmp_path: Path, recogniser: nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    record = {"classes": CLASSES, "sampling": SAMPLING, "multi_label": False}
    run = write_run(tmp_path / "y", recogniser, record, init_from="videomae_base")
    cli.main(["push", str(run), ADDRESS, "--licence=mit", "--dry_run"])
    assert "note: the weights started from videomae_base, whose licence CC-BY-NC-4.0" in capsys.readouterr().out
    assert "It started from videomae\\_base, CC-BY-NC-4.0." in (run / "push" / "README.md").read_text()
    cli.main(["push", str(run), ADDRESS, "--licence=cc-by-nc-4.0", "--dry_run"])
    assert "note:" not in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------- what is refused


def test_what_is_refused_before_anything_is_read(
    server: HubServer, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = fails(capsys, str(run), ADDRESS)
    assert "a licence is needed" in words
    assert all(f"  {name} " in words for name in LICENCES)
    assert "did you mean apache-2.0?" in fails(capsys, str(run), ADDRESS, "--licence=apache")
    licensed = "--licence=mit"
    assert "is no address of the hub; write hf://owner/name" in fails(capsys, str(run), "somebody/waves", licensed)
    assert "names a file; give the repository" in fails(capsys, str(run), f"{ADDRESS}/x.ckpt", licensed)
    assert "is a data set of the hub" in fails(capsys, str(run), "hf://datasets/a/b", licensed)
    best = run / "checkpoints" / "best.ckpt"
    assert "is a file; name the folder of its run" in fails(capsys, str(best), ADDRESS, licensed)
    assert "there is no folder" in fails(capsys, str(run / "z"), ADDRESS, licensed)
    assert f"it holds runs: {run}. Push one of them" in fails(capsys, str(run.parent), ADDRESS, licensed)
    with in_use(run):
        assert f"a process is still writing to {run}" in fails(capsys, str(run), ADDRESS, licensed)
    (run / "results.json").rename(run / "results")
    assert "has no figures (results.json), so it is not finished" in fails(capsys, str(run), ADDRESS, licensed)
    best.unlink()
    assert "its training saved no best weights yet" in fails(capsys, str(run), ADDRESS, licensed)
    assert not server.requests


def test_a_hub_that_is_away_after_the_commit_changes_nothing(
    server: HubServer, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import huggingface_hub

    commit = huggingface_hub.HfApi.create_commit

    def last(*arguments: Any, **options: Any) -> Any:
        info = commit(*arguments, **options)
        server.status = 503
        return info

    monkeypatch.setattr(huggingface_hub.HfApi, "create_commit", last)
    cli.main(["push", str(run), ADDRESS, "--licence=mit"])
    assert capsys.readouterr().out.endswith("vidact predict --checkpoint hf://somebody/waves clip.mp4\n")


def test_what_the_hub_refuses(
    server: HubServer, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    words = fails(capsys, str(run), ADDRESS, "--licence=mit")
    assert (
        "hf://somebody/waves may not be written (401; the token that was sent may not do this). With a token" in words
    )
    assert "hf_other" not in words
    monkeypatch.delenv("HF_TOKEN")
    assert "(401; no token was sent)" in fails(capsys, str(run), ADDRESS, "--licence=mit")
    monkeypatch.setenv("VIDACT_OFFLINE", "1")
    assert "VIDACT_OFFLINE or HF_HUB_OFFLINE forbids the network" in fails(capsys, str(run), ADDRESS, "--licence=mit")
    assert not server.repositories


@pytest.mark.parametrize(
    ("path", "status", "message", "words"),
    [
        ("/commit/main", 403, "Private repository storage limit reached, upgrade your plan",
         r"may not be written \(403; .*says: Private repository storage limit reached, upgrade your plan$"),
        ("/commit/main", 403, "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request",
         r"may not be written \(403; .*says: Forbidden: pass `create_pr=1`"),
        ("/api/repos/create", 403, "You don't have the rights to create a model under the namespace \"somebody\"",
         r"may not be written \(403; .*says: You don't have the rights to create a model"),
        ("/commit/main", 429, "We had to rate limit you", r"answered with 429 \(We had to rate limit you\)"),
        ("/commit/main", 413, "Payload too large", r"answered with 413 \(Payload too large\)"),
        ("/api/validate-yaml", 400, "no YAML", r"Invalid metadata in README\.md"),
        ("/info/lfs/objects/batch", 403, "Storage quota exceeded", r"Storage quota exceeded"),
    ],
)  # fmt: skip
def test_why_the_hub_refuses_is_in_its_own_words(
    path: str, status: int, message: str, words: str, server: HubServer, run: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the client waits before it tries again
    server.refusals = {path: (status, message)}
    output = fails(capsys, str(run), ADDRESS, "--licence=mit").strip()
    assert re.search(words, " ".join(line for line in output.splitlines() if "VIDACT_TRACEBACK" not in line))
    assert server.token not in output
    assert "somebody/waves" not in server.repositories or "model.safetensors" not in on_hub(server)


# ---------------------------------------------------------------------------------------------- paths and locks


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("/home/jane/clips", "clips"),
        ("/home/jane/my clips/", "my clips"),
        ("~/clips/a.mp4", "a.mp4"),
        ("../../jane/clips", "clips"),
        ("C:\\Users\\Jane Doe\\clips", "clips"),
        ("\\\\server\\jane\\clips", "clips"),
        ("vidact train --data.root=/home/jane/clips --x '/a/b'", "vidact train --data.root=clips --x 'b'"),
        ("clip/folder/tsm_mobilenetv2", "clip/folder/tsm_mobilenetv2"),
        ("hf://owner/name@v1/a.ckpt", "hf://owner/name@v1/a.ckpt"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("https://jane:secret@example.org/a", "https://example.org/a"),
        ("error:/home/jane/a.mp4 is empty", "error:a.mp4 is empty"),
        ("3/4 of the videos, and/or 10x3", "3/4 of the videos, and/or 10x3"),
        ("top-1 0.5", "top-1 0.5"),
        ("/", "."),
        ("", ""),
    ],
)
def test_only_the_last_part_of_a_path_stays(text: str, rest: str) -> None:
    assert without_paths({text: [text, 1, None]}) == {rest: [rest, 1, None]}
    assert without_paths(rest) == rest


def test_folders_with_blanks_are_those_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "Jane Doe"
    (home / "runs" / "x").mkdir(parents=True)
    (home / "runs" / "x" / "best.ckpt").touch()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    assert without_paths(f"cannot read {home}/clips/a.mp4: empty") == "cannot read clips/a.mp4: empty"
    assert without_paths("runs/x/best.ckpt") == "best.ckpt"  # it exists
    assert first_path(f"see {home}/x") == str(home)
    assert first_path("see runs/x") is None
    assert without_paths(f"-I {home} -L{home}/lib") == "-I . -Llib"


def test_a_folder_is_not_the_end_of_an_address_or_of_a_relative_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container, the present folder has a name such as /app."""
    monkeypatch.setattr("os.getcwd", lambda: "/app")
    for text in ("hf://me/app", "https://example.org/app/x", "clips/app/x", "see hf://me/app and clips/app/x"):
        assert without_paths(text) == text
        assert first_path(text) is None
    assert without_paths("see /app/x in /app") == "see x in ."
    assert first_path("see /app/x") == "/app"


def test_a_folder_is_in_use_while_a_process_writes(tmp_path: Path) -> None:
    assert not is_in_use(tmp_path)
    with in_use(tmp_path):
        assert is_in_use(tmp_path)
        with in_use(tmp_path):  # another process of the same training
            assert is_in_use(tmp_path)
        assert is_in_use(tmp_path)
    assert not is_in_use(tmp_path)
    with in_use(tmp_path / "absent"):
        assert not is_in_use(tmp_path / "absent")
    assert not list(tmp_path.iterdir())


def test_a_probe_that_encodes_is_in_use(tmp_path: Path) -> None:
    from vidact.jobs import Folder

    with Folder(tmp_path / "encodings" / "a", ".notes").locked():
        assert is_in_use(tmp_path)
    assert not is_in_use(tmp_path)
