"""Each script in datasets/ turns the official files into lists that load, with the published numbers of clips."""

import csv
import json
import os
import runpy
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from vidact.data.clip_list import load_clips

DATASETS = Path(__file__).parents[2] / "datasets"


@pytest.fixture
def prepare(monkeypatch, tmp_path):
    """Run a script as from a shell; returns the folder it wrote."""

    def run(dataset: str, **options: object) -> Path:
        out = tmp_path / "out"
        arguments = [f"--{name}={value}" for name, value in {**options, "out": out}.items()]
        monkeypatch.setattr(sys, "argv", ["prepare.py", *arguments])
        runpy.run_path(str(DATASETS / dataset / "prepare.py"), run_name="__main__")
        return out

    return run


def touch(root: Path, *names: str) -> Path:
    for folder in {os.path.dirname(name) for name in names}:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        os.close(os.open(f"{root}/{name}", os.O_CREAT))
    return root


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def by_split(clips) -> dict[str, int]:
    return dict(Counter(clip.split for clip in clips))


# --------------------------------------------------------------------------------------------------------------- UCF101


def slow(*values: object):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(("split", "train", "test"), [(1, 9537, 3783), slow(2, 9586, 3734), slow(3, 9624, 3696)])
def test_ucf101_official_lists(prepare, shared_data, tmp_path, split, train, test):
    """The test list's files are there and the training list's are not."""
    lists = shared_data / "annotations/ucf101_hmdb51/ucf101_splits"
    videos = touch(tmp_path / "videos", *(lists / f"testlist{split:02d}.txt").read_text().split())
    out = prepare("ucf101", videos=videos, annotations=lists, split=split)
    clips = load_clips(out)
    assert by_split(clips) == {"test": test}
    assert len((out / "missing.txt").read_text().splitlines()) == train
    assert clips.classes == (shared_data / "annotations/class_lists/ucf101/label_map.txt").read_text().split()
    assert all(clip.id.split("/")[0] == clips.classes[clip.label] for clip in clips)


@pytest.fixture
def ucf(tmp_path) -> Path:
    """Lists in the official layout: Windows line ends, class numbers from 1 in the training list."""
    lists = tmp_path / "lists"
    write(lists / "classInd.txt", "1 Archery\r\n2 Bowling\r\n")
    write(lists / "trainlist01.txt", "Archery/v_Archery_g02_c01.avi 1\r\nBowling/v_Bowling_g02_c01.avi 2\r\n")
    write(lists / "testlist01.txt", "Archery/v_Archery_g01_c01.avi\r\nBowling/v_Bowling_g01_c01.avi\r\n")
    return lists


def test_ucf101_finds_converted_files_without_class_folders(prepare, ucf, tmp_path, capsys):
    videos = touch(tmp_path / "videos", "v_Archery_g02_c01.mp4", "v_Bowling_g02_c01.mp4", "v_Archery_g01_c01.mp4")
    clips = load_clips(prepare("ucf101", videos=videos, annotations=ucf))
    assert [(clip.id, clip.label, clip.split) for clip in clips] == [
        ("v_Archery_g02_c01", 0, "train"),
        ("v_Bowling_g02_c01", 1, "train"),
        ("v_Archery_g01_c01", 0, "test"),
    ]
    assert (tmp_path / "out/missing.txt").read_text() == "Bowling/v_Bowling_g01_c01.avi\n"
    assert "1 of 4 videos are missing" in capsys.readouterr().err


def test_nothing_there_is_an_error(prepare, ucf, tmp_path):
    touch(tmp_path / "videos", "holiday.mp4")
    with pytest.raises(FileNotFoundError, match=r"none of the 4 videos of the lists is in .*v_Archery_g02_c01.avi"):
        prepare("ucf101", videos=tmp_path / "videos", annotations=ucf)
    with pytest.raises(FileNotFoundError, match="absent is not a folder"):
        prepare("ucf101", videos=tmp_path / "absent", annotations=ucf)
    with pytest.raises(FileNotFoundError, match=r"classInd.txt does not exist"):
        prepare("ucf101", videos=tmp_path / "videos", annotations=tmp_path)
    with pytest.raises(ValueError, match="split is 4; UCF101 has the official splits 1, 2 and 3"):
        prepare("ucf101", videos=tmp_path / "videos", annotations=ucf, split=4)


@pytest.mark.slow
def test_the_command_of_the_readme_runs(ucf, tmp_path):
    touch(tmp_path / "UCF-101", "Archery/v_Archery_g02_c01.avi", "Bowling/v_Bowling_g01_c01.avi")
    line = next(line for line in (DATASETS / "ucf101/README.md").read_text().splitlines() if line.startswith("python "))
    command = line.replace("UCF-101", str(tmp_path / "UCF-101")).replace("ucfTrainTestlist", str(ucf)).split()
    command = [sys.executable, str(DATASETS.parent / command[1]), *command[2:-1], str(tmp_path / "out")]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "1 train, 1 test clips of 2 classes" in result.stdout
    assert len(load_clips(tmp_path / "out")) == 2


