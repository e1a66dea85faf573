"""A graph on images that reads uint8 pixels: its first convolution does the normalisation, too.

An image network's first convolution reads x = pixel * factor + offset, with a factor and an offset for each channel. So
it is a convolution of the pixels, with other weights and another bias, and in int8 the pixels need no quantisation:
they are whole numbers of 8 bits already. What differs is the border: a convolution pads x by 0, the mean colour, whose
pixel differs between the channels, and pixels are padded by one number for all channels, the mean of these three. The
measured loss of a graph in int8 includes this.

A convolution of three channels is slow in onnxruntime, whose kernels for 8 bits need a multiple of four. Four pixels
of a row are therefore read as one with twelve channels, and the outputs of neighbouring pixels are computed together.
This changes no bit: the products are the same, besides some with 0.

Shapes: B images, H x W pixels, C channels, K outputs of the first convolution.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from vidact.runtimes.exported import PIXELS

_CENTRED = "vidact.centred"  # the pixels less the one that pads them, in single precision
_FLOAT, _PADDING = "vidact.float", "vidact.padding"
_UPRIGHT = "vidact.pixels"  # the pixels with the axes of ONNX, uint8 (B, C, H, W)
_GROUP = 4  # pixels of a row that are read as one


class Normalisation(NamedTuple):
    """The factor and the offset of each channel, (C,): an image network reads pixel * factor + offset."""

    factor: np.ndarray
    offset: np.ndarray

    @property
    def padding(self) -> int:
        """The pixel that is nearest to a normalised 0 in all channels."""
        return int(np.clip(np.rint(np.mean(-self.offset / self.factor)), 0, 255))

    @property
    def overrides(self) -> dict[str, Any]:
        """The quantisation of the pixels less ``padding``, for onnxruntime: the pixel itself."""
        return {_CENTRED: [{"scale": np.array(1, np.float32), "zero_point": np.array(self.padding, np.uint8)}]}


def reads_pixels(model: Any, normalisation: Normalisation) -> bool:
    """Change a graph in single precision, (B, C, H, W) → …, in place, so that it reads ``PIXELS``.

    Returns False, and leaves the graph alone, where its input goes elsewhere than into one convolution.

    Args:
        model: an ``onnx.ModelProto`` with one input.
        normalisation: what the input is, of pixels.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    (images,) = graph.input
    readers = [node for node in graph.node if images.name in node.input]
    weights = {tensor.name: tensor for tensor in graph.initializer}
    if len(readers) != 1 or readers[0].op_type != "Conv" or readers[0].input[1] not in weights:
        return False
    conv = readers[0]
    names = list(conv.input)
    users = [node for node in graph.node if set(names[1:]) & set(node.input)]
    if len(users) != 1 or not set(names[1:]) <= weights.keys():
        return False
    weight = numpy_helper.to_array(weights[names[1]]).astype(np.float64)  # (K, C, kernel height, kernel width)
    if weight.shape[1] != len(normalisation.factor):  # several groups
        return False
    bias = numpy_helper.to_array(weights[names[2]]).astype(np.float64) if len(names) > 2 else np.zeros(len(weight))
    factor, offset, padding = normalisation.factor, normalisation.offset, normalisation.padding
    bias = bias + np.einsum("kchw,c->k", weight, offset + factor * padding)
    for name in names[1:]:
        graph.initializer.remove(weights[name])
    for name, array in (
        ("vidact.weight", weight * factor[:, None, None]),
        ("vidact.bias", bias),
        (_PADDING, np.array(padding)),
    ):
        graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    conv.input[:] = [_CENTRED, "vidact.weight", "vidact.bias"]
    batch, channels, height, width = images.type.tensor_type.shape.dim
    sizes = [batch.dim_param or batch.dim_value, height.dim_value, width.dim_value, channels.dim_value]
    graph.input.remove(images)
    graph.input.append(helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, sizes))
    for number, node in enumerate(
        [
            helper.make_node("Transpose", [PIXELS], [_UPRIGHT], perm=[0, 3, 1, 2]),
            helper.make_node("Cast", [_UPRIGHT], [_FLOAT], to=TensorProto.FLOAT),
            helper.make_node("Sub", [_FLOAT, _PADDING], [_CENTRED]),
        ]
    ):
        graph.node.insert(number, node)
    return True


def without_float_pixels(model: Any) -> None:
    """Let the first convolution of a quantised graph, which ``reads_pixels`` changed, take the bytes as they are.

    Where that convolution stayed in single precision, the graph is left alone.
    """
    graph = model.graph
    quantise = _reader_of(graph, _CENTRED, "QuantizeLinear")
    dequantise = None if quantise is None else _reader_of(graph, quantise.output[0], "DequantizeLinear")
    if dequantise is None:
        return
    dequantise.input[0] = _UPRIGHT
    for node in [node for node in graph.node if node is quantise or node.output[0] in (_CENTRED, _FLOAT)]:
        graph.node.remove(node)
    graph.initializer.remove(next(tensor for tensor in graph.initializer if tensor.name == _PADDING))
    _read_in_groups(graph, dequantise)


