"""The preparation of a set of videos: checking, re-encoding and packing."""
