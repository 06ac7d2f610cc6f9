"""Builds the wheel, installs it where nothing else of this project is, and runs its tests.

Arguments: the options of `cargo` that the rest is built with, so that nothing is compiled twice.
"""

import os
import pathlib
import subprocess
import sys
import tempfile

from environments import python_with

PACKAGES = [
    "maturin==1.16.0",
    "datafusion==55.0.0",
    "pyarrow==26.0.1",
    "pandas==3.1.1",
    "polars==2.1.0",
    "datasets==5.2.0",
    "pytest==9.2.0",
]
HINT = "Without the Python module: cargo test"
ROOT = pathlib.Path(__file__).parent.parent


def main():
    python = python_with("wheel-tests", PACKAGES, HINT)
    with tempfile.TemporaryDirectory() as folder:
        # Where `pip install --target` puts it.
        (maturin,) = python.parent.parent.glob("lib/*/site-packages/bin/maturin")
        build = [maturin, "build", "-q", "-i", python, "-m", ROOT / "python/Cargo.toml", "-o", folder]
        subprocess.run([*build, *sys.argv[1:]], check=True)
        (wheel,) = pathlib.Path(folder).glob("*.whl")
        installed = pathlib.Path(folder) / "installed"
        pip = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--target"]
        subprocess.run([*pip, installed, wheel], check=True)
        environment = os.environ | {"PYTHONPATH": str(installed)}
        tests = [python, "-m", "pytest", "-q", ROOT / "python/tests"]
        # Not from here, where `python/datafusion_ches` has no native half.
        sys.exit(subprocess.run(tests, env=environment, cwd=folder).returncode)


if __name__ == "__main__":
    main()
