"""Published networks by name: the table, the cache, and downloads from a real server on 127.0.0.1."""

import errno
import hashlib
import importlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
import torchvision
from support.file_server import FileServer, serving
from support.published import movinet_tensors
from torch import nn

import vidact
import vidact.models
from vidact import cli, hub
from vidact.convert import class_names, published_sampling
from vidact.features.extractor import FeatureExtractor
from vidact.features.names import build_network
from vidact.hub import download
from vidact.models.weights import build_published, initialise_from, is_builder, read
from vidact.prediction import predict
from vidact.stream import open_source, run
from vidact.stream.model import load_model
from vidact.text.layouts import REFERENCES
from vidact.training.config import checkpoint_path
from vidact.video.numbered import write_numbered_video
from vidact.video.sample import ClipSampler

EACH = pytest.mark.parametrize("name", hub.PUBLISHED)
# Of each publisher one name, and the others in the slow tests.
ONES = {entry.origin: name for name, entry in hub.PUBLISHED.items()}.values()
EACH_OR_ONE = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ONES else pytest.mark.slow) for name in hub.PUBLISHED]
)
CONTENT = os.urandom(3 << 20)
NAME = "x3d_xs"  # the smallest; no hash of its file is published
PATH = urlsplit(hub.PUBLISHED[NAME].address).path
PINNED = "mc3_18"  # its address ends in the first digits of the file's hash


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A mirror with the file of ``NAME``, and an empty cache."""
    with serving(files={PATH: CONTENT}) as started:
        monkeypatch.setenv("VIDACT_MIRROR", started.address)
        monkeypatch.setenv("VIDACT_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
        monkeypatch.delenv("VIDACT_OFFLINE", raising=False)
        for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(variable, raising=False)
        yield started


def fetch(name: str = NAME) -> Path:
    return hub.fetch(hub.PUBLISHED[name])


def in_cache() -> list[str]:
    return sorted(path.name for path in hub.folder().iterdir())


# ---------------------------------------------------------------------------------------------- the table


@EACH
def test_an_entry_names_what_exists(name: str) -> None:
    entry = hub.PUBLISHED[name]
    assert is_builder(getattr(vidact.models, entry.network))
    assert entry.origin in REFERENCES
    assert hub.class_names(entry.classes)
    assert ClipSampler.from_record(entry.sampler).record() == entry.sampler
    assert urlsplit(entry.address).scheme == "https"
    assert entry.licence
    assert entry.source.startswith("https://")


def test_addresses_and_figures_are_those_of_torchvision() -> None:
    entries = [entry for entry in hub.PUBLISHED.values() if entry.origin == "torchvision"]
    assert len(entries) == 9
    for entry in entries:
        weights = torchvision.models.get_model_weights(entry.network)["KINETICS400_V1"]
        assert entry.address == weights.url
        assert entry.sha256 == re.search(r"-([0-9a-f]{8})\.pth$", weights.url)[1]
        accuracy = weights.meta["_metrics"]["Kinetics-400"]["acc@1"]
        assert float(entry.figure.split()[0]) == pytest.approx(accuracy, abs=0.006)
        views = int(re.search(r"clips_per_video=(\d+)", weights.meta["_docs"])[1])
        clips, crops = map(int, re.search(r"(\d+)x(\d+)", entry.figure).groups())
        assert clips * crops == views
        assert entry.megabytes == pytest.approx(weights.meta["_file_size"] * 1.048576, abs=1)


def test_addresses_are_those_of_pytorchvideo() -> None:
    entries = [entry for entry in hub.PUBLISHED.values() if entry.origin == "pytorchvideo"]
    assert len(entries) == 11
    for entry in entries:
        modules = ("resnet", "slowfast", "x3d", "csn", "r2plus1d")
        tables = [importlib.import_module(f"pytorchvideo.models.hub.{module}").checkpoint_paths for module in modules]
        assert entry.address == next(table[entry.network] for table in tables if entry.network in table)


def test_files_of_the_hub_have_a_fixed_revision() -> None:
    entries = [entry for entry in hub.PUBLISHED.values() if "huggingface.co" in entry.address]
    assert len(entries) == 9
    for entry in entries:
        assert re.fullmatch(
            r"https://huggingface\.co/[\w-]+/[\w-]+/resolve/[0-9a-f]{40}/(model\.safetensors|pytorch_model\.bin)",
            entry.address,
        )
        assert entry.is_for_research == ("/MCG-NJU/" in entry.address)


def test_class_lists_have_the_order_of_the_outputs() -> None:
    lengths = {name: len(hub.class_names(name)) for name in hub.CLASS_LISTS}
    assert lengths == {"kinetics400": 400, "kinetics600": 600, "kinetics700": 700, "something_v2": 174, "diving48": 48}
    for name in hub.CLASS_LISTS:
        names = hub.class_names(name)
        assert len(set(names)) == len(names)
        if name != "something_v2":
            assert list(names) == sorted(names)
    published = torchvision.models.get_model_weights("r3d_18")["KINETICS400_V1"].meta["categories"]
    assert list(hub.class_names("kinetics400")) == published
    # The outputs whose names transformers' converter of V-JEPA 2 prints.
    assert hub.class_names("something_v2")[145] == "Stuffing something into something"
    assert hub.class_names("something_v2")[112] == "Putting something onto something"
    assert hub.class_names("diving48")[35] == "Inward+35som+NoTwis+TUCK"
    assert hub.class_names("diving48")[22] == "Forward+25som+2Twis+PIKE"
    with pytest.raises(ValueError, match=r"no class list 'kinetics'; the lists are kinetics400, kinetics600"):
        hub.class_names("kinetics")


def test_a_converted_file_gets_the_classes_of_a_list_by_its_name() -> None:
    names = class_names(vidact.models.videomae_tiny, "something_v2", "videomae", {"num_classes": 174})
    assert names == list(hub.class_names("something_v2"))
    with pytest.raises(ValueError, match="400 classes are named and the network has 174"):
        class_names(vidact.models.videomae_tiny, "kinetics400", "videomae", {"num_classes": 174})


# ---------------------------------------------------------------------------------------------- networks


def published_tensors(entry: hub.Published) -> dict[str, torch.Tensor]:
    """The tensors of a network by the library that published it, under its own names, on the default device."""
    count = len(hub.class_names(entry.classes))
    if entry.origin == "torchvision":
        return getattr(torchvision.models.video, entry.network)().state_dict()
    if entry.origin == "pytorchvideo":
        modules = ("resnet", "slowfast", "x3d", "csn", "r2plus1d")
        hubs = [importlib.import_module(f"pytorchvideo.models.hub.{module}") for module in modules]
        build = next(getattr(each, entry.network) for each in hubs if entry.network in each.checkpoint_paths)
        return build(pretrained=False).state_dict()
    if entry.origin == "movinet":
        return movinet_tensors(getattr(vidact.models, entry.network)(count), stream=entry.streams)
    transformers = pytest.importorskip("transformers")
    ours = vars(vidact.models.video_transformers)[f"_OF_{entry.origin.upper()}"][entry.network]
    shape = {"hidden_size": ours.width, "num_hidden_layers": ours.layers, "num_attention_heads": ours.heads}
    if entry.origin == "videomae":
        config = transformers.VideoMAEConfig(**shape, intermediate_size=ours.inner, num_labels=count)
        return transformers.VideoMAEForVideoClassification(config).state_dict()
    size = 384 if "384" in entry.address else 256
    config = transformers.VJEPA2Config(**shape, mlp_ratio=ours.inner / ours.width, crop_size=size, num_labels=count)
    return transformers.VJEPA2ForVideoClassification(config).state_dict()


@EACH
def test_every_name_takes_a_file_of_its_published_layout(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and shapes, at the published sizes, without memory for the numbers."""
    if name.startswith("videomae"):  # the table of positions, which no file has, is computed for seconds
        layers = pytest.importorskip("transformers.models.videomae.modeling_videomae")
        monkeypatch.setattr(layers, "get_sinusoid_encoding_table", lambda tokens, dim: torch.zeros(1, tokens, dim))
    entry = hub.PUBLISHED[name]
    with torch.device("meta"):
        network = build_published(entry, published_tensors(entry), entry.path)
    assert network.record.recipe["builder"] == f"vidact.models.{entry.network}"
    assert network.num_classes == len(network.record.classes) == len(hub.class_names(entry.classes))
    assert network.record["source"] == entry.address
    assert network.record["licence"] == entry.licence
    assert not network.training
    if name not in ("videomae_base_something_v2", "vjepa2_large_diving48", "vjepa2_giant_diving48"):
        assert network.record["sampling"] == published_sampling(network, {}).record()


