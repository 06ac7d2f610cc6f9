"""Checks the spelling of everything in the repository with typos (typos.toml)."""

import subprocess
import sys

from environments import python_with

PACKAGES = ["typos==1.52.0"]
HINT = "To use a typos of your own: typos --config typos.toml"

if __name__ == "__main__":
    python = python_with("spelling", PACKAGES, HINT)
    ask = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = subprocess.run(ask, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    sys.exit(subprocess.run([f"{packages}/bin/typos", "--format", "brief"]).returncode)
