"""Runtimes: where a network that is loaded computes, in PyTorch or as an ONNX graph in ONNX Runtime."""
