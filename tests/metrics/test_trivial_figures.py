"""A figure that no answer can miss, such as top-5 of three classes, is in the data and never shown."""

import json

import numpy as np
import pytest

from vidact.metrics import is_trivial
from vidact.report.page import write_report
from vidact.results.figures import save_results
from vidact.results.scores import Scores, fuse_files


def scores(num_classes: int) -> Scores:
    random = np.random.default_rng(0)
    labels = np.arange(4 * num_classes) % num_classes
    return Scores(
        ids=[f"v{i}" for i in range(len(labels))],
        labels=labels,
        values=random.normal(size=(len(labels), num_classes)).astype(np.float32),
        classes=[f"class {chr(97 + k)}" for k in range(num_classes)],
    )


@pytest.mark.parametrize(("k", "num_classes", "trivial"), [(1, 2, False), (2, 2, True), (5, 3, True), (5, 5, True),
                                                           (5, 6, False), (1, 1, True)])  # fmt: skip
def test_top_k_is_trivial_where_it_names_every_class(k, num_classes, trivial):
    assert is_trivial(f"test_top{k}", num_classes) == trivial
    assert is_trivial(f"top{k}", num_classes) == trivial


def test_other_figures_are_not_trivial():
    for name in ("test_loss", "top", "test_map", "mean_class_accuracy", "videos", "stop5x", "classes"):
        assert not is_trivial(name, 2)


@pytest.mark.parametrize("num_classes", [2, 3, 5, 6, 12])
def test_a_page_shows_no_trivial_figure(tmp_path, num_classes):
    made = scores(num_classes)
    made.save(tmp_path / "scores.npz")
    figures = {"test_top1": 0.5, "test_top5": 1.0, "classes": num_classes}
    save_results(tmp_path, {"test": figures}, "vidact train")
    page = write_report(tmp_path).read_text()
    assert "top-1" in page
    for word in ("top-2", "top-3", "top-4"):
        assert word not in page
    assert ("top-5" in page) == (num_classes > 5)
    assert json.loads((tmp_path / "results.json").read_text())["test"]["test_top5"] == 1.0


@pytest.mark.parametrize("num_classes", [3, 8])
def test_fusing_prints_no_trivial_figure(tmp_path, num_classes, capsys):
    for name in ("rgb", "flow"):
        (tmp_path / name).mkdir()
        scores(num_classes).save(tmp_path / name / "scores.npz")
    figures = fuse_files([tmp_path / "rgb", tmp_path / "flow"])
    assert 0 < figures["fused"]["top5"] <= 1
    assert ("top5" in capsys.readouterr().out) == (num_classes > 5)
