"""The online detectors that the law tests build, at sizes a CPU can afford. A new detector adds its lines here."""

FEATURE_DIM = 12
NUM_CLASSES = 5

# (name in vidact.models, arguments); feature_dim and num_classes go without saying. Sequences of the tests are three
# times as long as the longest memory, so windows of more than about 20 tokens make them slow.
ONLINE_NETWORKS = [
    ("trn_recurrent", {"hidden_dim": 16, "decoder_steps": 3}),
    ("trn_recurrent_small", {"hidden_dim": 12, "decoder_steps": 2, "embedding_dim": 8}),
    ("idn", {"hidden_dim": 12, "window": 6}),
    ("miniroad", {"embedding_dim": 16, "hidden_dim": 12}),
    ("miniroad", {"embedding_dim": 16, "hidden_dim": 12, "anticipation_steps": 4}),
    ("miniroad_small", {"embedding_dim": 12, "hidden_dim": 8}),
    ("frame_classifier", {"spans": [1, 3]}),
    ("frame_classifier", {"spans": [1, 3], "smoothing": 0.75}),
    (
        "testra",
        {"long": 3, "long_stride": 3, "work": 3, "width": 16, "num_heads": 4, "encoder_queries": [5, 3], "alpha": 0.9},
    ),
    (
        "testra",
        {
            "long": 3,
            "long_stride": 2,
            "work": 4,
            "width": 16,
            "num_heads": 4,
            "encoder_queries": [3, 2],
            "anticipation_steps": 3,
        },
    ),
    ("lstr", {"long": 3, "long_stride": 2, "work": 3, "width": 16, "num_heads": 4, "encoder_queries": [5, 3]}),
    ("lstr", {"long": 6, "long_stride": 1, "work": 4, "width": 16, "num_heads": 4, "encoder_queries": [5, 3]}),
    (
        "oadtr",
        {
            "window": 10,
            "width": 16,
            "num_heads": 4,
            "num_layers": 2,
            "num_queries": 3,
            "decoder_layers": 2,
            "decoder_heads": 2,
        },
    ),
    ("causal_transformer", {"width": 16, "heads": 2, "window": 5}),
    ("causal_transformer", {"width": 16, "heads": 2, "window": 3, "layers": 3, "future": 4}),
    ("causal_transformer", {"width": 16, "heads": 2, "attention": "linear", "future": 2}),
    ("causal_transformer", {"width": 16, "heads": 2, "attention": "state_space", "future": 2}),
    ("causal_ms_tcn", {"dim": 10, "stages": 3, "layers": 2}),
    ("causal_ms_tcn", {"dim": 14, "stages": 3, "layers": 1}),
    ("causal_ms_tcn", {"dim": 12, "stages": 3, "layers": 1, "look_ahead": 1}),
    ("causal_ms_tcn", {"dim": 10, "stages": 3, "layers": 2, "look_ahead": 3}),
]

# Parameters that no answer depends on, kept because published files have them: class name → regular expression.
DEAD_WEIGHTS: dict[str, str] = {"OadTR": r"^query_positions$"}
