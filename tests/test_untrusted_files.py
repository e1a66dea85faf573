"""A file that somebody else wrote chooses no file system, no other file, no code and no size: it is read, or refused by
name."""

import io
import json
import os
import shutil
import traceback
import zipfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
import safetensors.torch
import torch

from vidact.data.sequence_list import read_record
from vidact.data.synthetic import write_video
from vidact.export.runtime import open_onnx
from vidact.models import frame_classifier, tsn_resnet_tiny
from vidact.models.weights import describe, load, read
from vidact.prediction import predict
from vidact.prepare.pack import PackSettings
from vidact.prepare.sets import pack_set
from vidact.results.figures import load_results, save_results
from vidact.results.scores import FORMAT, load_scores
from vidact.results.timelines import load_timelines
from vidact.stream import load_model
from vidact.stream.sources import open_source
from vidact.video.decode import VideoError, open_video
from vidact.video.flow import raft
from vidact.video.packed import PackedReader


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("packed")
    write_video(root / "films/a/one.mp4", np.zeros((4, 48, 64, 3), np.uint8), 10)
    pack_set(root / "films", root / "store", PackSettings(fps=None), progress=False)
    return root / "store"


@pytest.fixture
def store(packed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / "store"))


def rewrite(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# ---------------------------------------------------------------------------------------------- packed.json


@pytest.mark.parametrize(
    "shards",
    [
        "reference://x::file:///store", "simplecache::s3://bucket/set", "filecache::https://host/set", "blockcache::s3://b",
        "zip://*.tar::https://host/set.zip", "tar://x::file:///x.tar", "s3://bucket::x/set", "reference:///ref.json",
        "sftp://host/set", "ssh://host/set", "github://o:r@/set", "git://x", "dask://x", "local:///store", "smb://host/set",
        "webhdfs://host/set", "hdfs://host/set", "jlab://x", "dbfs://x", "libarchive://x", "dir://x", "data://x", "REFERENCE://x",
        "generic://x", "ftp://host/set", "reference::x",
    ],
)  # fmt: skip
def test_a_store_names_no_file_system_but_those_of_a_list(
    shards: str, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda *_, **__: pytest.fail("it was asked for"))
    rewrite(store / "packed.json", shards=shards)
    with pytest.raises(VideoError, match=r"packed\.json names .* shards are a folder or begin with .*https://.*s3://"):
        PackedReader(store / "a/one.packed").frames_at([0])


def test_a_store_runs_no_template(store: Path, tmp_path: Path) -> None:
    """References hold templates, which fsspec from 2025.3 to 2026.4 evaluated as programs."""
    mark = tmp_path / "ran"
    program = f"{{{{ ().__class__.__base__.__subclasses__()[0] or '{mark}' }}}}"
    reference = {"version": 1, "templates": {}, "refs": {}, "gen": [{"key": program, "url": program, "dimensions": {}}]}
    (store / "ref.json").write_text(json.dumps(reference))
    for shards in (f"reference://x::file://{store}", f"reference://{store}/ref.json", "reference:///ref.json"):
        rewrite(store / "packed.json", shards=shards)
        with pytest.raises(VideoError, match=r"packed\.json names"):
            PackedReader(store / "a/one.packed").frames_at([0])


@pytest.mark.parametrize("shards", [5, None, ["shards"], {"a": 1}, True, ""])
def test_the_place_of_the_shards_is_a_text(shards: object, store: Path) -> None:
    rewrite(store / "packed.json", shards=shards)
    with pytest.raises(VideoError, match=r"packed\.json"):
        PackedReader(store / "a/one.packed").frames_at([0])


@pytest.mark.parametrize(
    "shard",
    ["../shards/000000.tar", "/etc/passwd", "a/b.tar", "..\\x.tar", "", ".", "..", "x.tar?versionId=1", "x.tar#y",
     "a::b", "c:.tar", "x\n.tar", "%2e%2e%2fx.tar", "~/x.tar", "*.tar", 5, None, ["000000.tar"], {"a": 1}],
)  # fmt: skip
def test_a_shard_is_a_plain_name(shard: object, store: Path) -> None:
    rewrite(store / "a/one.packed", shard=shard)
    with pytest.raises(VideoError, match=r"one\.packed .*shard"):
        PackedReader(store / "a/one.packed").frames_at([0])


@pytest.mark.parametrize("place", ["/etc", "../../elsewhere", "a/..", "../..x", "", 5, None, ["."], "..\\.."])
def test_a_store_lies_above_its_videos(place: object, store: Path) -> None:
    rewrite(store / "a/one.packed", store=place)
    with pytest.raises(VideoError, match=r"one\.packed .*store"):
        PackedReader(store / "a/one.packed").frames_at([0])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
def test_a_shard_that_is_a_pipe_is_not_waited_for(store: Path) -> None:
    (store / "shards/000000.tar").unlink()
    os.mkfifo(store / "shards/000000.tar")
    with pytest.raises(VideoError, match=r"shards/000000\.tar, which is no file"):
        PackedReader(store / "a/one.packed").frames_at([0])


def test_errors_of_a_store_hold_no_secrets(store: Path) -> None:
    rewrite(store / "packed.json", shards="memory://key:secret/word@bucket/set?signature=abcdef")
    with pytest.raises(VideoError, match="cannot be fetched from memory://bucket/set") as error:
        PackedReader(store / "a/one.packed").frames_at([0])
    for word in ("secret", "word@", "abcdef"):
        assert word not in str(error.value)


def test_a_folder_by_its_address_is_read(store: Path) -> None:
    (moved := store.parent / "else where").mkdir()
    shutil.move(store / "shards", moved / "shards")
    rewrite(store / "packed.json", shards=(moved / "shards").as_uri())
    with PackedReader(store / "a/one.packed") as reader:
        assert reader.frames_at([0]).images.shape == (1, 3, 48, 64)


# ---------------------------------------------------------------------------------------------- videos


LISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{other}\n#EXT-X-ENDLIST\n",
    "hls of a file": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{other}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile {name}\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
}


