"""Published features and labels are read as they are; a pickle that tries to run code is refused."""

import collections
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from vidact.data import SequenceList, load_sequences
from vidact.data.published_features import (
    class_names,
    load_session_list,
    read_frame_folders,
    read_oadtr,
    read_pickle,
    read_targets,
)
from vidact.data.sequence_list import write_sequences

COLUMNS = ["Background", "Jump", "Dive", "Ambiguous"]
LABELS = np.array(
    [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 1, 1], [0, 0, 0, 1], [1, 0, 0, 0]], dtype=np.float64
)


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)


def features(seed: int, dim: int, length: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((length, dim)).astype(np.float32)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Write two videos in LSTR's layout."""
    for i, video in enumerate(("one", "two")):
        save(tmp_path / f"rgb/{video}.npy", features(i, 5))
        save(tmp_path / f"flow/{video}.npy", features(9 + i, 3))
        save(tmp_path / f"target_perframe/{video}.npy", LABELS)
    return tmp_path


SPLITS = {"one": "train", "two": "test"}


def read(folders: Path, streams: tuple[str, ...] = ("rgb", "flow"), **options) -> list:
    return list(read_frame_folders(folders, streams, COLUMNS, SPLITS, 4.0, **options))


# -------------------------------------------------------------------------------------------------------------- folders


def test_streams_are_put_side_by_side(folders: Path) -> None:
    sequences = read(folders)
    assert [(s.id, s.split) for s in sequences] == [("one", "train"), ("two", "test")]
    assert np.array_equal(sequences[1].features, np.concatenate([features(1, 5), features(10, 3)], axis=1))
    assert np.array_equal(read(folders, ("flow",))[0].features, features(9, 3))


def test_the_ambiguous_column_becomes_ignore(folders: Path) -> None:
    sequence = read(folders)[0]
    assert sequence.ignore.tolist() == [False, False, False, True, True, False]
    assert sequence.multi_hot.tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 1], [0, 0, 1], [0, 0, 0], [1, 0, 0]]
    assert [(e.label, e.start_s, e.end_s) for e in sequence.events] == [
        ("Jump", 0.25, 0.5),
        ("Dive", 0.25, 1.0),
        ("ambiguous", 0.75, 1.25),
    ]


def test_converted_labels_are_the_same(folders: Path, tmp_path: Path) -> None:
    direct = SequenceList(read(folders), class_names(COLUMNS), 4.0, {})
    write_sequences(
        tmp_path / "ours", read_frame_folders(folders, ("rgb",), COLUMNS, SPLITS, 4.0), direct.classes, 4.0, {}
    )
    back = load_sequences(tmp_path / "ours", val_fraction=0)
    assert back.digest == direct.digest
    assert back.dim == 5


def test_one_label_a_token(tmp_path: Path) -> None:
    """TRN's labels of HDD are class indices."""
    columns = ["background", "left turn", "U-turn"]
    multi_hot, ignore = read_targets(np.array([0, 2, 2, 1]), columns, "s.npy")
    assert multi_hot.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 1], [0, 1, 0]]
    assert not ignore.any()
    assert np.array_equal(read_targets(np.array([0.0, 2.0, 2.0, 1.0]), columns, "s.npy").multi_hot, multi_hot)
    for bad in (3, -1, 0.5):
        with pytest.raises(ValueError, match=rf"s.npy: token 1 has the label {bad}.*; the columns are 0 to 2"):
            read_targets(np.array([0, bad]), columns, "s.npy")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([1, 1, 0, 0], r"token 2 has both background and an action \(1 such tokens\)"),
        ([0, 0, 0, 0], "token 2 has no label at all"),
        ([0, 2, 0, 0], "token 2 has labels other than 0 and 1"),
        ([0, np.nan, 0, 0], "token 2 has labels other than 0 and 1"),
    ],
)
def test_labels_that_say_nothing(row: list, message: str) -> None:
    labels = LABELS.copy()
    labels[2] = row
    with pytest.raises(ValueError, match=f"t.npy: {message}"):
        read_targets(labels, COLUMNS, "t.npy")


