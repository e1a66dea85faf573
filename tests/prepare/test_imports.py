"""``vidact prepare import``: layouts of other repositories become a folder that loads, and every fault is in words."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.commands import fails
from tests.support.published_sets import (
    GTEA,
    SALADS,
    gtea_set,
    salads_set,
    write_array,
    write_event_set,
    write_frame_set,
    write_text,
)
from vidact import cli
from vidact.data import Event, load_events, load_sequences, rasterise
from vidact.data.event_list import load_groups, load_videos
from vidact.data.frame_labels import events_of_labels
from vidact.data.tables import load_classes
from vidact.prepare.releases import EVENT_SETS, FRAME_SETS, OWN_RECIPE, FrameSet


def run(*args: object) -> None:
    cli.main(["prepare", "import", *map(str, args)])


def labels_of(path: Path) -> list[str]:
    return path.read_text().split()


# ------------------------------------------------------------------------------------------------ labels of every frame


@pytest.fixture
def gtea(tmp_path: Path) -> Path:
    return gtea_set(tmp_path / "gtea", activities=1, people=3)


def import_gtea(gtea: Path, *args: object) -> Path:
    out = gtea.parent / "out"
    run("--set", "gtea", "--data", gtea, "--split", 1, "--out", out, *args)
    return out


def test_gtea_becomes_a_folder(gtea: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = import_gtea(gtea)
    text = capsys.readouterr().out
    assert "12 events of 10 classes in 2 train, 1 test videos; 8 values a feature, 15 features a second" in text
    assert text.endswith(f"next: vidact train --config segment/gtea/ms_tcn --data.root {out}\n")
    assert "for validation (--data.val_fraction)" in text
    assert load_classes(out / "classes.txt") == list(GTEA[:-1])
    assert load_videos(out / "videos.csv") == {"S1_Dish0_C1": "train", "S2_Dish0_C1": "train", "S3_Dish0_C1": "test"}
    assert load_groups(out / "videos.csv")["S2_Dish0_C1"] == "S2"
    record = json.loads((out / "features/features.json").read_text())
    assert record == {"origin": "gtea", "labels": "one a frame", "tokens_per_second": 15, "dim": 8}
    for sequence in load_sequences(out, val_fraction=0):
        labels = labels_of(gtea / f"groundTruth/{sequence.id}.txt")
        assert np.array_equal(sequence.features, np.load(gtea / f"features/{sequence.id}.npy").T)
        columns = ["background", *GTEA[:-1]]
        assert [columns[k] for k in sequence.multi_hot.argmax(1)] == labels
        assert (sequence.multi_hot.sum(1) == 1).all()


def test_salads_keep_the_borders_of_thirty_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every second feature is used; the events end where the labels of 30 frames a second do."""
    data, out = salads_set(tmp_path / "data", people=3), tmp_path / "out"
    run("--set", "salads50", "--data", data, "--split", 1, "--out", out)
    assert "next: vidact train --config segment/salads50/ms_tcn" in capsys.readouterr().out
    assert load_classes(out / "classes.txt") == list(SALADS[:3])
    assert load_groups(out / "videos.csv")["rgb-02-1"] == "02"
    sequences = load_sequences(out, val_fraction=0)
    assert sequences.tokens_per_second == 15
    for sequence in sequences:
        labels = labels_of(data / f"groundTruth/{sequence.id}.txt")
        assert np.array_equal(sequence.features, np.load(data / f"features/{sequence.id}.npy").T[::2])
        assert len(sequence) == (len(labels) + 1) // 2
        spans = [(event.start_s * 30, event.end_s * 30) for event in sequence.events]
        begin, length = labels.index(SALADS[0]), [labels.count(name) for name in SALADS[:3]]
        edges = np.cumsum([begin, *length])
        assert np.allclose(spans, list(itertools.pairwise(edges)), atol=1e-3)
        columns = ["background", *SALADS[:3]]
        held = [{columns[k] for k in np.flatnonzero(row)} for row in sequence.multi_hot]
        words = [label if label in columns else "background" for label in labels[::2]]
        assert all(label in labels_here or labels_here for label, labels_here in zip(words, held, strict=True))
        assert sum(label in labels_here for label, labels_here in zip(words, held, strict=True)) >= len(held) - 1


def test_breakfast_takes_sil_for_background(tmp_path: Path) -> None:
    videos = {f"P{p:02}_cam01_P{p:02}_tea": [("SIL", 9), ("pour_water", 30), ("SIL", 6)] for p in (3, 4, 5)}
    data = write_frame_set(tmp_path / "data", ["SIL", "pour_water"], videos, ["P05_cam01_P05_tea"])
    run("--set", "breakfast", "--data", data, "--split", 1, "--out", tmp_path / "out")
    assert load_classes(tmp_path / "out/classes.txt") == ["pour_water"]
    first = load_events(tmp_path / "out/events.csv")[0]
    assert (first.start_s, first.end_s) == pytest.approx((0.6, 2.6), abs=1e-5)


