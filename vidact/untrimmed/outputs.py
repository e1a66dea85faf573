"""What ``vidact predict`` writes of found events: a table, a page, clips, and videos with their timelines."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from vidact.prediction import is_one_video
from vidact.stream.window.writers import EventTable, refuse_in_use
from vidact.untrimmed.finder import VideoEvents

PAGE_EVERY_S = 10.0  # a page of many videos is written again at most so often, and at the end


class Outputs:
    """The files of a run, written video by video, so that finished videos stay when the run ends early.

    Args:
        classes: all classes.
        decoder: the decoder of the videos.
        events: a table of events; None writes none.
        page: an .html page.
        annotated: for each video the file of its annotated copy; empty writes none.
        cut: a folder of clips.
    """

    def __init__(
        self,
        classes: Sequence[str],
        decoder: str,
        events: Path | None = None,
        page: Path | None = None,
        annotated: Mapping[Path, Path] | None = None,
        cut: Path | None = None,
    ) -> None:
        self.classes, self.decoder = list(classes), decoder
        self.page, self.annotated, self.cut = page, dict(annotated or {}), cut
        self._table = None if events is None else EventTable(events)
        self._sections: list[str] = []
        self._num_written, self._written_s = 0, -PAGE_EVERY_S  # the videos of the page as it is written, and when

    def write(self, answer: VideoEvents) -> None:
        """Write the events of the next video; of one that could not be read only the page tells."""
        if self._table is not None:
            for event in answer.events:
                self._table.write(event)
        if self.page is not None:
            from vidact.untrimmed.page import section

            self._sections.append(section(answer, self.classes, self.page.parent, self.decoder))
            if time.monotonic() - self._written_s >= PAGE_EVERY_S:
                self._write_page()
        if answer.error:
            return
        if (out := self.annotated.get(answer.path)) is not None:
            from vidact.untrimmed.drawing import annotate_events

            annotate_events(answer, self.classes, out, self.decoder)
        if self.cut is not None:
            from vidact.untrimmed.cuts import cut_events

            cut_events(answer, self.cut, self.decoder)

    def _write_page(self) -> None:
        from vidact.untrimmed.page import write_page

        assert self.page is not None
        write_page(self.page, self._sections)
        self._num_written, self._written_s = len(self._sections), time.monotonic()

    def close(self) -> None:
        """Finish the table and the page."""
        if self._table is not None:
            self._table.close()
        if len(self._sections) > self._num_written:
            self._write_page()


def video_names(videos: Sequence[Path], paths: Sequence[Path]) -> dict[Path, str]:
    """Return the name of each video in a table of events: its path below the folder that was named, or its file name.

    Where two videos would have the same name, all have their paths as they were given.
    """
    folders = [path for path in paths if not is_one_video(path)]
    names = {}
    for video in videos:
        above = next((folder for folder in folders if video.is_relative_to(folder)), video.parent)
        names[video] = video.relative_to(above).as_posix()
    if len(set(names.values())) < len(names):
        return {video: video.as_posix() for video in videos}
    return names


def refuse_outputs(events: Path | None, page: Path | None, cut: Path | None, paths: Sequence[Path]) -> None:
    """Raise ValueError where an output would replace something else than an output of an earlier run.

    Args:
        paths: the videos and folders of videos that are read.
    """
    for option, path in (("--events", events), ("--page", page)):
        if path is not None and path.is_dir():
            raise ValueError(f"{option} is {path}, which is a folder; name a file, in it or elsewhere")
        if path is not None and any(path.exists() and source.is_file() and path.samefile(source) for source in paths):
            raise ValueError(f"{option} is {path}, which is one of the videos; give another name")
    if page is not None and page.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--page is {page}; a page ends in .html")
    if events is not None and events.is_file():
        refuse_in_use(events)
        with events.open(encoding="utf-8", errors="replace") as file:
            first = file.readline().removeprefix("\ufeff").strip()
        if first and tuple(first.split(",")) != EventTable.COLUMNS:
            raise FileExistsError(
                f"--events is {events}, which is there already and is no table of an earlier prediction: it begins "
                f"with {first[:60]!r}. Nothing is overwritten; give another name"
            )
    if cut is not None and cut.is_file():
        raise ValueError(f"--cut is {cut}, which is a file; name a folder for the clips")
    for folder in paths:
        if (
            cut is not None
            and folder.is_dir()
            and (cut.resolve() == folder.resolve() or folder.resolve() in cut.resolve().parents)
        ):
            raise ValueError(
                f"--cut {cut} lies in the folder of the videos, {folder}, where the clips would be taken for videos; "
                "give a folder outside it"
            )