@pytest.mark.parametrize("suffix", [".mp4", ".ts", ".mkv", ".avi"])
@pytest.mark.parametrize("kind", LISTS)
def test_a_video_that_only_names_others_is_none(kind: str, suffix: str, tmp_path: Path) -> None:
    write_video(tmp_path / "other.ts", np.zeros((8, 48, 64, 3), np.uint8), 8)
    path = tmp_path / f"clip{suffix}"
    path.write_text(LISTS[kind].format(other=tmp_path / "other.ts", name="other.ts"))
    for play in (open_video, open_source):
        with pytest.raises(VideoError, match=rf"clip{suffix} .*names other files"):
            play(path)


def test_a_checked_set_reads_no_list(tmp_path: Path) -> None:
    from vidact.prepare.examine import examine

    write_video(tmp_path / "other.ts", np.zeros((8, 48, 64, 3), np.uint8), 8)
    (tmp_path / "clip.mp4").write_text(LISTS["concat"].format(name="other.ts"))
    assert "names other files" in str(examine(tmp_path / "clip.mp4"))


# ---------------------------------------------------------------------------------------------- weights, records


def network_file(path: Path, **record: object) -> Path:
    """A small TSN as ``save`` writes it, some keys of its record rewritten (dots lead inwards)."""
    network = tsn_resnet_tiny(num_classes=3, weights=None)
    told = {"classes": ["a", "b", "c"], "sampling": None, **describe(network)}
    return written(path, told, network.state_dict(), record)


def detector_file(path: Path, **record: object) -> Path:
    network = frame_classifier(feature_dim=4, num_classes=3)
    told = {
        "classes": ["a", "b"],
        "tokens_per_second": 4.0,
        "events": {"on": 0.5},
        "scores": "softmax",
        "features": {"dim": 4, "tokens_per_second": 4.0},
        **describe(network),
    }
    return written(path, told, network.state_dict(), record)


def written(path: Path, told: dict, tensors: dict, changes: dict[str, object]) -> Path:
    for key, value in changes.items():
        *outer, last = key.split("__")
        inner = told
        for word in outer:
            inner = inner[word]
        inner[last] = value
    if path.suffix == ".ckpt":
        torch.save({"vidact": told, "state_dict": {f"network.{key}": value for key, value in tensors.items()}}, path)
    else:
        path.write_bytes(safetensors.torch.save(tensors, metadata={"vidact": json.dumps(told)}))
    return path