class _Layout(NamedTuple):
    """The sizes of a convolution of the columns of pixels, and of the same one on groups of ``_GROUP`` columns."""

    stride: int
    left: int  # columns of padding
    positions: int  # outputs of a row that are computed together
    first: int  # the first group that they read, counted from their own; it is not positive
    last: int


def _layout(attributes: Mapping[str, Any], width: int, columns: int) -> _Layout | None:
    """Return the sizes for a convolution with these attributes and a kernel of so many columns; None if it has none."""
    top_left, bottom_right = np.reshape(attributes.get("pads", [0, 0, 0, 0]), (2, 2)).tolist()
    left, right = top_left[1], bottom_right[1]
    stride = attributes.get("strides", [1, 1])[1]
    is_plain = attributes.get("group", 1) == 1 and list(attributes.get("dilations", [1, 1])) == [1, 1]
    if not is_plain or attributes.get("auto_pad", b"NOTSET") != b"NOTSET" or width % _GROUP or _GROUP % stride:
        return None
    if ((width + left + right - columns) // stride + 1) * stride != width:
        return None
    positions = _GROUP // stride
    first, last = -left // _GROUP, (stride * (positions - 1) + columns - 1 - left) // _GROUP
    # the kernel of groups may begin and end in the padding only
    return _Layout(stride, left, positions, first, last) if first <= 0 <= last else None


def _read_in_groups(graph: Any, dequantise: Any) -> None:
    """Let the convolution after ``dequantise`` read ``_GROUP`` pixels of a row as one, where its shapes allow it."""
    from onnx import helper, numpy_helper

    conv = _reader_of(graph, dequantise.output[0], "Conv")
    quantise = None if conv is None else _reader_of(graph, conv.output[0], "QuantizeLinear")
    if conv is None or quantise is None:
        return
    attributes = {each.name: helper.get_attribute_value(each) for each in conv.attribute}
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    sources = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    if not {*conv.input[1:]} <= sources.keys():
        return
    parameters = [name for part in conv.input[1:] for name in sources[part].input]
    weight = numpy_helper.to_array(tensors[parameters[0]])  # (K, C, kernel height, kernel width)
    height, width, channels = (size.dim_value for size in graph.input[0].type.tensor_type.shape.dim[1:])
    outputs, _, rows, columns = weight.shape
    layout = _layout(attributes, width, columns)
    if layout is None:
        return
    stride, left, positions, first, last = layout
    arrays = {}
    for name in parameters[1:]:  # scales, zero points and the bias, of each output
        array = numpy_helper.to_array(tensors[name])
        arrays[name] = np.tile(array, positions) if array.ndim else array
    # An output at a position reads the columns of its kernel, in the groups that have them; the others are 0.
    grouped = np.zeros((positions, outputs, _GROUP, channels, rows, last - first + 1), weight.dtype)
    for position in range(positions):
        for column in range(columns):
            group, place = divmod(stride * position + column - left, _GROUP)
            grouped[position, :, place, :, :, group - first] = weight[..., column]
    arrays[parameters[0]] = grouped.reshape(positions * outputs, _GROUP * channels, rows, -1)
    (stride_y, _), (top, _, bottom, _) = attributes.get("strides", [1, 1]), attributes.get("pads", [0, 0, 0, 0])
    num_rows = (height + top + bottom - rows) // stride_y + 1
    for name, array in arrays.items():
        graph.initializer.remove(tensors[name])
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
    for name, shape in (
        ("vidact.groups", [0, height, width // _GROUP, _GROUP * channels]),  # 0 is the size of before
        ("vidact.apart", [0, num_rows, width // stride, outputs]),
    ):
        graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), name))
    del conv.attribute[:]
    for name, value in (
        ("kernel_shape", [rows, last - first + 1]),
        ("strides", [stride_y, 1]),
        ("pads", [top, -first, bottom, last]),
    ):
        conv.attribute.append(helper.make_attribute(name, value))
    next(node for node in graph.node if _UPRIGHT in node.output).input[0] = "vidact.grouped"
    graph.node.insert(0, helper.make_node("Reshape", [PIXELS, "vidact.groups"], ["vidact.grouped"]))
    apart, quantise.output[0] = quantise.output[0], "vidact.together"
    after = list(graph.node).index(quantise) + 1
    for number, node in enumerate(
        [
            helper.make_node("Transpose", ["vidact.together"], ["vidact.rows"], perm=[0, 2, 3, 1]),
            helper.make_node("Reshape", ["vidact.rows", "vidact.apart"], ["vidact.columns"]),
            helper.make_node("Transpose", ["vidact.columns"], [apart], perm=[0, 3, 1, 2]),
        ]
    ):
        graph.node.insert(after + number, node)
    del graph.value_info[:]  # the shapes of before


def _reader_of(graph: Any, name: str, kind: str) -> Any:
    """Return the only node that reads a tensor; None where there are several, or it is not of this kind."""
    readers = [node for node in graph.node if name in node.input]
    return readers[0] if len(readers) == 1 and readers[0].op_type == kind else None
