"""The pictures of mistakes show what the figures say, for detectors that find nothing, all, or some events."""

import re

import numpy as np
import pytest
from PIL import Image

from vidact.events import Detection
from vidact.metrics import diagnose
from vidact.report.diagnosis_plots import FATE_COLOURS, diagnosis_sentence, draw_costs, draw_fates

TRUTH = [Detection("x", 10 * i, 10 * i + 5, "walk" if i % 2 else "run", 1.0) for i in range(6)]
BLUE, ORANGE = (37, 99, 168), (217, 100, 31)


def figures(detections):
    return diagnose(detections, TRUTH, {"x": 70.0}).figures()


def count(path, colour):
    image = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return int((abs(image - np.array(colour)).sum(-1) < 8).sum())


@pytest.mark.parametrize(
    ("detections", "blue", "orange", "words"),
    [
        ([], False, True, "0 of 6 true events are found .* costs most is “missed”: without it the mAP would be 1.000"),
        (TRUTH, True, False, "6 of 6 true events are found .* 0 events are missed altogether.$"),
        (TRUTH[:3], True, True, "3 of 6 true events .* 3 events are missed"),
    ],
    ids=["nothing", "all", "half"],
)
def test_pictures(tmp_path, detections, blue, orange, words):
    result = figures(detections)
    costs, fates = draw_costs(result, tmp_path / "costs.png"), draw_fates(result, tmp_path / "fates.png")
    assert (count(costs, BLUE) > 300, count(costs, ORANGE) > 300) == (blue, orange)
    assert (count(fates, BLUE) > 2000) == blue
    missed = tuple(int(FATE_COLOURS["missed"][at : at + 2], 16) for at in (1, 3, 5))
    assert (count(fates, missed) > 2000) == (result["events"]["missed"] > 0)
    assert re.search(words, diagnosis_sentence(result))


def test_a_long_ranking_is_told():
    detections = [Detection("x", 60 + i / 10, 60.05 + i / 10, "walk", 0.5) for i in range(60)]
    assert "Of 60 detections the 30 with the highest scores are looked at." in diagnosis_sentence(figures(detections))