def test_background_words_may_be_actions(tmp_path: Path) -> None:
    """Published figures of 50Salads and Breakfast score them as actions."""
    data = salads_set(tmp_path / "data", people=3)
    run("--set", "salads50", "--data", data, "--split", 1, "--out", tmp_path / "out", "--background")
    assert load_classes(tmp_path / "out/classes.txt") == list(SALADS)
    events = load_events(tmp_path / "out/events.csv")
    assert {event.label for event in events} == set(SALADS)
    assert load_sequences(tmp_path / "out", val_fraction=0).sequences[0].multi_hot[:, 0].sum() == 0


def test_own_labels_of_frames(tmp_path: Path) -> None:
    """Names with blanks and letters of any script, CRLF, a byte order mark, lists without suffixes or with folders."""
    names = ["nichts", "öffnen und schließen", "倒水"]
    videos = {"Küche 1": [("nichts", 5), ("倒水", 10)], "b (2)": [("öffnen und schließen", 8)], "c#3": [("倒水", 4)]}
    data = write_frame_set(tmp_path / "my set", names, videos, ["c#3"])
    for path in [*data.glob("groundTruth/*.txt"), data / "mapping.txt"]:
        write_text(path, "\ufeff" + path.read_text().replace("\n", "\r\n"))
    write_text(data / "splits/train.split1.bundle", "groundTruth/Küche 1.txt\r\nb (2)")
    options = ("--fps", 5, "--background", "nichts", "--split", 1)
    run("--set", "frames", "--data", data, "--out", tmp_path / "out", *options)
    assert [(e.video, e.start_s, e.end_s, e.label) for e in load_events(tmp_path / "out/events.csv")] == [
        ("Küche 1", 1.0, 3.0, "倒水"),
        ("b (2)", 0.0, 1.6, "öffnen und schließen"),
        ("c#3", 0.0, 0.8, "倒水"),
    ]
    assert len(load_sequences(tmp_path / "out", val_fraction=0)) == 3


def test_the_last_label_may_lack_its_line_end(gtea: Path) -> None:
    path = gtea / "groundTruth/S1_Dish0_C1.txt"
    write_text(path, path.read_text().rstrip("\n"))
    out = import_gtea(gtea)
    assert (out / "features/S1_Dish0_C1.npy").exists()


