"""Readers of the features and frame labels that the online-detection repositories publish.

LSTR and TeSTra: one folder a stream, one .npy a video in each, and a folder of frame labels. OadTR: pickles with all
videos of one split. TRN's HDD: like LSTR's with a class index a frame. ``read_frame_folders`` and ``read_oadtr`` yield
the videos one at a time: ``vidact.data.sequence_list.write_sequences`` writes them in our layout, and
``SequenceList(list(…), classes, tokens_per_second, record)`` keeps them in memory.

Shapes: T tokens, D features of a token, C columns of published labels, K classes.
"""

from __future__ import annotations

import json
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as Several
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vidact.data.event_list import AMBIGUOUS, Targets, events_of
from vidact.data.sequence_list import Sequence, check_finite, read_array
from vidact.data.splits import SPLITS
from vidact.data.tables import read_text
from vidact.text.names import counted, first_few

BACKGROUND = "background"


class SessionList(NamedTuple):
    """The label columns of one data set and the split of each video, from a repository's data_info.json."""

    columns: list[str]
    splits: dict[str, str]


def load_session_list(path: str | Path, dataset: str) -> SessionList:
    """Read ``dataset`` (in any case) from a data_info.json of TRN, OadTR, LSTR, TeSTra, MiniROAD or E2E-LOAD.

    A background column is put in front where the list has none. Raises ValueError for a file of another form, a data
    set that it does not list, and a video in both of its lists.
    """
    path = Path(path)
    try:
        content = json.loads(read_text(path))
        entries = {name.lower(): entry for name, entry in content.items()}
        if dataset.lower() not in entries:
            raise ValueError(f"{path} lists {', '.join(content)}, and not {dataset}")
        entry = entries[dataset.lower()]
        columns = [str(name) for name in entry.get("class_names") or entry["class_index"]]
        splits = {str(video): side for side in ("train", "test") for video in entry[f"{side}_session_set"]}
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no data_info.json (data set → class_names or class_index, train_session_set, "
            f"test_session_set): {type(error).__name__} {error}"
        ) from None
    both = set(entry["train_session_set"]) & set(entry["test_session_set"])
    if both:
        raise ValueError(f"{path} has {first_few(sorted(both))} of {dataset} in the training and in the test list")
    if columns[0].lower() != BACKGROUND:
        columns.insert(0, BACKGROUND)
    return SessionList(columns, splits)


def class_names(columns: Several[str]) -> list[str]:
    """Return the actions among label columns: all but the background, which comes first, and the ambiguous column."""
    if not columns or columns[0].lower() != BACKGROUND:
        raise ValueError(f"the label columns are {first_few(list(columns))}; published labels begin with {BACKGROUND}")
    return [name for name in columns[1:] if name.lower() != AMBIGUOUS]


def read_targets(labels: np.ndarray, columns: Several[str], where: str | Path) -> Targets:
    """Convert published frame labels, (T, C) multi-hot or (T,) column numbers, to ours.

    An ambiguous column becomes ``ignore``. ``where`` names the labels in messages. Raises ValueError for labels that
    do not fit ``columns``.
    """
    classes = class_names(columns)
    if labels.ndim == 1:
        whole = labels.astype(np.int64)
        bad = np.flatnonzero((whole != labels) | (whole < 0) | (whole >= len(columns)))
        if len(bad):
            raise ValueError(
                f"{where}: token {bad[0]} has the label {labels[bad[0]]}; the columns are 0 to {len(columns) - 1}"
            )
        labels = np.eye(len(columns), dtype=np.float32)[whole]
    if labels.ndim != 2 or labels.shape[1] != len(columns):
        raise ValueError(
            f"{where} has labels of shape {labels.shape}; (tokens, {len(columns)}) is expected, one column for each of "
            f"{first_few(list(columns), 3)}"
        )
    bad = np.flatnonzero(((labels != 0) & (labels != 1)).any(1))
    if len(bad):
        raise ValueError(f"{where}: token {bad[0]} has labels other than 0 and 1")
    position = {name: index for index, name in enumerate(columns)}
    multi_hot = np.zeros((len(labels), 1 + len(classes)), dtype=np.float32)
    multi_hot[:, 1:] = labels[:, [position[name] for name in classes]]
    ambiguous = [index for index, name in enumerate(columns) if name.lower() == AMBIGUOUS]
    ignore = np.asarray(labels[:, ambiguous].any(axis=1))
    acting = np.asarray(multi_hot[:, 1:].any(axis=1))
    multi_hot[:, 0] = ~acting & ~ignore
    wrong = np.flatnonzero(~ignore & (acting == (labels[:, 0] == 1)))
    if len(wrong):
        problem = "both background and an action" if acting[wrong[0]] else "no label at all"
        raise ValueError(f"{where}: token {wrong[0]} has {problem} ({len(wrong)} such tokens)")
    return Targets(multi_hot, ignore)


