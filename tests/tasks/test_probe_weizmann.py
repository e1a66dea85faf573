"""The probe on real clips: each of nine people held out once, beside scikit-learn on the same features."""

from pathlib import Path

import pytest
from sklearn.linear_model import LogisticRegression

from vidact.models.weights import load
from vidact.results.figures import load_results
from vidact.results.scores import load_scores
from vidact.tasks.probe import stacked
from vidact.training.probing import ProbeSettings, encode, plan_folds, run_folds


@pytest.mark.slow
def test_at_most_three_of_ninety_clips_are_mistaken_and_scikit_learn_agrees(shared_data: Path, tmp_path: Path):
    data, weights = shared_data / "weizmann", shared_data / "weights" / "mobilenet_v2_imagenet.safetensors"
    if not data.is_dir() or not weights.is_file():
        pytest.skip("the clips of Weizmann and ImageNet weights are not here")
    settings = ProbeSettings(
        data, weights=str(weights), heads=["linear"], group=r"([^/_]+)_[^/]*$", device="cpu", fractions=(1.0, 0.0, 0.0)
    )
    figures = run_folds(settings, tmp_path, "a test")
    assert figures["videos"] == 90
    assert figures["errors"] <= 3
    encoded = encode(settings, tmp_path, scores_all=True)
    for person, clips in plan_folds(settings, tmp_path, None, None).items():
        scores = load_scores(tmp_path / person / "scores.npz")
        probe = load(tmp_path / person / "probe.safetensors")
        features = encoded.of(probe.views)
        mean, scale = (value.double().numpy() for value in (probe.head.mean, probe.head.scale))
        values, labels = stacked(clips.split("train"), features)
        others, truth = stacked(sorted(clips.split("test"), key=lambda clip: clip.id), features)
        strength = load_results(tmp_path / person)["heads"]["linear"]["setting"]
        reference = LogisticRegression(C=1 / strength, max_iter=5000).fit((values - mean) / scale, labels)
        right = int((reference.predict((others - mean) / scale) == truth).sum())
        assert abs(right - int((scores.values.argmax(1) == scores.labels).sum())) <= 1, person
