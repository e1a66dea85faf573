"""The scripts in datasets/ for untrimmed videos: official files in, lists that load out, with the published numbers."""

import json
import pickle
import runpy
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from vidact.data import load_events, load_sequences, rasterise
from vidact.data.event_list import load_videos
from vidact.data.tables import load_classes

DATASETS = Path(__file__).parents[2] / "datasets"


@pytest.fixture
def prepare(monkeypatch, tmp_path):
    """Run a script as from a shell; returns the folder it wrote."""

    def run(dataset: str, **options: object) -> Path:
        options = {"out": tmp_path / "out", **options}
        arguments = [f"--{name}={value}" for name, value in options.items()]
        monkeypatch.setattr(sys, "argv", ["prepare.py", *arguments])
        runpy.run_path(str(DATASETS / dataset / "prepare.py"), run_name="__main__")
        return Path(str(options["out"]))

    return run


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)


def counts(out: Path) -> dict[str, Counter]:
    """Events of classes and ambiguous ones in each split."""
    splits = load_videos(out / "videos.csv")
    return {
        split: Counter(e.label == "ambiguous" for e in load_events(out / "events.csv") if splits[e.video] == split)
        for split in set(splits.values())
    }


# ------------------------------------------------------------------------------------------------------------ THUMOS'14

THUMOS = runpy.run_path(str(DATASETS / "thumos14/prepare.py"))


def test_thumos_txt(prepare, shared_data):
    """3,007 + 3,358 class segments and 89 + 99 ambiguous ones over 200 + 213 videos."""
    out = prepare("thumos14", annotations=shared_data / "annotations/thumos14_txt")
    assert counts(out) == {"train": {False: 3007, True: 89}, "test": {False: 3358, True: 99}}
    assert Counter(load_videos(out / "videos.csv").values()) == {"train": 200, "test": 213}
    sessions = shared_data / "annotations/online_sessions/zhaoyue-zephyrus+TeSTra/data/data_info.json"
    published = json.loads(sessions.read_text())["THUMOS"]
    videos = load_videos(out / "videos.csv")
    for split in ("train", "test"):
        assert {video for video in videos if videos[video] == split} == set(published[f"{split}_session_set"])
    assert ["Background", *load_classes(out / "classes.txt"), "Ambiguous"] == published["class_names"]
    # a cliff dive is also a dive, since the files list it under both names
    video_events = [event for event in load_events(out / "events.csv") if event.video == "video_test_0000131"]
    multi_hot, _ = rasterise(video_events, 1000, 4, load_classes(out / "classes.txt"))
    cliff, dive = multi_hot[:, 5], multi_hot[:, 8]
    assert cliff.sum() > 50
    assert np.array_equal(cliff, cliff * dive)


def test_thumos_json(prepare, shared_data, capsys):
    """The JSON has the same class segments, no ambiguous ones, and lacks the video that holds nothing else."""
    path = shared_data / "annotations/thumos14_json/data/thumos/annotations/thumos14.json"
    out = prepare("thumos14", annotations=path)
    assert counts(out) == {"train": {False: 3007}, "test": {False: 3358}}
    assert Counter(load_videos(out / "videos.csv").values()) == {"train": 200, "test": 212}
    assert "the JSON file has no ambiguous segments" in capsys.readouterr().out
    from_json = Counter((e.video, e.label) for e in load_events(out / "events.csv"))
    out = prepare("thumos14", annotations=shared_data / "annotations/thumos14_txt")
    from_txt = Counter((e.video, e.label) for e in load_events(out / "events.csv") if e.label != "ambiguous")
    assert from_json == from_txt
    assert "video_test_0001292" in load_videos(out / "videos.csv")


def thumos_lists(root: Path) -> Path:
    for name in (*THUMOS["CLASSES"], "Ambiguous"):
        for side in ("val", "test"):
            write(root / f"lists_{side}/annotation/{name}_{side}.txt", "")
    write(root / "lists_val/annotation/CliffDiving_val.txt", "video_validation_0000001  1.0 2.0\n")
    write(root / "lists_val/annotation/Diving_val.txt", "video_validation_0000002  1.0 2.0\n\n")
    write(root / "lists_test/annotation/Ambiguous_test.txt", "video_test_0000001  3.5 4.0\n")
    return root


def test_thumos_cliff_diving_alone_is_no_diving(prepare, tmp_path):
    out = prepare("thumos14", annotations=thumos_lists(tmp_path / "lists"))
    events = load_events(out / "events.csv")
    assert [(e.video, e.label) for e in events] == [
        ("video_validation_0000001", "CliffDiving"),
        ("video_validation_0000002", "Diving"),
        ("video_test_0000001", "ambiguous"),
    ]


