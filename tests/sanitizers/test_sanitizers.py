"""The short forms of `python -m tests.sanitizers`, and what they must not miss."""

import subprocess
import sys

import pytest

from tests.sanitizers.build import ROOT, environment


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_native_code_under_a_sanitizer(sanitizer):
    command = [sys.executable, "-m", "tests.sanitizers", sanitizer, "--short"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_extension_of_the_environment_is_the_one_imported(tmp_path):
    """That of the checkout, which comes first on the path, is not: here there is no other."""
    code = "import sys; sys.path.insert(0, '.'); import _remi_fast_C"
    variables = environment("address", tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=variables, capture_output=True, text=True
    )
    assert "ModuleNotFoundError" in done.stderr
