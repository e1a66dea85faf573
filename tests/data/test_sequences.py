"""Untrimmed videos as features and labels: bad data are refused, and the number of workers changes no batch."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.fabric.utilities.apply_func import move_data_to_device

import vidact.data
from vidact.batch import SequenceBatch
from vidact.data import load_sequences
from vidact.data.event_list import Event, events_of, rasterise
from vidact.data.official_lists import write_events_csv, write_videos_csv
from vidact.data.sequence_list import Sequence, SequenceList, write_sequences
from vidact.data.sequences import SequenceData, SequenceDataset, collate
from vidact.data.synthetic import write_untrimmed
from vidact.data.tables import write_classes

RATE = 4.0


def values(length: int, dim: int = 3) -> np.ndarray:
    """Return features that identify their token: row t is t, t + 0.1, …"""
    return (np.arange(length)[:, None] + np.arange(dim) / 10).astype(np.float32)


def write(
    root: Path,
    lengths: dict[str, int],
    events: list[Event] | None = None,
    splits: dict[str, str] | None = None,
    record: dict | None = None,
) -> Path:
    """Write a data set of videos with the given numbers of tokens."""
    if events is None:
        events = [Event(video, 0.25, 0.75, "ab"[i % 2]) for i, video in enumerate(lengths)]
        events += [Event(video, 1, 1.5, "ba"[i % 2]) for i, video in enumerate(lengths)]
    for video, length in lengths.items():
        path = root / "features" / f"{video}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, values(length))
    (root / "features/features.json").write_text(json.dumps(record or {"tokens_per_second": RATE, "dim": 3}))
    write_classes(root / "classes.txt", ["a", "b"])
    write_videos_csv(root / "videos.csv", splits or {video: "train" for video in lengths})
    write_events_csv(root / "events.csv", events)
    return root


LENGTHS = {"x/one": 40, "x/two": 33, "three": 70, "four": 16, "five": 51}
SPLITS = {"x/one": "train", "x/two": "train", "three": "val", "four": "test", "five": "test"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write(tmp_path, LENGTHS, splits=SPLITS)


# -------------------------------------------------------------------------------------------------------------- loading


def test_loads_features_and_labels(root: Path) -> None:
    sequences = load_sequences(root)
    assert [(s.id, s.split, len(s)) for s in sequences] == [(v, SPLITS[v], n) for v, n in LENGTHS.items()]
    assert (sequences.classes, sequences.tokens_per_second, sequences.dim, sequences.notes) == (["a", "b"], 4, 3, [])
    assert str(sequences) == "5 videos (1 min) of 2 classes at 4 tokens/s: train 2, val 1, test 2"
    first = sequences.sequences[0]
    assert isinstance(first.features, np.memmap)
    assert np.array_equal(first.features, values(40))
    targets = rasterise([Event("x/one", 0.25, 0.75, "a"), Event("x/one", 1, 1.5, "b")], 40, 4, ["a", "b"])
    assert np.array_equal(first.multi_hot, targets.multi_hot)
    assert not isinstance(sequences.in_memory().sequences[0].features, np.memmap)
    assert sequences.num_bytes == sum(LENGTHS.values()) * 3 * 4


def test_suffixes_in_the_lists_do_not_count(tmp_path: Path) -> None:
    write(tmp_path, {"v/one": 9, "v/two": 9})
    write_videos_csv(tmp_path / "videos.csv", {"v/one.mp4": "train", "v/two.avi": "val"})
    write_events_csv(tmp_path / "events.csv", [Event("v/one.mp4", 0, 1, "a"), Event("v/two.avi", 0, 1, "b")])
    assert [s.id for s in load_sequences(tmp_path)] == ["v/one", "v/two"]


def test_ambiguous_tokens_are_ignored(tmp_path: Path) -> None:
    events = [Event("v", 0, 1, "a"), Event("v", 0.5, 1.5, "ambiguous"), Event("w", 0, 1, "b")]
    write(tmp_path, {"v": 8, "w": 8}, events, {"v": "train", "w": "val"})
    sequence = load_sequences(tmp_path).sequences[0]
    assert sequence.ignore.tolist() == [False, False, True, True, True, True, False, False]
    assert sequence.multi_hot[:, 1].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert sequence.multi_hot[:, 0].tolist() == [0, 0, 0, 0, 0, 0, 1, 1]


def test_digest_tells_labels_apart(root: Path) -> None:
    before = load_sequences(root).digest
    assert load_sequences(root, val_fraction=0).digest == before
    rows = (root / "events.csv").read_text()
    (root / "events.csv").write_text(rows.replace("x/one,0.25,0.75,a", "x/one,0.25,1.0,a"))
    assert load_sequences(root).digest != before


# ------------------------------------------------------------------------------------------------------------ bad input


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"events.csv does not exist; a folder of untrimmed videos has events.csv"
    ):
        load_sequences(tmp_path)
    root = write(tmp_path, {"v": 8, "w": 8})
    with pytest.raises(FileNotFoundError, match=r"nowhere is not a folder; extract the features into it"):
        load_sequences(root, features=root / "nowhere")
    (root / "features/w.npy").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"1 of 2 videos have no features in .*features: w. Extract them, or use"
    ):
        load_sequences(root)
    sequences = load_sequences(root, missing="skip", val_fraction=0)
    assert [s.id for s in sequences] == ["v"]
    assert "skipped: 1 of 2 videos have no features" in sequences.notes[0]
    (root / "features/v.npy").unlink()
    with pytest.raises(FileNotFoundError, match="2 of 2 videos have no features"):
        load_sequences(root, missing="skip")
    with pytest.raises(ValueError, match="missing is 'drop'; it can be 'raise' or 'skip'"):
        load_sequences(root, missing="drop")  # type: ignore[arg-type]


def test_features_extracted_below_another_folder(tmp_path: Path) -> None:
    root = write(tmp_path, {"videos/v": 8})
    shutil.move(root / "features/videos/v.npy", root / "features/v.npy")
    with pytest.raises(FileNotFoundError, match=r"videos/v.npy is looked for .* extract with the folder of videos.csv"):
        load_sequences(root)


def test_rate(tmp_path: Path) -> None:
    root = write(tmp_path, {"v": 8}, record={"tokens_per_second": 5})
    with pytest.raises(ValueError, match=r"4 tokens per second were asked for and the features in .* have 5"):
        load_sequences(root, tokens_per_second=4)
    assert load_sequences(root, tokens_per_second=5, val_fraction=0).record == {"tokens_per_second": 5, "dim": 3}
    (root / "features/features.json").write_text('{"tokens_per_second": 0}')
    with pytest.raises(ValueError, match="says 0 tokens per second; a rate is above 0"):
        load_sequences(root)
    (root / "features/features.json").write_text('{"fps": 24}')
    with pytest.raises(ValueError, match=r"features.json says no tokens_per_second \(KeyError"):
        load_sequences(root)
    (root / "features/features.json").unlink()
    with pytest.raises(FileNotFoundError, match="the number of features a second is unknown"):
        load_sequences(root)
    assert load_sequences(root, tokens_per_second=2, val_fraction=0).record == {"tokens_per_second": 2, "dim": 3}


def test_bad_features(tmp_path: Path) -> None:
    root = write(tmp_path, {"v": 8, "w": 8})
    path = root / "features/w.npy"
    np.save(path, values(8, dim=4))
    with pytest.raises(
        ValueError, match=r"w.npy has 4 values a token and .*features.json says 3: .* different backbones"
    ):
        load_sequences(root)
    (root / "features/features.json").write_text('{"tokens_per_second": 4}')
    with pytest.raises(ValueError, match=r"w.npy has 4 values a token and .*v.npy has 3"):
        load_sequences(root)
    for bad in (np.nan, np.inf):
        broken = values(5000)
        broken[4500, 1] = bad
        np.save(path, broken)
        with pytest.raises(ValueError, match=rf"w.npy has {bad} in token 4500 \(1125.00 s\), value 1"):
            load_sequences(root)
    for wrong, message in (
        (values(8).astype(np.float64), "float64"),
        (values(8)[0], r"\(3,\)"),
        (values(0), r"\(0, 3\)"),
    ):
        np.save(path, wrong)
        with pytest.raises(ValueError, match=rf"w.npy holds .*{message}.*; features are float32 \(tokens, values\)"):
            load_sequences(root)
    np.save(path, np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match=r"w.npy is no array of numbers in NumPy's format"):
        load_sequences(root)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"w.npy is no array of numbers"):
        load_sequences(root)


def test_bad_lists(tmp_path: Path) -> None:
    root = write(tmp_path, {"v": 8, "w": 8})
    (root / "videos.csv").write_text("video,split\nv,train\n")
    with pytest.raises(ValueError, match=r"events of 1 video that videos.csv does not name: w. Add them"):
        load_sequences(root)
    events = (root / "events.csv").read_text()
    (root / "videos.csv").write_text("video,split\na/v.mp4,train\n")  # what a stream of another folder has written
    (root / "events.csv").write_text("video,start_s,end_s,label\n../set/a/v.mp4,0,1,jump\n")
    with pytest.raises(ValueError, match=r"'\.\./set/a/v\.mp4' has the name of 'a/v' in videos\.csv; write that"):
        load_sequences(root)
    (root / "events.csv").write_text(events)
    (root / "videos.csv").write_text("video,split\nv,train\nv.mp4,test\n")
    with pytest.raises(ValueError, match="two videos with the id v; rename one"):
        load_sequences(root)
    (root / "videos.csv").write_text("video,split\n../v,train\n")
    with pytest.raises(ValueError, match=r"the path \.\./v may leave its folder"):
        load_sequences(root)
    (root / "videos.csv").write_text("video,split\n")
    with pytest.raises(ValueError, match="it has a header and no videos"):
        load_sequences(root)
    write_videos_csv(root / "videos.csv", {"v": "train", "w": "train"})
    (root / "events.csv").write_text("video,start_s,end_s,label\nv,1.5,0.5,a\n")
    with pytest.raises(ValueError, match=r"row 2 starts at 1.5 s and ends at 0.5 s; the start comes first"):
        load_sequences(root)
    (root / "events.csv").write_text("video,start_s,end_s,label\nv,-1,0.5,a\n")
    with pytest.raises(ValueError, match=r"start_s is '-1', which is no number of seconds from 0 on"):
        load_sequences(root)
    (root / "events.csv").write_text("video,start_s,end_s,label\nv,0,0.5,aa\n")
    with pytest.raises(ValueError, match=r"the label 'aa', which is no class; the closest class is 'a'"):
        load_sequences(root)


def test_videos_without_labels(tmp_path: Path) -> None:
    """A listed video without events is background; a split without any event is a mistake."""
    root = write(tmp_path, {"v": 8, "w": 8, "t": 8}, [Event("v", 0, 1, "a")], {"v": "train", "w": "train", "t": "test"})
    with pytest.raises(ValueError, match="none of the 1 video of the split test has an event; label them"):
        load_sequences(root, val_fraction=0)
    write_events_csv(root / "events.csv", [Event("v", 0, 1, "a"), Event("t", 0, 1, "b")])
    sequences = load_sequences(root, val_fraction=0)
    assert sequences.sequences[1].multi_hot.tolist() == [[1, 0, 0]] * 8
    assert sequences.notes == [
        "split train has no event of 1 of 2 classes: b",
        "split test has no event of 1 of 2 classes: a",
        "1 video has no event and is all background: w",
    ]


def test_label_beyond_the_end(tmp_path: Path) -> None:
    """An event is cut if it ends within a second of the end; later it is a mistake, or allowed with a note."""
    events = [Event("v", 1, 2.9, "a"), Event("v", 2.2, 2.8, "b")]
    root = write(tmp_path, {"v": 8}, events)
    sequences = load_sequences(root, val_fraction=0)
    assert [(e.label, e.start_s, e.end_s) for e in sequences.sequences[0].events] == [("a", 1, 2)]
    assert sequences.notes[0] == "left out 1 event that begins after the last feature: b at 2.2–2.8 s of v"
    write_events_csv(root / "events.csv", [Event("v", 1, 4.5, "a"), Event("v", 7, 8, "b")])
    with pytest.raises(
        ValueError,
        match=r"2 events reach beyond .*: a at 1–4.5 s of v, which ends at 2 s, b at 7–8 s .*bad_events='allow'",
    ):
        load_sequences(root, val_fraction=0)
    sequences = load_sequences(root, val_fraction=0, bad_events="allow")
    assert [note.split(":")[0] for note in sequences.notes[:2]] == [
        "cut 2 events that reach beyond the end of their features",
        "left out 1 event that begins after the last feature",
    ]
    assert sequences.sequences[0].multi_hot[:, 1].tolist() == [0] * 4 + [1] * 4


def test_overlapping_events(tmp_path: Path) -> None:
    """An overlap is a mistake within one class, but not of two classes or of ambiguous events; events may touch."""
    fine = [Event("v", 0, 1 / 3, "a"), Event("v", 1 / 3, 2, "a"), Event("v", 1, 2, "b")]
    fine += [Event("v", 0, 1, "ambiguous"), Event("v", 0.5, 2, "ambiguous")]
    root = write(tmp_path, {"v": 8}, fine)
    assert len(load_sequences(root, val_fraction=0).sequences[0].events) == 5
    write_events_csv(root / "events.csv", [Event("v", 0, 2, "a"), Event("v", 0.5, 1, "b"), Event("v", 1.5, 1.8, "a")])
    with pytest.raises(
        ValueError, match=r"1 event overlaps another of their class: a at 1.5–1.8 s of v and the one at 0–2"
    ):
        load_sequences(root, val_fraction=0)
    sequences = load_sequences(root, val_fraction=0, bad_events="allow")
    assert len(sequences.sequences[0].events) == 3
    assert "1 event overlaps another of their class" in sequences.notes[0]


def test_classes_are_the_sorted_labels_without_classes_txt(tmp_path: Path) -> None:
    root = write(tmp_path, {"v": 8}, [Event("v", 0, 1, "z"), Event("v", 0, 1, "Ambiguous"), Event("v", 0, 1, "y")])
    (root / "classes.txt").unlink()
    sequences = load_sequences(root, val_fraction=0)
    assert sequences.classes == ["y", "z"]
    assert "no classes.txt" in sequences.notes[0]
    write_events_csv(root / "events.csv", [Event("v", 0, 1, "Ambiguous")])
    with pytest.raises(ValueError, match=r"events.csv has no event of any class"):
        load_sequences(root)


# ----------------------------------------------------------------------------------------------------- validation split


def many(tmp_path: Path, labels: dict[str, str], splits: dict[str, str] | None = None) -> Path:
    events = [Event(video, i / 4, (i + 1) / 4, name) for video, names in labels.items() for i, name in enumerate(names)]
    return write(tmp_path, {video: 12 for video in labels}, events, splits)


def test_validation_is_carved_from_training_only(tmp_path: Path) -> None:
    labels = {f"v{i}": "ab" for i in range(10)} | {"t0": "ab", "t1": "ab"}
    splits = {video: "test" if video[0] == "t" else "train" for video in labels}
    root = many(tmp_path, labels, splits)
    sequences = load_sequences(root)
    carved = {s.id for s in sequences.split("val")}
    assert len(carved) == 2
    assert carved <= {f"v{i}" for i in range(10)}
    assert {s.id for s in sequences.split("test")} == {"t0", "t1"}
    assert "2 of 10 training videos are kept for validation (val_fraction 0.2, seed 0)" in sequences.notes[0]
    assert {s.id for s in load_sequences(root).split("val")} == carved
    assert len({tuple(s.id for s in load_sequences(root, seed=seed).split("val")) for seed in range(8)}) > 3
    assert len(load_sequences(root, val_fraction=0.5).split("val")) == 5
    assert not load_sequences(root, val_fraction=0).split("val")
    with pytest.raises(ValueError, match=r"val_fraction is 1.0; it is a share"):
        load_sequences(root, val_fraction=1.0)
    with pytest.raises(ValueError, match="'dev' is not a split"):
        sequences.split("dev")


@pytest.mark.parametrize("seed", range(5))
def test_validation_sees_each_class_and_training_keeps_each(tmp_path: Path, seed: int) -> None:
    """b is in three of twelve videos, and the only video with c must train."""
    write(tmp_path, {f"v{i}": 12 for i in range(12)}, [])
    labels = {f"v{i}": "a" for i in range(12)} | {"v0": "ab", "v1": "ab", "v2": "ba", "v3": "c"}
    events = [Event(video, i / 4, (i + 1) / 4, name) for video, names in labels.items() for i, name in enumerate(names)]
    write_events_csv(tmp_path / "events.csv", events)
    write_classes(tmp_path / "classes.txt", ["a", "b", "c"])
    sequences = load_sequences(tmp_path, seed=seed)
    kinds = {split: {e.label for s in sequences.split(split) for e in s.events} for split in ("train", "val")}
    assert kinds == {"train": {"a", "b", "c"}, "val": {"a", "b"}}


def test_groups_are_carved_whole(tmp_path: Path) -> None:
    root = many(tmp_path, {f"{person}_{i}": "ab" for person in ("ann", "bob", "cy", "dan") for i in range(3)})
    carved = {s.id.split("_")[0] for s in load_sequences(root, group=r"^([a-z]+)_").split("val")}
    assert len(carved) == 1
    assert len(load_sequences(root, group=r"^([a-z]+)_").split("val")) == 3
    with pytest.raises(ValueError, match="one training group, so none can be kept for validation"):
        load_sequences(root, group=r"(_)")
    with pytest.raises(ValueError, match="matches no group in 3 of 12 paths"):
        load_sequences(root, group=r"^(ann|bob|cy)_")


def test_a_single_training_video_cannot_be_carved(tmp_path: Path) -> None:
    root = write(tmp_path, {"v": 12})
    with pytest.raises(ValueError, match="one training video, so none can be kept for validation; name a video with"):
        load_sequences(root)


# -------------------------------------------------------------------------------------------------------------- windows


def sequence(length: int, ignore: tuple[int, ...] = (), name: str = "v") -> Sequence:
    multi_hot = np.zeros((length, 3), dtype=np.float32)
    multi_hot[np.arange(length), np.arange(length) % 3] = 1
    mask = np.zeros(length, dtype=bool)
    mask[list(ignore)] = True
    return Sequence(name, "train", values(length), multi_hot, mask)


@settings(max_examples=150, deadline=None)
@given(
    length=st.integers(1, 40),
    window=st.integers(1, 12),
    history=st.integers(0, 9),
    lookahead=st.integers(0, 5),
    stride=st.integers(1, 15),
    epoch=st.integers(0, 3),
)
def test_windows_are_the_video(length: int, window: int, history: int, lookahead: int, stride: int, epoch: int) -> None:
    """Row i of the targets belongs to row history + i of the features; edges repeat, and are marked."""
    video = sequence(length, ignore=(3,) if length > 3 else ())
    dataset = SequenceDataset([video], window, history, lookahead, stride)
    assert len(dataset) == max(1, min(length, length - window + stride) // stride if length > window else 1)
    begun = []
    for index in range(len(dataset)):
        batch = dataset[(epoch, index)]
        assert batch.features.shape == (1, history + window, 3)
        assert (batch.window, batch.history, batch.lookahead) == (window, history, lookahead)
        start, end = int(batch.start), int(batch.end)
        tokens = batch.features[0, :, 0].round().long().numpy()
        first = tokens[start] - start  # the token of row 0, if the video had enough tokens before its first one
        assert np.array_equal(tokens, np.clip(np.arange(first, first + history + window), 0, length - 1))
        assert (start, end) == (max(0, -first), min(history + window, length - first))
        for row in range(window + lookahead):
            token = first + history + row
            inside = token < length
            assert bool(batch.ignore[0, row]) == (not inside or bool(video.ignore[token]))
            assert batch.targets[0, row].tolist() == (video.multi_hot[token].tolist() if inside else [0, 0, 0])
        begun.append(first + history)
        assert 0 <= begun[-1] < length
        assert begun[-1] + window - length < stride or length <= window
    assert np.array_equal(np.diff(begun), [stride] * (len(begun) - 1))


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(1, 40),
    window=st.integers(1, 12),
    history=st.integers(0, 9),
    lookahead=st.integers(0, 5),
    spans=st.lists(st.tuples(st.integers(0, 900), st.integers(1, 300), st.sampled_from(["a", "b", "Ambiguous"]))),
)
def test_the_truth_of_windows_is_that_of_the_video(
    length: int, window: int, history: int, lookahead: int, spans: list[tuple[int, int, str]]
) -> None:
    """In seconds from row 0, neither rounded nor cut: drawn on the tokens again, it is the targets."""
    seconds = length / RATE
    events = tuple(
        Event("v", start / 100, min(start + span, seconds * 100) / 100, label)
        for start, span, label in spans
        if start < seconds * 100
    )
    targets = rasterise(events, length, RATE, ["a", "b"])
    video = Sequence("v", "train", values(length), *targets, events)
    dataset = SequenceDataset([video], window, history, lookahead, classes=["a", "b"], tokens_per_second=RATE)
    for index in range(len(dataset)):
        batch = dataset[index]
        (rows,) = batch.truth
        start, end = int(batch.start), int(batch.end)
        row_0 = batch.features[0, start, 0].round().item() - start  # the token of row 0
        names = {0: "a", 1: "b", -1: "Ambiguous"}
        times_s = [(s + row_0 / RATE, e + row_0 / RATE, names[k]) for s, e, k in rows.tolist()]
        touching = [e for e in events if e.end_s * RATE > row_0 + start and e.start_s * RATE < row_0 + end]
        assert rows.dtype == torch.float32
        assert rows[:, 0].tolist() == sorted(rows[:, 0].tolist())
        expected = [(e.start_s, e.end_s, e.label) for e in touching]
        for label in names.values():
            mine, theirs = (sorted(row[:2] for row in side if row[2] == label) for side in (times_s, expected))
            np.testing.assert_allclose(np.reshape(mine, (-1, 2)), np.reshape(theirs, (-1, 2)), atol=1e-5)
        again = rasterise([Event("v", max(0.0, s), e, label) for s, e, label in times_s], length, RATE, ["a", "b"])
        inside = slice(history, end)
        tokens = slice(int(row_0) + history, int(row_0) + end)
        assert np.array_equal(batch.targets[0, : inside.stop - inside.start], again.multi_hot[tokens])
        assert np.array_equal(batch.ignore[0, : inside.stop - inside.start], again.ignore[tokens])


def test_truth_is_that_of_each_video_of_a_batch(root: Path) -> None:
    data = SequenceData(str(root), window=16, batch_size=3, test_batch_size=2, num_workers=0)
    data.setup("fit")
    batch = next(iter(data.test_dataloader()))
    assert batch.ids == ["four", "five"]
    assert [rows.tolist() for rows in batch.truth] == [[[0.25, 0.75, 1], [1, 1.5, 0]], [[0.25, 0.75, 0], [1, 1.5, 1]]]
    moved = move_data_to_device(batch, torch.device("meta"))
    assert all(rows.device.type == "meta" for rows in moved.truth)
    assert SequenceDataset([sequence(9)])[0].truth is None
    with pytest.raises(ValueError, match="both classes and tokens_per_second"):
        SequenceDataset([sequence(9)], classes=["a"])
    stranger = replace(sequence(9), events=(Event("v", 0, 1, "swim"),))
    with pytest.raises(ValueError, match="'swim' of v at 0 s is of no class; there are a, b"):
        SequenceDataset([stranger], classes=["a", "b"], tokens_per_second=RATE)


def test_offsets_are_drawn_for_each_video_and_epoch() -> None:
    dataset = SequenceDataset([sequence(100), sequence(100)], window=8)
    begun = [[int(dataset[(epoch, index)].features[0, 0, 0]) for index in (0, 12)] for epoch in range(60)]
    assert {offset for pair in begun for offset in pair} == set(range(8))
    assert len({tuple(pair) for pair in begun}) > 30
    reseeded = SequenceDataset([sequence(100), sequence(100)], window=8, seed=1)
    assert begun != [[int(reseeded[(epoch, index)].features[0, 0, 0]) for index in (0, 12)] for epoch in range(60)]


def test_stride_one_shows_every_token_once() -> None:
    dataset = SequenceDataset([sequence(20)], window=1, history=5, stride=1)
    assert [int(dataset[i].features[0, -1, 0]) for i in range(len(dataset))] == list(range(20))


def test_few_windows_come_again_in_an_epoch() -> None:
    """An epoch has at least ``least`` windows: whole rounds of all videos, with new offsets after the first round."""
    videos = [sequence(100), sequence(5)]
    once, often = SequenceDataset(videos, window=8, stride=8), SequenceDataset(videos, window=8, stride=8, least=40)
    assert (len(once), len(often)) == (13, 52)
    keys = [(3, index) for index in range(52)]
    names = [often[key].ids[0] for key in keys]
    assert names == [once[key].ids[0] for key in keys[:13]] * 4
    for key in keys[:13]:
        assert torch.equal(once[key].features, often[key].features)
    first = [often[key].features for key in keys[::13]]
    assert not all(torch.equal(first[0], features) for features in first[1:])
    with pytest.raises(IndexError, match="item 52 of 52"):
        often[3, 52]


def test_windows_whose_last_label_is_ambiguous_are_dropped() -> None:
    """OadTR's loss uses only the last token."""
    ambiguous = (5, 6, 17)
    dataset = SequenceDataset([sequence(20, ambiguous), sequence(3)], window=4, stride=1, drop_ambiguous_last=True)
    last = [int(dataset[i].features[0, -1, 0]) for i in range(len(dataset))]
    assert last == [t for t in range(3, 20) if t not in ambiguous]
    for epoch in range(5):
        strided = SequenceDataset([sequence(20, ambiguous)], window=4, stride=3, drop_ambiguous_last=True)
        assert len(strided) == 14 // 3
        assert not any(bool(strided[(epoch, i)].ignore[0, -1]) for i in range(len(strided)))


