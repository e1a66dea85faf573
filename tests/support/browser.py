"""Chromium, whose camera plays a file of pictures."""

import contextlib
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NO_CHROMIUM = "no Chromium on this machine: apt-get install chromium"


def write_camera(path: Path, images: Iterable[np.ndarray], fps: int) -> Path:
    """Write RGB images (H, W, 3), whose sides are even, as Chromium's camera plays them."""
    with path.open("wb") as file:
        for number, image in enumerate(images):
            if number == 0:
                height, width = image.shape[:2]
                file.write(f"YUV4MPEG2 W{width} H{height} F{fps}:1 Ip A1:1 C420jpeg\n".encode())
            planes = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2YUV_I420)
            file.write(b"FRAME\n" + planes.tobytes())
    return path


@contextlib.contextmanager
def chromium(camera: Path) -> Iterator[Any]:
    """Chromium as Playwright drives it, with the file of ``write_camera`` as its camera."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",  # containers have little of it
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
                f"--use-file-for-fake-video-capture={camera}",
            ],
        )
        yield browser
        browser.close()