def content_of(entry: hub.Published, folder: Path) -> bytes:
    """The bytes of a file of the published layout, with random weights."""
    torch.manual_seed(0)
    tensors = published_tensors(entry)
    path = folder / f"published{entry.path.suffix}"
    if entry.path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
    else:
        torch.save({"model_state": tensors} if entry.origin == "pytorchvideo" else tensors, path)
    return path.read_bytes()


@pytest.mark.parametrize(
    "name",
    [
        NAME,
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name, entry in hub.PUBLISHED.items()
            if name != NAME and entry.megabytes < 600
        ),
    ],
)
def test_a_name_is_downloaded_opened_and_opened_again_without_a_network(
    name: str, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = hub.PUBLISHED[name]
    content = content_of(entry, tmp_path)
    entry = replace(entry, sha256=hashlib.sha256(content).hexdigest()[:8] if entry.sha256 else "")
    monkeypatch.setitem(hub.PUBLISHED, name, entry)
    server.files = {urlsplit(entry.address).path: content}
    network = vidact.load(name)
    monkeypatch.setenv("VIDACT_OFFLINE", "1")
    tensors, record = read(name)
    assert len(server.requests) == 1
    assert record == network.record
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, tensors[key])


@pytest.fixture
def video(tmp_path: Path) -> Path:
    write_numbered_video(tmp_path / "clip.mp4", 60)
    return tmp_path / "clip.mp4"


