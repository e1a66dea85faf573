"""open_video: frame i of a video file, exactly, whichever library decodes it.

What "frame i" means is decided once, by PyAV, for every decoder: the pictures that FFmpeg shows, in the order in which
they are shown, each with its timestamp. Pictures that an edit list or a discard flag hides do not count. Rotation is
applied as the file states. The other decoders deliver only pictures; where their count or their timestamps differ from
the file's, the video is refused rather than misread.

Colour: yuv becomes RGB with the matrix and the range that the stream declares; a stream that declares none is read as
BT.601, limited range, as FFmpeg does whatever the picture size. HDR is not tone-mapped, 10 and 12 bits become 8,
transparency is dropped, and pictures of non-square pixels are not stretched.

Shapes: N frames of the video, T requested frames, H x W pixels.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from vidact.text.packages import how_to_install
from vidact.video.decoder_names import DECODER_NAMES
from vidact.video.folders import IMAGE_SUFFIXES, KNOWN_SUFFIXES, PACKED_SUFFIX, VIDEO_SUFFIXES, is_image
from vidact.video.frame_index import Traits, Turn, VideoIndex
from vidact.video.pyav_reader import PyAVReader
from vidact.video.reader import VideoError, VideoReader

__all__ = [
    "DECODERS",
    "IMAGE_SUFFIXES",
    "KNOWN_SUFFIXES",
    "PACKED_SUFFIX",
    "VIDEO_SUFFIXES",
    "DecordReader",
    "ImageFolderReader",
    "OpenCVReader",
    "PyAVReader",
    "TorchCodecReader",
    "Turn",
    "VideoError",
    "VideoReader",
    "open_video",
]


def open_video(
    path: str | Path,
    decoder: str = "pyav",
    *,
    fps: float | None = None,
    threads: int = 1,
    index: str = "auto",
    short_side: int | None = None,
    cache: bool = True,
) -> VideoReader:
    """Open a video file, or a folder of images, for reading frames by number.

    ``with open_video("clip.mp4") as video: frames = video.frames_at([0, 10, 20])``

    Args:
        path: a video file, a folder of images (.jpg, .png, …), which are frames in natural order: 2 before 10, or a
            .packed file of a store that ``vidact prepare pack`` made.
        decoder: "pyav", "decord", "opencv" or "torchcodec"; a folder of images needs none of them.
        fps: frames per second of a folder of images (default 25). A file carries its own times.
        threads: decoding threads; 0 lets the library choose. Keep 1 inside data-loading workers.
        index: "auto" trusts the packet list of containers that keep one; "decode" decodes the whole file once to find
            its frames, which is slower and also reads what is left of a damaged file.
        short_side: scale pictures down to this shorter side (pixels) while they become RGB, for "pyav" only; a smaller
            picture stays as it is. This is one pass instead of two, so the values differ slightly from those of frames
            resized afterwards. None, the default, leaves the picture's size.
        cache: keep the index of a file between runs, see ``vidact.video.index_cache``.

    Raises FileNotFoundError for a missing path, VideoError for a file that cannot be read, ImportError for a decoder
    that is not installed.
    """
    path = Path(path)
    if decoder not in DECODERS:
        raise ValueError(f"decoder {decoder!r} is unknown; choose one of {', '.join(DECODERS)}")
    if index not in ("auto", "decode"):
        raise ValueError(f"index is {index!r}; choose 'auto' or 'decode'")
    if threads < 0:
        raise ValueError(f"threads is {threads}; it is a count, 0 for the library's own choice")
    if short_side is not None and short_side < 1:
        raise ValueError(f"short_side is {short_side}; it is a number of pixels, or None for the picture's own size")
    if not os.path.exists(path):  # not path.exists(), which raises for a name that is too long
        raise FileNotFoundError(f"{path} does not exist; a video is a file or a folder of images")
    if path.suffix == PACKED_SUFFIX:
        from vidact.video.packed import PackedReader

        if fps is not None or short_side is not None:
            raise ValueError(
                f"{path} holds pictures of one size at their own times; fps={fps} and short_side={short_side} are not "
                "for packed videos: pack again with the size, or resize the frames"
            )
        return PackedReader(path)
    if short_side is not None and (decoder != "pyav" or path.is_dir()):
        why = f"{path} is a folder of images" if path.is_dir() else f"decoder is {decoder!r}"
        raise ValueError(f"{why}, and short_side={short_side} is for files read by 'pyav'; resize the frames instead")
    if path.is_dir():
        return ImageFolderReader(path, 25.0 if fps is None else fps)
    if fps is not None:
        raise ValueError(f"{path} is a file and carries its own times; fps={fps} is for a folder of images")
    if decoder == "pyav":
        return PyAVReader(path, threads, index, short_side, cache)
    return DECODERS[decoder](path, threads, index, cache=cache)


# ----------------------------------------------------------------------------------------------------------------------
# The other decoders. The index that PyAV makes has the frames, their times and their turn; these deliver the pictures.


class _OtherReader(VideoReader):
    """A reader that takes its pictures from another library, and all else from the index that PyAV makes."""

    name: str
    module: str
    install: str

    _next = 0  # the number of the picture that the library delivers next

    def __init__(self, path: Path, threads: int = 1, index: str = "auto", cache: bool = True) -> None:
        self.path, self.threads = path, threads
        self._library()
        self._file = PyAVReader(path, 1, index, cache=cache, see_all=True)
        self.fps = self._file.fps
        self._reader: Any = None

    @cached_property
    def index(self) -> VideoIndex:
        with self._file:
            return self._file.index

    @property
    def times_s(self) -> np.ndarray:
        return self.index.times_s

    @property
    def end_s(self) -> float:
        return self.index.end_s

    @property
    def begin_s(self) -> float:
        with self._file:
            return self._file.begin_s

    @property
    def width(self) -> int:
        return self._file.width

    @property
    def height(self) -> int:
        return self._file.height

    def _library(self) -> ModuleType:
        try:
            return importlib.import_module(self.module)
        except (ImportError, RuntimeError, OSError) as error:
            raise ImportError(f"decoder {self.name!r} cannot be used ({_first_line(error)}); {self.install}") from error

    def _error(self, why: object) -> VideoError:
        return VideoError(f"{self.name} cannot read {self.path}: {_first_line(why)}; use decoder='pyav'")

    @property
    def _name(self) -> str:
        """The absolute path of the file, whose beginning no library reads as an option or a protocol."""
        name = os.path.abspath(self.path)
        try:
            name.encode()
        except UnicodeEncodeError:
            raise self._error("its name is not UTF-8") from None
        return name

    @contextlib.contextmanager
    def _errors_as_video_errors(self) -> Iterator[None]:
        """Raise VideoError for any error of the library."""
        try:
            yield
        except (VideoError, ImportError):
            raise
        except Exception as error:
            raise self._error(error) from error

    def _refuse_undecodable(self) -> None:
        """Raise VideoError where pictures cannot be decoded: it is unknown which of them a library counts."""
        if Traits.UNDECODABLE in self.index.traits:
            raise self._error("some of its pictures cannot be decoded, and it passes over them")

    def _refuse_other_colours(self) -> None:
        """Raise VideoError where the colours change, for libraries that convert every picture as the first one."""
        if Traits.COLOURS_CHANGE in self.index.traits:
            raise self._error("its colour matrix or range changes within the file")

    def _refuse_joined(self) -> None:
        """Raise VideoError for a joined file, for libraries that find or order pictures by timestamps."""
        if self.index.is_joined:
            raise self._error(f"the file is joined of {len(self.index.parts)} parts, whose timestamps start again")

    def _checked(self, image: np.ndarray) -> np.ndarray:
        """Return the picture; raises VideoError for another size, that of another stream, or for other channels."""
        if image.ndim != 3 or image.shape[2] != 3:
            raise self._error(f"its pictures have the shape {image.shape}, which is no RGB")
        size, stored = image.shape[1::-1], (self.index.width, self.index.height)
        if size != stored:
            raise self._error(f"its pictures are {size[0]}x{size[1]}, those of the main stream {stored[0]}x{stored[1]}")
        return image

    def close(self) -> None:
        self._reader = None
        self._file.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_reader": None}


def _first_line(message: object) -> str:
    """Return the first line of a library's message, without the time and the source file that decord puts before it."""
    lines = [line.strip() for line in str(message).splitlines() if line.strip()]
    return re.sub(r"^\[[\d:]+\] \S+:\d+: ", "", lines[0]) if lines else type(message).__name__


