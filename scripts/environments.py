"""Python environments for tests, made once and kept where fetch_demo_model.py keeps the demo model."""

import fcntl
import hashlib
import shutil
import subprocess
import sys

from fetch_demo_model import cache_folder


def python_with(name, packages, hint):
    """The python of an environment of these packages; ends this script with `hint` if there can be none."""
    # Others of the same name and made of something else have folders of their own.
    made_of = "\n".join([*packages, sys.version, sys.executable])
    digest = hashlib.sha256(made_of.encode()).hexdigest()
    folder = cache_folder() / f"{name}-{digest[:12]}"
    if not is_whole(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with open(folder.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Another process may have made it in the meantime.
            if not is_whole(folder):
                print(f"Making the Python environment {name} ...", file=sys.stderr)
                make(folder, packages, hint)
    return folder / "bin/python"


def is_whole(folder):
    return (folder / "whole").is_file() and (folder / "bin/python").is_file()


def make(folder, packages, hint):
    shutil.rmtree(folder, ignore_errors=True)
    python = folder / "bin/python"
    venv = [sys.executable, "-m", "venv", "--without-pip", folder]
    ask = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    # The pip at hand installs: Debian's python has none to put into an environment.
    pip = [sys.executable, "-m", "pip", "install", "-qq", "--no-warn-conflicts", "--target"]
    try:
        subprocess.run(venv, stdout=sys.stderr, check=True)
        place = subprocess.run(ask, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
        subprocess.run([*pip, place, *packages], stdout=sys.stderr, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        sys.exit(
            f"The Python environment {name_of(folder)} could not be made: {error}\n"
            f"It takes venv, pip and {', '.join(packages)}. Is this machine offline?\n{hint}"
        )
    (folder / "whole").touch()


def name_of(folder):
    return folder.name.rpartition("-")[0]