@pytest.mark.slow
def test_a_prediction_of_a_movinet_is_the_end_of_a_stream(server: FileServer, video: Path, tmp_path: Path) -> None:
    """A published one, of a file that is no longer than the clips of its training."""
    name = "movinet_a0_stream"
    server.files = {urlsplit(hub.PUBLISHED[name].address).path: content_of(hub.PUBLISHED[name], tmp_path)}
    (prediction,) = predict(video, name, top=600, device="cpu")
    *_, last = run(open_source(video), load_model(name, device="cpu"))
    expected = dict(zip(hub.class_names("kinetics600"), last.scores[1:], strict=True))
    assert dict(prediction.labels) == pytest.approx(expected, abs=1e-5)
    assert max(expected.values()) > 1.01 * min(expected.values())  # or the comparison would prove nothing


def test_a_name_is_a_checkpoint_everywhere(
    server: FileServer, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """predict, export, extract features and init_from take the name; a network of whole clips is refused by stream."""
    monkeypatch.chdir(tmp_path)
    server.files = {PATH: content_of(hub.PUBLISHED[NAME], tmp_path)}
    with pytest.raises(ValueError, match=r"x3d_xs cannot stream: x3d_xs looks at whole clips\. What can"):
        load_model(NAME)
    assert not server.requests
    cli.main(["predict", "--checkpoint", NAME, str(video), "--device=cpu"])
    output = capsys.readouterr()
    assert "x3d_xs: downloading about 31 MB from http://127.0.0.1" in output.err
    assert "(licence Apache-2.0 (pytorchvideo))" in output.err
    labels = [line.split("%  ")[1] for line in output.out.splitlines()[1:]]
    assert len(labels) == 5
    assert set(labels) <= set(hub.class_names("kinetics400"))
    network = vidact.load(NAME)
    assert [label for label, _ in predict(video, NAME, device="cpu")[0].labels] == labels
    fit = initialise_from(vidact.models.x3d_xs(5, weights=None), NAME)
    assert fit.reinitialised == ["fc.weight", "fc.bias"]
    file = str(hub.PUBLISHED[NAME].path)
    records = [
        FeatureExtractor(each, device="cpu").record()
        for each in (build_network(NAME), build_network(NAME, weights=file))
    ]
    assert records[0] == records[1]
    assert torch.equal(
        build_network(NAME).trunk.blocks[0].conv.conv_t.weight, network.trunk.blocks[0].conv.conv_t.weight
    )
    assert len(server.requests) == 1


def test_a_licence_without_commercial_use_is_printed_at_each_use(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    entry = replace(hub.PUBLISHED["videomae_base"], name="tiny", network="videomae_tiny", options={"size": 32})
    monkeypatch.setitem(hub.PUBLISHED, "tiny", entry)
    import transformers

    config = transformers.VideoMAEConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, num_labels=400
    )
    torch.save(transformers.VideoMAEForVideoClassification(config).state_dict(), tmp_path / "x.bin")
    server.files = {urlsplit(entry.address).path: (tmp_path / "x.bin").read_bytes()}
    for _ in range(2):
        vidact.load("tiny")
        words = "tiny: the licence of its weights, CC-BY-NC-4.0, allows no commercial use"
        assert words in capsys.readouterr().err
    monkeypatch.setitem(hub.PUBLISHED, "base", replace(entry, name="base", network="videomae_base"))
    with pytest.raises(ValueError, match=r"base\.bin contains videomae_tiny in place of videomae_base: .* delete it"):
        vidact.load("base")


def test_a_file_of_another_layout_is_refused_by_name(server: FileServer, tmp_path: Path) -> None:
    torch.save({"model_state": nn.Linear(2, 2).state_dict()}, tmp_path / "x.pyth")
    server.files = {PATH: (tmp_path / "x.pyth").read_bytes()}
    with pytest.raises(ValueError, match=r"x3d_xs\.pyth: .*does not fit.*not the published file of x3d_xs; delete it"):
        vidact.load(NAME)


def test_a_cut_or_wrong_file_by_hand_can_be_replaced(server: FileServer, tmp_path: Path) -> None:
    """Its hash is not kept: the right file, put in its place, is not refused as another one."""
    path = hub.PUBLISHED[NAME].path
    path.parent.mkdir(parents=True)
    torch.save({"model_state": nn.Linear(200, 200).state_dict()}, path)
    whole = path.read_bytes()
    for content, words in (
        (whole[:100_000], r"cannot be read as weights .* Delete it, and it is fetched again"),
        (whole, r"does not fit.*delete it, and it is fetched again"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=words):
            vidact.load(NAME)
        assert in_cache() == [path.name]
    assert not server.requests


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch ran",)


def test_a_hostile_pickle_is_not_run(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    server.files = {PATH: pickle.dumps({"model_state": Hostile()}, protocol=2)}
    with pytest.raises(ValueError, match="cannot be read as weights"):
        vidact.load(NAME)
    assert not (tmp_path / "ran").exists()


# ---------------------------------------------------------------------------------------------- names


def test_an_unknown_name_gives_close_matches() -> None:
    for name in ("x3d_x", "X3D-XS", "slowfast_50"):
        with pytest.raises(
            FileNotFoundError, match=rf"there is no file {name} and no published .*did you mean \w+_"
        ) as error:
            vidact.load(name)
        assert "vidact networks --published" in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"there is no file qqq and no published network of this name\. "):
        vidact.load("qqq")
    for page, address in (
        ("https://huggingface.co/a/b", "a/b"),
        ("https://huggingface.co/a/b/blob/v1/x.ckpt", "a/b@v1/x.ckpt"),
        ("https://huggingface.co/a/b/resolve/main/x.ckpt?download=true", "a/b@main/x.ckpt"),
        ("https://huggingface.co/a/b/tree/main", "a/b"),
        ("huggingface.co/a/b/tree/v1", "a/b@v1"),
    ):
        with pytest.raises(FileNotFoundError, match=rf"A repository of the hub is written hf://{address}$"):
            vidact.load(Path(page))
    with pytest.raises(FileNotFoundError, match=r"there is no file runs/x3d_xs$"):
        vidact.load("runs/x3d_xs")


def test_a_network_without_published_weights_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"tsm_resnet50 is a network of vidact, but no weights are published"):
        vidact.load("tsm_resnet50")


def test_a_file_comes_before_a_name_and_a_name_before_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).mkdir()
    assert hub.named(NAME) is hub.named(Path(NAME)) is hub.PUBLISHED[NAME]
    (tmp_path / PINNED).write_bytes(b"mine")
    assert hub.named(PINNED) is None


