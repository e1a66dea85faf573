"""A column ``group`` gives the persons or sources that must not be in two splits, as the path pattern does."""

import json
from pathlib import Path

import numpy as np
import pytest

from vidact.data import load_sequences
from vidact.data.clip_list import load_clips
from vidact.data.event_list import load_groups
from vidact.data.official_lists import ClipRow, write_clips_csv

PEOPLE = {"ann": range(0, 8), "bob": range(8, 16), "eve": range(16, 24), "max": range(24, 32), "joe": range(32, 40)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write forty clips of two classes; their paths contain no person."""
    rows = []
    for person, numbers in PEOPLE.items():
        for i in numbers:
            (tmp_path / f"{i}.mp4").touch()
            rows.append(ClipRow(f"{i}.mp4", "xy"[i % 2], group=person))
    write_clips_csv(tmp_path, rows)
    return tmp_path


def test_groups_of_the_column_stay_together(root):
    assert (root / "clips.csv").read_text().splitlines()[:2] == ["path,label,group", "0.mp4,x,ann"]
    for seed in range(4):
        clips = load_clips(root, seed=seed, fractions=(0.6, 0.2, 0.2))
        sides = {person: {clip.split for clip in clips if clip.group == person} for person in PEOPLE}
        assert all(len(side) == 1 for side in sides.values())
        assert len({clip.split for clip in clips}) == 3
    assert clips.groups() == sorted(PEOPLE)


def test_a_group_of_the_column_is_held_out(root):
    clips = load_clips(root, held_out="eve", fractions=(1, 0, 0))
    assert {clip.id for clip in clips.split("test")} == {str(i) for i in PEOPLE["eve"]}
    assert len(clips.split("train")) == 32
    with pytest.raises(ValueError, match="no clip is of the group sam; the groups are ann, bob, eve, joe, max"):
        load_clips(root, held_out="sam")


def test_a_pattern_comes_before_the_column_and_says_so(root):
    clips = load_clips(root, group=r"(\d)\.mp4$")
    assert clips.groups() == list("0123456789")
    assert any("the pattern group" in note and "replaces the column group of" in note for note in clips.notes)


def test_a_column_and_a_pattern_give_the_same_split(tmp_path):
    for name in ("ann", "bob", "eve", "joe"):
        for label in "xy":
            (tmp_path / f"{name}_{label}.mp4").touch()
    paths = sorted(path.name for path in tmp_path.glob("*.mp4"))
    write_clips_csv(tmp_path, [ClipRow(path, path[4]) for path in paths])
    by_pattern = load_clips(tmp_path, group="^([a-z]+)_")
    write_clips_csv(tmp_path, [ClipRow(path, path[4], group=path[:3]) for path in paths])
    assert load_clips(tmp_path).clips == by_pattern.clips


def test_a_stated_split_that_tears_groups_of_the_column_is_told(root):
    text = (root / "clips.csv").read_text().splitlines()
    rows = [f"{line},{'test' if i % 2 else 'train'}" for i, line in enumerate(text[1:])]
    (root / "clips.csv").write_text("\n".join([f"{text[0]},split", *rows]))
    assert "the stated split puts 5 groups on two sides: ann, bob, eve, joe, max" in load_clips(root).notes


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a.mp4,x,ann\nb.mp4,y,\n", "row 3 has no group; name one in every row, or leave the column out"),
        ("a.mp4,x,ann\nb.mp4,y,bob\nb.mp4,x,ann\n", r"b\.mp4 is of the group bob in one row and of ann in another"),
    ],
)
def test_a_column_with_gaps_is_refused(tmp_path, rows, message):
    for letter in "ab":
        (tmp_path / f"{letter}.mp4").touch()
    lines = [f"{line},{i},{i + 1}" for i, line in enumerate(rows.splitlines())]
    (tmp_path / "clips.csv").write_text("path,label,group,start_s,end_s\n" + "\n".join(lines))
    with pytest.raises(ValueError, match=message):
        load_clips(tmp_path)


def test_without_groups_nothing_is_held_out(tmp_path):
    for letter in "ab":
        (tmp_path / f"{letter}.mp4").touch()
    write_clips_csv(tmp_path, [ClipRow("a.mp4", "x"), ClipRow("b.mp4", "y")])
    with pytest.raises(ValueError, match="without a group pattern and without a column group"):
        load_clips(tmp_path).groups()
    with pytest.raises(ValueError, match=r"held_out=a names a group, so group must say .*a column group"):
        load_clips(tmp_path, held_out="a")


# ------------------------------------------------------------------------------------------------------------ untrimmed


def untrimmed(root: Path, people: dict[str, str]) -> Path:
    (root / "features").mkdir()
    rows, events = [], []
    for video, person in people.items():
        np.save(root / "features" / f"{video}.npy", np.zeros((8, 3), np.float32))
        rows.append(f"{video}.mp4,train,{person}")
        events.append(f"{video}.mp4,0,1,x\n{video}.mp4,1,2,y")
    (root / "features/features.json").write_text(json.dumps({"tokens_per_second": 4.0, "dim": 3}))
    (root / "videos.csv").write_text("video,split,group\n" + "\n".join(rows))
    (root / "events.csv").write_text("video,start_s,end_s,label\n" + "\n".join(events))
    return root


def test_validation_is_carved_by_groups_of_videos_csv(tmp_path):
    people = {f"v{i}": ("ann", "bob", "eve")[i % 3] for i in range(12)}
    root = untrimmed(tmp_path, people)
    assert load_groups(root / "videos.csv") == {f"{video}.mp4": person for video, person in people.items()}
    for seed in range(4):
        sequences = load_sequences(root, val_fraction=0.3, seed=seed)
        sides = {person: {s.split for s in sequences if people[s.id] == person} for person in people.values()}
        assert all(len(side) == 1 for side in sides.values())
        assert {s.split for s in sequences} == {"train", "val"}
    by_pattern = load_sequences(root, val_fraction=0.3, group=r"v(\d)")
    assert sum("replaces the column group of" in note for note in by_pattern.notes) == 1


def test_check_reports_groups_of_the_column_in_two_splits(tmp_path):
    from vidact.prepare.check import _group_findings
    from vidact.prepare.sources import find_sources

    people = {f"v{i}": "ann" if i < 2 else "bob" for i in range(4)}
    root = untrimmed(tmp_path, people)
    for video in people:
        (root / f"{video}.mp4").touch()
    sources = find_sources(root)
    splits = {f"v{i}.mp4": {"train" if i in (0, 2, 3) else "test"} for i in range(4)}
    (finding,) = _group_findings(sources, splits, None)
    assert finding.videos == ("v0.mp4", "v1.mp4")
    assert "'ann' stands in test and train" in finding.words
