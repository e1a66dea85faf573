"""Names that look the same are one name wherever they are read; a note lists similar names that stay different."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vidact.data import load_sequences
from vidact.data.clip_list import load_clips
from vidact.data.event_list import load_videos
from vidact.data.tables import load_classes
from vidact.text.names import counted

CAFE = "caf\u00e9"
APART = unicodedata.normalize("NFD", CAFE)  # as macOS writes the names of files
assert CAFE != APART

# (spellings that programs write, the plain name)
SPELLINGS = [
    (APART, CAFE),
    ("run ", "run"),
    (" run", "run"),
    ("run  fast", "run fast"),
    ("run\u00a0fast", "run fast"),  # no-break space, from web pages and Word
    ("run\tfast", "run fast"),
    ("run\u3000fast", "run fast"),  # ideographic space
    ("run\u2009fast", "run fast"),  # thin space
    ("run\u200b", "run"),  # zero width space
    ("\ufeffrun", "run"),  # byte order mark of a file that was joined to another
    ("r\u00adun", "run"),  # soft hyphen
    ("run\u200e", "run"),  # left-to-right mark, from Windows' file properties
    ("run\u2060", "run"),  # word joiner
    ("ru\u200dn", "run"),  # a joiner between letters that do not join
    ("run\ufff9", "run"),  # interlinear annotation
    ("run\u17b4", "run"),  # a vowel of Khmer that is never shown
    ("run\U000e0100", "run"),  # a variation selector beside a letter that has no variants
    ("\u30cf\u309a", "\u30d1"),  # ha and its half-voiced mark
    ("\u1112\u1161\u11ab", "\ud55c"),  # Hangul in its parts
]


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.mark.parametrize(("spelling", "plain"), SPELLINGS)
def test_folders_of_one_look_are_one_class(tmp_path, spelling, plain):
    root = touch(tmp_path, f"train/{plain}/a.mp4", f"test/{spelling}/b.mp4", "train/walk/c.mp4", "test/walk/d.mp4")
    clips = load_clips(root)
    assert set(clips.classes) == {plain, "walk"}
    assert {clip.path.parent.name for clip in clips} == {plain, spelling, "walk"}  # the files stay where they are
    (note,) = [note for note in clips.notes if "read as one name" in note]
    assert note.count("'" + plain + "'") == 2
    assert "(" in note  # in words what differs
    assert clips.class_weights().tolist() == [1, 1]


@pytest.mark.parametrize(("spelling", "plain"), SPELLINGS)
def test_labels_in_lists_are_one_class(tmp_path, spelling, plain):
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    (tmp_path / "clips.csv").write_text(f"path,label\na.mp4,{plain}\nb.mp4,{spelling}\nc.mp4,walk\n", encoding="utf-8")
    assert sorted(load_clips(tmp_path).classes) == sorted([plain, "walk"])
    (tmp_path / "classes.txt").write_text(f"walk\n{spelling}\n", encoding="utf-8")
    assert load_classes(tmp_path / "classes.txt") == ["walk", plain]
    assert [clip.label for clip in load_clips(tmp_path)] == [1, 1, 0]
    (tmp_path / "classes.txt").write_text(f"walk\n{plain}\n{spelling}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"classes\.txt names .* more than once: .*rows 2 and 3"):
        load_classes(tmp_path / "classes.txt")


def test_names_that_are_seen_to_differ_stay(tmp_path):
    """Names that differ in case get a note; joiners of Persian and of emoji are part of their names."""
    names = ["Run", "run", "\u0440un", "pun", "می\u200cخواهم", "میخواهم", "👩\u200d🚀", "👩🚀", "caf\u00e9", "cafe"]
    root = touch(tmp_path, *(f"{name}/{i}.mp4" for i, name in enumerate(names)))
    clips = load_clips(root)
    assert clips.classes == sorted(names)
    alike = [note for note in clips.notes if "look alike and stay different" in note]
    assert any("'Run', 'run'" in note for note in alike)
    (cyrillic,) = [note for note in alike if "pun" in note]
    assert "'pun', '\u0440un' (cyrillic small letter er U+0440)" in cyrillic
    assert len(alike) == 2


@pytest.mark.parametrize(
    ("first", "second"),
    [("\u2764\ufe0f", "\u2764"), ("\u2764\ufe0e", "\u2764"),  # an emoji, and the same in black
     ("\u8fba", "\u8fba\U000e0101"),  # variants of a Chinese character
     ("\u0639\u0644\u064a", "\u0639\u0644\u06cc"), ("\u0643\u0634", "\u06a9\u0634")],  # Arabic and Persian keyboards
)  # fmt: skip
def test_names_of_one_look_are_told(tmp_path, first, second):
    clips = load_clips(touch(tmp_path, f"{first}/a.mp4", f"{second}/b.mp4"))
    assert len(clips.classes) == 2
    (note,) = [note for note in clips.notes if "look alike and stay different" in note]
    assert "U+" in note


def test_a_label_in_another_case_is_told_its_class(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "clips.csv").write_text("path,label\na.mp4,RUN\nb.mp4,walk\n")
    (tmp_path / "classes.txt").write_text("walk\nURN\nrun\n")
    with pytest.raises(ValueError, match=r"row 2: the label 'RUN' is not in .*the closest class is 'run'"):
        load_clips(tmp_path)


def test_no_note_names_the_same_name_twice(tmp_path):
    """A note on three classes that look alike spells out the differences."""
    names = ["sore", "s\u043ere", "sor\u0435"]
    root = touch(tmp_path, *(f"train/{name}/{i}.mp4" for i, name in enumerate(names)), "test/walk/d.mp4")
    (note,) = [note for note in load_clips(root).notes if "split test has no clip of 3" in note]
    assert "cyrillic small letter o U+043E" in note
    assert "cyrillic small letter ie U+0435" in note


# Letters of many scripts, and often the characters whose removal depends on their neighbours.
NAME_CHARACTERS = st.characters(codec="utf-8", exclude_characters="/\0") | st.sampled_from(
    "0e\u0301\u0308\u200c\u200d\u200b\ufe00\ufe0f\u20e3\U000e0100\u2764\u0645\u2003 \u3164"
)


@given(st.text(NAME_CHARACTERS, max_size=12))
@example("0\ufe00\U000e0100")
@example("\ufe00")
@example("e\ufe00\u200d\u0301")
@example("\u2764\u2003\ufe0f")
def test_a_plain_name_stays_as_it_is(name):
    from vidact.text.names import plain_name

    plain = plain_name(name)
    assert plain_name(plain) == plain
    assert unicodedata.is_normalized("NFC", plain)
    assert plain_name(f" {name}\u200b ") == plain
    assert plain_name(unicodedata.normalize("NFD", name)) == plain


def test_a_split_is_called_by_any_usual_name(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    text = "path,label,split\na.mp4,x,Train\nb.mp4,y,VALIDATION\nc.mp4,x,test\u200b\n"
    (tmp_path / "clips.csv").write_text(text, encoding="utf-8")
    assert [clip.split for clip in load_clips(tmp_path)] == ["train", "val", "test"]
    (tmp_path / "videos.csv").write_text("video,split\na,training\nb,Test\n")
    assert load_videos(tmp_path / "videos.csv") == {"a": "train", "b": "test"}


def test_split_folders_of_one_look(tmp_path):
    root = touch(tmp_path, "train /x/a.mp4", "Test/x/b.mp4", "train /y/c.mp4", "Test/y/d.mp4")
    assert {clip.id: clip.split for clip in load_clips(root)} == {
        "train/x/a": "train", "train/y/c": "train", "Test/x/b": "test", "Test/y/d": "test"
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------------ files by name


def test_a_file_is_found_however_its_name_is_written(tmp_path):
    """The accents of a list from one system need not be encoded as those of files from another."""
    touch(tmp_path, f"{APART}/{APART}.mp4", "b.mp4", "long  walk.mp4")
    rows = f"path,label\n{CAFE}/{CAFE}.mp4,x\nb.mp4,y\nlong walk.mp4,y\n"
    (tmp_path / "clips.csv").write_text(rows, encoding="utf-8")
    clips = load_clips(tmp_path)
    assert [clip.path.relative_to(tmp_path).as_posix() for clip in clips] == [
        f"{APART}/{APART}.mp4", "b.mp4", "long  walk.mp4"
    ]  # fmt: skip
    assert [clip.id for clip in clips] == [f"{CAFE}/{CAFE}", "b", "long walk"]
    touch(tmp_path, "long\u00a0walk.mp4")  # now two files have this name
    with pytest.raises(FileNotFoundError, match=r"1 of 3 clips .* does not exist: .*long walk\.mp4"):
        load_clips(tmp_path)


def test_the_same_videos_are_split_alike_on_every_machine(tmp_path):
    names = [f"{label}/{CAFE} {i}.mp4" for label in "xy" for i in range(20)]
    first_root = touch(tmp_path / "first_root", *names)
    second_root = touch(tmp_path / "second_root", *(unicodedata.normalize("NFD", name) for name in names))
    first, second = load_clips(first_root), load_clips(second_root)
    assert {clip.id: clip.split for clip in first} == {clip.id: clip.split for clip in second}
    assert first.digest == second.digest


def test_people_are_one_group_however_written(tmp_path):
    root = touch(tmp_path, f"x/{CAFE}_1.mp4", f"y/{APART}_2.mp4", "x/bob_1.mp4", "y/bob_2.mp4")
    clips = load_clips(root, group=r"/([^/_]+)_", held_out=APART, fractions=(1, 0, 0))
    assert clips.groups() == ["bob", CAFE]
    assert {clip.split for clip in clips if CAFE in clip.id} == {"test"}


def test_two_files_of_one_look_are_refused_by_what_differs(tmp_path):
    root = touch(tmp_path, f"x/{CAFE}.mp4", f"x/{APART}.mp4", "y/b.mp4")
    with pytest.raises(ValueError, match=r"two videos with the same id 'x/caf.': .*accents apart from their letters"):
        load_clips(root)


def test_untrimmed_lists_and_features_meet(tmp_path):
    (tmp_path / "features").mkdir()
    for name in (APART, "b", "c"):
        np.save(tmp_path / "features" / f"{name}.npy", np.zeros((8, 3), np.float32))
    (tmp_path / "features/features.json").write_text(json.dumps({"tokens_per_second": 4.0, "dim": 3}))
    (tmp_path / "videos.csv").write_text(f"video,split\n{CAFE}.mp4,train\nb.mp4,val\nc.mp4,test\n", encoding="utf-8")
    events = f"video,start_s,end_s,label\n{APART}.mp4,0,1,jump up\nb.mp4,0,1,jump  up\nc.mp4,0,1,jump\u00a0up\n"
    (tmp_path / "events.csv").write_text(events + "c.mp4,1,2,Jump up\n", encoding="utf-8")
    sequences = load_sequences(tmp_path)
    assert [sequence.id for sequence in sequences] == [CAFE, "b", "c"]
    assert sequences.classes == ["Jump up", "jump up"]
    assert sum("read as one name" in note for note in sequences.notes) == 1
    assert sum("look alike and stay different: 'Jump up', 'jump up'" in note for note in sequences.notes) == 1


def test_a_checkpoint_knows_its_classes_however_written():
    from vidact.text.names import same_names

    assert same_names(["walk", APART, "jump up"], ["walk", CAFE, "jump\u00a0up"])
    assert not same_names(["walk", "Run"], ["walk", "run"])
    assert not same_names(["walk", "run"], ["run", "walk"])


def test_scores_of_two_machines_are_fused(tmp_path):
    from vidact.results.scores import Scores, fuse

    labels, values = np.array([0, 1]), np.array([[2.0, 1.0], [0.0, 1.0]], np.float32)
    parts = [
        Scores(ids=["a", "b"], labels=labels, values=values, classes=[name, "walk"], kind="logits", views="1x1")
        for name in (CAFE, APART)
    ]
    assert fuse(parts).classes == [CAFE, "walk"]


def test_resuming_knows_its_classes_however_written():
    """A checkpoint from before names were plain is refused for its other network, not for the names."""
    from types import SimpleNamespace

    from lightning.pytorch.trainer.states import TrainerFn

    from vidact.records import Record
    from vidact.tasks.resuming import refuse_what_does_not_fit

    def recipe(builder):
        return {"builder": builder, "arguments": {}}

    trainer = SimpleNamespace(state=SimpleNamespace(fn=TrainerFn.FITTING), ckpt_path="runs/x/last.ckpt")
    mine = {"classes": [CAFE, "jump up"], "recipe": recipe("vidact.models.one")}
    task = SimpleNamespace(_trainer=trainer, trainer=trainer, record=Record(**mine))
    saved = {"classes": [APART, "jump\u00a0up"], "recipe": recipe("vidact.models.two")}
    checkpoint = {"loops": {}, "optimizer_states": [], "vidact": saved}
    with pytest.raises(ValueError, match=r"holds another network .* vidact\.models\.two and vidact\.models\.one"):
        refuse_what_does_not_fit(task, checkpoint)
    saved["classes"] = [APART, "Jump up"]
    with pytest.raises(ValueError, match=r"other classes than the data's: Jump up, jump up"):
        refuse_what_does_not_fit(task, checkpoint)


def test_counts_agree_with_their_words():
    assert [counted(number, "clip") for number in (0, 1, 2, 1000)] == ["0 clips", "1 clip", "2 clips", "1,000 clips"]
    assert counted(1, "class has", "classes have") == "1 class has"
    assert counted(3, "class has", "classes have") == "3 classes have"