def test_a_name_is_scored_and_not_continued(tmp_path: Path) -> None:
    """``test --ckpt`` takes a name; a run can only be continued from its own checkpoints."""
    assert checkpoint_path(tmp_path, NAME, may_be_published=True) == Path(NAME)
    with pytest.raises(FileNotFoundError, match="no checkpoint x3d_xs"):
        checkpoint_path(tmp_path, NAME)


# ---------------------------------------------------------------------------------------------- downloads


def test_a_download_that_is_cut_continues_at_once(server: FileServer) -> None:
    server.cuts = [1_000_000, 500_000]
    assert fetch().read_bytes() == CONTENT
    assert [part for _, part in server.requests] == [None, "bytes=1000000-", "bytes=1500000-"]
    assert in_cache() == ["x3d_xs.pyth", "x3d_xs.pyth.sha256"]
    assert (
        subprocess.run(["sha256sum", "-c", "x3d_xs.pyth.sha256"], cwd=hub.folder(), capture_output=True).returncode == 0
    )


def test_a_download_that_ended_continues_with_the_next_command(server: FileServer) -> None:
    server.cuts = [1_000_000, 0]
    words = (
        r"could not be downloaded \(the connection ended early\); 1\.0 MB are there, and the same command continues: "
        r"fetch https://dl\.fb.* put it at .*/x3d_xs\.pyth"
    )
    with pytest.raises(OSError, match=words):
        fetch()
    assert not hub.PUBLISHED[NAME].path.exists()
    assert fetch().read_bytes() == CONTENT
    assert server.requests[-1][1] == "bytes=1000000-"
    assert in_cache() == ["x3d_xs.pyth", "x3d_xs.pyth.sha256"]