def test_label_shapes() -> None:
    with pytest.raises(ValueError, match=r"t.npy has labels of shape \(6, 3\); \(tokens, 4\) is expected"):
        read_targets(LABELS[:, :3], COLUMNS, "t.npy")
    with pytest.raises(ValueError, match="the label columns are Jump, Dive; published labels begin with background"):
        class_names(["Jump", "Dive"])


def test_folders_that_do_not_fit(folders: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"flow_x is not a folder; .* has flow, rgb, target_perframe"):
        read(folders, ("rgb", "flow_x"))
    with pytest.raises(ValueError, match="streams is empty"):
        read(folders, ())
    (folders / "flow/two.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks 1 file of the listed videos: flow/two.npy"):
        read(folders)


def test_streams_of_other_lengths(folders: Path) -> None:
    save(folders / "flow/one.npy", features(9, 3, length=5))
    notes: list[str] = []
    sequences = read(folders, notes=notes)
    assert [len(s) for s in sequences] == [5, 6]
    assert sequences[0].features.shape == (5, 8)
    assert notes == ["one: 1 tokens at the end are not in every stream and were cut"]
    save(folders / "flow/one.npy", features(9, 3, length=11))
    with pytest.raises(
        ValueError, match=r"the streams of one differ by more than a second of tokens: .*flow/one.npy 11"
    ):
        read(folders)


def test_streams_that_are_no_vectors(folders: Path) -> None:
    save(folders / "rgb/one.npy", np.zeros((6, 5, 8, 8), dtype=np.float32))
    with pytest.raises(ValueError, match=r"rgb/one.npy holds float32 \(6, 5, 8, 8\).* Average maps"):
        read(folders)
    broken = features(0, 5)
    broken[3, 2] = np.nan
    save(folders / "rgb/one.npy", broken)
    with pytest.raises(ValueError, match=r"rgb/one.npy has nan in token 3 \(0.75 s\), value 2"):
        read(folders)
    np.save(folders / "rgb/one.npy", np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match=r"rgb/one.npy is no array of numbers"):
        read(folders)


# -------------------------------------------------------------------------------------------------------- session lists


def test_session_lists_of_six_repositories(shared_data: Path) -> None:
    lists = shared_data / "annotations/online_sessions"
    thumos = {}
    for path in sorted(lists.glob("*/*/*.json")):
        if "length" in path.name:
            continue
        columns, splits = load_session_list(path, "thumos")
        assert (len(columns), columns[0], columns[-1]) == (22, "Background", "Ambiguous")
        assert sorted(splits.values()) == ["test"] * 213 + ["train"] * 200
        thumos[path] = tuple(sorted(splits.items()))
    assert len(thumos) == 7  # MiniROAD has two
    assert len(set(thumos.values())) == 1
    trn = lists / "xumingze0308+TRN.pytorch/data/data_info.json"
    columns, splits = load_session_list(trn, "TVSeries")
    assert columns[:2] == ["background", "Pick something up"]  # TRN's list has no background
    assert len(columns) == 31
    assert len(splits) == 27
    columns, splits = load_session_list(trn, "HDD")
    assert len(class_names(columns)) == 11
    assert sorted(splits.values()) == ["test"] * 36 + ["train"] * 100


def test_session_lists_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "data_info.json"
    path.write_text(json.dumps({"HDD": {"class_index": ["background", "a"], "train_session_set": ["x"]}}))
    with pytest.raises(ValueError, match=r"lists HDD, and not THUMOS"):
        load_session_list(path, "THUMOS")
    with pytest.raises(ValueError, match=r"is no data_info.json .*KeyError 'test_session_set'"):
        load_session_list(path, "HDD")
    path.write_text(
        json.dumps({"HDD": {"class_index": ["background", "a"], "train_session_set": ["x"], "test_session_set": ["x"]}})
    )
    with pytest.raises(ValueError, match="has x of HDD in the training and in the test list"):
        load_session_list(path, "HDD")


