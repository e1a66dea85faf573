"""Samplers: the published golden vectors, and the laws that the published code breaks."""

import itertools

import numpy as np
import pytest
from jsonargparse import ArgumentParser

from vidact.video.sample import (
    LEGACY_RULES,
    ClipSampler,
    DenseSampler,
    LegacySampler,
    SegmentSampler,
    UniformSampler,
    WindowSampler,
    expand,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def one_based(variant, num_frames, segments, length=1, clips=1):
    """The clips of a legacy rule as its source prints them."""
    return (LegacySampler(variant, segments, length)(num_frames, num_clips=clips) + 1).tolist()


# --- golden vectors, 1-based, measured by running the published code


@pytest.mark.parametrize(
    ("num_frames", "segments", "length", "expected"),
    [
        (100, 3, 1, [17, 51, 84]),
        (100, 25, 1, list(range(3, 100, 4))),
        (10, 25, 1, [1, 1, 2, 2, 2, 3, 3, 4, ..., 10]),
        (30, 25, 1, [1, 2, 4, 5, 6, 7, 8, 10, ..., 30]),
        (100, 25, 5, [2, 6, 10, 14, 18, 22, 25, 29, ..., 95]),
        (28, 25, 5, [1, 2, 3, 4, 5, 6, 7, 8, ..., 24]),
        (8, 8, 1, [1, 2, 3, 4, 5, 6, 7, 8]),
        (7, 8, 1, [1, 2, 3, 4, 4, 5, 6, 7]),
    ],
)
@pytest.mark.parametrize("variant", ["tsn", "tsm_uniform", "tam_uniform_k"])
def test_tsn_midpoints(variant, num_frames, segments, length, expected):
    [found] = one_based(variant, num_frames, segments, length)
    assert len(found) == segments
    if ... in expected:
        gap = expected.index(...)
        assert found[:gap] == expected[:gap]
        assert found[-1] == expected[-1]
    else:
        assert found == expected


@pytest.mark.parametrize(("num_frames", "segments", "length"), [(10, 25, 1), (8, 8, 1), (28, 25, 5)])
def test_tsn_validation_gives_frame_one_of_short_videos(num_frames, segments, length):
    assert one_based("tsn_val", num_frames, segments, length) == [[1] * segments]
    assert one_based("tsn_val", 100, segments, length) == one_based("tsn", 100, segments, length)


@pytest.mark.parametrize(
    ("num_frames", "length", "expected"),
    [
        (100, 1, list(range(1, 98, 4))),
        (100, 5, list(range(1, 74, 3))),
        (28, 5, [1] * 25),
        (20, 1, [1] * 25),
    ],
)
def test_caffe_test(num_frames, length, expected):
    assert one_based("tsn_caffe_test", num_frames, 25, length) == [expected]


@pytest.mark.parametrize("variant", ["tsm_dense", "mma_dense"])
def test_dense_starts(variant):
    def starts(num_frames):
        return LegacySampler(variant, 8)(num_frames, num_clips=10)[:, 0].tolist()

    assert starts(300) == [0, 26, 52, 78, 104, 131, 157, 183, 209, 236]
    assert starts(65) == [0] * 9 + [1]
    assert starts(64) == [0] * 10
    assert one_based(variant, 64, 8) == [[1, 9, 17, 25, 33, 41, 49, 57]]
    assert one_based(variant, 40, 8) == [[1, 9, 17, 25, 33, 1, 9, 17]]


def test_tsm_twice():
    assert one_based("tsm_twice", 100, 8, clips=2) == [
        [7, 19, 32, 44, 57, 69, 82, 94],
        [1, 13, 26, 38, 51, 63, 76, 88],
    ]


def test_tam_differs_from_tsm():
    assert LegacySampler("tam_uniform_k", 8)(100, num_clips=2)[:, 0].tolist() == [0, 11]  # 0 and tick - 1
    assert LegacySampler("tam_dense_k", 8)(300)[0, 0] == 118  # half of the 237 starts, never random


def test_mma_sample_frames():
    assert LegacySampler("mma_sample_frames", 25)(100)[0].tolist() == list(range(2, 100, 4))
    flow = LegacySampler("mma_sample_frames", 25, segment_length=5)(100)[0]
    assert flow[:4].tolist() == [0, 4, 8, 12]
    assert flow[-1] == 95
    clips = LegacySampler("mma_sample_frames", 32, clip_length=32, stride=2)(300, num_clips=10)
    assert clips.shape == (10, 32)
    assert clips[0, 0] == 0
    assert clips[-1, -1] == 299
    twice = LegacySampler("mma_sample_frames", 8)(80, num_clips=2)
    assert twice[:, 0].tolist() == [5, 0]
    last = LegacySampler("mma_sample_frames", 8, clip_length=8, stride=2, out_of_range="repeat")(9)
    assert last.tolist() == [[0, 2, 4, 6, 8, 8, 8, 8]]


def test_mma_spreads_short_videos_in_training():
    assert LegacySampler("mma_sample_frames", 8)(7, rng())[0].tolist() == [0, 1, 2, 3, 4, 4, 5, 6]  # rint(i * 7 / 8)
    assert LegacySampler("tsn", 8)(7, rng())[0].tolist() == [0] * 8


def test_slowfast_never_reaches_the_end_and_offset_sampling_does():
    plain = LegacySampler("slowfast", 8, stride=8)(300, num_clips=10)
    offset = LegacySampler("slowfast_offset", 8, stride=8)(300, num_clips=10)
    assert plain[:, 0].tolist() == [int(236 * k / 10) for k in range(10)]
    assert plain.max() < 299 - 20
    assert offset[:, 0].tolist() == [26 * k for k in range(10)]
    assert LegacySampler("slowfast_ssv2", 8)(81)[0].tolist() == [5, 15, 25, 35, 45, 55, 65, 75]
    double = LegacySampler("slowfast", 8, stride=8, fps=60)(300)[0]
    assert double.tolist() == [int(i * 127 / 7) for i in range(8)]  # the same time covers twice the frames


def test_mma_uniform_puts_clips_inside_the_bins():
    assert LegacySampler("mma_uniform", 8)(81, num_clips=4)[:, 0].tolist() == [2, 4, 6, 8]


def test_pytorchvideo():
    assert LegacySampler("ptv_constant", 8, stride=8)(300, num_clips=3)[:, 0].tolist() == [0, 118, 236]
    uniform = LegacySampler("ptv_uniform", 8, stride=8)
    assert uniform(300, num_clips=4)[:, 0].tolist() == [0, 64, 128, 192]
    assert uniform(300)[0].tolist() == [0, 9, 18, 27, 36, 45, 54, 63]
    with pytest.raises(ValueError, match="holds 4"):
        uniform(300, num_clips=5)
    starts = {LegacySampler("ptv_random", 8, stride=8)(70, rng(seed))[0, 0] for seed in range(99)}
    assert starts == set(range(1, 7))  # the first frame at or after a start drawn from 0 to 6


# --- laws

OURS = [
    *(SegmentSampler(s, length) for s, length in itertools.product((1, 3, 8, 25), (1, 5, 6))),
    *(DenseSampler(t, stride, short) for t in (1, 8) for stride in (1, 4, 8) for short in ("repeat", "loop")),
    *(UniformSampler(t) for t in (1, 8, 25)),
]
LEGACY = [
    *(LegacySampler(variant, s, length) for variant in LEGACY_RULES for s, length in ((1, 1), (3, 5), (8, 1))),
    LegacySampler("mma_sample_frames", 8, clip_length=8, stride=4),
    LegacySampler("mma_sample_frames", 8, clip_length=8, stride=4, out_of_range="repeat"),
    *(LegacySampler(v, 8, stride=4, fps=24) for v in ("slowfast", "slowfast_offset", "ptv_random", "ptv_constant")),
]


@pytest.mark.parametrize("sampler", OURS + LEGACY, ids=repr)
def test_indices_lie_in_the_video(sampler):
    clips = (1, 2, 3) if sampler in OURS else (1,)
    for num_frames, num_clips in itertools.product(range(1, 41), clips):
        for generator in (None, rng(num_frames), rng(99)):
            indices = sampler(num_frames, generator, num_clips)
            steps = getattr(sampler, "num_segments", None) or sampler.num_frames
            assert indices.shape == (num_clips, steps)
            assert indices.dtype == np.int64
            assert indices.min() >= 0
            assert indices.max() < num_frames


@pytest.mark.parametrize("sampler", OURS + LEGACY, ids=repr)
def test_randomness_is_an_argument(sampler):
    for num_frames in (1, 9, 200):
        np.testing.assert_array_equal(sampler(num_frames), sampler(num_frames))
        np.testing.assert_array_equal(sampler(num_frames, rng(3)), sampler(num_frames, rng(3)))
        assert (np.diff(sampler(num_frames)[0]) >= 0).all() or "dense" in repr(sampler) or "loop" in repr(sampler)


@pytest.mark.parametrize("sampler", [SegmentSampler(8), DenseSampler(8, 4), UniformSampler(8)], ids=repr)
def test_training_draws_differ(sampler):
    generator = rng()
    drawn = {tuple(sampler(100, generator)[0]) for _ in range(40)}
    assert len(drawn) > 8
    first, second = sampler(100, generator, num_clips=2)
    assert not np.array_equal(first, second)


def test_as_many_frames_as_segments_shows_each_once():
    assert SegmentSampler(8)(8).tolist() == [list(range(8))]
    assert SegmentSampler(8)(8, rng()).tolist() == [list(range(8))]


def test_segment_middles_are_tsn_test():
    for num_frames, segments, length in ((100, 3, 1), (100, 25, 1), (30, 25, 1), (100, 25, 5), (28, 25, 5), (7, 8, 1)):
        legacy = LegacySampler("tsn", segments, length)(num_frames)
        np.testing.assert_array_equal(SegmentSampler(segments, length)(num_frames), legacy)


def test_every_start_of_a_segment_is_reachable():
    for num_frames, length in ((19, 1), (23, 5), (5, 1)):
        generator, sampler = rng(), SegmentSampler(8, length)
        drawn = np.concatenate([sampler(num_frames, generator) for _ in range(600)])
        assert set(drawn.ravel()) == set(range(num_frames - length + 1))
        assert (np.diff(drawn) >= 0).all()


def test_short_videos_are_spread():
    for generator in (None, rng()):
        assert set(SegmentSampler(8)(3, generator)[0]) == {0, 1, 2}


def test_several_clips_shift_evenly_and_stay_inside():
    clips = SegmentSampler(8)(96, num_clips=3)
    assert (clips[1] - clips[0]).tolist() == [4] * 8
    assert (clips[2] - clips[1]).tolist() == [4] * 8
    assert len({tuple(clip) for clip in SegmentSampler(8)(24, num_clips=3)}) == 3
    for num_frames in range(5, 60):
        starts = SegmentSampler(8, 5)(num_frames, num_clips=2)
        assert starts.max() + 4 <= num_frames - 1  # every frame of a time step is a frame of the video


def test_dense_starts_cover_first_and_last():
    sampler, generator = DenseSampler(8, 8), rng()
    last = 70 - 57  # a window of 8 frames at stride 8 spans 57
    assert {sampler(70, generator)[0, 0] for _ in range(500)} == set(range(last + 1))
    assert sampler(300, num_clips=10)[[0, -1], [0, -1]].tolist() == [0, 299]
    assert sampler(70)[0].tolist() == [6 + 8 * i for i in range(8)]


def test_dense_short_videos():
    assert DenseSampler(4, 3)(8).tolist() == [[0, 3, 6, 7]]
    assert DenseSampler(4, 3, "loop")(8).tolist() == [[0, 3, 6, 1]]
    with pytest.raises(ValueError, match=r"the video has 43 frames.*32 frames at stride 2 needs 63\. Use"):
        DenseSampler(32, 2, "error")(43)
    assert DenseSampler(32, 2, "error")(63)[0, -1] == 62


def test_uniform_keeps_a_steady_rate():
    for generator in (None, rng(1), rng(2)):
        steps = np.diff(UniformSampler(8)(100, generator)[0])
        assert set(steps) <= {12, 13}


def test_expand():
    assert expand(np.array([[0, 4, 8]]), 3, 10).tolist() == [[0, 1, 2, 4, 5, 6, 8, 9, 9]]
    assert expand(np.array([3, 5]), 1, 10).tolist() == [3, 5]
    with pytest.raises(ValueError, match="at least one frame"):
        expand(np.array([0]), 0, 10)


@pytest.mark.parametrize("sampler", OURS[:3] + OURS[-3:] + LEGACY[-3:], ids=repr)
def test_record_brings_the_sampler_back(sampler):
    assert ClipSampler.from_record(sampler.record()) == sampler


def test_record_refuses_strangers():
    with pytest.raises(ValueError, match="'Nobody'; known are DenseSampler"):
        ClipSampler.from_record({"name": "Nobody", "arguments": {}})
    with pytest.raises(ValueError, match="SegmentSampler has no argument clip_len; it has num_segments"):
        ClipSampler.from_record({"name": "SegmentSampler", "arguments": {"clip_len": 3}})


def test_command_line_takes_a_sampler():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--sampler", type=ClipSampler)
    named = {"class_path": "vidact.video.sample.LegacySampler", "init_args": {"variant": "tsm_dense", "num_frames": 16}}
    sampler = parser.instantiate(parser.parse_object({"sampler": named})).sampler
    assert sampler == LegacySampler("tsm_dense", 16)
    with pytest.raises(Exception, match="num_segmets"):
        parser.parse_object(
            {"sampler": {"class_path": "vidact.video.sample.SegmentSampler", "init_args": {"num_segmets": 3}}}
        )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: SegmentSampler(0), "num_segments is 0; SegmentSampler needs at least 1"),
        (lambda: SegmentSampler()(0), "a video of 0 frames has no clips"),
        (lambda: SegmentSampler()(9, num_clips=0), "ask for at least one"),
        (lambda: DenseSampler(short="pad"), "'pad'; it can be 'repeat'"),
        (lambda: LegacySampler("tsm"), "no variant 'tsm'; there are tsn,"),
        (lambda: LegacySampler("tsn")(9, num_clips=2), "2 test clips were asked, but tsn has a rule for 1 only"),
        (lambda: LegacySampler("tsm_twice")(9, num_clips=3), "a rule for 2 only"),
        (lambda: LegacySampler("mma_sample_frames", 8, clip_length=3), "8 frames cannot be split into clips of 3"),
        (lambda: LegacySampler("slowfast", fps=0), "fps is 0"),
    ],
)
def test_errors_say_what_is_wrong(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_windows_lie_at_both_ends_and_shrink_to_fit():
    """Two windows of four frames at stride 3: ten frames each; fewer frames lie closer together."""
    sampler = WindowSampler(num_windows=2, num_frames=4, stride=3)
    assert sampler(30).tolist() == [[0, 3, 6, 9, 20, 23, 26, 29]]
    assert sampler(12).tolist() == [[0, 3, 6, 9, 2, 5, 8, 11]]
    assert sampler(10).tolist() == [[0, 3, 6, 9, 0, 3, 6, 9]]
    assert sampler(8).tolist() == [[0, 2, 4, 6, 1, 3, 5, 7]]
    assert sampler(3).tolist() == [[0, 1, 2, 2, 0, 1, 2, 2]]
    assert sampler(30, num_clips=2).tolist() == [sampler(30)[0].tolist()] * 2
    drawn = sampler(30, np.random.default_rng(0), 50).reshape(50, 2, 4)
    assert (np.diff(drawn, axis=2) == 3).all()
    assert (drawn[:, 0, 0] <= drawn[:, 1, 0]).all()
    assert {int(start) for start in drawn[:, :, 0].ravel()} >= {0, 20}
    assert ClipSampler.from_record(sampler.record()) == sampler
    with pytest.raises(ValueError, match="num_windows is 0; WindowSampler needs at least 1"):
        WindowSampler(num_windows=0)
