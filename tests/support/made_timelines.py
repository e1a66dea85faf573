"""What a detector might have said of videos with known actions, for tests of pictures and pages."""

import numpy as np

from vidact.results.timelines import Timelines


def make_timelines(
    num_classes=3, videos=3, tokens=80, skill=0.5, background=(), empty=(), future=(1, 2, 4), seed=0, **changes
) -> Timelines:
    """Each class in turn, ten tokens each and five of background between; ``skill`` 1 knows the truth, 0 guesses.

    Videos in ``background`` have no action; classes in ``empty`` never occur.
    """
    rng = np.random.default_rng(seed)
    scores, targets, ahead = [], [], []
    for video in range(videos):
        label = np.zeros(tokens, int)
        for n, start in enumerate(range(2, tokens, 15)):
            label[start : start + 10] = 1 + (video + n) % num_classes
        label[np.isin(label - 1, empty)] = 0
        if video in background:
            label[:] = 0
        truth = np.eye(1 + num_classes, dtype=np.float32)[label]
        guess = rng.dirichlet(np.full(1 + num_classes, 0.4), tokens)
        targets.append(truth)
        scores.append((skill * truth + (1 - skill) * guess).astype(np.float32))
        ahead.append(np.stack([scores[-1]] * len(future), 1) if future else None)
    fields = {
        "ids": [f"day {video}/v_{video}" for video in range(videos)],
        "scores": scores,
        "targets": targets,
        "ignore": [np.zeros(tokens, bool) for _ in range(videos)],
        "classes": [f"class {n}" for n in range(num_classes)],
        "tokens_per_second": 4.0,
        "future": ahead if future else None,
        "future_offsets": future,
    }
    return Timelines(**(fields | changes))