# --------------------------------------------------------------------------------------------------------------- HMDB51


@pytest.mark.parametrize("split", [1, slow(2), slow(3)])
def test_hmdb51_official_lists(prepare, shared_data, tmp_path, split):
    """Thirty test clips of each class, which are there, and seventy training clips, which are not."""
    lists = shared_data / "annotations/ucf101_hmdb51/hmdb51_splits"
    names = []
    for path in lists.glob(f"*_test_split{split}.txt"):
        pairs = [line.split() for line in path.read_text().splitlines()]
        names += [f"{path.name.rsplit('_', 2)[0]}/{name}" for name, code in pairs if code == "2"]
    out = prepare("hmdb51", videos=touch(tmp_path / "videos", *names), annotations=lists, split=split)
    clips = load_clips(out)
    assert clips.classes == (shared_data / "annotations/class_lists/hmdb51/label_map.txt").read_text().split()
    assert Counter((clip.label, clip.split) for clip in clips) == dict.fromkeys([(k, "test") for k in range(51)], 30)
    assert all(clip.id.split("/")[0] == clips.classes[clip.label] for clip in clips)
    missing = (out / "missing.txt").read_text().splitlines()
    assert Counter(name.split("/")[0] for name in missing) == dict.fromkeys(clips.classes, 70)


def test_hmdb51_names_with_signs_and_unused_clips(prepare, tmp_path):
    write(tmp_path / "lists/clap_test_split2.txt", "#20_(Rhythm)_clap_u_nm_np1_fr_goo_0.avi 1 \nx_clap.avi 0 \n")
    write(tmp_path / "lists/wave_test_split2.txt", "y_wave.avi 2 \nz_wave.avi 2 \n")
    videos = touch(
        tmp_path / "videos", "clap/#20_(Rhythm)_clap_u_nm_np1_fr_goo_0.avi", "clap/x_clap.avi", "wave/y_wave.avi"
    )
    clips = load_clips(prepare("hmdb51", videos=videos, annotations=tmp_path / "lists", split=2))
    assert [(clip.path.name[:3], clip.label, clip.split) for clip in clips] == [("#20", 0, "train"), ("y_w", 1, "test")]
    assert (tmp_path / "out/missing.txt").read_text() == "wave/z_wave.avi\n"
    with pytest.raises(FileNotFoundError, match=r"has no file \*_test_split3.txt"):
        prepare("hmdb51", videos=videos, annotations=tmp_path / "lists", split=3)


# ------------------------------------------------------------------------------------------------------------- Kinetics


def test_kinetics400_official_validation_list(prepare, shared_data, tmp_path):
    """Nineteen in twenty videos are gone: the rest is found, and all 400 classes stay."""
    table = shared_data / "annotations/kinetics400/kinetics_val.csv"
    rows = list(csv.DictReader(table.read_text().splitlines()))
    names = [f"{r['youtube_id']}_{int(r['time_start']):06d}_{int(r['time_end']):06d}" for r in rows]
    touch(tmp_path / "videos", *(f"val/{name}.mp4" for name in names[::20]))
    out = prepare("kinetics", videos=tmp_path / "videos", annotations=table)
    clips = load_clips(out)
    assert len(clips) == len(names[::20]) == 996
    assert by_split(clips) == {"val": 996}
    listed = (shared_data / "annotations/class_lists/kinetics/label_map_k400.txt").read_text().splitlines()
    assert clips.classes == sorted(listed)
    assert len((out / "missing.txt").read_text().splitlines()) == 19906 - 996
    labels = {name: row["label"] for name, row in zip(names, rows, strict=True)}
    assert all(clips.classes[clip.label] == labels[clip.path.stem] for clip in clips)


def test_kinetics_lists_without_labels_are_refused(prepare, shared_data, tmp_path):
    touch(tmp_path / "videos", "a.mp4")
    table = shared_data / "annotations/kinetics400/kinetics_test.csv"
    with pytest.raises(ValueError, match=r"kinetics_test.csv has no column label; its labels were not published"):
        prepare("kinetics", videos=tmp_path / "videos", annotations=table)
    with pytest.raises(FileNotFoundError, match=r"videos is neither a CSV file nor a folder with one"):
        prepare("kinetics", videos=tmp_path / "videos", annotations=tmp_path / "videos")


