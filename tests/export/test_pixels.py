"""Graphs that read pixels: the normalisation is in the first convolution, which reads four pixels as one."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from vidact.export.pixels import Normalisation, _reader_of, reads_pixels, without_float_pixels

IMAGENET = Normalisation(1 / 255 / np.array([0.229, 0.224, 0.225]), -np.array([0.485, 0.456, 0.406]) / 0.225)
CAFFE = Normalisation(np.ones(3), -np.array([104.0, 117.0, 123.0]))
PLAIN = Normalisation(np.full(3, 1 / 255), np.zeros(3))


def convolution(height: int, width: int, outputs: int = 5, twice: bool = False, **attributes: Any) -> onnx.ModelProto:
    """A graph of one convolution of images (B, 3, height, width), with a ReLU."""
    rng = np.random.default_rng(0)
    shape = (outputs, 3 // attributes.get("group", 1), *attributes["kernel_shape"])
    weight, bias = rng.normal(size=shape).astype(np.float32), rng.normal(size=outputs).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["images", "w", "b"], ["map"], name="first", **attributes),
        helper.make_node("Relu", ["map"], ["out"]),
        *([helper.make_node("Abs", ["images"], ["second"])] if twice else []),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, height, width])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", outputs, "rows", "columns"])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def pixels_of(height: int, width: int, count: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def run(model: onnx.ModelProto, **inputs: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def quantised(
    model: onnx.ModelProto, normalisation: Normalisation, pixels: np.ndarray, folder: Path
) -> onnx.ModelProto:
    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.inputs = iter([{"pixels": pixels}])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.inputs, None)

    onnx.save(model, folder / "float.onnx")
    quantize_static(
        folder / "float.onnx",
        folder / "int8.onnx",
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options={"TensorQuantOverrides": normalisation.overrides},
    )
    return onnx.load(folder / "int8.onnx")


SIZES = {
    "MobileNet": (16, 16, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "ResNet": (12, 24, {"kernel_shape": [7, 7], "strides": [2, 2], "pads": [3, 3, 3, 3]}),
    "patches": (8, 16, {"kernel_shape": [4, 4], "strides": [4, 4]}),
    "every pixel": (9, 8, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    "uneven": (10, 12, {"kernel_shape": [2, 5], "strides": [1, 2], "pads": [0, 2, 1, 1]}),
    "one pixel": (4, 4, {"kernel_shape": [1, 1]}),
}


@pytest.mark.parametrize("normalisation", [IMAGENET, CAFFE, PLAIN], ids=["imagenet", "caffe", "plain"])
@pytest.mark.parametrize("name", SIZES)
def test_the_graph_of_pixels_computes_the_same_inside_the_border(name: str, normalisation: Normalisation) -> None:
    height, width, attributes = SIZES[name]
    model, pixels = convolution(height, width, **attributes), pixels_of(height, width)
    images = (pixels * normalisation.factor + normalisation.offset).astype(np.float32).transpose(0, 3, 1, 2)
    expected = run(model, images=images)
    assert reads_pixels(model, normalisation)
    actual = run(model, pixels=pixels)
    assert actual.shape == expected.shape
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    inner = (slice(None), slice(None), slice(top, -bottom or None), slice(left, -right or None))
    np.testing.assert_allclose(actual[inner], expected[inner], atol=1e-5 * abs(expected).max())
    if normalisation is PLAIN:  # a pixel of 0 is 0, so the border is the same, too
        np.testing.assert_allclose(actual, expected, atol=1e-5 * abs(expected).max())


@pytest.mark.parametrize("name", SIZES)
def test_four_pixels_as_one_change_no_bit(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    height, width, attributes = SIZES[name]
    model, pixels = convolution(height, width, **attributes), pixels_of(height, width)
    assert reads_pixels(model, IMAGENET)
    model = quantised(model, IMAGENET, pixels, tmp_path)
    expected = run(model, pixels=pixels)
    single, grouped = onnx.ModelProto(), onnx.ModelProto()
    single.CopyFrom(model)
    grouped.CopyFrom(model)
    with monkeypatch.context() as patched:
        patched.setattr("vidact.export.pixels._read_in_groups", lambda *_: None)
        without_float_pixels(single)
    without_float_pixels(grouped)
    channels = {
        each: next(tensor.dims[1] for tensor in graph.graph.initializer if len(tensor.dims) == 4)
        for each, graph in {"single": single, "grouped": grouped}.items()
    }
    assert channels == {"single": 3, "grouped": 12}
    assert not any(node.op_type in ("Cast", "Sub") for node in grouped.graph.node)
    np.testing.assert_array_equal(run(single, pixels=pixels), expected)
    np.testing.assert_array_equal(run(grouped, pixels=pixels), expected)


@pytest.mark.parametrize(
    ("width", "attributes"),
    [
        (15, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
        (12, {"kernel_shape": [3, 3], "strides": [3, 3]}),
        (16, {"kernel_shape": [3, 3], "pads": [2, 2, 2, 2], "dilations": [2, 2]}),
        (16, {"kernel_shape": [3, 3], "strides": [2, 2]}),  # 7 columns of 8
        (16, {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER"}),
    ],
)
def test_other_shapes_stay_as_they_are(width: int, attributes: dict[str, Any], tmp_path: Path) -> None:
    model, pixels = convolution(12, width, **attributes), pixels_of(12, width)
    assert reads_pixels(model, IMAGENET)
    model = quantised(model, IMAGENET, pixels, tmp_path)
    expected = run(model, pixels=pixels)
    without_float_pixels(model)
    assert next(tensor.dims[1] for tensor in model.graph.initializer if len(tensor.dims) == 4) == 3
    np.testing.assert_array_equal(run(model, pixels=pixels), expected)


def test_a_first_convolution_in_single_precision_reads_pixels_too() -> None:
    model = convolution(8, 8, kernel_shape=[3, 3])
    assert reads_pixels(model, IMAGENET)
    before = model.SerializeToString(deterministic=True)
    without_float_pixels(model)
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    "facts",
    [{"twice": True}, {"group": 3, "outputs": 6}],
    ids=["the input has another reader", "each channel by itself"],
)
def test_other_graphs_keep_their_input(facts: dict[str, Any]) -> None:
    model = convolution(8, 8, kernel_shape=[3, 3], **facts)
    before = model.SerializeToString(deterministic=True)
    assert not reads_pixels(model, IMAGENET)
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(("offset", "padding"), [(1.0, 0), (-300.0, 255), (-114.4, 114)])
def test_the_padding_is_a_pixel(offset: float, padding: int) -> None:
    assert Normalisation(np.ones(3), np.full(3, offset)).padding == padding


def test_only_one_reader_counts() -> None:
    nodes = [SimpleNamespace(input=["a"], op_type="Conv"), SimpleNamespace(input=["b", "b"], op_type="Add")]
    graph = SimpleNamespace(node=nodes)
    assert _reader_of(graph, "a", "Conv") is nodes[0]
    assert _reader_of(graph, "a", "Add") is None
    assert _reader_of(SimpleNamespace(node=[nodes[0], nodes[0]]), "a", "Conv") is None
