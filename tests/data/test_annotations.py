"""Lists of clips and events: they are read as written, no split divides a group, and errors state the remedy."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vidact.data
from vidact.data.clip_list import Clip, load_clips
from vidact.data.event_list import Event, load_events, load_videos, rasterise
from vidact.data.official_lists import (
    ClipRow,
    find_videos,
    write_clips_csv,
    write_dataset,
    write_events_csv,
    write_videos_csv,
)
from vidact.data.tables import join_labels, load_classes, split_labels, write_classes
from vidact.video.folders import walk_videos


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def write(root: Path, text: str, classes: str | None = None) -> Path:
    """Write a folder with this clips.csv and the videos a.mp4 to e.mp4."""
    touch(root, *(f"{letter}.mp4" for letter in "abcde"))
    (root / "clips.csv").write_text(text, encoding="utf-8")
    if classes is not None:
        (root / "classes.txt").write_text(classes, encoding="utf-8")
    return root


def splits(clips) -> dict[str, str]:
    return {clip.id: clip.split for clip in clips}


# ---------------------------------------------------------------------------------------------------------------- clips


def test_clips_csv_is_read_as_it_stands(tmp_path):
    text = "path,label,start_s,end_s,split\na.mp4,run,,,train\na.mp4,jump,1.5,2,test\nb.mp4,run,,3,val\n"
    clips = load_clips(write(tmp_path, text, "run\njump\n"))
    assert clips.classes == ["run", "jump"]
    assert not clips.multi_label
    assert clips.clips == [
        Clip("a", tmp_path / "a.mp4", 0, None, None, "train"),
        Clip("a@1.5-2", tmp_path / "a.mp4", 1, 1.5, 2.0, "test"),
        Clip("b@0-3", tmp_path / "b.mp4", 0, None, 3.0, "val"),
    ]
    assert [clip.id for clip in clips.split("test")] == ["a@1.5-2"]
    assert str(clips) == "3 clips of 2 classes: train 1, val 1, test 1"


def test_without_classes_txt_the_classes_are_the_sorted_labels(tmp_path):
    clips = load_clips(write(tmp_path, "path,label\na.mp4,walk\nb.mp4,run\n"))
    assert clips.classes == ["run", "walk"]


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("path,label\na.mp4,x;y\nb.mp4,y\n", [(0, 1), (1,)]),
        ("path,labels\na.mp4,x\nb.mp4,y\n", [(0,), (1,)]),
        ("path,labels\na.mp4,y;x;y\nb.mp4,\n", [(0, 1), ()]),
    ],
)
def test_several_labels_or_the_header_labels_make_data_multi_label(tmp_path, text, labels):
    clips = load_clips(write(tmp_path, text))
    assert clips.multi_label
    assert [clip.label for clip in clips] == labels


@given(st.lists(st.text("ab;\\ ,", min_size=1).filter(str.strip).map(str.strip), min_size=1))
def test_labels_survive_joining(names):
    assert split_labels(join_labels(names)) == tuple(names)


def test_what_is_written_is_what_is_read(tmp_path):
    touch(tmp_path, "a, b.mp4", "ü/c.mp4")
    rows = [ClipRow("a, b.mp4", ["x;y", 'say "z"'], "train", 0.1, 2.25), ClipRow("ü/c.mp4", ["x;y"], "test")]
    write_clips_csv(tmp_path, rows, ['say "z"', "x;y"])
    clips = load_clips(tmp_path)
    assert clips.multi_label
    assert clips.clips == [
        Clip("a, b@0.1-2.25", tmp_path / "a, b.mp4", (0, 1), 0.1, 2.25, "train"),
        Clip("ü/c", tmp_path / "ü/c.mp4", (1,), None, None, "test"),
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a, b.mp4", "classes.txt", "clips.csv", "ü"]


def test_columns_without_values_are_not_written(tmp_path):
    write_clips_csv(tmp_path, [ClipRow("a.mp4", "run")])
    assert (tmp_path / "clips.csv").read_text() == "path,label\na.mp4,run\n"


def test_absolute_paths_and_root_txt_reach_videos_elsewhere(tmp_path):
    videos = touch(tmp_path / "videos", "x/a.mp4", "b.mp4")
    lists = tmp_path / "lists"
    write_clips_csv(lists, [ClipRow(str(videos / "x/a.mp4"), "p"), ClipRow(str(videos / "b.mp4"), "q")])
    assert [clip.id for clip in load_clips(lists)] == [str(videos / "x/a"), str(videos / "b")]
    (lists / "root.txt").write_text("../videos\n")
    assert [clip.id for clip in load_clips(lists)] == [str(videos / "x/a"), str(videos / "b")]
    write_clips_csv(lists, [ClipRow("x/a.mp4", "p"), ClipRow("b.mp4", "q")])
    assert [clip.id for clip in load_clips(lists)] == ["x/a", "b"]
    (lists / "root.txt").write_text(str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match=r"root.txt says that the videos are in .*gone, which is not a folder"):
        load_clips(lists)


@pytest.mark.parametrize(
    ("text", "classes", "message"),
    [
        ("", None, "is empty; its first line is path,label"),
        ("path,label\n", None, "is empty: it has a header and no clips"),
        ("path\na.mp4\n", None, "wrong header .* it lacks label"),
        ("a.mp4,run\nb.mp4,walk\n", None, r"wrong header .* begins 'a.mp4,run' where path,label.* lacks path, label"),
        ("path|label\na.mp4|run\n", None, "wrong header .* begins 'path.label'"),
        ("path,label,start\na.mp4,run,1\n", None, "wrong header .* it has no use for 'start'"),
        ("path,label,label\na.mp4,run,1\n", None, "a column comes twice"),
        ("path,label\na.mp4,run,fast\n", None, "row 2 has 3 cells and the header 2"),
        (
            "path,label\na.mp4,run\nb.mp4,rum\n",
            "run\njump\n",
            r"row 3: the label 'rum' is not in .*closest class is 'run'",
        ),
        ("path,label\na.mp4,run\nb.mp4,\n", None, "row 3 has no label"),
        ("path,label\n,run\n", None, "row 2 has no path"),
        ("path,label\na.mp4,x\nb.mp4,x\n", None, "has only one class, 'x'"),
        ("path,label\na.mp4,x\nb.mp4,y\n", "x\ny\nz\n", r"empty class z: .*classes.txt lists it, but no clip"),
        (
            "path,label,split\na.mp4,x,train\nb.mp4,y,dev\n",
            None,
            "row 3: the split is 'dev'; it can be train, val, test",
        ),
        ("path,label,split\na.mp4,x,train\nb.mp4,y,\n", None, "row 3: the split is ''"),
        ("path,label,start_s,end_s\na.mp4,x,2,1\n", None, "starts at 2 s and ends at 1 s"),
        ("path,label,start_s,end_s\na.mp4,x,2,2\n", None, "starts at 2 s and ends at 2 s"),
        ("path,label,start_s,end_s\na.mp4,x,one,2\n", None, "row 2: start_s is 'one', which is no number of seconds"),
        ("path,label,start_s,end_s\na.mp4,x,nan,2\n", None, "start_s is 'nan'"),
        ("path,label,start_s,end_s\na.mp4,x,-1,2\n", None, "start_s is '-1'"),
        (
            "path,label\na.mp4,x\na.mp4,y\n",
            None,
            r"two videos with the same id 'a': .*row 2.*row 3.*one row with label a;b",
        ),
        ("path,label\n../a.mp4,x\n", None, r"row 2: the path ../a.mp4 may leave .* without '..' or in full"),
    ],
)
def test_a_bad_clips_csv_is_refused_by_words(tmp_path, text, classes, message):
    with pytest.raises(ValueError, match=message):
        load_clips(write(tmp_path, text, classes))


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "is empty"), ("a\n\nb\n", "line 2 is empty"), ("a\nb\na\n", "names a more than once")],
)
def test_a_bad_classes_txt_is_refused_by_words(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        load_clips(write(tmp_path, "path,label\na.mp4,a\nb.mp4,b\n", text))


def test_a_file_in_another_encoding_is_refused(tmp_path):
    write(tmp_path, "")
    (tmp_path / "clips.csv").write_bytes("path,label\na.mp4,café\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"clips.csv is not UTF-8 text \(byte 20\); save it as UTF-8"):
        load_clips(tmp_path)


def test_excel_s_byte_order_mark_and_line_ends_are_read(tmp_path):
    write(tmp_path, "")
    (tmp_path / "clips.csv").write_bytes("\ufeffpath, label\r\na.mp4, run\r\n\r\nb.mp4, jump\r\n".encode())
    assert load_clips(tmp_path).classes == ["jump", "run"]


def test_no_root(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent does not exist; give a folder of class folders"):
        load_clips(tmp_path / "absent")
    touch(tmp_path, "file")
    with pytest.raises(NotADirectoryError, match="file is a file; give its folder"):
        load_clips(tmp_path / "file")
    with pytest.raises(ValueError, match=r"has neither a clips.csv nor class folders"):
        load_clips(tmp_path)


def test_missing_videos_are_named_or_skipped(tmp_path):
    gone = "".join(f"x{i}.mp4,run\n" for i in range(7))
    write(tmp_path, f"path,label\na.mp4,run\nb.mp4,jump\n{gone}")
    with pytest.raises(FileNotFoundError, match=r"7 of 9 clips .* does not exist: \S*x0.mp4, .*x4.mp4, …"):
        load_clips(tmp_path)
    clips = load_clips(tmp_path, missing="skip")
    assert [clip.id for clip in clips] == ["a", "b"]
    assert "7 of 9 clips" in clips.notes[0]
    (tmp_path / "a.mp4").unlink()
    (tmp_path / "b.mp4").unlink()
    with pytest.raises(FileNotFoundError, match="None is left"):
        load_clips(tmp_path, missing="skip")


def test_empty_classes_may_be_kept(tmp_path):
    clips = load_clips(write(tmp_path, "path,label\na.mp4,x\nb.mp4,y\n", "x\nz\ny\n"), empty_classes="allow")
    assert [clip.label for clip in clips] == [0, 2]
    assert clips.notes[0] == "1 of 3 classes have no clip: z"


# -------------------------------------------------------------------------------------------------------------- folders


def test_class_folders_need_no_file(tmp_path):
    touch(tmp_path, "run/a.mp4", "run/deep/b.AVI", "jump/c/001.jpg", "jump/frames/001.jpg", "jump/frames/002.jpg")
    touch(tmp_path, "jump/.hidden.mp4", "jump/notes.txt", "README.md", ".git/x.mp4")
    clips = load_clips(tmp_path)
    assert clips.classes == ["jump", "run"]
    assert [(clip.id, clip.label) for clip in clips] == [
        ("jump/c", 0),
        ("jump/frames", 0),
        ("run/a", 1),
        ("run/deep/b", 1),
    ]
    assert clips.notes[0] == f"ignored 2 hidden files or folders in {tmp_path}"
    assert clips.notes[1] == f"ignored 2 files that are not videos in {tmp_path}: 1 .md, 1 .txt"


def test_split_folders_are_honoured(tmp_path):
    touch(tmp_path, "train/run/a.mp4", "train/jump/b.mp4", "valid/run/a.mp4", "test/jump/images/1.png", "lists/x.txt")
    clips = load_clips(tmp_path)
    assert clips.classes == ["jump", "run"]
    assert splits(clips) == {
        "train/jump/b": "train",
        "train/run/a": "train",
        "valid/run/a": "val",
        "test/jump/images": "test",
    }
    assert any("lists without videos ignored" in note for note in clips.notes)


def test_a_class_called_train_is_a_class(tmp_path):
    clips = load_clips(touch(tmp_path, "train/a.mp4", "bus/b.mp4"))
    assert clips.classes == ["bus", "train"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["run/a.mp4", "jump/a.txt"], "empty class jump: this class folder of .* holds no video"),
        (["run/a.mp4", "jump/1.jpg"], "empty class jump"),
        (["run/a.mp4"], "only one class, 'run'"),
        (["run/a.mp4", "run/a.avi", "jump/b.mp4"], r"two videos with the same id 'run/a': .*run/a.avi .*run/a.mp4"),
        (["run/a.txt"], r"every class folder \(run\) is without any video"),
    ],
)
def test_a_bad_folder_is_refused_by_words(tmp_path, names, message):
    with pytest.raises(ValueError, match=message):
        load_clips(touch(tmp_path, *names))


# --------------------------------------------------------------------------------------------------------------- splits


def people(root: Path, names="abcdefghi", actions=("run", "jump", "wave")) -> Path:
    return touch(root, *(f"{action}/{name}_{action}.mp4" for name in names for action in actions))


GROUP = r"([^/_]+)_[^/]*$"


def test_the_drawn_split_depends_only_on_seed_and_names(tmp_path):
    first, second = people(tmp_path / "first"), people(tmp_path / "second")
    assert splits(load_clips(first)) == splits(load_clips(second))
    assert splits(load_clips(first)) != splits(load_clips(first, seed=1))
    assert load_clips(first).digest == load_clips(second).digest != load_clips(first, seed=1).digest


def test_the_drawn_split_gives_every_class_its_share(tmp_path):
    touch(tmp_path, *(f"{c}/{i}.mp4" for c in "xyz" for i in range(20)))
    clips = load_clips(tmp_path, fractions=(0.7, 0.1, 0.2))
    assert Counter((clip.label, clip.split) for clip in clips) == {
        (label, split): count for label in range(3) for split, count in (("train", 14), ("val", 2), ("test", 4))
    }


def test_few_clips_go_to_train_then_test_and_a_note_says_so(tmp_path):
    clips = load_clips(touch(tmp_path, "x/1.mp4", "x/2.mp4", "y/1.mp4"))
    assert Counter((clip.label, clip.split) for clip in clips) == {(0, "train"): 1, (0, "test"): 1, (1, "train"): 1}
    assert clips.notes == ["split test has no clip of 1 of 2 classes: y"]


@pytest.mark.parametrize("seed", range(5))
def test_a_group_never_stands_on_two_sides(tmp_path, seed):
    clips = load_clips(people(tmp_path), group=GROUP, seed=seed)
    sides = {name: {clip.split for clip in clips if f"/{name}_" in clip.id} for name in "abcdefghi"}
    assert all(len(side) == 1 for side in sides.values())
    assert Counter(next(iter(side)) for side in sides.values()) == {"train": 6, "val": 1, "test": 2}
    assert clips.groups() == list("abcdefghi")


def test_parts_of_one_file_stay_together(tmp_path):
    rows = "".join(f"{v}.mp4,{'xy'[i % 2]},{i},{i + 1}\n" for v in "abcde" for i in range(4))
    clips = load_clips(write(tmp_path, "path,label,start_s,end_s\n" + rows))
    assert all(len({clip.split for clip in clips if clip.path.stem == v}) == 1 for v in "abcde")


def test_the_held_out_group_is_the_test_split(tmp_path):
    people(tmp_path)
    clips = load_clips(tmp_path, group=GROUP, held_out="c", fractions=(1, 0, 0))
    assert {clip.id for clip in clips.split("test")} == {"run/c_run", "jump/c_jump", "wave/c_wave"}
    assert len(clips.split("train")) == 24
    clips = load_clips(tmp_path, group=GROUP, held_out="c", fractions=(0.75, 0.25, 0))
    assert {clip.id for clip in clips.split("test")} == {"run/c_run", "jump/c_jump", "wave/c_wave"}
    assert (len(clips.split("train")), len(clips.split("val"))) == (18, 6)


def test_several_groups_are_held_out_together(tmp_path):
    people(tmp_path)
    clips = load_clips(tmp_path, group=GROUP, held_out=["c", "e"], fractions=(1, 0, 0))
    assert {clip.id for clip in clips.split("test")} == {
        f"{name}/{person}_{name}" for name in ("run", "jump", "wave") for person in "ce"
    }
    assert len(clips.split("train")) == 21


def test_held_out_replaces_a_stated_split(tmp_path):
    touch(tmp_path, "train/x/a_1.mp4", "train/y/b_1.mp4", "test/x/b_2.mp4", "test/y/a_2.mp4")
    clips = load_clips(tmp_path, group=GROUP, held_out="a", fractions=(1, 0, 0))
    assert {clip.id for clip in clips.split("test")} == {"train/x/a_1", "test/y/a_2"}
    assert "held_out=a replaces the split that the data state" in clips.notes


def test_a_stated_split_that_tears_groups_is_noted(tmp_path):
    touch(tmp_path, "train/x/a_1.mp4", "train/y/b_1.mp4", "test/x/c_2.mp4", "test/y/a_2.mp4")
    assert "the stated split puts 1 groups on two sides: a" in load_clips(tmp_path, group=GROUP).notes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"held_out": "a"}, "held_out=a names a group, so group must say"),
        ({"group": GROUP, "held_out": "z"}, "no clip is of the group z; the groups are a, b, c, d, e, f, g, h, i"),
        ({"group": GROUP, "held_out": ["a", "y", "z"]}, "no clip is of the group y, z; the groups are a, b"),
        ({"group": GROUP, "held_out": list("abcdefghi")}, "names all groups .* none is left to train on"),
        ({"group": "("}, "is no regular expression"),
        ({"group": "_"}, "with 0 groups; it needs exactly one"),
        ({"group": "([a-h])_"}, "matches no group in 3 of 27 paths: jump/i_jump.mp4"),
        ({"fractions": (0.5, 0.2, 0.2)}, "three shares train, val, test that sum to 1"),
        ({"fractions": (0, 0.5, 0.5)}, "train above 0"),
        ({"fractions": (0.5, 0.5)}, "three shares"),
    ],
)
def test_a_split_that_cannot_be_is_refused_by_words(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        load_clips(people(tmp_path), **arguments)


def test_asking_for_what_is_not_there(tmp_path):
    clips = load_clips(people(tmp_path))
    with pytest.raises(ValueError, match="'dev' is not a split; there are train, val, test"):
        clips.split("dev")
    with pytest.raises(ValueError, match="without a group pattern"):
        clips.groups()


def test_class_weights_make_classes_count_the_same(tmp_path):
    text = "path,label,split\na.mp4,x,train\nb.mp4,x,train\nc.mp4,x,train\nd.mp4,y,train\ne.mp4,z,test\n"
    weights = load_clips(write(tmp_path, text)).class_weights()
    np.testing.assert_allclose(weights, [4 / (2 * 3), 4 / (2 * 1), 0])
    assert weights.dtype == np.float32


def test_weizmann_is_usable_as_it_is(shared_data):
    clips = load_clips(shared_data / "weizmann", group=GROUP, held_out="daria", fractions=(1, 0, 0))
    assert str(clips) == "90 clips of 10 classes: train 80, test 10"
    assert len(clips.groups()) == 9
    assert clips.notes == []


# --------------------------------------------------------------------------------------------------------------- events


def test_events_survive_the_file(tmp_path):
    events = [Event("a.mp4", 0.1, 2 / 3, "run, then jump"), Event("b.mp4", 10, 11.5, "wave")]
    write_events_csv(tmp_path / "events.csv", events)
    read = load_events(tmp_path / "events.csv")
    assert [(e.video, e.label) for e in read] == [(e.video, e.label) for e in events]
    np.testing.assert_allclose([(e.start_s, e.end_s) for e in read], [(0.1, 0.666667), (10, 11.5)])
    write_videos_csv(tmp_path / "videos.csv", {"a.mp4": "train", "b.mp4": "test"})
    assert load_videos(tmp_path / "videos.csv") == {"a.mp4": "train", "b.mp4": "test"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,2,1,x", "row 2 starts at 2 s and ends at 1 s"),
        ("a,,1,x", "row 2 has no start_s"),
        ("a,0,,x", "row 2 has no end_s"),
        ("a,0,1,", "row 2 has no label"),
        (",0,1,x", "row 2 has no video"),
        ("a,0,1m,x", "end_s is '1m'"),
    ],
)
def test_a_bad_event_is_refused_by_words(tmp_path, row, message):
    (tmp_path / "events.csv").write_text(f"video,start_s,end_s,label\n{row}\n")
    with pytest.raises(ValueError, match=message):
        load_events(tmp_path / "events.csv")


def test_bad_lists_of_videos(tmp_path):
    (tmp_path / "videos.csv").write_text("video,split\na,train\na,test\n")
    with pytest.raises(ValueError, match="row 3 names a a second time"):
        load_videos(tmp_path / "videos.csv")
    (tmp_path / "videos.csv").write_text("video,split\na,dev\n")
    with pytest.raises(ValueError, match="row 2: the split is 'dev'"):
        load_videos(tmp_path / "videos.csv")
    with pytest.raises(FileNotFoundError, match=r"events.csv does not exist"):
        load_events(tmp_path / "events.csv")


def test_rasterise_by_hand():
    """At 4 tokens a second a token lasts 0.25 s; an event labels every token it touches."""
    events = [Event("v", 0.3, 0.5, "b"), Event("v", 0.45, 0.76, "a"), Event("v", 1.0, 1.01, "Ambiguous")]
    targets = rasterise(events, 6, 4, ["a", "b"])
    assert targets.multi_hot.tolist() == [[1, 0, 0], [0, 1, 1], [0, 1, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0]]
    assert targets.ignore.tolist() == [False, False, False, False, True, False]


@given(
    st.lists(st.tuples(st.integers(0, 120), st.integers(1, 40), st.sampled_from("abc")), max_size=6),
    st.sampled_from([1, 4, 5, 10, 24]),
)
def test_a_token_is_labelled_when_an_event_touches_it(spans, rate):
    """In exact arithmetic on tenths of a second, token k covers [k / rate, (k + 1) / rate)."""
    events = [Event("v", start / 10, (start + length) / 10, label) for start, length, label in spans]
    multi_hot, ignore = rasterise(events, 5 * rate, rate, ["a", "b", "c"])
    for k in range(5 * rate):
        touched = {
            label for start, length, label in spans if start * rate < 10 * (k + 1) and (start + length) * rate > 10 * k
        }
        assert multi_hot[k].tolist() == [not touched, *(label in touched for label in "abc")]
    assert not ignore.any()


def test_rasterise_refuses_what_it_cannot_place():
    with pytest.raises(ValueError, match=r"'rum', which is no class; the closest class is 'run'"):
        rasterise([Event("v", 0, 1, "rum")], 4, 4, ["run", "jump"])
    with pytest.raises(ValueError, match="events of v and of w"):
        rasterise([Event("v", 0, 1, "run"), Event("w", 0, 1, "run")], 4, 4, ["run"])


def test_fir_s_events_are_read(shared_data):
    events = load_events(shared_data / "fir" / "events.csv")
    classes = load_classes(shared_data / "fir" / "classes.txt")
    videos = load_videos(shared_data / "fir" / "videos.csv")
    assert len(events) == 288
    assert Counter(videos.values()) == {"train": 14, "test": 7}
    for video in videos:
        video_events = [event for event in events if event.video == video]
        multi_hot, _ = rasterise(video_events, 4000, 4, classes)
        assert 0 < multi_hot[:, 1:].sum() <= sum((e.end_s - e.start_s) * 4 + 2 for e in video_events)


# ------------------------------------------------------------------------------------------------- writing and the rest


def test_a_failed_write_leaves_the_old_file(tmp_path):
    write_classes(tmp_path / "classes.txt", ["a", "b"])
    with pytest.raises(UnicodeEncodeError):
        write_classes(tmp_path / "classes.txt", ["a", "\udcff"])
    assert load_classes(tmp_path / "classes.txt") == ["a", "b"]
    assert [path.name for path in tmp_path.iterdir()] == ["classes.txt"]


def test_a_data_set_is_referenced_and_its_missing_videos_are_listed(tmp_path, capsys):
    videos = touch(tmp_path / "videos", "x/a.mp4", "y/b.avi", "y/b.txt")
    assert find_videos(videos) == {"a": ["x/a.mp4"], "b": ["y/b.avi"]}
    rows = [ClipRow("x/a.mp4", "x", "train"), ClipRow("y/b.avi", "y", "test")]
    write_dataset(tmp_path / "out", videos, rows, ["c", "d"], ["x", "y", "z"])
    printed = capsys.readouterr()
    assert "1 train, 1 test clips" in printed.out
    assert "1 of 3 classes have no video: z" in printed.out
    assert "2 of 4 videos are missing" in printed.err
    assert (tmp_path / "out/missing.txt").read_text() == "c\nd\n"
    clips = load_clips(tmp_path / "out", empty_classes="allow")
    assert [clip.path for clip in clips] == [videos / "x/a.mp4", videos / "y/b.avi"]
    write_dataset(tmp_path / "out", videos, rows, [], ["x", "y"])
    assert not (tmp_path / "out/missing.txt").exists()
    with pytest.raises(FileNotFoundError, match=r"none of the 2 videos of the lists is in .*looked for c, d"):
        write_dataset(tmp_path / "out", videos, [], ["c", "d"], ["x", "y"])
    with pytest.raises(ValueError, match=r"y/b.avi has the unknown label 'y'; the closest class is"):
        write_dataset(tmp_path / "out", videos, rows, [], ["x", "yy"])
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        find_videos(tmp_path / "nowhere")


def test_a_link_to_no_file_is_told_and_a_loop_of_links_is_not_walked(tmp_path):
    root = touch(tmp_path / "clips", "run/a.mp4", "run/b.mp4", "run/.hidden/e.mp4", "walk/c.mp4", "elsewhere/d.mp4")
    (root / "run/b.mp4").unlink()
    (root / "run/b.mp4").symlink_to(tmp_path / "gone.mp4")
    (root / "walk/more").symlink_to(root / "elsewhere")
    (root / "walk/loop").symlink_to(root)
    assert walk_videos(root) == ["elsewhere/d.mp4", "run/a.mp4", "run/b.mp4", "walk/c.mp4", "walk/more/d.mp4"]
    (root / "walk/loop").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 5 videos in .*clips are links to a file that .*: .*run/b\.mp4"):
        load_clips(root)
    clips = load_clips(root, missing="skip")
    assert [clip.id for clip in clips] == ["elsewhere/d", "run/a", "walk/c", "walk/more/d"]
    assert any("skipped: 1 of 5 videos" in note for note in clips.notes)


def test_links_that_lead_up_or_to_themselves(tmp_path):
    root = touch(tmp_path / "clips", "run/a.mp4", "walk/c.mp4")
    (root / "run/loop").symlink_to(root)
    (root / "run/self").symlink_to(root / "run")
    (root / "walk/itself").symlink_to(root / "walk/itself")
    assert [clip.id for clip in load_clips(root)] == ["run/a", "walk/c"]
    (root / "walk/d.mp4").symlink_to(root / "walk/d.mp4")
    assert walk_videos(root) == ["run/a.mp4", "walk/c.mp4", "walk/d.mp4"]
    with pytest.raises(FileNotFoundError, match=r"links to a file that does not exist: .*walk/d\.mp4"):
        load_clips(root)


def test_folders_of_splits_by_any_usual_name(tmp_path):
    root = touch(tmp_path / "clips", "Train/run/a.mp4", "Train/walk/b.mp4", "testing/run/c.mp4", "Val/walk/d.mp4")
    assert [(clip.id, clip.split) for clip in load_clips(root)] == [
        ("Train/run/a", "train"), ("Train/walk/b", "train"), ("Val/walk/d", "val"), ("testing/run/c", "test"),
    ]  # fmt: skip
    touch(root, "extra/walk/e.mp4")
    with pytest.raises(ValueError, match=r"folders of splits \(Train, Val, testing\) and others .*\(extra\); move the"):
        load_clips(root)


def test_videos_beside_the_class_folders_are_counted(tmp_path):
    root = touch(tmp_path / "clips", "run/a.mp4", "walk/b.mp4", "c.mp4")
    assert any("ignored 1 video beside the folders" in note and "c.mp4" in note for note in load_clips(root).notes)


def test_the_shards_of_packed_videos_are_no_class(tmp_path):
    root = touch(tmp_path / "clips", "run/a.packed", "walk/b.packed", "packed.json", "shards/0.tar")
    assert load_clips(root).classes == ["run", "walk"]


def test_what_cannot_be_a_list_or_a_name(tmp_path):
    root = touch(tmp_path / "clips", "run/a.mp4", "walk/b.mp4")
    (root / "clips.csv").symlink_to(tmp_path / "gone.csv")
    with pytest.raises(FileNotFoundError, match=r"clips\.csv is a link to .*gone\.csv, which does not exist"):
        load_clips(root)
    (root / "clips.csv").unlink()
    (root / "clips.csv").mkdir()
    with pytest.raises(IsADirectoryError, match=r"clips\.csv is a folder; it should be a table"):
        load_clips(root)
    (root / "clips.csv").rmdir()
    with pytest.raises(ValueError, match=r"fractions are .*nan"):
        load_clips(root, fractions=(0.5, float("nan"), 0.5))
    write(root, f"path,label\n{'x' * 300}.mp4,run\nwalk/b.mp4,walk\n")
    with pytest.raises(FileNotFoundError, match=r"1 of 2 clips in .* name a file that does not exist"):
        load_clips(root)
    (root / "clips.csv").unlink()
    (root / "run" / "\udcff.mp4").touch()
    with pytest.raises(ValueError, match=r"is no UTF-8 name, which lists and reports are written in; rename it"):
        load_clips(root)


def test_the_csv_opens_in_any_reader(tmp_path):
    write_clips_csv(tmp_path, [ClipRow("a,b.mp4", "x", "train", 0.1 + 0.2)])
    with open(tmp_path / "clips.csv", newline="") as file:
        assert list(csv.DictReader(file)) == [{"path": "a,b.mp4", "label": "x", "start_s": "0.3", "split": "train"}]


def test_names_stay_where_they_are_promised():
    assert vidact.data.load_clips is load_clips
    assert vidact.data.load_events is load_events
    assert vidact.data.rasterise is rasterise
    with pytest.raises(AttributeError, match="no attribute 'load_clip'"):
        _ = vidact.data.load_clip