def test_whole_videos_in_one_batch() -> None:
    dataset = SequenceDataset([sequence(9, (2,), "p"), sequence(5, name="q")])
    batch = collate([dataset[0], dataset[1]])
    assert batch.ids == ["p", "q"]
    assert batch.features.shape == (2, 9, 3)
    assert (batch.start.tolist(), batch.end.tolist(), batch.lookahead, batch.history) == ([0, 0], [9, 5], 0, 0)
    assert batch.features[1, :, 0].tolist() == [0, 1, 2, 3, 4, 4, 4, 4, 4]
    assert batch.ignore[1].tolist() == [False] * 5 + [True] * 4
    assert batch.ignore[0].tolist() == [t == 2 for t in range(9)]
    assert not batch.targets[1, 5:].any()


def test_a_batch_made_by_hand_is_all_video() -> None:
    batch = SequenceBatch(
        torch.zeros(2, 7, 3), torch.zeros(2, 5, 4), torch.zeros(2, 5).bool(), torch.zeros(2).long(), ["a", "b"]
    )
    assert (batch.end.tolist(), batch.window, batch.history, len(batch)) == ([7, 7], 5, 2, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window is 0 tokens; it is at least 1"),
        ({"window": 4, "stride": 0}, "stride is 0 tokens; it is at least 1"),
        ({"window": 4, "history": -1}, "history is -1 tokens; it is at least 0"),
        ({"window": 4, "least": 0}, "least is 0; it is at least 1"),
        ({"history": 3}, "whole videos"),
    ],
)
def test_windows_refuse_by_words(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SequenceDataset([sequence(9)], **options)
    with pytest.raises(IndexError, match="item 9 of 2"):
        SequenceDataset([sequence(9)], window=4)[9]


# -------------------------------------------------------------------------------------------------------------- batches


def data(root: Path, **options) -> SequenceData:
    datamodule = SequenceData(str(root), **{"window": 4, "history": 3, "lookahead": 2, "batch_size": 3, **options})
    datamodule.setup("test")
    return datamodule


def batches(datamodule: SequenceData, split: str = "train", epoch: int = 0) -> list[SequenceBatch]:
    loader = datamodule.loader(split)
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return list(loader)


def same(left: list[SequenceBatch], right: list[SequenceBatch]) -> bool:
    names = ("features", "targets", "ignore", "start", "end")
    return len(left) == len(right) and all(
        a.ids == b.ids
        and all(torch.equal(getattr(a, name), getattr(b, name)) for name in names)
        and all(torch.equal(rows, again) for rows, again in zip(a.truth, b.truth, strict=True))
        for a, b in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("memory_gib", [None, 0], ids=["memory", "disk"])
def test_workers_do_not_matter(root: Path, workers: int, memory_gib: float | None) -> None:
    """Law 7: the same seed gives the same batches."""
    straight = batches(data(root, num_workers=0), epoch=3)
    assert same(straight, batches(data(root, num_workers=workers, memory_gib=memory_gib), epoch=3))


def test_a_resumed_run_sees_the_batches_it_would_have_seen(root: Path) -> None:
    straight = data(root, num_workers=1)
    epochs = [batches(straight, epoch=epoch) for epoch in range(3)]
    assert same(epochs[2], batches(data(root), epoch=2))
    assert not same(epochs[1], epochs[2])
    assert not same(epochs[2], batches(data(root, seed=1), epoch=2))


def test_memory(root: Path) -> None:
    """Features that fit are read into memory, others stay on disk; the batches are the same."""
    small, large = data(root, memory_gib=1e-9), data(root)
    assert isinstance(small.found.sequences[0].features, np.memmap)
    assert not isinstance(large.found.sequences[0].features, np.memmap)
    assert same(batches(small, epoch=1), batches(large, epoch=1))


def test_validation_and_test_are_whole_videos(root: Path) -> None:
    datamodule = data(root, test_batch_size=2)
    assert [batch.features.shape for batch in batches(datamodule, "val")] == [(1, 70, 3)]
    (batch,) = batches(datamodule, "test")
    assert (batch.ids, batch.end.tolist()) == (["four", "five"], [16, 51])
    assert same([batch], batches(datamodule, "test", epoch=5))
    assert [batch.ids for batch in batches(data(root, test_split="train"), "test")] == [["x/one"], ["x/two"]]


def test_an_empty_split(tmp_path: Path) -> None:
    datamodule = data(write(tmp_path, {"v": 20, "w": 20}))
    with pytest.raises(
        ValueError, match=r"nothing in the split 'test' \(train: 1, val: 1, test: 0 videos\); name the split"
    ):
        datamodule.test_dataloader()
    assert data(tmp_path, val_fraction=0).val_dataloader() == []
    with pytest.raises(ValueError, match="each is ambiguous or shorter than the window of 64 tokens"):
        data(tmp_path, window=64, drop_ambiguous_last=True).train_dataloader()
    with pytest.raises(ValueError, match="test_batch_size is 0"):
        data(tmp_path, test_batch_size=0)


class Counts(pl.LightningModule):
    """A module that keeps every batch that it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batches: list[tuple[str, SequenceBatch]] = []

    def training_step(self, batch: SequenceBatch, index: int) -> torch.Tensor:
        self.batches.append(("train", batch))
        return self.weight

    def validation_step(self, batch: SequenceBatch, index: int) -> None:
        self.batches.append(("val", batch))

    def test_step(self, batch: SequenceBatch, index: int) -> None:
        self.batches.append(("test", batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_lightning_trains_and_tests(root: Path, tmp_path: Path) -> None:
    """Each epoch has its own offsets, and each batch arrives whole."""
    datamodule = SequenceData(str(root), window=4, lookahead=2, batch_size=3)
    options = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
    }
    trainer = pl.Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_epochs=2,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        **options,
    )
    module = Counts()
    trainer.fit(module, datamodule)
    trainer.test(module, datamodule, verbose=False)
    kinds = [kind for kind, _ in module.batches]
    per_epoch = kinds.index("val")
    assert kinds == (["train"] * per_epoch + ["val"]) * 2 + ["test"] * 2
    trained = [batch for kind, batch in module.batches if kind == "train"]
    assert same(trained[:per_epoch], batches(datamodule, epoch=0))
    assert same(trained[per_epoch:], batches(datamodule, epoch=1))
    assert trained[0].lookahead == 2


# -------------------------------------------------------------------------------------------------------------- writing


def test_what_was_written_is_read_back(root: Path, tmp_path: Path) -> None:
    sequences = load_sequences(root)
    again = tmp_path / "again"
    write_sequences(again, iter(sequences), sequences.classes, sequences.tokens_per_second, {"origin": "here"})
    back = load_sequences(again)
    assert back.digest == sequences.digest
    assert back.record == {"origin": "here", "tokens_per_second": 4, "dim": 3}
    assert all(np.array_equal(a.features, b.features) for a, b in zip(sequences, back, strict=True))


@settings(max_examples=60, deadline=None)
@given(rate=st.sampled_from([3.0, 4.0, 5.0, 25 / 6, 24.0, 30.0]), seed=st.integers(0, 2**16))
def test_labels_survive_the_file(tmp_path_factory: pytest.TempPathFactory, rate: float, seed: int) -> None:
    """Labels that are written to events.csv and rasterised again are the same at every rate."""
    random = np.random.default_rng(seed)
    multi_hot = (random.random((50, 3)) < 0.4).astype(np.float32)
    ignore = random.random(50) < 0.2
    multi_hot[:, 0] = ~multi_hot[:, 1:].any(1) & ~ignore
    targets = vidact.data.Targets(multi_hot, ignore)
    path = tmp_path_factory.mktemp("events") / "events.csv"
    write_events_csv(path, events_of(targets, "v", rate, ["a", "b"]))
    back = rasterise(vidact.data.load_events(path), 50, rate, ["a", "b"])
    assert np.array_equal(back.multi_hot, multi_hot)
    assert np.array_equal(back.ignore, ignore)


# ---------------------------------------------------------------------------------------------------- whole data sets


def test_synthetic_videos_have_labels_that_load(tmp_path: Path) -> None:
    """Arrays of the real lengths replace extracted features."""
    from vidact.video import open_video

    write_untrimmed(tmp_path, {"train": 3, "test": 1}, classes=["bouncing ball", "blinking star"], actions_per_video=2)
    for path in sorted((tmp_path / "videos").iterdir()):
        with open_video(path) as reader:
            array = values(len(reader) // 6)
        (tmp_path / "features/videos").mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / f"features/videos/{path.stem}.npy", array)
    sequences = load_sequences(tmp_path, tokens_per_second=4)
    assert {split: len(sequences.split(split)) for split in ("train", "val", "test")} == {
        "train": 2,
        "val": 1,
        "test": 1,
    }
    assert all(2 <= len(s.events) <= 2 and s.multi_hot[:, 0].any() for s in sequences)


def test_fir_labels_fit_their_videos(shared_data: Path, tmp_path: Path) -> None:
    """All 288 events lie inside their videos, and the carved videos have every class."""
    from vidact.data.event_list import load_videos
    from vidact.video import open_video
    from vidact.video.folders import video_id

    for video in load_videos(shared_data / "fir/videos.csv"):
        path = tmp_path / f"{video_id(video)}.npy"
        path.parent.mkdir(exist_ok=True)
        with open_video(shared_data / "fir" / video) as reader:
            np.save(path, values(int(len(reader) * 4 // reader.fps)))
    sequences = load_sequences(shared_data / "fir", features=tmp_path, tokens_per_second=4, tolerance_s=0.25)
    assert {split: len(sequences.split(split)) for split in ("train", "val", "test")} == {
        "train": 11,
        "val": 3,
        "test": 7,
    }
    assert sum(len(s.events) for s in sequences) == 288
    assert len(sequences.notes) == 1


def test_names_without_lightning() -> None:
    assert vidact.data.load_sequences is load_sequences
    assert vidact.data.SequenceList is SequenceList
    assert vidact.data.SequenceData is SequenceData
