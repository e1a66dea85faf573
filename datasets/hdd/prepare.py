"""Turn HDD in the layout of TRN's code into our layout; README.md beside this file says how to get it."""

from pathlib import Path

from jsonargparse import auto_cli

from vidact.data.event_list import Event, events_of
from vidact.data.official_lists import write_events_dataset
from vidact.data.published_features import class_names, load_session_list, read_frame_folders, read_targets
from vidact.data.sequence_list import read_array, write_sequences

TOKENS_PER_SECOND = 3.0


def prepare(
    root: Path,
    sessions: Path,
    out: Path = Path("data/hdd"),
    streams: tuple[str, ...] = ("sensor",),
    videos: Path | None = None,
) -> None:
    """Write events.csv, videos.csv and classes.txt, and features/ of the chosen streams.

    Args:
        root: the folder with target/<session>.npy (a class index for each third of a second) and the streams.
        sessions: data_info.json of TRN (or of OadTR, MiniROAD, E2E-LOAD): classes, training and test sessions.
        out: the folder to write.
        streams: folders of <session>.npy (tokens, values) to join along the values; ``[]`` writes only labels.
        videos: without streams, the folder of the videos; sessions without a file are left out.
    """
    columns, splits = load_session_list(sessions, "HDD")
    if streams:
        notes: list[str] = []
        sequences = read_frame_folders(root, streams, columns, splits, TOKENS_PER_SECOND, target="target", notes=notes)
        record = {"origin": "trn", "streams": list(streams), "labels": "one a token"}
        write_sequences(out, sequences, class_names(columns), TOKENS_PER_SECOND, record)
        for note in notes:
            print(note)
        print(f"{out}: {'+'.join(streams)} of {len(splits)} sessions at {TOKENS_PER_SECOND:g} tokens/s")
        return
    events: list[Event] = []
    for session in splits:
        path = root / "target" / f"{session}.npy"
        targets = read_targets(read_array(path), columns, path)
        events += events_of(targets, session, TOKENS_PER_SECOND, class_names(columns))
    write_events_dataset(out, events, splits, class_names(columns), videos)


if __name__ == "__main__":
    auto_cli(prepare, as_positional=False)