def test_thumos_videos_in_folders(prepare, tmp_path, capsys):
    lists = thumos_lists(tmp_path / "lists")
    write(tmp_path / "videos/validation/video_validation_0000001.mp4", "")
    write(tmp_path / "videos/test/video_test_0000001.mp4", "")
    out = prepare("thumos14", annotations=lists, videos=tmp_path / "videos")
    assert load_videos(out / "videos.csv") == {
        "validation/video_validation_0000001.mp4": "train",
        "test/video_test_0000001.mp4": "test",
    }
    assert [e.video for e in load_events(out / "events.csv")] == list(load_videos(out / "videos.csv"))
    assert (out / "missing.txt").read_text() == "video_validation_0000002\n"
    assert "1 of 3 videos are missing and left out" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="none of the 3 videos of the lists is in"):
        prepare("thumos14", annotations=lists, videos=lists)


def test_thumos_refuses_by_words(prepare, tmp_path):
    with pytest.raises(ValueError, match="name one source: annotations, from_testra or from_oadtr"):
        prepare("thumos14")
    lists = thumos_lists(tmp_path / "lists")
    write(lists / "lists_val/annotation/Diving_val.txt", "video_validation_0000002 1.0\n")
    with pytest.raises(ValueError, match=r"Diving_val.txt line 1 is .*; 'video start end' is expected"):
        prepare("thumos14", annotations=lists)
    write(lists / "lists_val/annotation/Diving_val.txt", "video_validation_0000002 2.0 1.0\n")
    with pytest.raises(ValueError, match="video_validation_0000002 has a Diving from 2 s to 1 s"):
        prepare("thumos14", annotations=lists)
    (lists / "lists_val/annotation/Diving_val.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"0 files Diving_val.txt below .*, where one is expected"):
        prepare("thumos14", annotations=lists)
    with pytest.raises(ValueError, match=r"is not in ActivityNet's layout .*KeyError 'database'"):
        prepare("thumos14", annotations=write(tmp_path / "a.json", "{}"))


def thumos_labels(length: int, several: bool) -> np.ndarray:
    labels = np.zeros((length, 22))
    labels[:, 0] = 1
    labels[3:6] = np.eye(22)[5]
    if several:
        labels[3:6, 8] = 1
    labels[7:9] = np.eye(22)[21]
    return labels


VIDEOS = {"video_validation_0000051": 12, "video_validation_0000052": 15, "video_test_0000004": 20}


def test_thumos_from_testra(prepare, tmp_path):
    for i, (video, length) in enumerate(VIDEOS.items()):
        random = np.random.default_rng(i)
        save(tmp_path / f"T/rgb_kinetics_resnet50/{video}.npy", random.standard_normal((length, 8)).astype(np.float32))
        save(
            tmp_path / f"T/flow_kinetics_bninception/{video}.npy",
            random.standard_normal((length, 4)).astype(np.float32),
        )
        save(tmp_path / f"T/target_perframe/{video}.npy", thumos_labels(length, several=True))
    sequences = load_sequences(prepare("thumos14", from_testra=tmp_path / "T"), val_fraction=0)
    assert {s.id: (s.split, len(s)) for s in sequences} == {
        video: ("test" if "test" in video else "train", length) for video, length in VIDEOS.items()
    }
    assert sequences.record == {
        "origin": "testra",
        "streams": ["rgb_kinetics_resnet50", "flow_kinetics_bninception"],
        "labels": "several a token",
        "tokens_per_second": 4,
        "dim": 12,
    }
    sequence = sequences.sequences[0]
    assert np.flatnonzero(sequence.multi_hot[4]).tolist() == [5, 8]
    assert np.flatnonzero(sequence.ignore).tolist() == [7, 8]
    assert load_sequences(tmp_path / "out", val_fraction=0.5).split("val")
    rgb = load_sequences(
        prepare("thumos14", from_testra=tmp_path / "T", streams="[rgb_kinetics_resnet50]", out=tmp_path / "rgb"),
        val_fraction=0,
    )
    assert rgb.dim == 8
    with pytest.raises(FileNotFoundError, match=r"has no video_….npy; is it TeSTra's layout"):
        prepare("thumos14", from_testra=tmp_path)


def test_thumos_from_oadtr(prepare, tmp_path):
    """5 tokens a second and one label a token, and the record says so."""
    folder = tmp_path / "pickles"
    folder.mkdir()
    for side in ("val", "test"):
        videos = {video: length for video, length in VIDEOS.items() if side in video}
        arrays = {
            v: {"rgb": np.ones((n, 8), np.float32), "flow": np.ones((n, 4), np.float32)} for v, n in videos.items()
        }
        labels = {v: {"anno": thumos_labels(n, several=False)} for v, n in videos.items()}
        (folder / f"thumos_all_feature_{side}_V3.pickle").write_bytes(pickle.dumps(arrays))
        (folder / f"thumos_{side}_anno.pickle").write_bytes(pickle.dumps(labels))
    sequences = load_sequences(prepare("thumos14", from_oadtr=folder), val_fraction=0)
    assert Counter(s.split for s in sequences) == {"train": 2, "test": 1}
    assert sequences.tokens_per_second == 5
    assert (sequences.record["origin"], sequences.record["labels"], sequences.dim) == ("oadtr", "one a token", 12)
    assert np.flatnonzero(sequences.sequences[0].multi_hot[4]).tolist() == [5]
    with pytest.raises(ValueError, match="4 tokens per second were asked for"):
        load_sequences(tmp_path / "out", tokens_per_second=4)

    class Bomb:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    (folder / "thumos_val_anno.pickle").write_bytes(pickle.dumps({"video_validation_0000051": Bomb()}))
    with pytest.raises(ValueError, match=r"thumos_val_anno.pickle asks for builtins.exec, which is neither"):
        prepare("thumos14", from_oadtr=folder)
    assert not (tmp_path / "ran").exists()


# ---------------------------------------------------------------------------------------------------------- ActivityNet


def activitynet(path: Path, **extra) -> Path:
    def entry(subset, *segments):
        return {
            "subset": subset,
            "duration": 9.0,
            "annotations": [{"label": n, "segment": [a, b]} for n, a, b in segments],
        }

    database = {
        "aaa": entry("training", ("Yoga", 0, 4.5), ("Tai chi", 5, 9.01)),
        "bbb": entry("validation", ("Tai chi", 1.25, 2), ("Yoga", 3, 3)),
        "ccc": {"subset": "testing", "duration": 3.0, "annotations": []},
        **extra,
    }
    return write(path, json.dumps({"version": "VERSION 1.3", "taxonomy": [], "database": database}))


def test_activitynet(prepare, tmp_path, capsys):
    lists = activitynet(tmp_path / "a.json")
    out = prepare("activitynet", annotations=lists)
    assert load_videos(out / "videos.csv") == {"v_aaa": "train", "v_bbb": "test"}
    assert load_classes(out / "classes.txt") == ["Tai chi", "Yoga"]
    assert [(e.video, e.start_s, e.end_s, e.label) for e in load_events(out / "events.csv")] == [
        ("v_aaa", 0, 4.5, "Yoga"),
        ("v_aaa", 5, 9.01, "Tai chi"),
        ("v_bbb", 1.25, 2, "Tai chi"),
    ]
    assert "1 segments do not end after they start and are left out: bbb Yoga" in capsys.readouterr().out
    assert load_videos(prepare("activitynet", annotations=lists, validation="val") / "videos.csv")["v_bbb"] == "val"
    write(tmp_path / "videos/v_aaa.mkv", "")
    write(tmp_path / "videos/bbb.mp4", "")
    out = prepare("activitynet", annotations=lists, videos=tmp_path / "videos")
    assert load_videos(out / "videos.csv") == {"v_aaa.mkv": "train", "bbb.mp4": "test"}


def test_activitynet_refuses_by_words(prepare, tmp_path):
    lists = activitynet(tmp_path / "a.json", ddd={"subset": "dev", "annotations": []})
    with pytest.raises(ValueError, match="ddd is of the subset 'dev'; there are training, validation, testing"):
        prepare("activitynet", annotations=lists)
    classes = write(tmp_path / "classes.txt", "Yoga\nThai chi\n")
    with pytest.raises(ValueError, match="unknown label 'Tai chi'; the closest class is 'Thai chi'"):
        prepare("activitynet", annotations=activitynet(tmp_path / "b.json"), classes=classes)
    with pytest.raises(ValueError, match="is not in ActivityNet's layout"):
        prepare(
            "activitynet", annotations=activitynet(tmp_path / "c.json", ddd={"subset": "training", "annotations": [{}]})
        )


# ------------------------------------------------------------------------------------------------------------- TVSeries


def tvseries(folder: Path) -> Path:
    head = "episode\tclass\tstart\tend\tone person\n"
    flags = "\t1\t0\t0\t0\t0\t1\t0\t0\t0\t0\t0\t0\ta remark\n"
    write(folder / "GT-train.txt", f"24_ep1\tOpen door\t12.5\t14.0{flags}24_ep1\tFall/trip\t20\t21.25{flags}")
    write(folder / "GT-val.txt", f"{head}24_ep2\tGet in/out of car\t1\t2{flags}")
    write(folder / "GT-test.txt", f"24_ep4\tPoint\t3\t3.5{flags}\n")
    return folder


def test_tvseries(prepare, tmp_path, shared_data):
    out = prepare("tvseries", annotations=tvseries(tmp_path / "lists"))
    assert load_videos(out / "videos.csv") == {"24_ep1": "train", "24_ep2": "train", "24_ep4": "test"}
    assert [(e.video, e.start_s, e.end_s, e.label) for e in load_events(out / "events.csv")] == [
        ("24_ep1", 12.5, 14, "Open door"),
        ("24_ep1", 20, 21.25, "Fall/trip"),
        ("24_ep2", 1, 2, "Get in/out of car"),
        ("24_ep4", 3, 3.5, "Point"),
    ]
    out = prepare("tvseries", annotations=tmp_path / "lists", official_val="true")
    assert load_videos(out / "videos.csv")["24_ep2"] == "val"
    sessions = shared_data / "annotations/online_sessions/wangxiang1230+OadTR/data/data_info_new.json"
    assert load_classes(out / "classes.txt") == json.loads(sessions.read_text())["TVSERIES"]["class_index"][1:]


def test_tvseries_refuses_by_words(prepare, tmp_path):
    lists = tvseries(tmp_path / "lists")
    write(lists / "GT-val.txt", "24_ep2\tOpen dor\t1\t2\n")
    with pytest.raises(
        ValueError, match=r"GT-val.txt line 1: 'Open dor' is no class; the closest class is 'Open door'"
    ):
        prepare("tvseries", annotations=lists)
    write(lists / "GT-val.txt", "24_ep2\tPoint\t1\t2\n24_ep2 Point 3 4\n")
    with pytest.raises(ValueError, match=r"GT-val.txt line 2 is .* with tabs between them"):
        prepare("tvseries", annotations=lists)
    write(lists / "GT-val.txt", "24_ep4\tPoint\t1\t2\n")
    with pytest.raises(ValueError, match=r"GT-test.txt line 1: 24_ep4 is also in the list of train"):
        prepare("tvseries", annotations=lists)
    (lists / "GT-val.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"0 files GT-val.txt below"):
        prepare("tvseries", annotations=lists)


# ------------------------------------------------------------------------------------------------------------------ HDD


def test_hdd(prepare, shared_data, tmp_path):
    """The published list of sessions with made-up arrays in TRN's layout."""
    sessions = shared_data / "annotations/online_sessions/xumingze0308+TRN.pytorch/data/data_info.json"
    listed = json.loads(sessions.read_text())["HDD"]
    for i, session in enumerate([*listed["train_session_set"], *listed["test_session_set"]]):
        labels = np.zeros(31, dtype=np.int64)
        labels[1 + i % 5 : 8 + i % 5] = 1 + i % 11
        labels[20:22] = 1 + (i + 3) % 11
        save(tmp_path / f"HDD/target/{session}.npy", labels)
        save(tmp_path / f"HDD/sensor/{session}.npy", np.full((31, 8), i, dtype=np.float64))
    out = prepare("hdd", root=tmp_path / "HDD", sessions=sessions)
    sequences = load_sequences(out, val_fraction=0)
    assert Counter(s.split for s in sequences) == {"train": 100, "test": 36}
    assert (sequences.tokens_per_second, sequences.dim, sequences.classes) == (3, 8, listed["class_index"][1:])
    for i, sequence in enumerate(sequences):
        assert sequence.features.dtype == np.float32
        assert (sequence.features == i).all()
        assert np.array_equal(sequence.multi_hot.argmax(1), np.load(tmp_path / f"HDD/target/{sequence.id}.npy"))
    labels_only = prepare("hdd", root=tmp_path / "HDD", sessions=sessions, streams="[]", out=tmp_path / "labels")
    assert (labels_only / "events.csv").read_text() == (out / "events.csv").read_text()
    assert not (labels_only / "features").exists()


# ------------------------------------------------------------------------------------------------------------------ FIR


def test_fir(prepare, shared_data, tmp_path):
    out = prepare("fir", source=shared_data / "fir")
    assert len(load_events(out / "events.csv")) == 288
    assert Counter(load_videos(out / "videos.csv").values()) == {"train": 14, "test": 7}
    assert len(load_classes(out / "classes.txt")) == 9
    assert all((out / video).exists() for video in load_videos(out / "videos.csv"))
    prepare("fir", source=shared_data / "fir")  # a second time changes nothing
    with pytest.raises(ValueError, match=r"source and out are both .*; it is ready as it is"):
        prepare("fir", source=out)
    (out / "videos").unlink()
    with pytest.raises(FileNotFoundError, match="lacks 21 of 21 videos: videos/2020"):
        prepare("fir", source=out, out=tmp_path / "other")
    (out / "videos").mkdir()
    with pytest.raises(FileExistsError, match="videos exists and is no link"):
        prepare("fir", source=shared_data / "fir")