def test_a_second_run_writes_the_same(gtea: Path) -> None:
    out = import_gtea(gtea)
    first = {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    import_gtea(gtea)
    assert first == {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_another_set_does_not_go_into_the_folder(
    gtea: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = import_gtea(gtea)
    before = (out / "events.csv").read_bytes()
    salads = salads_set(tmp_path / "salads", people=2)
    message = fails(["prepare", "import", "--set=salads50", f"--data={salads}", "--split=1", f"--out={out}"], capsys)
    assert "out/features has other features: origin gtea there and salads50 here" in message
    assert (out / "events.csv").read_bytes() == before


FAULTS = {
    "labels are one longer": (
        lambda g: append(g / "groundTruth/S1_Dish0_C1.txt", "take\n"),
        r"S1_Dish0_C1\.txt has \d+ labels and .*S1_Dish0_C1\.npy has features of \d+ frames: there is no feature for "
        r"line \d+\. Labels that are shifted by a frame",
    ),
    "labels are one shorter": (
        lambda g: write_text(g / "groundTruth/S1_Dish0_C1.txt", "\n".join(first_lines(g, -1))),
        r"S1_Dish0_C1\.txt ends with line \d+ and .* there is no label for the last 1 frame",
    ),
    "features are shorter": (
        lambda g: write_array(g / "features/S1_Dish0_C1.npy", np.load(g / "features/S1_Dish0_C1.npy")[:, :-7]),
        r"there is no feature for line \d+",
    ),
    "features are transposed": (
        lambda g: write_array(g / "features/S1_Dish0_C1.npy", np.load(g / "features/S1_Dish0_C1.npy").T),
        r"has the shape \(\d+, 8\) and .* has \d+ labels: the frames are on the other axis .*give --axes TD",
    ),
    "a class is not in the mapping": (
        lambda g: write_text(g / "groundTruth/S1_Dish0_C1.txt", "\n".join(["background", "tkae", *first_lines(g)[2:]])),
        r"S1_Dish0_C1\.txt line 2 has the label 'tkae', which .*mapping\.txt does not name; the closest .* is 'take'",
    ),
    "an empty line": (
        lambda g: write_text(g / "groundTruth/S1_Dish0_C1.txt", "\n".join(["take", "", *first_lines(g)[2:]])),
        r"S1_Dish0_C1\.txt line 2 is empty; every frame has a class",
    ),
    "no labels": (
        lambda g: write_text(g / "groundTruth/S1_Dish0_C1.txt", "\n"),
        r"S1_Dish0_C1\.txt is empty; it has a line for each frame",
    ),
    "no list of test videos": (
        lambda g: (g / "splits/test.split1.bundle").unlink(),
        r"test\.split1\.bundle does not exist; a split is a list of its training and one of its test videos",
    ),
    "an empty list": (
        lambda g: write_text(g / "splits/train.split1.bundle", "\r\n"),
        r"train\.split1\.bundle is empty; it has a line for each train video",
    ),
    "a video twice": (
        lambda g: append(g / "splits/train.split1.bundle", "S1_Dish0_C1.txt\n"),
        r"train\.split1\.bundle line 3 names S1_Dish0_C1, which .*train\.split1\.bundle line 1 names already",
    ),
    "a video in both lists": (
        lambda g: append(g / "splits/test.split1.bundle", "S2_Dish0_C1.txt\n"),
        r"test\.split1\.bundle line 2 names S2_Dish0_C1, which .*train\.split1\.bundle line 2 names already",
    ),
    "an unknown video": (
        lambda g: append(g / "splits/test.split1.bundle", "S9_Dish0_C1.txt\n"),
        r"test\.split1\.bundle line 2 names S9_Dish0_C1, and .*groundTruth/S9_Dish0_C1\.txt does not exist",
    ),
    "no features": (
        lambda g: (g / "features/S3_Dish0_C1.npy").unlink(),
        r"1 of 3 listed videos have no features in .*: S3_Dish0_C1\.npy",
    ),
    "features that are NaN": (
        lambda g: write_array(g / "features/S1_Dish0_C1.npy", with_nan(np.load(g / "features/S1_Dish0_C1.npy"))),
        r"S1_Dish0_C1\.npy has nan in token 3 \(0\.20 s\), value 2",
    ),
    "whole numbers": (
        lambda g: write_array(g / "features/S1_Dish0_C1.npy", np.ones((8, 90), int)),
        r"S1_Dish0_C1\.npy holds int64 \(8, 90\); features are floating-point numbers on two axes",
    ),
    "maps": (
        lambda g: write_array(g / "features/S1_Dish0_C1.npy", np.ones((8, 90, 7, 7))),
        r"holds float64 \(8, 90, 7, 7\); .* average crops or maps first",
    ),
    "an array of another network": (
        lambda g: write_array(g / "features/S2_Dish0_C1.npy", np.load(g / "features/S2_Dish0_C1.npy")[:5]),
        r"S2_Dish0_C1\.npy has 5 values a feature and .*S1_Dish0_C1\.npy has 8: they come from different networks",
    ),
    "text instead of an array": (
        lambda g: write_text(g / "features/S2_Dish0_C1.npy", "<html>"),
        r"S2_Dish0_C1\.npy is no array of numbers in NumPy's format",
    ),
    "a mapping without numbers": (
        lambda g: write_text(g / "mapping.txt", "take\nopen\n"),
        r"mapping\.txt line 1 is 'take'; a number and the name of a class are expected",
    ),
    "a class twice": (
        lambda g: append(g / "mapping.txt", "11 take\n"),
        r"mapping\.txt line 12 names 'take' a second time, after line 1",
    ),
    "a number twice": (lambda g: append(g / "mapping.txt", "3 cut\n"), r"line 12 gives the number 3 a second time"),
    "a gap": (lambda g: append(g / "mapping.txt", "12 cut\n"), r"12 classes and none has the number 11"),
    "no background class": (
        lambda g: write_text(g / "mapping.txt", (g / "mapping.txt").read_text().replace("background", "none")),
        r"the background class 'background' is not in .*mapping\.txt, which has take, open,",
    ),
    "no mapping": (lambda g: (g / "mapping.txt").unlink(), r"gtea has no mapping\.txt; it has features, groundT"),
}  # fmt: skip


def test_lists_of_another_split_use_the_same_features(
    gtea: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for side, number in (("train", 2), ("test", 1)):
        people = {"train": (1, 3), "test": (2,)}[side]
        write_text(gtea / f"splits/{side}.split2.bundle", "".join(f"S{p}_Dish0_C1.txt\n" for p in people))
        assert len(people) == number
    features, other = import_gtea(gtea) / "features", tmp_path / "second split"
    args = ["prepare", "import", "--set=gtea", f"--data={gtea}", "--split=2", f"--out={other}"]
    cli.main([*args, f"--imported={features}"])
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == (f"next: vidact train --config segment/gtea/ms_tcn --data.root '{other}' --data.features {features}")
    assert not (other / "features").exists()
    sequences = load_sequences(other, features=features, val_fraction=0)
    assert {s.id[:2]: s.split for s in sequences} == {"S1": "train", "S2": "test", "S3": "train"}
    (features / "S2_Dish0_C1.npy").unlink()
    assert "lacks 1 video of these lists: S2_Dish0_C1" in fails([*args, f"--imported={features}"], capsys)
    message = fails([*args, f"--imported={gtea}"], capsys)
    assert "features.json does not exist; give the folder of features that an import wrote" in message


def test_a_stopped_import_says_what_to_do(
    gtea: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vidact.prepare.imports.check_finite", stop)
    with pytest.raises(SystemExit) as stopped:
        import_gtea(gtea)
    assert stopped.value.code == 130
    assert "out is incomplete; the same command writes it again" in capsys.readouterr().err
    monkeypatch.undo()
    assert (import_gtea(gtea) / "events.csv").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--fps=0", "fps is 0; frames a second are more than 0"),
        ("--fps=-5", "fps is -5; frames a second are more than 0"),
        ("--every=0", "every is 0; 1 takes every frame"),
    ],
)
def test_impossible_rates_of_frames(gtea: Path, capsys: pytest.CaptureFixture[str], option: str, message: str) -> None:
    args = ["--set=gtea", f"--data={gtea}", "--split=1", f"--out={gtea.parent / 'out'}", option]
    assert message in fails(["prepare", "import", *args], capsys)


def test_not_every_class_is_background(gtea: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--set=gtea", f"--data={gtea}", "--split=1", f"--out={gtea.parent / 'out'}", "--background", *GTEA]
    assert "are named as background; at least one is an action" in fails(["prepare", "import", *args], capsys)


def test_numbers_are_no_labels(gtea: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_text(gtea / "groundTruth/S1_Dish0_C1.txt", "10\n" * 90)
    text = fails(
        ["prepare", "import", "--set=gtea", f"--data={gtea}", "--split=1", f"--out={gtea.parent / 'o'}"], capsys
    )
    assert "line 1 has the label '10', which" in text
    assert "labels are names, not numbers" in text


def test_the_source_is_not_overwritten(gtea: Path, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, args in (
        (gtea, ["--set=gtea", f"--data={gtea}", "--split=1"]),
        (own, [f"--annotations={own / 'labels.json'}", f"--features={own / 'features'}", *OWN]),
    ):
        before = {path.name: path.read_bytes() for path in folder.glob("features/*")}
        assert "would be overwritten" in fails(["prepare", "import", f"--out={folder}", *args], capsys)
        assert before == {path.name: path.read_bytes() for path in folder.glob("features/*")}


def test_features_in_a_folder_below(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own / "features").rename(own / "i3d")
    (own / "features").mkdir()
    (own / "i3d").rename(own / "features/i3d")
    assert "the folder has no such files, its folder i3d has some" in fails(event_args(own, *OWN), capsys)


def append(path: Path, text: str) -> None:
    write_text(path, path.read_text() + text)


def first_lines(gtea: Path, stop: int | None = None) -> list[str]:
    return labels_of(gtea / "groundTruth/S1_Dish0_C1.txt")[:stop]


def with_nan(array: np.ndarray) -> np.ndarray:
    array[2, 3] = np.nan
    return array


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_said(gtea: Path, capsys: pytest.CaptureFixture[str], fault: str) -> None:
    spoil, message = FAULTS[fault]
    spoil(gtea)
    out = gtea.parent / "out"
    text = fails(["prepare", "import", "--set=gtea", f"--data={gtea}", "--split=1", f"--out={out}"], capsys)
    assert re.search(message, text), text
    assert not (out / "events.csv").exists()


def test_lengths_may_be_cut(gtea: Path, capsys: pytest.CaptureFixture[str]) -> None:
    append(gtea / "groundTruth/S1_Dish0_C1.txt", "take\n" * 3)
    write_array(gtea / "features/S2_Dish0_C1.npy", np.load(gtea / "features/S2_Dish0_C1.npy")[:, :-2])
    count = np.load(gtea / "features/S1_Dish0_C1.npy").shape[1]
    out = import_gtea(gtea, "--lengths", "cut")
    assert "cut 2 videos at the end of the shorter of features and labels" in capsys.readouterr().out
    sequences = {s.id: s for s in load_sequences(out, val_fraction=0, tolerance_s=0)}
    assert len(sequences["S1_Dish0_C1"]) == count
    append(gtea / "groundTruth/S1_Dish0_C1.txt", "take\n" * 20)
    args = ["--set=gtea", f"--data={gtea}", "--split=1", f"--out={out}", "--lengths=cut"]
    assert "a difference of more than a second" in fails(["prepare", "import", *args], capsys)


@pytest.mark.parametrize("split", [None, "7"])
def test_an_absent_split_names_the_present_ones(
    gtea: Path, capsys: pytest.CaptureFixture[str], split: str | None
) -> None:
    (gtea / "splits/train.split10.bundle").touch()
    args = ["prepare", "import", "--set=gtea", f"--data={gtea}", f"--out={gtea.parent / 'out'}"]
    text = fails([*args, *([] if split is None else [f"--split={split}"])], capsys)
    assert ("there is no split 7" if split else "no split was named") in text
    assert "splits has 1, 10; give one as --split" in text


def test_the_folder_above_is_noticed(gtea: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = fails(
        ["prepare", "import", "--set=gtea", f"--data={gtea.parent}", "--split=1", f"--out={gtea.parent / 'o'}"], capsys
    )
    assert "gtea has groundTruth: is it the folder?" in text


def test_features_with_frames_first(gtea: Path) -> None:
    expected = np.load(gtea / "features/S1_Dish0_C1.npy").T
    for path in gtea.glob("features/*.npy"):
        write_array(path, np.load(path).T.astype(np.float64))
    out = import_gtea(gtea, "--axes", "TD")
    saved = np.load(out / "features/S1_Dish0_C1.npy")
    assert saved.dtype == np.float32
    assert np.array_equal(saved, expected)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--set=frames", "--data=x", "--split=1"], "frames needs --fps and --background"),
        (["--set=gtea", "--split=1"], "gtea needs --data"),
        (["--set=gtea", "--data=x", "--stride=4"], "--stride is of no use for gtea, which has labels of every frame"),
        (["--set=thumos14", "--split=1"], "--split is of no use for thumos14, which has events in seconds"),
        (["--set=thumos14"], "thumos14 needs --annotations and --features"),
        (["--set=thumos14", "--annotations=a", "--features=b"], "name theirs: --release thumos_i3d or thumos_videomae"),
        (
            ["--set=thumos14", "--annotations=a", "--features=b", "--release=thumos_i3d", "--stride=0"],
            "--stride is 0; it is a number above 0",
        ),
        (
            ["--set=thumos14", "--annotations=a", "--features=b", "--release=thumos_i3d", "--validation=val"],
            "--validation is of no use for thumos14",
        ),
        (["--set=gtae"], "invalid choice: 'gtae'"),
        (["--set=gtea", "--data=nowhere", "--split=1"], "nowhere is not a folder"),
    ],
)
def test_wrong_options_are_said(
    args: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in fails(["prepare", "import", f"--out={tmp_path / 'out'}", *args], capsys)


@given(
    labels=st.lists(st.sampled_from(["_", "a", "b", "a b"]), min_size=1, max_size=60),
    fps=st.sampled_from([1.0, 10.0, 15.0, 24.0, 25.0, 29.97, 30.0, 60.0]),
)
def test_labels_of_frames_survive_as_events(labels: list[str], fps: float) -> None:
    """Through events in seconds, rounded as in events.csv, and back to labels of tokens."""
    events = [
        Event("v", round(e.start_s, 6), round(e.end_s, 6), e.label) for e in events_of_labels(labels, "v", fps, ["_"])
    ]
    columns = ["_", "a", "b", "a b"]
    targets = rasterise(events, len(labels), fps, columns[1:]).multi_hot
    assert [columns[k] for k in targets.argmax(1)] == labels
    assert (targets.sum(1) == 1).all()


RECIPES = {
    *(entry.recipe for entry in (*FRAME_SETS.values(), *EVENT_SETS.values())),
    OWN_RECIPE,
    FrameSet(1, ()).recipe,
}


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_the_recipe_that_comes_next_exists(recipe: str) -> None:
    assert Path(f"configs/{recipe}.yaml").is_file()


def test_runs_become_events() -> None:
    events = events_of_labels(["a", "a", "b", "_", "b"], "v", 10, ["_"])
    assert [(e.start_s, e.end_s, e.label) for e in events] == [(0.0, 0.2, "a"), (0.2, 0.3, "b"), (0.4, 0.5, "b")]


# -------------------------------------------------------------------------------------------------- events in seconds

VIDEOS = {
    "video_validation_0000001": ("Validation", 20.0, [("Diving", 0.0, 4.5), ("CliffDiving", 8.1, 11.03)]),
    "video_validation_0000002": ("Validation", 14.2, [("CliffDiving", 3.0, 9.9), ("Ambiguous", 10.0, 11.0)]),
    "video_test_0000001": ("Test", 31.7, [("Diving", 12.0, 15.0), ("CliffDiving", 20.0, 31.6)]),
}


def import_thumos(data: Path, *args: object, kind: str = "thumos_i3d") -> Path:
    out = data.parent / "out"
    run("--set", "thumos14", "--annotations", data / "labels.json", "--features", data / "features", "--out", out,
        "--release", kind, *args)  # fmt: skip
    return out


@pytest.fixture
def thumos(tmp_path: Path) -> Path:
    return write_event_set(tmp_path / "thumos", VIDEOS, dim=2048)


def test_thumos_becomes_a_folder(thumos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = import_thumos(thumos)
    text = capsys.readouterr().out
    assert "5 events of 2 classes in 2 train, 1 test videos; 2048 values a feature, 7.5 features a second" in text
    assert "1 ambiguous stretch: neither action nor background" in text
    line = f"next: vidact train --config localise/thumos14/actionformer --data.root {out} --data.window 2304 "
    assert text.endswith(line + "--model.network.max_tokens 2304\n")
    record = json.loads((out / "features/features.json").read_text())
    assert record["grid"] == {"stride": 4, "frames": 16, "fps": 30}
    assert record["origin"] == "thumos_i3d"
    sequences = load_sequences(out, val_fraction=0)
    assert sequences.classes == ["CliffDiving", "Diving"]
    assert {s.id: s.split for s in sequences} == {video: "test" if "test" in video else "train" for video in VIDEOS}
    for sequence in sequences:
        events = [e for e in VIDEOS[sequence.id][2]]
        assert [e.label.lower() for e in sequence.events] == [label.lower() for label, _, _ in events]
        for event, (_, start_s, end_s) in zip(sequence.events, events, strict=True):
            shift = sequence.start_s
            assert (event.start_s + shift, event.end_s + shift) == pytest.approx((start_s, end_s), abs=0.3)
        truth = np.load(thumos / f"features/{sequence.id}.npy")
        assert np.array_equal(sequence.features, truth)
    assert sequences.sequences[0].ignore.sum() == 0
    assert sequences.sequences[1].ignore.sum() > 0


def test_labels_lie_where_the_features_show_them(thumos: Path) -> None:
    """A feature of a window whose centre lies in an event has its label, and neighbours differ by at most one."""
    sequences = load_sequences(import_thumos(thumos), val_fraction=0)
    names = ["Ambiguous", "CliffDiving", "Diving"]
    for sequence in sequences:
        for column, name in enumerate(sequences.classes, 1):
            shows = sequence.features[:, names.index(name)] > 0.5
            labelled = sequence.multi_hot[:, column] > 0
            assert (labelled | ~shows).all()
            assert (labelled & ~shows).sum() <= 2 * sum(event.label == name for event in sequence.events)


def test_every_second_feature(thumos: Path) -> None:
    out = import_thumos(thumos, "--every", 2)
    record = json.loads((out / "features/features.json").read_text())
    assert record["grid"] == {"stride": 8, "frames": 16, "fps": 30}
    assert record["tokens_per_second"] == 3.75
    assert len(np.load(out / "features/video_test_0000001.npy")) == 117


def test_videomae_is_another_release(tmp_path: Path, thumos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    videomae = write_event_set(tmp_path / "mae", VIDEOS, dim=1408)
    assert (import_thumos(videomae, kind="thumos_videomae") / "events.csv").exists()
    args = ["prepare", "import", "--set=thumos14", f"--annotations={thumos / 'labels.json'}"]
    args += [f"--features={thumos / 'features'}", f"--out={tmp_path / 'other'}", "--release=thumos_videomae"]
    assert "and these features have 1408 values: it is another release" in fails(args, capsys)


def event_args(data: Path, *args: str) -> list[str]:
    required = [
        f"--annotations={data / 'labels.json'}",
        f"--features={data / 'features'}",
        f"--out={data.parent / 'out'}",
    ]
    return ["prepare", "import", *required, *args]


OWN = ("--set=events", "--stride=4", "--window=16", "--fps=30", "--axes=TD")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    videos = {
        f"v{i}": (subset, 12.0 + i, [("a b", 1.0, 3.0), ("c", 5.0, 9.0)])
        for i, subset in enumerate(("training", "training", "validation", "testing"))
    }
    return write_event_set(tmp_path / "own", videos)


def test_own_events(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(event_args(own, *OWN))
    text = capsys.readouterr().out
    assert text.endswith(
        f"next: vidact train --config localise/folder/actionformer_small --data.root {own.parent / 'out'}\n"
    )
    assert "for validation" not in text
    assert load_videos(own.parent / "out/videos.csv") == {"v0": "train", "v1": "train", "v2": "val", "v3": "test"}


def test_activitynet_has_prefixes_and_no_labels_of_test_videos(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = {
        "-abc": ("training", 40.0, [("Ice skating", 1.0, 30.0)]),
        "=d_e": ("validation", 55.0, [("Ice skating", 0.0, 50.0), ("Rope, jump", 51.0, 51.0)]),
        "ghi": ("testing", 30.0, []),
    }
    data = write_event_set(tmp_path / "anet", videos, 512, 16, 16, 15, prefix="v_")
    (data / "features/v_ghi.npy").unlink()
    cli.main(event_args(data, "--set=activitynet", "--release=activitynet_tsp"))
    text = capsys.readouterr().out
    assert "left out 1 video of subsets without labels: ghi" in text
    assert "left out an event without length: Rope, jump at 51 s of =d_e" in text
    assert load_videos(tmp_path / "out/videos.csv") == {"-abc": "train", "=d_e": "test"}
    assert load_sequences(tmp_path / "out", val_fraction=0).tokens_per_second == 0.9375
    cli.main(event_args(data, "--set=activitynet", "--release=activitynet_tsp", "--validation=val"))
    assert load_videos(tmp_path / "out/videos.csv") == {"-abc": "train", "=d_e": "val"}


def test_a_wrong_stride_is_noticed(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = fails(event_args(own, *OWN[:1], "--stride=8", *OWN[2:]), capsys)
    assert "the features do not fit" in text
    assert "with a stride of 8 and a window of 16 frames at 30 frames a second" in text
    assert "v0 lasts 12 s and its 86 features 23.2 s" in text
    assert "(4 of 4 videos differ); a stride of 4.05 would fit at that rate" in text


@pytest.mark.parametrize("wrong", ["--fps=25", "--fps=60", "--stride=2", "--stride=16"])
def test_wrong_rates_and_strides_are_noticed(own: Path, capsys: pytest.CaptureFixture[str], wrong: str) -> None:
    options = [option for option in OWN if option.partition("=")[0] != wrong.partition("=")[0]]
    assert "the features do not fit" in fails(event_args(own, *options, wrong), capsys)


def test_stretched_features_are_noticed(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in own.glob("features/*.npy"):
        write_array(path, np.zeros((100, 16), np.float32))
    content = json.loads((own / "labels.json").read_text())
    for i, entry in enumerate(content["database"].values()):
        entry["duration"] = 40.0 + 10 * i
    write_text(own / "labels.json", json.dumps(content))
    text = fails(event_args(own, *OWN), capsys)
    assert "all videos have 100 features, so they were stretched to one length" in text


def test_a_single_video_of_another_length(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = own / "features/v1.npy"
    write_array(path, np.load(path)[:60])
    text = fails(event_args(own, *OWN), capsys)
    assert "the features of 1 video do not last as long as the video: v1 lasts 13 s and its 60 features 8.4 s" in text
    cli.main(event_args(own, *OWN, "--misfit=skip"))
    assert "left out 1 video whose features do not last as long" in capsys.readouterr().out
    assert "v1" not in load_videos(own.parent / "out/videos.csv")
    cli.main(event_args(own, *OWN, "--misfit=keep"))
    assert "--data.bad_events" not in (text := capsys.readouterr().out)
    assert "kept 1 video" in text
    assert "v1" in load_videos(own.parent / "out/videos.csv")


def change(data: Path, video: str, **facts: object) -> None:
    content = json.loads((data / "labels.json").read_text())
    content["database"][video] |= facts
    write_text(data / "labels.json", json.dumps(content))


EVENT_FAULTS = {
    "not JSON": (lambda d: write_text(d / "labels.json", "{"), r"is not in ActivityNet's layout"),
    "no database": (lambda d: write_text(d / "labels.json", "{}"), r"ActivityNet's layout \(.*KeyError 'database'"),
    "a video twice": (
        lambda d: write_text(d / "labels.json", '{"database": {\n"ü": {"subset": "val"},\n"ü": {"subset": "val"}}}'),
        r"'ü' comes twice in one object \(line 2 and 3\)",
    ),
    "another subset": (
        lambda d: change(d, "v1", subset="learning"),
        r"v1 is of the subset 'learning'; this data set has training, train, validation",
    ),
    "no segment": (lambda d: change(d, "v1", annotations=[{"label": "c"}]), r"layout \(.*v1: KeyError 'segment'"),
    "backwards": (
        lambda d: change(d, "v1", annotations=[{"label": "c", "segment": [4, 3]}]),
        r"the event 'c' of v1 from 4 s to 3 s does not end after it starts",
    ),
    "before the video": (
        lambda d: change(d, "v1", annotations=[{"label": "c", "segment": [-1, 3]}]),
        r"the event 'c' of v1 from -1 s to 3 s .* starts before the video",
    ),
    "no label": (
        lambda d: change(d, "v1", annotations=[{"label": " ", "segment": [1, 3]}]),
        r"an event of v1 at 1 s has no label",
    ),
    "not a number": (
        lambda d: change(d, "v1", annotations=[{"label": "c", "segment": [1, "NaN"]}]),
        r"v1: ValueError a segment is \[1, 'NaN'\]",
    ),
    "no features": (
        lambda d: (d / "features/v2.npy").unlink(),
        r"1 of 4 videos of .*labels\.json have no features in .*: v2\. Looked for v2\.npy, v_v2\.npy and \.npz; the "
        r"folder has v0\.npy, v1\.npy, v3\.npy\. Leave them out with --missing skip",
    ),
    "two files of features": (
        lambda d: write_array(d / "features/v_v2.npy", np.ones((4, 16))),
        r"features has v2\.npy and v_v2\.npy for v2; remove one of them",
    ),
    "NaN": (
        lambda d: write_array(d / "features/v2.npy", with_nan(np.load(d / "features/v2.npy"))),
        r"v2\.npy has nan in token 2 \(0\.27 s\), value 3",
    ),
    "the axes are turned": (
        lambda d: [write_array(path, np.load(path).T) for path in d.glob("features/*.npy")],
        r"all files have 16 on the axis of time in TD .* Give --axes DT",
    ),
    "another network": (
        lambda d: write_array(d / "features/v2.npy", np.load(d / "features/v2.npy")[:, :9]),
        r"v0\.npy has the shape \(86, 16\) and .*v2\.npy has \(101, 9\): they come from different networks",
    ),
    "an id with a slash": (
        lambda d: rename(d, "v2", "x/v2"),
        r"'x/v2' cannot name a video",
    ),
    "an id like a file": (lambda d: rename(d, "v2", "v2.mp4"), r"'v2\.mp4' ends like a video file"),
    "no events": (
        lambda d: [change(d, f"v{i}", annotations=[]) for i in range(4)],
        r"labels\.json has no event of any class",
    ),
}  # fmt: skip


def rename(data: Path, old: str, new: str) -> None:
    content = json.loads((data / "labels.json").read_text())
    content["database"][new] = content["database"].pop(old)
    write_text(data / "labels.json", json.dumps(content))
    target = data / f"features/{new}.npy"
    target.parent.mkdir(exist_ok=True)
    (data / f"features/{old}.npy").rename(target)


@pytest.mark.parametrize("fault", EVENT_FAULTS)
def test_faults_of_events_are_said(own: Path, capsys: pytest.CaptureFixture[str], fault: str) -> None:
    spoil, message = EVENT_FAULTS[fault]
    spoil(own)
    text = fails(event_args(own, *OWN), capsys)
    assert re.search(message, text), text
    assert not (own.parent / "out/events.csv").exists()


def test_videos_without_features_may_be_left_out(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own / "features/v1.npy").rename(own / "features/somebody.npy")
    cli.main(event_args(own, *OWN, "--missing=skip"))
    text = capsys.readouterr().out
    assert "left out: 1 of 4 videos" in text
    assert "1 file of features belong to no video that is imported: somebody" in text
    assert "v1" not in load_videos(own.parent / "out/videos.csv")


def test_names_are_the_same_however_accents_are_written(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rename(own, "v1", "Küche 1".replace("ü", "u\u0308"))
    cli.main(event_args(own, *OWN))
    assert "Küche 1" in load_videos(own.parent / "out/videos.csv")
    assert len(load_sequences(own.parent / "out")) == 4
    content = json.loads((own / "labels.json").read_text())
    content["database"]["Küche 1"] = content["database"]["v0"]
    write_text(own / "labels.json", json.dumps(content))
    assert "its names differ only in what is not seen" in fails(event_args(own, *OWN), capsys)


def test_classes_may_be_named(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = write_text(own / "names.txt", "c\na b\nunused\n")
    cli.main(event_args(own, *OWN, f"--classes={names}"))
    assert load_classes(own.parent / "out/classes.txt") == ["c", "a b", "unused"]
    write_text(names, "c\n")
    text = fails(event_args(own, *OWN, f"--classes={names}"), capsys)
    assert "v0 has an event of the unknown class 'a b'; the closest class is 'c'" in text


def test_events_that_training_has_to_allow(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(own, "v1", annotations=[{"label": "c", "segment": [1, 5]}, {"label": "c", "segment": [3, 6]}])
    cli.main(event_args(own, *OWN))
    assert capsys.readouterr().out.endswith(" --data.bad_events allow\n")
    with pytest.raises(ValueError, match="1 event overlaps another of their class"):
        load_sequences(own.parent / "out")
    assert len(load_sequences(own.parent / "out", bad_events="allow")) == 4


# -------------------------------------------------------------------------------------------------------- EPIC-KITCHENS

HEADER = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame,"
    "narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\n"
)


def epic_row(video: str, start: str, stop: str, verb: int, noun: int) -> str:
    cells = f'{video}_0,{video[:3]},{video},00:00:00.5,{start},{stop},1,2,"take knife, plate",take-up'
    return f"{cells},{verb},knife,{noun},\"['a', 'b']\",\"[1, 2]\"\n"


@pytest.fixture
def epic(tmp_path: Path) -> Path:
    data = tmp_path / "epic"
    rows = [("P01_01", "00:00:01.00", "00:00:09.47", 0, 1), ("P01_02", "00:01:00.00", "00:01:03.5", 1, 0)]
    write_text(data / "EPIC_100_train.csv", HEADER + "".join(epic_row(*row) for row in rows))
    write_text(data / "EPIC_100_validation.csv", HEADER + epic_row("P02_01", "00:00:02.00", "00:00:07.0", 0, 0))
    write_text(
        data / "verbs.csv", "id,key,instances,category\n0,take,\"['take', 'grab']\",retrieve\n1,put,\"['put']\",leave\n"
    )
    write_text(data / "nouns.csv", "id,key,instances,category\n0,tap,\"['tap']\",x\n1,knife,\"['knife']\",y\n")
    for video, seconds in (("P01_01", 20), ("P01_02", 70), ("P02_01", 15)):
        count = (seconds * 30 - 32) // 16
        path = data / f"features/{video}.npz"
        path.parent.mkdir(exist_ok=True)
        np.savez(path, feats=np.ones((count, 2304), np.float32), v_probs=np.ones((count, 97)))
    return data


def epic_args(epic: Path, *args: str) -> list[str]:
    lists = [str(epic / "EPIC_100_train.csv"), str(epic / "EPIC_100_validation.csv")]
    options = [
        "--set=epic100",
        f"--features={epic / 'features'}",
        "--release=epic_slowfast",
        f"--out={epic.parent / 'out'}",
    ]
    return ["prepare", "import", *options, "--annotations", *lists, *args]


def test_epic_kitchens_lists(epic: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(epic_args(epic, f"--classes={epic / 'verbs.csv'}"))
    assert "next: vidact train --config localise/epic100/actionformer" in capsys.readouterr().out
    out = epic.parent / "out"
    assert load_classes(out / "classes.txt") == ["take", "put"]
    assert [(e.video, e.start_s, e.end_s, e.label) for e in load_events(out / "events.csv")] == [
        ("P01_01", 1.0, 9.47, "take"), ("P01_02", 60.0, 63.5, "put"), ("P02_01", 2.0, 7.0, "take"),
    ]  # fmt: skip
    assert load_videos(out / "videos.csv")["P02_01"] == "test"
    cli.main(epic_args(epic, f"--classes={epic / 'nouns.csv'}", "--label=noun"))
    assert [e.label for e in load_events(out / "events.csv")] == ["knife", "tap", "tap"]


def test_faults_of_epic_kitchens_are_said(epic: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "give --classes EPIC_100_verb_classes.csv" in fails(epic_args(epic), capsys)
    verbs = f"--classes={epic / 'verbs.csv'}"
    path = epic / "EPIC_100_train.csv"
    rows = path.read_text()
    write_text(path, rows.replace("00:00:09.47", "9.47"))
    assert "EPIC_100_train.csv row 2 has the time '9.47'" in fails(epic_args(epic, verbs), capsys)
    write_text(path, rows.replace("take-up,1,", "take-up,97,"))
    assert "row 3 has the verb_class '97'; the classes are 0 to 1" in fails(epic_args(epic, verbs), capsys)
    write_text(path, rows.replace("P01_02", "P02_01"))
    assert "EPIC_100_validation.csv has 1 video of an earlier list: P02_01" in fails(epic_args(epic, verbs), capsys)
    write_text(path, rows.replace("00:01:03.5", "01:01:03.5"))
    text = fails(epic_args(epic, verbs), capsys)
    assert "P01_02 has an event until 3663.5 s" in text