def read_frame_folders(
    root: str | Path,
    streams: Several[str],
    columns: Several[str],
    splits: Mapping[str, str],
    tokens_per_second: float,
    target: str = "target_perframe",
    notes: list[str] | None = None,
) -> Iterator[Sequence]:
    """Yield the videos of a folder in the layout of LSTR and TeSTra (and of TRN with ``target="target"``).

    Args:
        root: the folder that holds the folders of streams and labels.
        streams: folders of <video>.npy (T, D) each; their features are concatenated in this order.
        columns: the names of the label columns.
        splits: the split of each video.
        tokens_per_second: the rate of the features: 4 in LSTR's lineage, 3 for HDD.
        target: the folder of the labels, <video>.npy, (T, C) or (T,).
        notes: receives a sentence on each video whose streams differ by up to a second and were cut to the shortest.
    """
    root = Path(root)
    if not streams:
        raise ValueError("streams is empty; name at least one folder of features")
    for name in (*streams, target):
        if not (root / name).is_dir():
            folders = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
            raise FileNotFoundError(
                f"{root / name} is not a folder; {root} has {first_few(folders, 20) or 'no folders'}"
            )
    absent = [
        f"{name}/{video}.npy"
        for video in splits
        for name in (*streams, target)
        if not (root / name / f"{video}.npy").exists()
    ]
    if absent:
        raise FileNotFoundError(
            f"{root} lacks {counted(len(absent), 'file')} of the listed videos: {first_few(absent)}"
        )
    for video, split in splits.items():
        parts = {f"{root / name}/{video}.npy": read_array(root / name / f"{video}.npy") for name in streams}
        labels = root / target / f"{video}.npy"
        targets = read_targets(read_array(labels), columns, labels)
        yield _sequence(video, split, parts, targets, class_names(columns), tokens_per_second, notes)


def read_oadtr(
    features: str | Path,
    annotations: str | Path,
    split: str,
    columns: Several[str],
    streams: Several[str] = ("rgb", "flow"),
    tokens_per_second: float = 5.0,
    notes: list[str] | None = None,
) -> Iterator[Sequence]:
    """Yield the videos of OadTR's pickles, which are opened without running any code in them.

    Args:
        features: a file such as thumos_all_feature_val_V3.pickle: {video: {"rgb": (T, D), "flow": (T, D)}}.
        annotations: a file such as thumos_val_anno.pickle: {video: {"anno": (T, C)}}, with one label a token.
        split: the split of all these videos: OadTR's val is train.
        columns: the names of the label columns.
        streams: the features to concatenate, in this order.
        tokens_per_second: the rate of the features; OadTR published 5.
        notes: as in ``read_frame_folders``.
    """
    if split not in SPLITS:
        raise ValueError(f"{split!r} is not a split; there are {', '.join(SPLITS)}")
    arrays, labels = read_pickle(features), read_pickle(annotations)
    for path, content, keys in ((features, arrays, streams), (annotations, labels, ("anno",))):
        if not isinstance(content, dict) or not content:
            raise ValueError(f"{path} holds {type(content).__name__}; OadTR's pickles are a dict of videos")
        for video, entry in content.items():
            lacking = [key for key in keys if not isinstance(entry, dict) or not isinstance(entry.get(key), np.ndarray)]
            if lacking:
                raise ValueError(f"{path}: {video} has no array {' and '.join(lacking)}")
    unlabelled = sorted(set(arrays) - set(labels))
    if unlabelled:
        raise ValueError(f"{annotations} has no labels of {first_few(unlabelled)}, which {features} has")
    for video in arrays:
        parts = {f"{features} {video} {name}": arrays[video][name] for name in streams}
        targets = read_targets(labels[video]["anno"], columns, f"{annotations} {video}")
        yield _sequence(video, split, parts, targets, class_names(columns), tokens_per_second, notes)