def test_a_file_that_changed_meanwhile_is_downloaded_anew(server: FileServer) -> None:
    server.cuts = [1_000_000, 0]
    with pytest.raises(OSError, match="could not be downloaded"):
        fetch()
    server.files = {PATH: CONTENT[::-1]}
    assert fetch().read_bytes() == CONTENT[::-1]


def test_a_part_as_long_as_the_file_is_downloaded_anew(server: FileServer) -> None:
    """As a process leaves it that was killed after the last byte."""
    server.cuts = [1_000_000, 0]
    with pytest.raises(OSError, match="could not be downloaded"):
        fetch()
    (hub.folder() / ".x3d_xs.pyth.part").write_bytes(CONTENT)
    assert fetch().read_bytes() == CONTENT
    assert [part for _, part in server.requests[2:]] == [f"bytes={len(CONTENT)}-", None]


@pytest.mark.parametrize("settings", [{"has_ranges": False}, {"has_ranges": False, "has_length": False}])
def test_a_server_without_parts_or_lengths(settings: dict[str, bool], server: FileServer) -> None:
    vars(server).update(settings)
    server.cuts = [1_000_000] if server.has_length else []
    assert fetch().read_bytes() == CONTENT


def test_a_redirect_is_followed_with_the_requested_part(server: FileServer) -> None:
    server.files = {"/cdn/file": CONTENT}
    server.redirects = {PATH: f"{server.address}/cdn/file"}
    server.cuts = [1_000_000]
    assert fetch().read_bytes() == CONTENT
    assert server.requests[-1] == ("/cdn/file", "bytes=1000000-")


def test_a_wrong_hash_leaves_nothing(server: FileServer) -> None:
    server.files = {urlsplit(hub.PUBLISHED[PINNED].address).path: CONTENT}
    with pytest.raises(
        ValueError, match=r"has the SHA-256 \w{16}… and should have a90a0ba3…, so it was removed: fetch https"
    ):
        fetch(PINNED)
    assert in_cache() == []


def test_a_file_that_is_damaged_or_replaced_later_is_refused(server: FileServer) -> None:
    path = fetch()
    path.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(
        ValueError, match=r"x3d_xs\.pyth has the SHA-256 .* by x3d_xs\.pyth\.sha256: it is damaged or another"
    ):
        fetch()
    path.unlink()
    assert fetch().read_bytes() == CONTENT  # although the old hash is still beside it


