"""The kinds of exported graphs and the formats of their files; commands import this before they parse options."""

from typing import Literal, get_args

Format = Literal["onnx", "torch"]
Kind = Literal["clip", "step", "video", "extractor"]
SUFFIXES: dict[str, str] = dict(zip(get_args(Format), (".onnx", ".pt2"), strict=True))
KINDS: tuple[str, ...] = get_args(Kind)