# -------------------------------------------------------------------------------------------------------------- pickles


def dump(path: Path, content: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_arrays_open(tmp_path: Path, protocol: int) -> None:
    content = {
        "v": collections.OrderedDict(rgb=features(0, 5), anno=LABELS, order=np.asfortranarray(LABELS)),
        "plain": [1, 2.5, "text", b"bytes", None, True, (1, 2), {3}, frozenset({4})],
        "numbers": [np.float32(1.5), np.int64(7), np.array(["a", "b"])],
    }
    back = read_pickle(dump(tmp_path / "a.pickle", content, protocol))
    assert list(back) == list(content)
    assert back["plain"] == content["plain"]
    assert back["numbers"][:2] == [1.5, 7]
    assert back["numbers"][2].tolist() == ["a", "b"]
    for name, array in content["v"].items():
        assert np.array_equal(back["v"][name], array)
        assert back["v"][name].dtype == array.dtype


def test_pickles_of_older_numpy_open(tmp_path: Path) -> None:
    """numpy.core became numpy._core in 2.0; protocol 2 writes the name in full."""
    path = dump(tmp_path / "old.pickle", {"x": features(0, 5)}, protocol=2)
    path.write_bytes(path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert np.array_equal(read_pickle(path)["x"], features(0, 5))


class Runs:
    """An object whose function runs when pickle.load reads it."""

    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def attack_names() -> list:
    import os
    import subprocess

    from torch import load

    return [
        os.system,
        eval,
        exec,
        getattr,
        __import__,
        open,
        subprocess.Popen,
        np.load,
        np.fromfile,
        load,
        pickle.loads,
    ]


@pytest.mark.parametrize("function", attack_names(), ids=lambda function: function.__name__)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_tries_to_run_code_is_refused(tmp_path: Path, function, protocol: int) -> None:
    canary = tmp_path / "ran"
    path = dump(tmp_path / "bad.pickle", {"video": {"rgb": Runs(function, f"touch {canary}")}}, protocol)
    with pytest.raises(
        ValueError,
        match=r"bad.pickle asks for [\w.]+, which is neither an array of numbers nor a plain container. Such a",
    ):
        read_pickle(path)
    assert not canary.exists()


def test_a_pickle_runs_code_when_nothing_guards_it(tmp_path: Path) -> None:
    """The attack of the test above works on pickle.load itself: the guard is what stops it."""
    import os

    canary = tmp_path / "ran"
    path = dump(tmp_path / "bad.pickle", Runs(os.system, f"touch {canary}"))
    pickle.loads(path.read_bytes())
    assert canary.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"cnumpy\nndarray\n(I2\ntR.", "numpy.ndarray as a function"),
        (b"c_codecs\nencode\n(Vtext\nVrot13\ntR.", "the encoding 'rot13'"),
        (b"Poutside\n.", "the outside object 'outside'"),
        (b"cnumpy\ndtype\n(VO\ntR.", "an array of Python objects"),
        (b"cnumpy.core.multiarray\n_reconstruct.__globals__\n.", "numpy.core.multiarray._reconstruct.__globals__"),
    ],
)
def test_known_names_cannot_be_bent(tmp_path: Path, text: bytes, message: str) -> None:
    path = tmp_path / "bent.pickle"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=f"asks for {message}"):
        read_pickle(path)


class Forged:
    """An array of eight bytes whose type has flags that mark them as the address of a Python object."""

    def __init__(self, flags: int, parts: tuple = (None, None, None)) -> None:
        self.flags, self.parts = flags, parts

    def __reduce__(self):
        make, arguments, _ = np.empty(1).__reduce__()
        return make, arguments, (1, (1,), ForgedType(self.flags, self.parts), False, b"\0" * 8)


class ForgedType(Forged):
    def __reduce__(self):
        return np.dtype, ("V8", False, True), (3, "|", *self.parts, 8, 1, self.flags)


