"""The offline networks that the law tests build, at sizes a CPU can afford. A new network adds its lines here."""

FEATURE_DIM = 12
NUM_CLASSES = 5

# (name in vidact.models, arguments); feature_dim and num_classes go without saying.
OFFLINE_NETWORKS = [
    ("ms_tcn", {"dim": 8, "stages": 3, "layers": 4}),
    ("ms_tcn", {"dim": 8, "stages": 2, "layers": 3, "causal": True}),
    ("ms_tcn_pp", {"dim": 8, "stages": 2, "first_layers": 4, "layers": 3}),
    ("causal_ms_tcn", {"dim": 8, "stages": 2, "layers": 3, "look_ahead": 4}),
]