WRONG: dict[str, list[object]] = {
    "format": ["1", [], {}, 1.5],
    "recipe": [5, "x", ["builder"], True],
    "recipe__builder": [5, ["vidact.models.tsn_resnet_tiny"], {}],
    "recipe__arguments": [5, ["num_classes"], "x"],
    "recipe__arguments__num_classes": [10**12, 10**7, -1, "x", [3], 10**30, 1e300],
    "recipe__arguments__dropout": ["x", [], {}],
    "input": [5, "x", [1], {"colour": 5}],
    "input__size": ["x", 10**9, -1, 0, [224], 1e12],
    "input__mean": ["x", 5, [], ["a"], [None], [[1.0]]],
    "input__std": ["x", [0.0], ["a"]],
    "input__resize": ["x", 10**9, -5],
    "classes": [
        5,
        "abc",
        [1, 2, 3],
        {"a": 1},
        [["a"]],
        ["a", "a", "b"],
        ["a\x1b[2J", "b", "c"],
        ["a\nb", "b", "c"],
        ["", "b", "c"],
    ],
    "sampling": [
        *[5, "x", ["name"], {"name": 5}, {"name": "SegmentSampler", "arguments": {"num_segments": "x"}}],
        {"name": "SegmentSampler", "arguments": {"num_segments": 10**10}},
        {"name": "DenseSampler", "arguments": {"stride": 1e12}},
    ],
}


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG.items() for value in values])
def test_a_record_of_wrong_kinds_is_refused_by_name(key: str, value: object, suffix: str, tmp_path: Path) -> None:
    """The file and the key are named, and no network of the sizes that it tells of is made."""
    path = network_file(tmp_path / f"x{suffix}", **{key: value})
    with pytest.raises(ValueError, match=rf"x\{suffix}.*{key.rpartition('__')[2]}") as error:
        load(path)
    assert "weights_only" not in str(error.value)


SEGMENTS = {"name": "SegmentSampler", "arguments": {"num_segments": 4}}


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("classes", ["a"], "has 3 outputs and names 1 class"),
        ("classes", list("abcd"), "has 3 outputs and names 4 class"),
        ("sampling", {"name": "Nobody", "arguments": {}}, "sampler 'Nobody'"),
        ("sampling", {"name": "SegmentSampler", "arguments": {"colour": 1}}, "no argument colour"),
        ("sampling", {"name": "DenseSampler", "arguments": {"short": "x"}}, "short is 'x'"),
    ],
)
def test_what_a_recogniser_says_of_its_answers_is_refused_by_name(
    key: str, value: object, words: str, tmp_path: Path
) -> None:
    path = network_file(tmp_path / "x.ckpt", **{"sampling": SEGMENTS, key: value})
    video = tmp_path / "a.mp4"
    video.touch()
    with pytest.raises(ValueError, match=rf"x\.ckpt.*{words}"):
        load_model(path)
    with pytest.raises(ValueError, match=rf"x\.ckpt.*{words}"):
        predict(video, path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("tokens_per_second", value) for value in ("4", [], -1, 0, 1e12, float("nan"))]
    + [("events", value) for value in (5, "x", {"colour": 1})]
    + [("events__on", value) for value in ("x", {}, [[1]])]
    + [("features", value) for value in (5, "x", [1])]
    + [("features__fps", value) for value in ("24", -1, 1e15)]
    + [("features__chunk", value) for value in ("6", -1, 10**12, 1.5)]
    + [("scores", value) for value in (5, ["softmax"])],
)
def test_a_detectors_record_of_wrong_kinds_is_refused_by_name(key: str, value: object, tmp_path: Path) -> None:
    path = detector_file(tmp_path / "x.ckpt", **{key: value})
    with pytest.raises(ValueError, match=rf"x\.ckpt.*{key.rpartition('__')[2] if key != 'events__on' else 'on'}"):
        load_model(path)


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "5", "null", '"x"', "[" * 100_000, '{"a":' * 50_000, "9" * 10_000, "\ud800"]
)
def test_metadata_that_are_no_record(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(
        safetensors.torch.save({"a": torch.zeros(1)}, metadata={"vidact": text.encode("utf-8", "replace").decode()})
    )
    for read_it in (load, read, lambda path: read_onnx_like(path, text)):
        with pytest.raises(ValueError, match=r"x\.(safetensors|onnx)"):
            read_it(path)


def read_onnx_like(path: Path, text: str) -> None:
    open_onnx(onnx_file(path.with_suffix(".onnx"), {"vidact": text.encode("utf-8", "replace").decode()}))


def onnx_file(path: Path, metadata: dict[str, str]) -> Path:
    """An .onnx that adds one to its input."""
    import onnx
    from onnx import TensorProto, helper

    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    places = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 4]) for name in ("feature", "logits")]
    graph = helper.make_graph(
        [helper.make_node("Add", ["feature", "one"], ["logits"])], "x", places[:1], places[1:], [one]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata)
    onnx.save(model, str(path))
    return path