def test_a_file_put_there_by_hand_is_used(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDACT_OFFLINE", "1")
    with pytest.raises(FileNotFoundError) as error:
        fetch()
    words = r"not in the cache and downloads are forbidden: fetch (https://\S+) \(31 MB\) .* put it at (\S+)$"
    address, path = re.search(words, str(error.value)).groups()
    assert address == hub.PUBLISHED[NAME].address
    Path(path).parent.mkdir(parents=True)
    Path(path).write_bytes(CONTENT)
    assert fetch() == Path(path)
    assert not server.requests
    wrong = hub.PUBLISHED[PINNED].path
    wrong.write_bytes(CONTENT)
    with pytest.raises(
        ValueError, match=r"should have a90a0ba3…, as published: it is damaged or another file\. Delete it"
    ):
        fetch(PINNED)
    assert wrong.read_bytes() == CONTENT  # somebody's file is not removed


def test_a_file_in_the_cache_of_pytorch_is_not_downloaded_again(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier versions downloaded to it, and some machines have no network any more."""
    monkeypatch.setenv("VIDACT_OFFLINE", "1")
    checkpoints = tmp_path / "torch" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "X3D_XS.pyth").write_bytes(content_of(hub.PUBLISHED[NAME], tmp_path))
    (checkpoints / "pytorch_model.bin").write_bytes(CONTENT)  # of any repository of the hub
    network = vidact.models.x3d_xs(400)
    assert torch.equal(network.fc.weight, vidact.load(NAME).fc.weight)
    assert in_cache() == ["x3d_xs.pyth", "x3d_xs.pyth.sha256"]
    with pytest.raises(FileNotFoundError, match="videomae_base is not in the cache"):
        fetch("videomae_base")
    (checkpoints / "mc3_18-a90a0ba3.pth").write_bytes(CONTENT)
    with pytest.raises(FileNotFoundError, match="mc3_18 is not in the cache"):  # its hash is not the published one
        fetch(PINNED)
    assert not server.requests


# Fetches the network of the first argument, whose file's SHA-256 begins with the second one.
PROGRAM = """
import sys
from dataclasses import replace
from vidact import hub
entry = hub.PUBLISHED[sys.argv[1]]
print(hub.fetch(replace(entry, sha256=sys.argv[2])).stat().st_size)
"""
DIGITS = hashlib.sha256(CONTENT).hexdigest()[:8]


@pytest.mark.parametrize(
    "name",
    [
        NAME,  # a file server, no hash
        pytest.param(PINNED, marks=pytest.mark.slow),  # a file name with the digits of its hash
        pytest.param("videomae_base", marks=pytest.mark.slow),  # a file of a repository of the hub
        pytest.param("movinet_a0_stream", marks=pytest.mark.slow),  # a raw file of a repository of code
    ],
)
def test_two_processes_download_once(name: str, server: FileServer) -> None:
    entry, digits = hub.PUBLISHED[name], DIGITS if name == PINNED else ""
    server.files = {urlsplit(entry.address).path: CONTENT}
    server.pause.clear()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, name, digits], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    lines: list[str] = []
    # One of them requests the file, the other announces that it waits; then the file is sent.
    import selectors

    waits = selectors.DefaultSelector()
    for process in processes:
        waits.register(process.stderr, selectors.EVENT_READ)
    while len(lines) < 2:
        lines += [key.fileobj.readline() for key, _ in waits.select(60)]
    server.pause.set()
    outputs = [process.communicate(timeout=60) for process in processes]
    assert sorted(line.split(":")[1].split()[0] for line in lines) == ["another", "downloading"]
    assert [output for output, _ in outputs] == [f"{len(CONTENT)}\n"] * 2
    assert len(server.requests) == 1
    assert in_cache() == [entry.path.name, f"{entry.path.name}.sha256"]


@pytest.mark.slow
def test_a_wrong_hash_is_refused_in_both_processes_and_nothing_is_kept(server: FileServer) -> None:
    """The one that waited tries by itself, so it does not open what the first one refused."""
    server.files = {urlsplit(hub.PUBLISHED[PINNED].address).path: CONTENT}
    command = [sys.executable, "-c", PROGRAM, PINNED, hub.PUBLISHED[PINNED].sha256]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert all("should have a90a0ba3…, so it was removed" in error for error in errors)
    assert in_cache() == []


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (404, r"there is no http://127\S+/X3D_XS\.pyth \(404\): fetch https"),
        (401, r"was refused \(401\): the server asks for a token or other rights: fetch https"),
        (403, r"was refused \(403\): the server asks for a token"),
        (503, r"was answered with 503 Service Unavailable: fetch https"),
    ],
)
def test_refusals_in_words(status: int, words: str, server: FileServer) -> None:
    server.statuses = {PATH: status}
    with pytest.raises(OSError, match=words):
        fetch()
    assert in_cache() == []


def test_a_page_in_place_of_the_file(server: FileServer) -> None:
    server.kind = "text/html; charset=utf-8"
    with pytest.raises(OSError, match=r"could not be downloaded \(the server sent a page, not the file\): fetch"):
        fetch()
    assert in_cache() == []


def test_without_a_network(
    server: FileServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VIDACT_MIRROR", "http://127.0.0.1:9")  # the discard service, which nobody runs
    with pytest.raises(
        OSError, match=r"x3d_xs could not be downloaded \(.*refused\): fetch https.* put it at .*x3d_xs\.pyth"
    ):
        fetch()
    monkeypatch.setenv("VIDACT_MIRROR", "127.0.0.1")
    with pytest.raises(ValueError, match=r"VIDACT_MIRROR is 127\.0\.0\.1; give an address such as https://mirror"):
        fetch()


def test_the_mirror_of_the_hub_has_its_files(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VIDACT_MIRROR")
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    path = urlsplit(hub.PUBLISHED["videomae_base"].address).path
    server.files = {path: CONTENT}
    assert fetch("videomae_base").read_bytes() == CONTENT
    assert download.address_of(hub.PUBLISHED[NAME]) == hub.PUBLISHED[NAME].address
    monkeypatch.setenv("HF_ENDPOINT", "mirror")
    with pytest.raises(ValueError, match=r"HF_ENDPOINT is mirror; give an address such as https://mirror"):
        fetch("videomae_large")


def test_proxies_are_those_of_the_environment(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDACT_MIRROR", "http://mirror.invalid")
    monkeypatch.setenv("http_proxy", server.address)
    server.files = {f"http://mirror.invalid{PATH}": CONTENT}
    assert fetch().read_bytes() == CONTENT


def test_a_full_disk_in_words(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
    with pytest.raises(OSError, match=r"3 MB are needed and 1 MB are free in .*VIDACT_HOME chooses another folder"):
        fetch()
    assert in_cache() == []


def test_a_disk_that_fills_up_meanwhile(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download, "_copy", full)
    with pytest.raises(OSError, match=r"No space left on device in .*VIDACT_HOME chooses another folder"):
        fetch()
    assert in_cache() == []


def test_a_cache_that_cannot_be_written(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VIDACT_HOME", str(tmp_path / "file" / "below"))
    with pytest.raises(OSError, match=r"the cache .* cannot be written \(.*\); VIDACT_HOME chooses another folder"):
        fetch()


def test_the_folder_of_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDACT_HOME", "/a")
    assert hub.folder() == Path("/a/weights")
    monkeypatch.delenv("VIDACT_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert hub.folder() == Path("/b/vidact/weights")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/c")
    assert hub.folder() == Path("/c/.cache/vidact/weights")


# ---------------------------------------------------------------------------------------------- every name


@EACH_OR_ONE
def test_the_way_of_every_file(name: str, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused, absent, wrong, redirected, cut and resumed, whole; then without a network, damaged, and put by hand."""
    entry = hub.PUBLISHED[name]
    content = name.encode() * 1000
    published = hashlib.sha256(content).hexdigest()[:8] if entry.sha256 else ""
    monkeypatch.setitem(hub.PUBLISHED, name, replace(entry, sha256=published))
    path = urlsplit(entry.address).path
    for status, words in ((401, r"\(401\): the server asks for a token"), (404, r"there is no http://127")):
        server.statuses = {path: status}
        with pytest.raises(OSError, match=words):
            fetch(name)
    server.statuses, server.files = {}, {path: content[::-1]}
    if published:
        with pytest.raises(ValueError, match="so it was removed"):
            fetch(name)
        assert in_cache() == []
    server.files, server.redirects, server.cuts = {"/cdn": content}, {path: f"{server.address}/cdn"}, [500, 0]
    monkeypatch.setenv("VIDACT_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match=f"{name} is not in the cache and downloads are forbidden: fetch https"):
        fetch(name)
    monkeypatch.delenv("VIDACT_OFFLINE")
    with pytest.raises(OSError, match="the same command continues: fetch https"):
        fetch(name)
    assert fetch(name).read_bytes() == content
    assert server.requests[-1] == ("/cdn", "bytes=500-")
    monkeypatch.setenv("VIDACT_OFFLINE", "1")
    file = fetch(name)
    assert file.read_bytes() == content
    file.write_bytes(content[::-1])
    with pytest.raises(ValueError, match="it is damaged or another file"):
        fetch(name)
    with pytest.raises(ValueError, match="it is damaged or another file"):
        vidact.load(name)
    file.unlink()
    download.pin_of(file).unlink()
    file.write_bytes(content)
    assert fetch(name) == file
    assert in_cache() == sorted([file.name, f"{file.name}.sha256"])


@EACH_OR_ONE
def test_no_name_runs_what_its_file_says(
    name: str, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIDACT_OFFLINE", "1")
    entry = replace(hub.PUBLISHED[name], sha256="")
    monkeypatch.setitem(hub.PUBLISHED, name, entry)
    entry.path.parent.mkdir(parents=True)
    entry.path.write_bytes(pickle.dumps({"model_state": Hostile()}, protocol=2))
    with pytest.raises(ValueError, match=r"cannot be read as weights|is not a readable \.safetensors file"):
        vidact.load(name)
    assert not (tmp_path / "ran").exists()


LARGE = [name for name, entry in hub.PUBLISHED.items() if entry.megabytes > 600]


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_large_files_are_opened_by_name(name: str, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a file of the full size, without blocks on the disk for its numbers; the network has no memory for them."""
    entry = hub.PUBLISHED[name]
    entry.path.parent.mkdir(parents=True)
    with torch.device("meta"):
        tensors = published_tensors(entry)
    if entry.path.suffix == ".bin":  # one number stands for all numbers of a tensor
        torch.save({key: torch.zeros(()).expand(tensor.shape) for key, tensor in tensors.items()}, entry.path)
    else:
        header, end = {}, 0
        for key, tensor in tensors.items():
            size = tensor.numel() * 4
            header[key] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [end, end + size]}
            end += size
        text = json.dumps(header).encode()
        with entry.path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + end)
        assert entry.path.stat().st_size == pytest.approx(entry.megabytes * 1e6, rel=0.05)
    monkeypatch.setenv("VIDACT_OFFLINE", "1")
    with torch.device("meta"):
        network = vidact.load(name)
    assert network.record["source"] == entry.address
    assert not server.requests


# ---------------------------------------------------------------------------------------------- the command


def test_the_command_lists_and_fetches(server: FileServer, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["networks", "--fetch", NAME])
    output = capsys.readouterr()
    assert output.out == f"{hub.PUBLISHED[NAME].path}\n"
    cli.main(["networks", "--published"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["name", *hub.PUBLISHED, "cache:"]
    streams, cached = lines[0].index("streams"), lines[0].index("cached")
    assert [line.split()[0] for line in lines[1:-1] if line[cached:].strip() == "yes"] == [NAME]
    of_streams = [line.split()[0] for line in lines[1:-1] if line[streams:cached].strip() == "yes"]
    assert of_streams == ["movinet_a0_stream", "movinet_a1_stream", "movinet_a2_stream"]
    assert re.search(r"^x3d_xs +31 +400 Kinetics-400 +69\.12 \(10x3\) +Apache-2\.0", lines[1])
    for words, message in (
        (["--fetch", "x3d_xx"], "x3d_xx is no file and no published network of this name; did you mean x3d_xs"),
        (["--published", "--out", "x.md"], "--out is for the table of all networks"),
    ):
        with pytest.raises(SystemExit):
            cli.main(["networks", *words])
        assert message in capsys.readouterr().err


def test_no_command_downloads_where_that_is_forbidden(
    server: FileServer, video: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VIDACT_OFFLINE", "0")  # so that the variable, which the command sets, is removed again
    with pytest.raises(SystemExit):
        cli.main(["predict", "--checkpoint", NAME, str(video), "--offline"])
    assert "x3d_xs is not in the cache and downloads are forbidden: fetch" in capsys.readouterr().err
    assert not server.requests
    assert cli.without_offline(["predict", "--", "--offline"]) == ["predict", "--", "--offline"]


def test_a_web_page_by_hand_is_refused_and_its_hash_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDACT_HOME", str(tmp_path))
    path = hub.PUBLISHED["x3d_s"].path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"<html>blocked</html>")
    with pytest.raises(ValueError, match=r"x3d_s\.pyth is a web page, not the weights of x3d_s"):
        hub.fetch(hub.PUBLISHED["x3d_s"])
    assert not download.pin_of(path).exists()


@pytest.mark.parametrize(
    ("command", "option", "words"),
    [
        ("stream", "--horizon=0", "horizon_s is 0; give seconds above 0"),
        ("stream", "--restart=inf", "restart_s is inf; horizon_s inf keeps everything"),
        ("stream", "--threshold=2", "--threshold is 2"),
        ("serve", "--horizon=0", "horizon_s is 0; give seconds above 0"),
        ("serve", "--port=99999", "--port is 99999; ports are 1 to 65535"),
        ("serve", "--token=short", "the token has 5 characters"),
        ("serve", "--allow_origin=example.org/", "'example.org/' is no origin"),
        ("serve", "--keyfile=key.pem", "a keyfile alone makes no HTTPS"),
    ],
)
def test_wrong_values_are_refused_before_a_network_is_downloaded(
    command: str, option: str, words: str, server: FileServer, capsys: pytest.CaptureFixture[str]
) -> None:
    windowless = ["--no_window", "--source=x.mp4"] if command == "stream" else []
    with pytest.raises(SystemExit):
        cli.main([command, "--checkpoint=movinet_a0_stream", option, *windowless])
    assert words in capsys.readouterr().err
    assert not server.requests
