"""A detector's scores come back from their file as they were, in any number of parts, without running code."""

from dataclasses import replace

import numpy as np
import pytest

from vidact.results.timelines import Timelines, load_timelines, stack_timelines


def make(ids=("b", "a"), lengths=(3, 5), future=True, **changes) -> Timelines:
    rng = np.random.default_rng(0)
    scores = [rng.dirichlet([1, 1, 1], length).astype(np.float32) for length in lengths]
    targets = [np.eye(3, dtype=np.float32)[rng.integers(0, 3, length)] for length in lengths]
    fields = {
        "ids": list(ids),
        "scores": scores,
        "targets": targets,
        "ignore": [np.arange(length) == 1 for length in lengths],
        "classes": ["walk", "歩く"],
        "tokens_per_second": 6.25,
        "future": [np.stack([one, one / 2], 1) for one in scores] if future else None,
        "future_offsets": (1, 4) if future else (),
    }
    return Timelines(**(fields | changes))


def assert_same(one: Timelines, other: Timelines, future_atol: float = 0.0) -> None:
    assert (one.ids, one.classes, one.tokens_per_second, one.future_offsets) == (
        other.ids,
        other.classes,
        other.tokens_per_second,
        other.future_offsets,
    )
    for name in ("scores", "targets", "ignore"):
        for a, b in zip(getattr(one, name), getattr(other, name), strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
    assert (one.future is None) == (other.future is None)
    for a, b in zip(one.future or (), other.future or (), strict=True):
        np.testing.assert_allclose(a, b, atol=future_atol)


@pytest.mark.parametrize("future", [True, False])
@pytest.mark.parametrize("lengths", [(3, 5), (1, 1)])
def test_file_gives_back_what_was_saved(tmp_path, future, lengths):
    """The future is kept in half precision, which is what a probability's curve needs."""
    timelines = make(lengths=lengths, future=future)
    again = load_timelines(timelines.save(tmp_path / "new" / "timelines.npz"))
    assert_same(timelines, again, future_atol=1e-3)


def test_one_video_of_one_token(tmp_path):
    timelines = make(ids=["only"], lengths=[1])
    assert_same(timelines, load_timelines(timelines.save(tmp_path / "timelines.npz")), future_atol=1e-3)


def test_a_new_file_replaces_the_old_one_whole(tmp_path):
    make().save(tmp_path / "timelines.npz")
    make(future=False).save(tmp_path / "timelines.npz")
    assert load_timelines(tmp_path / "timelines.npz").future is None
    assert [path.name for path in tmp_path.iterdir()] == ["timelines.npz"]


def test_joined_rows_belong_to_their_videos():
    timelines = make()
    scores, targets, ignore = timelines.joined()
    assert list(timelines.video_ids) == ["b"] * 3 + ["a"] * 5
    assert scores.shape == targets.shape == (8, 3)
    assert list(np.flatnonzero(ignore)) == [1, 4]
    np.testing.assert_array_equal(scores[timelines.video_ids == "a"], timelines.scores[1])
    assert len(timelines) == 2


def test_parts_of_several_processes_join_to_one():
    """Sorted by id, each video once: a sampler repeats videos so that every process has as many."""
    whole = make(ids=["a", "b", "c"], lengths=[2, 3, 4])
    parts = []
    for places in ([2, 0], [1, 2]):
        names = ("ids", "scores", "targets", "ignore", "future")
        parts.append(replace(whole, **{name: [getattr(whole, name)[i] for i in places] for name in names}))
    assert_same(stack_timelines(parts), whole)
    assert stack_timelines([make(future=False)]).future is None


def test_a_missing_file_says_who_writes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="`vidact test` of an online detector writes it"):
        load_timelines(tmp_path / "timelines.npz")


def test_a_damaged_or_foreign_file_is_named(tmp_path):
    path = make().save(tmp_path / "timelines.npz")
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"timelines\.npz does not hold a detector's scores.*`vidact test` again"):
        load_timelines(path)
    path.write_text("hello")
    with pytest.raises(ValueError, match="does not hold a detector's scores"):
        load_timelines(path)
    np.savez(path, other=np.zeros(3))
    with pytest.raises(ValueError, match=r"does not hold a detector's scores.*lengths"):
        load_timelines(path)


def test_a_file_that_holds_code_is_refused(tmp_path):
    class Code:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    np.savez(tmp_path / "timelines.npz", ids=np.array([Code()], dtype=object), lengths=np.array([1]))
    with pytest.raises(ValueError, match="does not hold a detector's scores"):
        load_timelines(tmp_path / "timelines.npz")
    assert not (tmp_path / "ran").exists()
