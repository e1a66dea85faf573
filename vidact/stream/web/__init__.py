"""``vidact serve``: a page that shows what a browser's camera, or a source of this machine, sees."""
