"""The page in a real browser: headless chromium, where there is one."""

import shutil
import subprocess

import numpy as np
import pytest

pytest.importorskip("matplotlib")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
LIGHT, DARK = 1, 0  # of chromium's preferredColorScheme


@pytest.fixture
def screenshot(both, trained, tmp_path):
    """screenshot(scheme, width, height): pixels (height, width, 3) in 0..1 of the page."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    from matplotlib.image import imread

    def take(scheme, width, height):
        out = tmp_path / "shot.png"
        words = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        words += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},{height}"]
        words += [f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={out}"]
        file = (trained / "both.html").as_uri()
        subprocess.run([CHROMIUM, *words, file], check=True, capture_output=True, timeout=120)
        return imread(out)[..., :3]

    return take


def hexadecimal(color):
    return np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255


def share(pixels, color):
    """How much of a picture has a colour."""
    return (np.abs(pixels - hexadecimal(color)) < 0.02).all(2).mean()


def test_light_and_dark(screenshot):
    from remi_fast.report.style import SERIES

    light, dark = screenshot(LIGHT, 1300, 5600), screenshot(DARK, 1300, 5600)
    assert light.shape == dark.shape == (5600, 1300, 3)
    assert 0.5 < share(light, "#ffffff") < 0.99 and share(dark, "#ffffff") < 0.001
    assert 0.5 < share(dark, "#14171b") < 0.99
    assert share(light, "#1b1e23") > 0.001 and share(dark, "#e4e7eb") > 0.001, "text, axes"
    for on_light, on_dark in list(SERIES.items())[:3]:  # two runs; three interests in the map
        assert share(light, on_light) > 5e-5 and share(dark, on_dark) > 5e-5
    assert share(light, "#440154") > 5e-4 and share(dark, "#440154") > 5e-4, "heat maps"


def test_a_phone_has_all_of_it_in_its_width(screenshot):
    pixels = screenshot(LIGHT, 500, 12000)  # chromium's narrowest window
    right = pixels[:, -8:]
    assert share(right, "#ffffff") > 0.99, "nothing runs over the edge"
    inked = (pixels < 0.9).any(axis=(1, 2))
    assert inked.nonzero()[0].max() > 6000, "one column"
