"""The offline networks that the law tests build, at sizes a CPU can afford. A new network adds its lines here."""

FEATURE_DIM = 12
NUM_CLASSES = 5

_RANGES = [[0, 4], [4, 8], [8, 10000]]

# (name in vidact.models, arguments); feature_dim and num_classes go without saying.
OFFLINE_NETWORKS = [
    ("ms_tcn", {"dim": 8, "stages": 3, "layers": 4}),
    ("ms_tcn", {"dim": 8, "stages": 2, "layers": 3, "causal": True}),
    ("ms_tcn_pp", {"dim": 8, "stages": 2, "first_layers": 4, "layers": 3}),
    ("causal_ms_tcn", {"dim": 8, "stages": 2, "layers": 3, "look_ahead": 4}),
    ("asformer", {"dim": 8, "layers": 4, "decoders": 2}),
    ("asformer", {"dim": 8, "layers": 3, "decoders": 1, "exact_window": False}),
    (
        "actionformer",
        {
            "embedding_dim": 16,
            "head_dim": 12,
            "levels": 3,
            "attention_window": 5,
            "max_tokens": 48,
            "regression_ranges": _RANGES,
            "drop_path": 0.0,
        },
    ),
    (
        "actionformer_proposals",
        {"embedding_dim": 12, "num_heads": 2, "levels": 3, "max_tokens": 48, "regression_ranges": _RANGES},
    ),
    (
        "tridet",
        {
            "embedding_dim": 32,
            "head_dim": 12,
            "mlp_dim": 20,
            "levels": 3,
            "bins": 6,
            "max_tokens": 40,
            "window": 3,
            "window_factor": 2.0,
            "regression_ranges": _RANGES,
            "drop_path": 0.0,
        },
    ),
    (
        "tridet",
        {
            "embedding_dim": 16,
            "head_dim": 12,
            "mlp_dim": 20,
            "levels": 2,
            "bins": 4,
            "max_tokens": 40,
            "absolute_positions": True,
            "drop_path": 0.0,
        },
    ),
    ("actionformer_small", {"embedding_dim": 16, "levels": 3, "max_tokens": 64, "drop_path": 0.0}),
]

# Parameters that no answer depends on, kept because published files have them: class name → regular expression. The
# first layers of ASFormer attend to one token, which has all the weight whatever its query and key are.
DEAD_WEIGHTS: dict[str, str] = {"ASFormer": r"layers\.0\.attention\.(query|key)\."}
