"""Find the events of a video of hours, and compare them with those of its parts; print the memory that this takes.

    python benchmarks/long_video.py                        # two hours, in eight parts of fifteen minutes
    python benchmarks/long_video.py --hours 0.1 --parts 2

The video is made of short drawn pieces, joined without encoding them again, so that a part has the same pictures alone
and within the whole. The networks are untrained and made sensitive, so that their answers differ from token to token.

First table: from pixels to events, each network in a process of its own. "MiB at the start" is the memory of the
process when its libraries are imported, "MiB at most" its largest in all. Events that begin and end at least
``--margin`` seconds, and as far as the network sees, from every joint are compared with those of the parts; no cap on
events is reached.

Second table: ten minutes at once, and in windows. Networks with a limited reach give the same; ASFormer's norms and
TriDet's means are taken over all that they are given, so their answers differ.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import jsonargparse
import numpy as np
import torch
from torch import nn

import vidact.models
from vidact.data.synthetic import write_video
from vidact.events import Detection
from vidact.features.extractor import FeatureExtractor
from vidact.features.names import build_extractor
from vidact.models.localisation import Localiser
from vidact.models.offline import OfflineNetwork
from vidact.models.offline_decoding import Decoding
from vidact.models.offline_windows import answer_whole, window_of
from vidact.results.figures import command_line, save_results
from vidact.untrimmed.finder import OfflineFinder, find_events
from vidact.video import open_video

CLASSES = ["a", "b", "c", "d"]
FPS, PIECE_S, SIDE = 12, 20, 64
NUM_PIECES = 12  # different ones, of which the videos are made
LOCALISER = {"embedding_dim": 64, "max_tokens": 512, "drop_path": 0.0}
# name → builder, arguments, tokens of the windows of the second table
NETWORKS: dict[str, tuple[str, dict[str, Any], int]] = {
    "ActionFormer": ("actionformer_small", LOCALISER, 1024),
    "causal MS-TCN": ("causal_ms_tcn", {"layers": 6}, 1100),
    "MS-TCN": ("ms_tcn", {"layers": 6}, 1100),
    "MS-TCN++": ("ms_tcn_pp", {"first_layers": 6, "layers": 6}, 1100),
    "ASFormer": ("asformer", {"layers": 6}, 1024),
    "TriDet": ("tridet", {"embedding_dim": 64, "head_dim": 64, "mlp_dim": 128, "levels": 4, "max_tokens": 512}, 1024),
}
FIRST = ("first.input", "embedding.0", "encoder.input")  # the layers that read features
FROM_PIXELS = ("ActionFormer", "causal MS-TCN", "MS-TCN")


def draw_pieces(folder: Path) -> list[Path]:
    """Write short videos of squares that move over noise, all with the same settings of the encoder."""
    paths = []
    for number in range(NUM_PIECES):
        rng = np.random.default_rng(number)
        back = rng.integers(0, 255, (SIDE, SIDE, 3))
        frames = np.empty((FPS * PIECE_S, SIDE, SIDE, 3), np.uint8)
        for i in range(len(frames)):
            stretch = np.random.default_rng((number, i // (3 * FPS)))  # another square every three seconds
            colour, speed = stretch.integers(0, 255, 3), stretch.uniform(-2, 2, 2)
            x, y = ((stretch.uniform(0, SIDE, 2) + i * speed) % (SIDE - 20)).astype(int)
            frames[i] = back
            frames[i, y : y + 20, x : x + 20] = colour
        paths.append(folder / f"piece{number}.mp4")
        write_video(paths[-1], frames, FPS, keyframe_every=2 * FPS)
    return paths


def join(pieces: list[Path], path: Path) -> None:
    """Write the packets of the pieces one after the other into a file."""
    tick = Fraction(1, FPS)
    with av.open(str(path), "w", format="mp4") as out:
        stream = None
        count = 0
        for piece in pieces:
            with av.open(str(piece)) as source:
                track = source.streams.video[0]
                if stream is None:
                    stream = out.add_stream_from_template(track)
                for packet in source.demux(track):
                    if packet.dts is None:
                        continue
                    packet.stream = stream
                    packet.pts = packet.dts = count
                    packet.time_base = tick
                    packet.duration = 1
                    out.mux(packet)
                    count += 1


def make_network(name: str, extractor: FeatureExtractor, features: torch.Tensor) -> OfflineNetwork:
    """Return a network whose answers change from token to token, and have few events, on features such as these."""
    torch.manual_seed(0)
    builder, arguments, _ = NETWORKS[name]
    is_localiser = builder in ("actionformer_small", "tridet")
    num_classes = len(CLASSES) + (not is_localiser)
    network = getattr(vidact.models, builder)(num_classes=num_classes, feature_dim=extractor.dim, **arguments).eval()
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if parameter.ndim > 1:
                scale = float(features.std()) if key.startswith(FIRST) else 1.0
                gain = 1.0 if name == "ASFormer" else 3.0  # its residual layers grow faster
                nn.init.normal_(parameter, std=(gain / parameter[0].numel()) ** 0.5 / scale)
            if key == "distance_head.output.bias":
                parameter.fill_(4.0)  # places; most untrained distances would be 0
        if isinstance(network, Localiser):
            logits = torch.cat([level.logits.flatten() for level in network(features[None]).levels])
            bias = network.class_head.output.bias
            bias += float(np.log(0.3 / 0.7)) - float(logits.quantile(0.99))  # one place of a hundred is a candidate
            network.decoding = Decoding(min_score_before=0.3, max_events=None, top_k_per_level=100_000)
    return network


def far_from_joints(events: list[Detection], joints: list[float], margin: float) -> list[Detection]:
    """Return the events that no joint is within ``margin`` seconds of."""
    return [event for event in events if not any(event.start_s - margin < s < event.end_s + margin for s in joints)]


def unequal(events: list[Detection], others: list[Detection]) -> int:
    """Return how many events have no equal among the others, and the other way round, to 10 ms and 0.001 in score."""
    rows = [
        np.array([[e.start_s, e.end_s, 1e6 * CLASSES.index(e.label), 10 * e.score] for e in one]).reshape(-1, 4)
        for one in (events, others)
    ]
    if not (len(rows[0]) and len(rows[1])):
        return len(rows[0]) + len(rows[1])
    apart = abs(rows[0][:, None] - rows[1][None]).max(2)
    return int((apart.min(1) > 0.01).sum() + (apart.min(0) > 0.01).sum())


def kilobytes() -> int:
    """Return the largest memory of this process so far."""
    status = Path("/proc/self/status").read_text()  # `ru_maxrss` has the memory of the process that started this one
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))


def from_pixels(name: str, folder: Path, margin: float) -> dict[str, Any]:
    """Find the events of the whole video and of its parts, in this process; the memory is that of the whole video."""
    start_kb = kilobytes()
    extractor = build_extractor("resnet_tiny", size=32, device="cpu")
    parts = sorted(folder.glob("part*.mp4"))
    with open_video(folder / "sample.mp4") as reader:
        network = make_network(name, extractor, extractor.video(reader))
    finder = OfflineFinder(network, extractor, CLASSES)
    cpu_s = time.process_time()
    whole = find_events(finder, folder / "whole.mp4", "video")
    cpu_s, most_kb = time.process_time() - cpu_s, kilobytes()
    pieced: list[Detection] = []
    begin_s, joints = 0.0, []
    for part in parts:
        events = find_events(finder, part, "video")
        pieced += [
            Detection("video", event.start_s + begin_s, event.end_s + begin_s, event.label, event.score)
            for event in events.events
        ]
        begin_s += events.num_tokens / extractor.tokens_per_second
        joints.append(begin_s)
    seen_s = max(network.reach or (0,)) / extractor.tokens_per_second
    compared = [far_from_joints(events, joints[:-1], max(margin, seen_s)) for events in (whole.events, pieced)]
    return {
        "hours": whole.duration_s / 3600,
        "tokens": whole.num_tokens,
        "tokens_of_a_window": window_of(network)[0],
        "events": len(whole.events),
        "compared": len(compared[0]),
        "unequal": unequal(*compared),
        "start_mib": start_kb / 1024,
        "most_mib": most_kb / 1024,
        "cpu_minutes": cpu_s / 60,
    }


def in_windows(name: str, features: torch.Tensor, extractor: FeatureExtractor) -> dict[str, Any]:
    """Compare the events of a video that is answered at once with those of its windows."""
    network = make_network(name, extractor, features[:1200])
    size = NETWORKS[name][2]
    answers = [answer_whole(network, [features], tokens) for tokens in (10 * len(features), size)]
    finder_events = [
        [
            Detection("video", start / 4, end / 4, CLASSES[int(label)], score)
            for start, end, label, score in answer.rows.tolist()
        ]
        for answer in answers
    ]
    rows = {
        "windows": answers[1].num_windows,
        "events_at_once": len(finder_events[0]),
        "events_in_windows": len(finder_events[1]),
        "unequal": unequal(*finder_events),
    }
    scores = [answer.scores for answer in answers]
    if scores[0] is not None and scores[1] is not None:
        rows["largest_difference"] = float((scores[0] - scores[1]).abs().max())
        rows["tokens_of_another_class"] = int((scores[0].argmax(1) != scores[1].argmax(1)).sum())
    return rows


def main(
    hours: float = 2.0, parts: int = 8, margin: float = 60.0, only: str | None = None, folder: str | None = None,
    out: str = "runs/long_video",
) -> None:  # fmt: skip
    """Print both tables and write results.json.

    Args:
        hours: length of the video.
        parts: number of parts that are also answered alone.
        margin: seconds; events nearer to a joint of the parts are not compared.
        only: compute one network of the first table in this process, for the videos in ``folder``; used by itself.
        folder: where the videos are made; None is a temporary folder.
        out: folder of results.json.
    """
    torch.set_num_threads(1)
    if only is not None:
        assert folder is not None
        print(json.dumps(from_pixels(only, Path(folder), margin)))
        return
    pieces_of_a_part = round(hours * 3600 / parts / PIECE_S)
    if parts < 1 or pieces_of_a_part < 1:
        raise ValueError(f"{hours:g} h in {parts} parts is less than a piece of {PIECE_S} s each")
    with tempfile.TemporaryDirectory() as made:
        videos = Path(folder or made)
        pieces = draw_pieces(videos)
        rng = np.random.default_rng(0)
        chosen = [pieces[i] for i in rng.integers(0, len(pieces), parts * pieces_of_a_part)]
        for number in range(parts):
            join(chosen[number * pieces_of_a_part : (number + 1) * pieces_of_a_part], videos / f"part{number:03}.mp4")
        join(chosen, videos / "whole.mp4")
        join(pieces[:6], videos / "sample.mp4")
        join(chosen[:30] if len(chosen) >= 30 else chosen * (1 + 30 // len(chosen)), videos / "ten_minutes.mp4")
        results: dict[str, Any] = {"from_pixels": {}, "in_windows": {}}
        print(f"{'network':14} {'hours':>6} {'tokens':>7} {'window':>7} {'events':>7} {'compared':>9} {'unequal':>8} "
              f"{'MiB at the start':>17} {'MiB at most':>12} {'CPU minutes':>12}")  # fmt: skip
        for name in FROM_PIXELS:
            command = [sys.executable, __file__, "--only", name, "--folder", str(videos), "--margin", str(margin)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            row = json.loads(output.splitlines()[-1])
            results["from_pixels"][name] = row
            print(f"{name:14} {row['hours']:6.2f} {row['tokens']:7} {row['tokens_of_a_window']:7} {row['events']:7} "
                  f"{row['compared']:9} {row['unequal']:8} {row['start_mib']:17.0f} {row['most_mib']:12.0f} "
                  f"{row['cpu_minutes']:12.1f}")  # fmt: skip
        extractor = build_extractor("resnet_tiny", size=32, device="cpu")
        with open_video(videos / "ten_minutes.mp4") as reader:
            features = extractor.video(reader)
        print(f"\nten minutes, {len(features)} tokens, at once and in windows")
        for name in NETWORKS:
            row = in_windows(name, features, extractor)
            results["in_windows"][name] = row
            difference = row.get("largest_difference")
            print(f"{name:14} {row['windows']} windows, {row['events_at_once']} events at once and "
                  f"{row['events_in_windows']} in windows, {row['unequal']} unequal"
                  + ("" if difference is None else f"; probabilities differ by up to {difference:.2g}, "
                     f"{row['tokens_of_another_class']} tokens have another class"))  # fmt: skip
    save_results(Path(out), {"long_video": results}, command_line())


if __name__ == "__main__":
    jsonargparse.auto_cli(main, as_positional=False)
