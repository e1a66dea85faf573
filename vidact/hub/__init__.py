"""Weights from elsewhere: published networks by name, and repositories of the Hugging Face hub, ``hf://owner/name``.

Files of published networks are kept in one folder, ``folder()``. A download is continued where it was cut, and a file
is either whole, with the published hash, or absent. Where no hash is published, that of the first download is written
to a file beside it and compared from then on. Files of repositories are kept in the hub's own cache.

Environment: ``VIDACT_HOME`` names the cache folder of published networks, and ``VIDACT_MIRROR``, an address such as
``https://mirror.example.org``, replaces the scheme and the host of their addresses; ``vidact.hub.huggingface`` names
the variables of the hub. ``VIDACT_OFFLINE=1`` forbids all downloads. Proxies are those of ``https_proxy`` and its like.
"""

from vidact.hub.cache import folder, is_offline
from vidact.hub.download import fetch
from vidact.hub.huggingface import fetch_file, is_address, local, text_of
from vidact.hub.published import CLASS_LISTS, PUBLISHED, Published, advice, class_names, named

__all__ = [
    "CLASS_LISTS",
    "PUBLISHED",
    "Published",
    "advice",
    "class_names",
    "fetch",
    "fetch_file",
    "folder",
    "is_address",
    "is_offline",
    "local",
    "named",
    "text_of",
]
