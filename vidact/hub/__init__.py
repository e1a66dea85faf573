"""Weights from elsewhere: published networks by name, and the cache of their files.

Files are kept in one folder, ``folder()``. A download is continued where it was cut, and a file is either whole, with
the published hash, or absent. Where no hash is published, that of the first download is written to a file beside it and
compared from then on.

Environment: ``VIDACT_HOME`` names the cache folder, ``VIDACT_OFFLINE=1`` forbids downloads, and ``VIDACT_MIRROR``, an
address such as ``https://mirror.example.org``, replaces the scheme and the host of every address. Proxies are those of
``https_proxy`` and its like.
"""

from vidact.hub.cache import folder, is_offline
from vidact.hub.download import fetch
from vidact.hub.published import CLASS_LISTS, PUBLISHED, Published, advice, class_names, named

__all__ = [
    "CLASS_LISTS",
    "PUBLISHED",
    "Published",
    "advice",
    "class_names",
    "fetch",
    "folder",
    "is_offline",
    "named",
]
