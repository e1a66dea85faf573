"""Tables as common programs save them: every row is read, or an error names the row that cannot be."""

from pathlib import Path

import pytest

from vidact.data.clip_list import load_clips
from vidact.data.event_list import load_events, load_videos
from vidact.data.official_lists import ClipRow, write_clips_csv
from vidact.data.tables import load_classes

ROWS = [("a.mp4", "run", 0.5, 2.0), ("b.mp4", "jump", 1.0, 2.25), ("c.mp4", "run", 0.0, 1.5), ("d.mp4", "jump", 2.0, 3)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for letter in "abcd":
        (tmp_path / f"{letter}.mp4").touch()
    return tmp_path


def write(root: Path, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    (root / "clips.csv").write_bytes(data)
    return root


def table(delimiter: str = ",", end: str = "\n", point: str = ".", last: str = "") -> str:
    """Return the four clips of ``ROWS`` with their seconds, in one of the formats in which programs write tables."""
    lines = [delimiter.join(("path", "label", "start_s", "end_s")) + last]
    for path, label, start_s, end_s in ROWS:
        cells = [path, label, *(str(seconds).replace(".", point) for seconds in (start_s, end_s))]
        lines.append(delimiter.join(cells) + last)
    return end.join(lines) + end


def read(root: Path) -> list[tuple[str, str, float | None, float | None]]:
    clips = load_clips(root)
    return [(clip.path.name, clips.classes[clip.labels[0]], clip.start_s, clip.end_s) for clip in clips]


# ------------------------------------------------------------------------------------------------ one table, many files


@pytest.mark.parametrize(
    "content",
    [
        table().encode(),
        table(end="\r\n").encode("utf-8-sig"),
        table(end="\r").encode(),  # what old programs for the Mac write
        table(end="\r\r\n").encode(),  # \r\n that went through a text file of Windows
        table(delimiter=";", point=",").encode("utf-8-sig"),  # Excel where the comma is the decimal sign
        table(delimiter=";").encode(),
        table(delimiter="\t", end="\r\n").encode("utf-16"),  # Excel's "Unicode text"
        table().encode("utf-16-le"),  # without a byte order mark
        table().encode("utf-16-be"),
        table().encode("utf-32"),
        ("sep=;\r\n" + table(delimiter=";", point=",")).encode(),
        table(last=",").encode(),
        table(delimiter=";", point=",", last=";;").encode(),
        table().replace("\n", "\n\n,,,\n").encode(),
        table().replace("path", '"path"').replace("run", '"run"').encode(),
        table(delimiter=", ").replace("run", '"run"').encode(),
        table().replace("path,label", " Path , LABEL").encode(),
        table().replace("path", "\ufeffpath").encode("utf-8-sig"),  # saved twice with a byte order mark
        "\n".join(["path,label,start_s,end_s", *[f"{line},,," for line in table().splitlines()[1:]]]).encode(),
    ],
)
def test_the_same_rows_however_they_were_saved(root, content):
    assert read(write(root, content)) == ROWS


def test_a_table_of_pandas_has_an_index_without_a_name(root):
    lines = table().splitlines()
    write(root, "\n".join([f",{lines[0]}", *[f"{i},{line}" for i, line in enumerate(lines[1:])]]))
    assert read(root) == ROWS


@pytest.mark.parametrize("quote", ['say "x" twice', '5" disc', '"', "“x”"])
def test_quotes_that_pair_or_stand_inside_a_cell_are_letters(root, quote):
    rows = [ClipRow("a.mp4", quote), ClipRow("b.mp4", "run")]
    write_clips_csv(root, rows)
    assert set(load_clips(root).classes) == {quote, "run"}
    write(root, 'path,label\na.mp4,5" disc\nb.mp4,run\n')
    assert set(load_clips(root).classes) == {'5" disc', "run"}


# ----------------------------------------------------------------------------------------------- errors that name a row


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('path,label\na.mp4,"x\nb.mp4,y\nc.mp4,"z\nd.mp4,y\n', r'row 2 .*a\.mp4,"x'),  # the quotes pair across rows
        ('path,label\na.mp4,"x\nb.mp4,y\nc.mp4,z"\nd.mp4,y\n', r'row 2 .*a\.mp4,"x'),
        ('path,label\na.mp4,x\nb.mp4,y\nc.mp4,"z\n', r"row 4 "),  # never closed
        ('path,label\na.mp4,x\n"b.mp4,y\nc.mp4,z\n', r"row 3 "),
        ('path,label\na.mp4,x\nb.mp4,"y"z\n', r'row 3 .*b\.mp4,"y"z'),
        ('path,label\na.mp4,x\nb.mp4,"jump\n"\nc.mp4,y\n', r"row 3 .*a cell is one line"),  # Alt-Enter in Excel
        ('path;label\na.mp4;"x\nb.mp4;y\nc.mp4;"z\n', r"row 2 "),
        ("path,label\na.mp4,x\nb.mp4,\0\0\0\nc.mp4,y\n", r"row 3 has a NUL byte"),
        (
            "path,label\na.mp4,x\nb.mp4,café\n".encode("cp1252"),
            r"is not UTF-8 text \(byte 28\); save it as UTF-8.* row 3",
        ),
        ("path,label\na.mp4,x\nb.mp4,跳\n".encode("shift_jis"), r"is not UTF-8 text .* row 3"),
        (table(point=","), r"row 2 has 6 cells and the header 4"),
        (table().replace("0.5", '"0,5"'), r"row 2: start_s is '0,5'"),
        (table(delimiter=";").replace("0.5", "1.234,5"), r"row 2: start_s is '1\.234,5'"),
        ("path,label\na.mp4,x\nb.mp4\n", r"row 3 has 1 cells and the header 2"),
        ("sep=;\npath,label\na.mp4,x\n", "wrong header"),
        (table().encode("utf-16")[:-1], r"is no UTF-16 text"),
        ("path,labl\na.mp4,x\n", "wrong header .* it lacks label"),
        ("path,label,splt\na.mp4,x,train\n", "wrong header .* it has no use for 'splt'; 'split' is near"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(root, content, message):
    with pytest.raises(ValueError, match=message):
        load_clips(write(root, content))


def test_every_list_is_read_by_the_same_rules(tmp_path):
    (tmp_path / "events.csv").write_bytes("video;start_s;end_s;label\r\na;0,5;1,5;x\r\n".encode("utf-16"))
    (event,) = load_events(tmp_path / "events.csv")
    assert (event.start_s, event.end_s, event.label) == (0.5, 1.5, "x")
    (tmp_path / "events.csv").write_text('video,start_s,end_s,label\na,0,1,"x\nb,1,2,y"\n')
    with pytest.raises(ValueError, match=r"events\.csv row 2 "):
        load_events(tmp_path / "events.csv")
    (tmp_path / "videos.csv").write_bytes(b"video;split\ra;train\rb;test\r")
    assert load_videos(tmp_path / "videos.csv") == {"a": "train", "b": "test"}
    (tmp_path / "videos.csv").write_text('video,split\n"a,train\nb",test\n')
    with pytest.raises(ValueError, match=r"videos\.csv row 2 "):
        load_videos(tmp_path / "videos.csv")
    for content in ("run\rjump\r", "run\r\njump\r\n", "run\r\r\njump\r\r\n"):
        for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le"):
            (tmp_path / "classes.txt").write_bytes(content.encode(encoding))
            assert load_classes(tmp_path / "classes.txt") == ["run", "jump"]
    (tmp_path / "classes.txt").write_bytes(b"run\nju\0mp\n")
    with pytest.raises(ValueError, match=r"classes\.txt row 2 has a NUL byte"):
        load_classes(tmp_path / "classes.txt")


# ---------------------------------------------------------------------------------------------------- columns of others


def test_columns_that_vidact_has_no_use_for_are_told_once(root):
    text = "".join(f"{line},{'note' if i == 0 else 'seen by ann'}\n" for i, line in enumerate(table().splitlines()))
    clips = load_clips(write(root, text))
    assert read(root) == ROWS
    assert [note for note in clips.notes if "note" in note] == [f"ignored the column 'note' of {root / 'clips.csv'}"]


def test_what_a_stream_writes_is_an_events_csv(tmp_path):
    from vidact.events import Detection
    from vidact.stream.window.writers import EventTable

    with EventTable(tmp_path / "events.csv") as written:
        written.write(Detection("door.mp4", 1.0, 2.5, "open, then shut", 0.75))
    notes: list[str] = []
    (event,) = load_events(tmp_path / "events.csv", notes)
    assert (event.video, event.start_s, event.end_s, event.label) == ("door.mp4", 1.0, 2.5, "open, then shut")
    assert notes == [f"ignored the column 'score' of {tmp_path / 'events.csv'}"]


def test_no_line_break_is_written_into_a_cell(root):
    with pytest.raises(ValueError, match=r"'two\\nlines.mp4' has a line break, and a cell of .*clips\.csv is one line"):
        write_clips_csv(root, [ClipRow("two\nlines.mp4", "run")])
    assert not (root / "clips.csv").exists()
