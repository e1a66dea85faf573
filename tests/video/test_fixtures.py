"""Real files of many makers: our frames are those of a plain decoding from first to last."""

from pathlib import Path

import av
import numpy as np
import pytest

from vidact.doctor import SAME_PICTURE, check_videos
from vidact.video.decode import open_video
from vidact.video.folders import VIDEO_SUFFIXES

QUICK = [
    "mmaction2/test.avi",  # B-frames in a container without presentation times
    "torchcodec/animated.gif",
    "torchcodec/discard_first_keyframe.mp4",
    "torchcodec/h265_video.mp4",
    "torchcodec/nasa_13013_rotated.mp4",
    "torchcodec/test_non_zero_start.mp4",
    "torchcodec/testsrc2_odd_height_and_width_vp9_10bit.mp4",
]
# decoder: file → words of the reason. Everything else in the folder is read by every decoder.
FAILS = {
    "decord": {
        "animated.gif": "broken metadata",
        "frame_exceeds_screen.gif": "broken metadata",
        "gradient.gif": "broken metadata",
        "transparent.gif": "broken metadata",
        "av1_video.mkv": "cannot find video stream",
        "testsrc2_av1_10bit.mp4": "cannot find video stream",
        "discard_first_keyframe.mp4": "it finds 30 frames where the file shows 25",
    },
    "opencv": {
        "av1_video.mkv": "it finds 0 frames",
        "testsrc2_av1_10bit.mp4": "it finds 0 frames",
        "nasa_13013.mp4": "where the file shows 390|those of the main stream",
        # OpenCV 5 tone-maps HDR where the others only convert it, and is refused
        "bt2020_10bit.mp4": "maps its colours",
        "nasa_13013_hdr.mp4": "maps its colours",
        "testsrc2_12bit_hdr.mp4": "maps its colours",
        "testsrc2_hdr.mp4": "maps its colours",
    },
}


def agree_with_plain_decoding(path: Path, num_draws: int) -> None:
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        assert stream is not None
        plain = [(frame.pts * stream.time_base, frame) for frame in container.decode(stream)]
    shown = [np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90) for _, frame in plain]
    generator = np.random.default_rng(len(plain))
    count = len(plain)
    with open_video(path) as video:
        assert len(video) == count
        np.testing.assert_allclose(video.times_s, sorted(float(time) for time, _ in plain), atol=1e-9)
        assert (video.height, video.width) == shown[0].shape[:2]
        draws = [[count - 1], [0, count - 1, 0]] + [generator.integers(0, count, 4).tolist() for _ in range(num_draws)]
        for indices in draws:
            images = video.frames_at(indices).images.permute(0, 2, 3, 1).numpy()
            for image, index in zip(images, indices, strict=True):
                np.testing.assert_array_equal(image, shown[index], err_msg=f"{path.name} frame {index} of {indices}")


@pytest.mark.parametrize("name", QUICK)
def test_some_fixtures(name: str, shared_data: Path) -> None:
    agree_with_plain_decoding(shared_data / "fixtures" / name, num_draws=6)


@pytest.mark.slow
def test_all_fixtures(shared_data: Path) -> None:
    paths = [path for path in sorted(shared_data.glob("fixtures/*/*")) if path.suffix in VIDEO_SUFFIXES]
    assert len(paths) >= 54
    for path in paths:
        agree_with_plain_decoding(path, num_draws=3)


@pytest.mark.slow
def test_every_decoder_reads_what_the_table_says(shared_data: Path) -> None:
    installed = ["pyav"]
    for name in FAILS:
        try:
            __import__({"opencv": "cv2"}.get(name, name))
            installed.append(name)
        except ImportError:
            continue
    rows = check_videos(shared_data / "fixtures", installed)
    for row in rows:
        words = FAILS.get(row["decoder"], {}).get(Path(row["file"]).name)
        if words is None:
            assert row["reason"] is None, row
            assert row["difference"] is None or row["difference"] < SAME_PICTURE
        else:
            assert row["reason"], row
            assert any(word in row["reason"] for word in words.split("|")), row


def test_the_colour_matrix_and_range_of_the_stream_are_used(shared_data: Path) -> None:
    """Converted by hand from the planes; a wrong matrix or range is off by 8 levels and more."""
    weights = {
        "bt601_full_range": (0.299, 0.114),
        "bt601_limited_range": (0.299, 0.114),
        "bt709_full_range": (0.2126, 0.0722),
    }
    for name, (red, blue) in weights.items():
        path = shared_data / "fixtures" / "torchcodec" / f"{name}.mp4"
        with av.open(str(path)) as container:
            frame = next(container.decode(video=0))
        planes = frame.to_ndarray().astype(float).reshape(-1)
        size = frame.height * frame.width
        y = planes[:size].reshape(frame.height, frame.width)
        u, v = (
            plane.reshape(frame.height // 2, frame.width // 2).repeat(2, 0).repeat(2, 1) - 128
            for plane in (planes[size : size * 5 // 4], planes[size * 5 // 4 :])
        )
        y, u, v = (y / 255, u / 255, v / 255) if "full" in name else ((y - 16) / 219, u / 224, v / 224)
        r, b = y + 2 * (1 - red) * v, y + 2 * (1 - blue) * u
        g = (y - red * r - blue * b) / (1 - red - blue)
        expected = np.clip(np.stack([r, g, b]), 0, 1) * 255
        with open_video(path) as video:
            image = video.frames_at([0]).images[0].numpy()
        assert np.abs(image - expected).mean() < 1.5, name
