"""The choices of a feature extractor and of a probe, with their defaults; commands read them to parse options."""

# The image networks by name, each with the module of its function.
IMAGE_NETWORKS = dict.fromkeys(
    (
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet101",
        "resnet_tiny",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "mobilenet_v3_large",
        "efficientnet_b0",
    ),
    "vidact.models.backbones",
) | {"bn_inception": "vidact.models.bn_inception"}

FPS = 24.0  # frames a second of the clock
CHUNK = 6  # frames of a token

TOKEN_HEADS = ("attentive",)  # the heads that read the tokens of a clip instead of one vector
HEADS = ("linear", "knn", "prototype")  # the heads of a probe; of equally good ones the earlier is chosen
SEGMENTS = 24  # frames that a probe reads of a clip