STEP = {
    "format": 1,
    "what": "step",
    "input": "feature",
    "shape": [4],
    "num_classes": 4,
    "window": None,
    "future_offsets": [],
    "state": [],
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", "1"),
        ("what", 5),
        ("what", ["step"]),
        ("shape", "4"),
        ("shape", [10**15]),
        ("shape", 4),
        ("num_classes", "x"),
        ("num_classes", 10**15),
        ("window", "x"),
        ("future_offsets", 5),
        ("future_offsets", ["a"]),
        ("state", 5),
        ("state", [5]),
        ("state", [{"name": 5, "dtype": "float32", "shape": []}]),
        ("state", [{"name": "h", "dtype": "load", "shape": []}]),
        ("state", [{"name": "h", "dtype": 5, "shape": []}]),
        ("state", [{"name": "h", "dtype": "float32", "shape": [10**6, 10**6]}]),
        ("state", [{"name": "h", "dtype": "float32", "shape": "x"}]),
        ("state", [{"name": "h", "dtype": "float32", "shape": [-1]}]),
        ("state", [5.0]),
    ],
)
def test_what_an_onnx_file_says_of_itself_is_checked(key: str, value: object, tmp_path: Path) -> None:
    told = {"format": 1, "classes": ["a", "b"], "tokens_per_second": 4.0, "export": STEP | {key: value}}
    path = onnx_file(tmp_path / "x.onnx", {"vidact": json.dumps(told)})
    with pytest.raises(ValueError, match=rf"x\.onnx.*{key}"):
        open_onnx(path).initial_state(1)


@pytest.mark.parametrize("absent", STEP)
def test_what_an_onnx_file_does_not_say_is_named(absent: str, tmp_path: Path) -> None:
    told = {"export": {key: value for key, value in STEP.items() if key != absent}}
    with pytest.raises(ValueError, match=rf"x\.onnx.*{absent}"):
        open_onnx(onnx_file(tmp_path / "x.onnx", {"vidact": json.dumps(told)})).initial_state(1)


def test_an_extractor_that_is_no_base64_is_refused(tmp_path: Path) -> None:
    told = {"classes": ["a", "b"], "tokens_per_second": 4.0, "export": STEP}
    path = onnx_file(tmp_path / "x.onnx", {"vidact": json.dumps(told), "vidact.extractor": "!no base64!"})
    with pytest.raises(ValueError, match=r"x\.onnx"):
        open_onnx(path).extractor()


def test_an_onnx_file_names_no_other_file(tmp_path: Path) -> None:
    """Its numbers are in it; a tensor that lies elsewhere would be read from wherever it says."""
    import onnx

    (tmp_path / "secret").write_bytes(bytes(4))
    path = onnx_file(tmp_path / "x.onnx", {"vidact": json.dumps({"export": STEP})})
    model = onnx.load(path)
    (one,) = model.graph.initializer
    one.ClearField("raw_data")
    one.ClearField("float_data")
    one.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "../" * 9 + str(tmp_path / "secret")), ("offset", "0"), ("length", "4")):
        entry = one.external_data.add()
        entry.key, entry.value = key, value
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match=r"x\.onnx names other files"):
        open_onnx(path)


class Runs:
    """A pickle of it would run a command."""

    def __reduce__(self):
        return os.system, ("true",)


BROKEN = ("program", "empty", "text", "cut", "list", "keys", "extractor", "state")


def broken_weights(tmp_path: Path) -> dict[str, Path]:
    files = {
        name: tmp_path / f"{name}.ckpt"
        for name in ("program", "empty", "text", "cut", "list", "keys", "extractor", "state")
    }
    torch.save({"state_dict": {"a": torch.zeros(2)}, "x": Runs()}, files["program"])
    files["empty"].write_bytes(b"")
    files["text"].write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    torch.save({"state_dict": {"a": torch.zeros(200)}}, files["cut"])
    files["cut"].write_bytes(files["cut"].read_bytes()[:-700])
    torch.save([1, 2], files["list"])
    torch.save({5: torch.zeros(1), (1, 2): torch.zeros(1)}, files["keys"])
    torch.save(
        {"vidact": {"format": 1}, "state_dict": {"network.a": torch.zeros(1)}, "extractor": 5}, files["extractor"]
    )
    torch.save({"vidact": ["x"], "state_dict": {"network.a": torch.zeros(1)}}, files["state"])
    return files


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_weight_file_gives_no_advice_to_run_it(name: str, tmp_path: Path) -> None:
    path = broken_weights(tmp_path)[name]
    with pytest.raises(ValueError, match=rf"{name}\.ckpt") as error:
        load(path)
    told = "".join(traceback.format_exception(error.value))
    for advice in ("weights_only", "add_safe_globals", "trust the source", "safe_globals"):
        assert advice not in told
    if name == "program":
        assert "posix.system" in str(error.value)  # what it would have run, and did not