@pytest.mark.parametrize("protocol", [2, 4])
def test_bytes_are_never_taken_for_addresses(tmp_path: Path, protocol: int) -> None:
    path = dump(tmp_path / "forged.pickle", Forged(1), protocol)
    assert pickle.loads(path.read_bytes()).dtype.hasobject  # NumPy trusts the flag
    array = read_pickle(path)
    assert not array.dtype.hasobject
    assert array.tobytes() == b"\0" * 8
    with pytest.raises(ValueError, match="asks for an array of records"):
        read_pickle(dump(path, Forged(0, (None, ("a",), {"a": (np.dtype("f8"), 0)})), protocol))


def test_attributes_set_by_a_pickle_are_gone(tmp_path: Path) -> None:
    """BUILD may set attributes of a function in a pickle; the next pickle gets another function."""
    path = tmp_path / "build.pickle"
    path.write_bytes(b"c_codecs\nencode\n(dVmark\nI1\nsb.")
    handed = read_pickle(path)
    assert handed.mark == 1
    assert not hasattr(read_pickle_function(tmp_path), "mark")


def read_pickle_function(folder: Path):
    path = folder / "function.pickle"
    path.write_bytes(b"c_codecs\nencode\n.")
    return read_pickle(path)


def test_broken_pickles(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none.pickle does not exist"):
        read_pickle(tmp_path / "none.pickle")
    path = dump(tmp_path / "a.pickle", {"x": features(0, 5)})
    endless = b"\x80\x04\x8d" + b"\xff" * 8 + b"."  # a text of 2**64 bytes
    for text in (b"", b"not a pickle", path.read_bytes()[:60], endless):
        path.write_bytes(text)
        with pytest.raises(ValueError, match=r"a.pickle is no pickle of arrays and plain containers"):
            read_pickle(path)


@pytest.fixture
def oadtr(tmp_path: Path) -> tuple[Path, Path]:
    one_label = LABELS.copy()
    one_label[1] = [0, 1, 0, 0]
    one_label[3] = [0, 0, 0, 1]
    arrays = {video: {"rgb": features(i, 5), "flow": features(9 + i, 3)} for i, video in enumerate(("one", "two"))}
    labels = {video: {"anno": one_label, "length": 6} for video in ("one", "two", "unused")}
    return dump(tmp_path / "features.pickle", arrays), dump(tmp_path / "anno.pickle", labels)


def test_oadtr_pickles(oadtr: tuple[Path, Path]) -> None:
    sequences = list(read_oadtr(*oadtr, "train", COLUMNS))
    assert [(s.id, s.split) for s in sequences] == [("one", "train"), ("two", "train")]
    assert np.array_equal(sequences[1].features, np.concatenate([features(1, 5), features(10, 3)], axis=1))
    assert sequences[0].multi_hot[1].tolist() == [0, 1, 0]
    assert [(e.label, e.start_s, e.end_s) for e in sequences[0].events] == [
        ("Jump", 0.2, 0.4),
        ("Dive", 0.4, 0.6),
        ("ambiguous", 0.6, 1.0),
    ]


def test_oadtr_pickles_that_do_not_fit(oadtr: tuple[Path, Path], tmp_path: Path) -> None:
    arrays, labels = oadtr
    with pytest.raises(ValueError, match="'dev' is not a split"):
        list(read_oadtr(arrays, labels, "dev", COLUMNS))
    with pytest.raises(ValueError, match=r"features.pickle: one has no array depth"):
        list(read_oadtr(arrays, labels, "train", COLUMNS, streams=("rgb", "depth")))
    with pytest.raises(ValueError, match=r"holds list; OadTR's pickles are a dict of videos"):
        list(read_oadtr(dump(tmp_path / "list.pickle", [1]), labels, "train", COLUMNS))
    few = dump(tmp_path / "few.pickle", {"one": {"anno": LABELS}})
    with pytest.raises(ValueError, match=r"few.pickle has no labels of two, which .*features.pickle has"):
        list(read_oadtr(arrays, few, "train", COLUMNS))
