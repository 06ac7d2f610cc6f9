"""Makes the tests' Python environment once and prints the path of its python.

It has an S3 server that runs on this machine (moto) and an independent reader of Parquet files
(pyarrow). It is kept where fetch_demo_model.py keeps the demo model.
"""

import fcntl
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys

from fetch_demo_model import cache_folder

# moto[server] would bring 180 MB more, for clouds' other services.
PACKAGES = ["moto[s3]==5.2.5", "flask==3.1.3", "flask-cors==6.0.5", "pyarrow==26.0.1"]


def environment():
    """The environment of these packages and this python; others have folders of their own."""
    made_of = "\n".join([*PACKAGES, sys.version, sys.executable])
    digest = hashlib.sha256(made_of.encode()).hexdigest()
    return cache_folder() / f"test-tools-{digest[:12]}"


def is_whole(folder):
    return (folder / "whole").is_file() and (folder / "bin/python").is_file()


def make(folder):
    shutil.rmtree(folder, ignore_errors=True)
    python = folder / "bin/python"
    venv = [sys.executable, "-m", "venv", "--without-pip", folder]
    ask = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    # The pip at hand installs: Debian's python has none to put into an environment.
    pip = [sys.executable, "-m", "pip", "install", "-qq", "--no-warn-conflicts", "--target"]
    try:
        subprocess.run(venv, stdout=sys.stderr, check=True)
        packages = subprocess.run(ask, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
        subprocess.run([*pip, packages, *PACKAGES], stdout=sys.stderr, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        sys.exit(
            f"The tests' Python environment could not be made: {error}\n"
            f"It takes venv, pip and {', '.join(PACKAGES)} (about 300 MB). Is this machine "
            "offline?\nTo use an environment of your own: CHES_TEST_PYTHON=/path/to/python cargo test"
        )
    (folder / "whole").touch()


def main():
    folder = environment()
    if not is_whole(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with open(folder.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Another process may have made it in the meantime.
            if not is_whole(folder):
                print("Making the tests' Python environment ...", file=sys.stderr)
                make(folder)
    print(folder / "bin/python")


if __name__ == "__main__":
    main()