@pytest.mark.parametrize("suffix", [".ckpt", ".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"<html>blocked</html>", "a web page"),
        (b"\n<!DOCTYPE html>\n<title>Sign in</title>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS"),
    ],
)
def test_a_text_in_place_of_weights_is_named(content: bytes, text: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"x\{suffix} is {text}, not weights"):
        read(path)


@pytest.mark.parametrize("content", [b"not found", b"60 61", b"{}"])
def test_bytes_of_no_pickle_are_not_taken_for_code(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.pth cannot be read as weights") as error:
        read(path)
    assert "asks for" not in str(error.value)


def test_raft_weights_of_strangers_give_no_advice_either(tmp_path: Path) -> None:
    for path in broken_weights(tmp_path).values():
        with pytest.raises(ValueError, match=path.name) as error:
            raft("raft_small", weights=str(path))
        assert "weights_only" not in "".join(traceback.format_exception(error.value))


# ---------------------------------------------------------------------------------------------- what runs leave


@pytest.mark.parametrize("text", ["", "[", "[1]", "5", '"x"', "null", "[" * 100_000])
def test_json_of_a_run_that_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError, match=r"results\.json"):
        load_results(tmp_path)
    with pytest.raises(ValueError, match=r"results\.json"):
        save_results(tmp_path, {"a": 1}, "vidact test")
    (tmp_path / "features.json").write_text(text)
    with pytest.raises(ValueError, match=r"features\.json"):
        read_record(tmp_path, None)


@pytest.mark.parametrize("commands", [5, "x", ["a"], {"vidact test": 5}, {"vidact test": [5]}])
def test_commands_of_results_are_lists_of_names(commands: object, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps({"a": 1, "commands": commands}))
    with pytest.raises(ValueError, match=r"results\.json.*commands"):
        save_results(tmp_path, {"b": 1}, "vidact test")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tokens_per_second", "x"),
        ("tokens_per_second", 1e15),
        ("tokens_per_second", [4]),
        ("dim", "x"),
        ("dim", -1),
        ("fps", "x"),
        ("chunk", 10**15),
        ("network", 5),
        ("network", {"recipe": 5}),
        ("frames", 5),
    ],
)
def test_features_records_are_checked(key: str, value: object, tmp_path: Path) -> None:
    (tmp_path / "features.json").write_text(json.dumps({"tokens_per_second": 4.0, key: value}))
    with pytest.raises(ValueError, match=rf"features\.json.*{key}"):
        read_record(tmp_path, None)


def npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez_compressed(path, **arrays)
    return path


SCORES = {
    "format": np.array(FORMAT),
    "ids": np.array(["a"]),
    "labels": np.array([0]),
    "values": np.zeros((1, 2)),
    "classes": np.array(["x", "y"]),
    "kind": np.array("logits"),
    "views": np.array("1x1"),
    "paths": np.array([], "U1"),
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ids", np.array(5)),
        ("ids", None),
        ("labels", np.array(["x"])),
        ("values", np.array(["x"])),
        ("values", None),
        ("classes", np.array(5)),
        ("kind", np.array(["logits", "x"])),
        ("paths", np.array(3)),
        ("labels", None),
    ],
)
def test_scores_of_wrong_kinds_are_refused_by_name(name: str, value: np.ndarray | None, tmp_path: Path) -> None:
    arrays = SCORES | {name: value}
    path = npz(tmp_path / "scores.npz", **{key: array for key, array in arrays.items() if array is not None})
    with pytest.raises(ValueError, match=rf"scores\.npz.*{name}"):
        load_scores(path)


@pytest.mark.parametrize("open_it", [load_scores, load_timelines])
def test_arrays_that_unpack_to_more_than_they_can_hold_are_not_unpacked(
    open_it, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A header that tells of another size than the bytes have, and a few bytes that become very many."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)})
    liar = tmp_path / "liar.npz"
    with zipfile.ZipFile(liar, "w") as file:
        file.writestr("values.npy", head.getvalue() + bytes(80))
    with pytest.raises(ValueError, match=r"liar\.npz.*values"):
        open_it(liar)
    monkeypatch.setattr("vidact.files.MOST_BYTES", 1 << 20)
    bomb = npz(tmp_path / "bomb.npz", values=np.zeros(1 << 25, np.uint8))
    with pytest.raises(ValueError, match=r"bomb\.npz.*values"):
        open_it(bomb)
