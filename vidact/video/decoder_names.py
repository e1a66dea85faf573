"""The names of the decoders, which commands read before their options are parsed; decode.py has the decoders."""

DECODER_NAMES = ("pyav", "decord", "opencv", "torchcodec")
