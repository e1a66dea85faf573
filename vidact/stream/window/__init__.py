"""``vidact stream``: a window, or lines and files, of one or several sources."""
