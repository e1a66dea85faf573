"""Extraction of features in PyTorch and in ONNX Runtime: tokens a second, their ratio and the difference.

    python benchmarks/runtime.py --videos my_videos --count 3
    python benchmarks/runtime.py --videos my_videos --networks mobilenet_v2=weights.safetensors resnet18=none
    python benchmarks/runtime.py --videos data/fir --int8 mobilenet_v2 --checkpoint runs/x/checkpoints/best.ckpt

Both sides are measured in one process on one thread each round, as a worker of ``vidact extract features`` computes:
reading, preparing and computing all tokens of a video. The rounds of a video alternate between the two. The features of
the videos are compared, and the first making of the graph, or its reading from the cache, is printed apart.

``--int8`` adds a side in int8, calibrated on all videos. With ``--checkpoint``, a detector that was trained on features
in single precision (``vidact train --config online/fir/miniroad``), the events that it announces are compared between
the sides, at its thresholds, and its test mAP on features in single precision with that on int8 ones.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from vidact.batch import probabilities
from vidact.data.sequences import SequenceData
from vidact.events import Detection, scores_to_events
from vidact.export import export
from vidact.export.losses import OfValidationVideos
from vidact.features.extractor import FeatureExtractor, OnnxExtractor
from vidact.features.files import find_videos
from vidact.features.names import build_extractor
from vidact.models.weights import load, record_of
from vidact.runtimes.exported import OnnxGraph
from vidact.stream import load_model
from vidact.video import open_video


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, required=True, help="a folder of videos, or a file")
    parser.add_argument("--count", type=int, default=3, help="the first videos by name (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="extractions of each video a side (default %(default)s)")
    parser.add_argument("--tokens", type=int, help="only the first tokens of each video; default: all")
    parser.add_argument(
        "--networks", nargs="+", default=["mobilenet_v2", "resnet18"], metavar="NAME[=WEIGHTS]",
        help="image networks; WEIGHTS is a file, a published name or none (default: mobilenet_v2 resnet18)",
    )  # fmt: skip
    parser.add_argument("--int8", nargs="*", default=[], metavar="NAME", help="networks that are measured in int8, too")
    parser.add_argument(
        "--checkpoint", type=Path, help="a detector on float features of --videos, whose events and mAP are compared"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    paths = list(find_videos(options.videos).values())[: options.count]
    print(f"{len(paths)} videos, one thread, {options.rounds} rounds, PyTorch {torch.__version__}")
    for network in options.networks:
        in_int8 = options.videos if network.partition("=")[0] in options.int8 else None
        measure(network, paths, options.rounds, options.tokens, in_int8, options.checkpoint)


def measure(
    network: str, paths: list[Path], rounds: int, most: int | None, calibrate: Path | None, checkpoint: Path | None
) -> None:
    """Print the figures of one network, in int8 too where there are videos to calibrate it."""
    name, _, weights = network.partition("=")
    arguments = {"weights": None if weights == "none" else weights} if weights else {}
    pytorch = build_extractor(name, device="cpu", **arguments)
    onnx = FeatureExtractor.load(pytorch.record(), pytorch.state(), device="cpu")
    started = time.process_time()
    onnx.run_in("onnx")
    ready_s = time.process_time() - started
    sides = {"torch": pytorch, "onnx": onnx}
    if calibrate is not None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "int8.onnx"
            print(f"\n{export(pytorch, path, int8=True, calibrate=calibrate)}")
            sides["int8"] = build_extractor(str(path), device="cpu")
    speeds: dict[str, list[float]] = {side: [] for side in sides}
    for extractor in sides.values():
        extract(extractor, paths[0], 8)  # the first calls allocate memory
    difference = largest = 0.0
    of_side: dict[str, dict[str, torch.Tensor]] = {side: {} for side in sides}  # the features of each video
    for _ in range(rounds):
        tokens, seconds = dict.fromkeys(sides, 0), dict.fromkeys(sides, 0.0)
        for path in paths:
            features = {}
            for side, extractor in sides.items():
                started = time.process_time()
                features[side] = extract(extractor, path, most)
                seconds[side] += time.process_time() - started
                tokens[side] += len(features[side])
                of_side[side][path.stem] = features[side]
            difference = max(difference, float((features["onnx"] - features["torch"]).abs().max()))
            largest = max(largest, float(features["torch"].abs().max()))
        for side in sides:
            speeds[side].append(tokens[side] / seconds[side])
    print(f"\n{name}: the graph was ready after {ready_s:.1f} CPU seconds")
    for side, values in speeds.items():
        print(
            f"  {side:>5}  {statistics.median(values):7.1f} tokens a CPU second "
            f"(rounds from {min(values):.1f} to {max(values):.1f})"
        )
    for side in sides.keys() - {"torch"}:
        ratios = [after / before for before, after in zip(speeds["torch"], speeds[side], strict=True)]
        print(
            f"  {side} against torch: {statistics.median(ratios):.2f} (rounds from {min(ratios):.2f} to "
            f"{max(ratios):.2f})"
        )
    print(
        f"  the largest difference of a feature in onnx is {difference:.1e}, of features up to {largest:.3g} "
        f"({difference / largest:.1e})"
    )
    if checkpoint is not None:
        announced = {side: events_in(checkpoint, features) for side, features in of_side.items()}
        for side in sides.keys() - {"torch"}:
            print(f"  {side} against torch: {compared(announced['torch'], announced[side])}")
    if calibrate is not None and checkpoint is not None:
        print(f"  {test_map(sides['int8'], calibrate, checkpoint)}")


@torch.no_grad()
def events_in(checkpoint: Path, features: Mapping[str, torch.Tensor]) -> list[Detection]:
    """Return the events that a detector announces in videos, whose features (T, D) are given by the video."""
    model = load_model(checkpoint, device="cpu", runtime="torch")
    activation = record_of(load(checkpoint)).activation
    events: list[Detection] = []
    for video, rows in features.items():
        scores = probabilities(model.network.scan(rows[None]).logits[0], activation)
        events += scores_to_events(scores.numpy(), video, model.detector)
    return events


def compared(before: Sequence[Detection], after: Sequence[Detection]) -> str:
    """Return how many events are the same, and the largest change of the score of one of these."""
    first, second = ({(e.video, e.label, e.start_s, e.end_s): e.score for e in events} for events in (before, after))
    common = first.keys() & second.keys()
    change = max((abs(first[event] - second[event]) for event in common), default=0.0)
    return (
        f"{len(before)} and {len(after)} events, {len(common)} of them with the same class, start and end; their "
        f"scores change by at most {change:.1e}"
    )


def test_map(extractor: OnnxExtractor, root: Path, checkpoint: Path) -> str:
    """Return the mAP of a detector on the test split of ``root``, on its features and on those of the extractor."""
    detector, data = load(checkpoint), SequenceData(str(root)).found
    paths, record = find_videos(root), record_of(detector)
    judge = OfValidationVideos(data.split("test"), paths, detector, record.activation, 1 + len(data.classes), "lstr")
    loss = judge(OnnxGraph(extractor.content, "the int8 extractor"))
    return (
        f"test mAP of {type(detector).__name__}: {loss.before:.4f} on features in single precision, {loss.after:.4f} "
        f"on int8 ones ({loss.after - loss.before:+.4f}); the largest change of a score is {loss.largest_change:.2f}"
    )


@torch.inference_mode()
def extract(extractor: FeatureExtractor, path: Path, most: int | None) -> torch.Tensor:
    """Return the features (T, D) of the first ``most`` tokens of a video, or of all."""
    with open_video(path, extractor.decoder) as reader:
        if most is None:
            return extractor.video(reader)
        rows = extractor.plan(reader)[0][:most]
        images = reader.frames_at(rows.ravel()).images.unflatten(0, rows.shape)
        return torch.cat([extractor.compute([extractor.prepare(list(row))]) for row in images])


if __name__ == "__main__":
    main()