def test_kinetics_takes_every_csv_of_a_folder_that_has_labels(prepare, tmp_path, capsys):
    lists = tmp_path / "lists"
    write(lists / "train.csv", "label,youtube_id,time_start,time_end,split\na,x,0,10,train\n")
    write(lists / "val.csv", "label,youtube_id,time_start,time_end,split,is_cc\nb,y,0,10,val,0\n")
    write(lists / "test.csv", "youtube_id,time_start,time_end,split\nz,0,10,test\n")
    videos = touch(tmp_path / "videos", "x_000000_000010.mp4", "y_000000_000010.mp4", "z_000000_000010.mp4")
    clips = load_clips(prepare("kinetics", videos=videos, annotations=lists))
    assert by_split(clips) == {"train": 1, "val": 1}
    assert "test.csv has no labels and is left out" in capsys.readouterr().out
    write(lists / "val.csv", "label,youtube_id,time_start,time_end,split\nb,y,0,10,dev\n")
    with pytest.raises(ValueError, match=r"val.csv row 2: the split 'dev' is unknown"):
        prepare("kinetics", videos=videos, annotations=lists)


@pytest.fixture
def kinetics(tmp_path) -> Path:
    rows = ["yoga,-abc,7,17,train", "tai chi,d_e,0,10,validate", "tai chi,fgh,3,13,test"]
    return write(tmp_path / "k700.csv", "\n".join(["label,youtube_id,time_start,time_end,split", *rows, ""]))


@pytest.mark.parametrize(
    "names",
    [
        ["-abc_000007_000017.mp4", "d_e_000000_000010.mkv", "fgh_000003_000013.webm"],
        [
            "train/yoga/-abc_000007_000017.mp4",
            "val/tai_chi/d_e_000000_000010.mp4",
            "test/tai chi/fgh_000003_000013.mp4",
        ],
    ],
    ids=["heap", "folders"],
)
def test_kinetics_files_are_found_in_any_folder(prepare, kinetics, tmp_path, names):
    videos = touch(tmp_path / "videos", *names)
    clips = load_clips(prepare("kinetics", videos=videos, annotations=kinetics))
    assert clips.classes == ["tai chi", "yoga"]
    assert [(clip.path, clip.label, clip.split) for clip in clips] == [
        (videos / names[0], 1, "train"),
        (videos / names[1], 0, "val"),
        (videos / names[2], 0, "test"),
    ]


def test_kinetics_takes_the_copy_in_the_folder_of_split_and_class(prepare, kinetics, tmp_path):
    names = [f"{folder}/-abc_000007_000017.mp4" for folder in ("a", "train/archery", "train/yoga", "val/yoga")]
    clips = load_clips(
        prepare("kinetics", videos=touch(tmp_path / "videos", *names), annotations=kinetics),
        empty_classes="allow",
    )
    assert [clip.id for clip in clips] == ["train/yoga/-abc_000007_000017"]


def test_kinetics_other_names(prepare, kinetics, tmp_path):
    videos = touch(tmp_path / "videos", "-abc.mp4", "d_e.mp4", "fgh.mp4")
    with pytest.raises(FileNotFoundError, match="none of the 3 videos"):
        prepare("kinetics", videos=videos, annotations=kinetics)
    clips = load_clips(prepare("kinetics", videos=videos, annotations=kinetics, naming="id"))
    assert next((clip.id, clip.start_s, clip.end_s) for clip in clips) == ("-abc", None, None)
    clips = load_clips(prepare("kinetics", videos=videos, annotations=kinetics, naming="whole"))
    assert next((clip.id, clip.start_s, clip.end_s) for clip in clips) == ("-abc@7-17", 7, 17)
    listed = write(tmp_path / "k.txt", "archery\nyoga\ntai chi\n")
    out = prepare("kinetics", videos=videos, annotations=kinetics, naming="id", classes=listed)
    assert [clip.label for clip in load_clips(out, empty_classes="allow")] == [1, 2, 2]


# ------------------------------------------------------------------------------------------ Something-Something, Jester


def test_something_v1(prepare, shared_data, tmp_path):
    classes = (shared_data / "annotations/class_lists/sthv1/label_map.txt").read_text().splitlines()
    lists = tmp_path / "lists"
    write(lists / "something-something-v1-labels.csv", "\n".join(classes) + "\n")
    train = "".join(f"{i + 1};{label}\n" for i, label in enumerate(classes))
    write(lists / "something-something-v1-train.csv", train)
    write(lists / "something-something-v1-validation.csv", f"900;{classes[5]}\n901;{classes[6]}\n")
    videos = touch(tmp_path / "videos", *(f"{i + 1}/00001.jpg" for i in range(174)), "900/00001.jpg", "7000/00001.jpg")
    clips = load_clips(prepare("something", version=1, videos=videos, annotations=lists))
    assert clips.classes == classes
    assert by_split(clips) == {"train": 174, "val": 1}
    assert [clip.label for clip in clips] == [*range(174), 5]
    assert clips.clips[0].path == videos / "1"
    assert (tmp_path / "out/missing.txt").read_text() == "901\n"