def _sequence(
    video: str,
    split: str,
    parts: Mapping[str, np.ndarray],
    targets: Targets,
    classes: list[str],
    tokens_per_second: float,
    notes: list[str] | None,
) -> Sequence:
    """Join the streams and the labels of one video; the keys of ``parts`` name its streams in messages."""
    for where, part in parts.items():
        if part.ndim != 2 or part.dtype.kind != "f" or len(part) == 0:
            raise ValueError(
                f"{where} holds {part.dtype} {part.shape}; a stream is floating-point (tokens, values). Average maps "
                "over their last axes first"
            )
        check_finite(part, where, tokens_per_second)
    lengths = {**{where: len(part) for where, part in parts.items()}, "the labels": len(targets.ignore)}
    shortest, longest = min(lengths.values()), max(lengths.values())
    if longest - shortest > tokens_per_second:
        sizes = ", ".join(f"{where} {length}" for where, length in lengths.items())
        raise ValueError(
            f"the streams of {video} differ by more than a second of tokens: {sizes}. They do not belong together"
        )
    if longest > shortest and notes is not None:
        notes.append(f"{video}: {longest - shortest} tokens at the end are not in every stream and were cut")
    features = np.concatenate([np.asarray(part[:shortest], dtype=np.float32) for part in parts.values()], axis=1)
    targets = Targets(targets.multi_hot[:shortest], targets.ignore[:shortest])
    events = tuple(events_of(targets, video, tokens_per_second, classes))
    return Sequence(video, split, features, *targets, events=events)


# -------------------------------------------------------------------------------------------------------------- pickles


def read_pickle(path: str | Path) -> Any:
    """Open a pickle of numbers, text, arrays of them, dicts, lists, tuples and sets, without running code in it.

    Raises ValueError for a pickle that contains anything else, before anything in it has run.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            return _ArraysOnly(file, encoding="latin1").load()  # arrays written by Python 2 need latin1
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist") from None
    except _Refused as refused:
        raise ValueError(
            f"{path} asks for {refused}, which is neither an array of numbers nor a plain container. Such a pickle can "
            "run any program, so it was refused before anything in it ran; if you trust where it comes from, convert "
            "it to .npy files yourself"
        ) from None
    except _BROKEN as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"{path} is no pickle of arrays and plain containers: {reason}") from None


# The errors that an unpickler raises for a damaged file. MemoryError is one: damaged sizes may exceed any memory.
_BROKEN = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, LookupError, AttributeError, OverflowError, MemoryError,
)  # fmt: skip


class _Refused(Exception):
    """The error for a pickle that refers to something other than arrays; its text names it."""


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that calls only the few functions that pickled arrays need."""

    def find_class(self, module: str, name: str) -> Any:
        function = _KNOWN.get((module.replace("numpy._core", "numpy.core").replace("__builtin__", "builtins"), name))
        if function is None:
            raise _Refused(f"{module}.{name}")

        # Each reference gets a new function, so that a pickle that sets its attributes changes nothing else.
        def make(*arguments: Any) -> Any:
            return function(*arguments)

        return make

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused(f"the outside object {pid!r}")


class _Dtype:
    """The type of an array in a pickle.

    NumPy's own type would accept any flags from the pickle. One of them marks the array's bytes as addresses of Python
    objects, which would let a pickle write into memory. Of the pickle's state only the byte order is therefore passed
    to NumPy.
    """

    def __init__(self, code: Any, *_: Any) -> None:
        self.dtype = np.dtype(code)
        if self.dtype.hasobject:
            raise _Refused("an array of Python objects")
        if self.dtype.fields is not None or self.dtype.subdtype is not None:
            raise _Refused("an array of records")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order, *parts = state[1:5]  # parts describe records; all are None for numbers
        if order not in ("<", ">", "=", "|") or parts != [None, None, None]:
            raise _Refused("an array of records")
        self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray):
    """An array whose state a pickle may set, but not the flags of its type."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        *before, kind, is_fortran, content = state
        super().__setstate__((*before, _known_type(kind), is_fortran, content))


def _known_type(kind: Any) -> np.dtype:
    if not isinstance(kind, _Dtype):
        raise _Refused("an array of a type of its own")
    return kind.dtype


def _scalar(kind: Any, content: Any) -> Any:
    return np.float32(0).__reduce__()[0](_known_type(kind), content)  # type: ignore[operator]


def _frombuffer(content: Any, kind: Any, *arguments: Any) -> np.ndarray:
    return np.empty(1).__reduce_ex__(5)[0](content, _known_type(kind), *arguments)  # type: ignore[operator]


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise _Refused(f"the encoding {encoding!r}")
    return text.encode("latin1")


def _ndarray(*arguments: Any) -> None:
    """Raise _Refused: pickles only name numpy.ndarray, as the type that ``_reconstruct`` returns."""
    raise _Refused("numpy.ndarray as a function")


def _reconstruct(kind: Any, shape: tuple[int, ...], code: bytes) -> np.ndarray:
    return _Array(0)  # its __setstate__ sets shape, type and content


# The functions above get NumPy's own through __reduce__, because their module has moved between its versions.
_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _ndarray,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
}
