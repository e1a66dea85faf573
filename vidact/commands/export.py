"""``vidact export``: a network, or one step of a stream, for other runtimes."""

from __future__ import annotations

from collections.abc import Sequence

from vidact.commands.options import Parser
from vidact.export.write import KINDS, SUFFIXES, export

# ---------------------------------------------------------------------------------------------- command


def main(args: Sequence[str]) -> None:
    """``vidact export``."""
    parser = Parser(
        prog="vidact export",
        description="Write a trained network, or one step of a stream, as ONNX or torch.export; compared with PyTorch.",
    )
    parser.add_argument("--checkpoint", required=True, help="best.ckpt of a run, or a .safetensors that vidact saved")
    parser.add_argument("--out", required=True, help="the file to write, .onnx or .pt2")
    parser.add_argument("--format", choices=list(SUFFIXES), help="onnx, or torch for torch.export; default: by --out")
    parser.add_argument(
        "--what",
        choices=KINDS,
        help="a whole clip, one step of a stream, or the network that makes a detector's features; default: step for "
        "online detectors, clip for clip networks",
    )
    parser.add_argument("--frames", type=int, help="of a clip; default: as many as the network was trained with")
    parser.add_argument(
        "--extractor",
        help="of a detector's features, for its .onnx to carry: a folder of features or the extractor.safetensors in "
        "it; default: the checkpoint's own",
    )
    parser.add_argument("--runs", type=int, help="random inputs to compare; default: 200 steps, 10 clips")
    asked = vars(parser.parse_args(args))
    print(export(asked.pop("checkpoint"), asked.pop("out"), **asked))