class DecordReader(_OtherReader):
    """A reader through decord, which delivers every frame in order.

    Its jumps and even its ``skip_frames`` would deliver wrong pictures (AVI, open groups of pictures, MPEG-4 with
    B-frames). It turns pictures only by the angle.
    """

    name = module = "decord"
    install = f"{how_to_install('decord')} (wheels exist for x86-64 Linux and Windows); or use decoder='pyav'"

    def _library(self) -> ModuleType:
        # decord imposes its own zlib on the process; OpenCV reads PNG files only if it was imported before
        with contextlib.suppress(ImportError):
            importlib.import_module("cv2")
        return super()._library()

    def pictures(self, numbers: list[int]) -> Iterator[np.ndarray]:
        decord, turn = self._library(), self.index.turn
        if self._file.format == "mpegts":
            raise self._error("it loses the beginning of MPEG transport streams")
        self._refuse_joined()
        self._refuse_undecodable()
        self._refuse_other_colours()
        if self.index.stamps is None and not self._file.is_raw:
            raise self._error("the file does not store the times of all its pictures")
        if Traits.PALETTE in self.index.traits:
            raise self._error("it loses palettes")
        for number in numbers:
            with self._errors_as_video_errors():
                if self._reader is None or self._next > number:
                    self._reader = decord.VideoReader(self._name, ctx=decord.cpu(0), num_threads=self.threads)
                    self._next = 0
                    if len(self._reader) != len(self):
                        raise self._error(f"it finds {len(self._reader)} frames where the file shows {len(self)}")
                while self._next <= number:
                    image = self._reader.next()
                    self._next += 1
            image = image.asnumpy() if hasattr(image, "asnumpy") else np.asarray(image)  # decord's bridge may be torch
            yield turn(self._checked(np.rot90(image, -turn.quarters)))