@pytest.mark.parametrize("prefix", ["", "something-something-v2-"])
def test_something_v2(prepare, shared_data, tmp_path, prefix):
    """Templates have brackets, labels.json has none and numbers its classes with strings."""
    classes = (shared_data / "annotations/class_lists/sthv2/label_map.txt").read_text().splitlines()
    lists = tmp_path / "lists"
    write(lists / f"{prefix}labels.json", json.dumps({name: str(i) for i, name in reversed(list(enumerate(classes)))}))
    entries = [
        {
            "id": str(i + 1),
            "label": "…",
            "template": name.replace("something", "[something]"),
            "placeholders": ["a cup"],
        }
        for i, name in enumerate(classes)
    ]
    write(lists / f"{prefix}train.json", json.dumps(entries))
    write(lists / f"{prefix}validation.json", json.dumps([entries[9] | {"id": "999"}]))
    videos = touch(tmp_path / "videos", *(f"{i + 1}.webm" for i in range(174)), "999.webm")
    clips = load_clips(prepare("something", videos=videos, annotations=lists))
    assert clips.classes == classes
    assert by_split(clips) == {"train": 174, "val": 1}
    assert [clip.label for clip in clips] == [*range(174), 9]


def test_something_refuses_by_words(prepare, tmp_path):
    with pytest.raises(ValueError, match="version is 3; there are Something-Something 1 and 2"):
        prepare("something", version=3, videos=tmp_path, annotations=tmp_path)
    with pytest.raises(FileNotFoundError, match="absent is not a folder"):
        prepare("something", videos=tmp_path / "absent", annotations=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"something-something-v2-labels.json does not exist"):
        prepare("something", videos=tmp_path, annotations=tmp_path)


def test_jester(prepare, shared_data, tmp_path):
    classes = (shared_data / "annotations/class_lists/jester/label_map.txt").read_text().splitlines()
    lists = tmp_path / "lists"
    write(lists / "jester-v1-labels.csv", "\n".join(classes) + "\n")
    write(lists / "jester-v1-train.csv", "".join(f"{i + 1};{label}\n" for i, label in enumerate(classes)))
    write(lists / "jester-v1-validation.csv", f"100;{classes[1]}\n101;{classes[2]}\n")
    videos = touch(tmp_path / "videos", *(f"{i + 1}/00001.jpg" for i in range(27)), "100/00001.jpg")
    clips = load_clips(prepare("jester", videos=videos, annotations=lists))
    assert clips.classes == classes
    assert by_split(clips) == {"train": 27, "val": 1}
    assert (tmp_path / "out/missing.txt").read_text() == "101\n"
    write(lists / "jester-v1-validation.csv", "100;Swiping Lefd\n")
    with pytest.raises(
        ValueError, match=r"100 has the unknown label 'Swiping Lefd'; the closest class is 'Swiping Left'"
    ):
        prepare("jester", videos=videos, annotations=lists)


# ------------------------------------------------------------------------------------------------------------- Weizmann


def test_weizmann(prepare, shared_data):
    videos = shared_data / "weizmann"
    clips = load_clips(prepare("weizmann", videos=videos), group=r"([^/_]+)_[^/]*$", held_out="lena")
    as_it_is = load_clips(videos, group=r"([^/_]+)_[^/]*$", held_out="lena")
    assert clips.classes == as_it_is.classes
    assert {c.id: (c.label, c.split) for c in clips} == {c.id: (c.label, c.split) for c in as_it_is}


def test_weizmann_in_one_heap(prepare, tmp_path):
    names = [
        f"eli_{name}.avi" for name in ("bend", "jack", "jump", "pjump", "run", "side", "skip", "walk", "wave1", "wave2")
    ]
    videos = touch(tmp_path / "videos", *names, "lena_run1.avi", "lena_run2.avi", "holiday.avi")
    clips = load_clips(prepare("weizmann", videos=videos))
    assert {clip.id for clip in clips if clips.classes[clip.label] == "run"} == {"eli_run", "lena_run1", "lena_run2"}
    assert (tmp_path / "out/missing.txt").read_text() == "holiday\n"


@pytest.mark.parametrize("script", sorted(DATASETS.glob("*/prepare.py")), ids=lambda path: path.parent.name)
def test_every_data_set_says_where_it_comes_from(script):
    text = (script.parent / "README.md").read_text()
    for word in ("**Download**", "**Licence**", f"python datasets/{script.parent.name}/prepare.py"):
        assert word in text