class OpenCVReader(_OtherReader):
    """A reader through OpenCV, which counts pictures from the start of the file, since its seeking is not exact.

    It reads the first video stream even where another is the main one.
    """

    name, module = "opencv", "cv2"
    install = f"{how_to_install('opencv-python')}; or use decoder='pyav'"

    def pictures(self, numbers: list[int]) -> Iterator[np.ndarray]:
        self._refuse_undecodable()
        # some versions convert every picture as the first one, and read beyond its memory
        if Traits.PIXELS_CHANGE in self.index.traits:
            raise self._error("the format of its pixels changes within the file")
        if int(self._library().__version__.split(".")[0]) >= 5:
            # OpenCV 5 does not check whether its scaler converted a picture, and returns the memory's older content
            if Traits.INTERLACED in self.index.traits:
                raise self._error("OpenCV 5 shows interlaced pictures black, or the one before them again")
            if Traits.STRANGE_MATRIX in self.index.traits:
                raise self._error("OpenCV 5 does not convert its colour matrix")
            # OpenCV 5 requests BT.709; the scaler of FFmpeg 8 then maps tones and primaries, as no other decoder does
            if Traits.OTHER_GAMUT in self.index.traits:
                raise self._error("OpenCV 5 maps its colours (HDR, BT.2020, P3) to those of BT.709")
        for number in numbers:
            with self._errors_as_video_errors():
                if self._reader is None or self._next > number:
                    self._start()
                while self._next <= number:
                    if not self._reader.grab():
                        raise self._error(f"it finds {self._next} frames where the file shows {len(self)}")
                    self._next += 1
                is_converted, image = self._reader.retrieve()
            if not is_converted:
                raise self._error(f"frame {number} could not be converted")
            yield self.index.turn(self._checked(image)[:, :, ::-1])

    def _start(self) -> None:
        cv2 = self._library()
        self.close()
        self._reader = cv2.VideoCapture(self._name, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, self.threads])
        self._reader.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)  # the index's turn is applied instead
        self._next = 0
        if not self._reader.isOpened():
            self._reader = None
            raise self._error("it cannot open the file")

    def close(self) -> None:
        if self._reader is not None:
            self._reader.release()
        super().close()


class TorchCodecReader(_OtherReader):
    """A reader through torchcodec, which finds frames by their timestamps and trusts every key frame.

    So it is refused where stamps are missing or out of order (AVI with B-frames), and where a picture comes with
    another time than the frame's (transport streams, x264's intra-refresh). Versions whose metadata has a ``rotation``
    turn pictures, and only by the angle.
    """

    name, module = "torchcodec", "torchcodec.decoders"
    install = f"{how_to_install('torchcodec')}, and install FFmpeg's shared libraries; or use decoder='pyav'"

    def pictures(self, numbers: list[int]) -> Iterator[np.ndarray]:
        if not numbers:
            return
        stamps, library = self.index.stamps, self._library()
        self._refuse_joined()
        if stamps is None or (np.diff(stamps) <= 0).any():
            raise self._error("the file's timestamps do not follow the order of its pictures")
        self._refuse_undecodable()
        self._refuse_other_colours()
        with self._errors_as_video_errors():
            try:
                if self._reader is None:
                    self._reader = library.VideoDecoder(
                        self._name, dimension_order="NHWC", num_ffmpeg_threads=self.threads
                    )
                count = len(self._reader)
                batch = self._reader.get_frames_at(numbers) if count == len(self) else None
            except RuntimeError as error:
                if "load libtorchcodec" not in str(error):
                    raise
                raise ImportError(f"decoder 'torchcodec' cannot be used: it finds no FFmpeg; {self.install}") from error
        if batch is None:
            raise self._error(f"it finds {count} frames where the file shows {len(self)}")
        for number, time_s in zip(numbers, batch.pts_seconds.tolist(), strict=True):
            if abs(time_s - self.times_s[number]) > 0.001:
                raise self._error(f"for frame {number} it brings the picture of {time_s:.3f} s")
        quarters = self.index.turn.quarters if hasattr(self._reader.metadata, "rotation") else 0
        for image in batch.data.numpy():
            yield self.index.turn(self._checked(np.rot90(image, -quarters)))


DECODERS: dict[str, type[PyAVReader] | type[_OtherReader]] = dict(
    zip(DECODER_NAMES, (PyAVReader, DecordReader, OpenCVReader, TorchCodecReader), strict=True)
)


# ----------------------------------------------------------------------------------------------------------------------
# A folder of images


class ImageFolderReader(VideoReader):
    """The images of one folder, in natural order, at a rate that the caller states; EXIF rotation is applied."""

    def __init__(self, path: Path, fps: float = 25.0) -> None:
        if not fps > 0:
            raise ValueError(f"fps is {fps}; a folder of images needs a rate above 0")
        self.path, self.fps = path, float(fps)
        files = [file for file in path.iterdir() if is_image(file)]
        if not files:
            raise VideoError(f"{path} is a folder without images; it needs files ending in {', '.join(IMAGE_SUFFIXES)}")
        self.files = sorted(files, key=_natural)
        self._times_s = np.arange(len(files)) / self.fps

    @cached_property
    def size(self) -> tuple[int, int]:
        """The height and width of the first image, which all others must have."""
        return self._read(self.files[0]).shape[:2]

    @property
    def times_s(self) -> np.ndarray:
        return self._times_s

    @property
    def width(self) -> int:
        return self.size[1]

    @property
    def height(self) -> int:
        return self.size[0]

    def pictures(self, numbers: list[int]) -> Iterator[np.ndarray]:
        for number in numbers:
            image = self._read(self.files[number])
            if image.shape[:2] != self.size:
                raise VideoError(
                    f"{self.files[number]} is {image.shape[1]}x{image.shape[0]}, but the first image of the folder is "
                    f"{self.width}x{self.height}; one video has one size"
                )
            yield image

    @staticmethod
    def _read(file: Path) -> np.ndarray:
        from PIL import Image, ImageOps  # not OpenCV, whose PNG code breaks where decord was imported before it

        try:
            with Image.open(file) as image:
                upright = ImageOps.exif_transpose(image)
                if upright.mode.startswith("I;16"):  # Pillow would make all but the darkest values white
                    grey = (np.asarray(upright) >> 8).astype(np.uint8)
                    return np.repeat(grey[:, :, None], 3, 2)
                if upright.mode in ("I", "F"):
                    raise VideoError(f"{file} has values of which none is known to be white; store 8 or 16 bits each")
                return np.asarray(upright.convert("RGB"))  # (H, W, 3)
        except VideoError:
            raise
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # they depend on the format
            raise VideoError(
                f"{file} is not an image that can be read ({error}); make it again or remove it"
            ) from error


def _natural(file: Path) -> list[tuple[int, str]]:
    """Return a key that sorts img2 before img10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", file.name.lower())]
