"""Makes a folder that checks a GPU: the example `gpu_check`, its goldens, and a script for transformers.

It runs where there is a driver and CUDA 13's libraries. Takes nvcc, or a script that brings a toolkit and
builds with it (CUDA_BUILD, called as `cargo build --release` is). Of the FlashAttention-2 kernels, each of which
takes minutes to compile, only those are built that FLASH_HEAD_DIMS names (widths of heads).
"""

import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile

from fetch_demo_model import cache_folder

ROOT = pathlib.Path(__file__).parent.parent
# Not in the project's folder, where cargo would take the changed crates for its own.
WORK = cache_folder() / "gpu-check"
FOLDER = ROOT / "target/gpu-check"
LARGEST = 55e6
TOOL = ROOT.parent / "shared/tools/cuda-build"
CUTLASS = "nvidia-cutlass==4.2.0.0"
# Compiled to be small: most of the program, and none of what it computes with. They are named, since what applies
# to all packages applies to the build scripts of kernels too, and those would be compiled again.
SMALL = r"(?:datafusion(?!-ches)|arrow|parquet|sqlparser)[a-z-]*"
TYPES = {"fp16": "cutlass::half_t", "bf16": "cutlass::bfloat16_t"}


def main():
    widths = [int(width) for width in os.environ.get("FLASH_HEAD_DIMS", "32,64,128").split(",")]
    WORK.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cargo", "fetch", "-q"], cwd=ROOT, check=True)
    patches = [f"patch.crates-io.candle-flash-attn.path='{flash_attention(widths)}'"]
    environment = os.environ | {
        "CHES_FLASH_HEAD_DIMS": ",".join(map(str, widths)),
        "CUDA_WORK": os.environ.get("CUDA_WORK", str(WORK)),
        "CUDA_COMPUTE_CAP": os.environ.get("CUDA_COMPUTE_CAP", "90"),
    }
    tool = os.environ.get("CUDA_BUILD", str(TOOL) if TOOL.exists() else None)
    if shutil.which("nvcc"):
        build = ["cargo", "build", "--release", "--target-dir", ROOT / "target/cuda"]
        patches.append(f"patch.crates-io.cudarc.path='{cudarc()}'")
        libraries = [str(static_runtime()), os.environ.get("LIBRARY_PATH")]
        environment["LIBRARY_PATH"] = os.pathsep.join(filter(None, libraries))
        built = ROOT / "target/cuda"
    elif tool:
        build = [tool]
        built = pathlib.Path(environment["CUDA_WORK"]) / "target"
    else:
        sys.exit("no nvcc: a CUDA 13 toolkit is needed, or CUDA_BUILD names a script that brings one")
    names = sorted(set(re.findall(rf'^name = "({SMALL})"', (ROOT / "Cargo.lock").read_text(), re.M)))
    profile = [f'profile.release.package.{name}.opt-level="s"' for name in names]
    options = [option for setting in patches + profile for option in ("--config", setting)]
    example = ["-p", "datafusion-ches", "--features", "flash-attn", "--example", "gpu_check"]
    lock = ROOT / "Cargo.lock"
    locked = lock.read_bytes()
    try:
        subprocess.run([*build, *options, *example], cwd=ROOT, env=environment, check=True)
    finally:
        # The patches must not stay in it.
        lock.write_bytes(locked)
    assemble(built / "release/examples/gpu_check")


def source_of(crate):
    home = pathlib.Path(os.environ.get("CARGO_HOME", pathlib.Path.home() / ".cargo"))
    version = re.search(rf'name = "{crate}"\nversion = "(.*)"', (ROOT / "Cargo.lock").read_text())[1]
    source = next(home.glob(f"registry/src/*/{crate}-{version}"), None)
    if source is None:
        sys.exit(f"no source of {crate} {version} under {home}/registry/src")
    return source


def changed(crate, made_of, change):
    """A copy of a crate's source, changed. It stays as it is while nothing that it is made of changes, since
    cargo compiles what has a new date again."""
    source, copy, marker = source_of(crate), WORK / crate, WORK / f"{crate}-of"
    made_of = f"{source.name} {made_of} {hashlib.sha256(pathlib.Path(__file__).read_bytes()).hexdigest()}"
    if copy.exists() and marker.exists() and marker.read_text() == made_of:
        return copy
    marker.unlink(missing_ok=True)
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(source, copy)
    (copy / "Cargo.lock").unlink(missing_ok=True)
    change(copy)
    marker.write_text(made_of)
    return copy


def replace(file, old, new):
    text = file.read_text()
    if old not in text:
        sys.exit(f"{file} has changed: no {old!r}")
    file.write_text(text.replace(old, new))


def cudarc():
    """cudarc that loads CUDA's libraries while it runs, and not when the program starts."""
    return changed(
        "cudarc",
        "",
        lambda copy: replace(
            copy / "build.rs",
            "    dynamic_linking(major, minor);",
            '    println!("cargo:rustc-cfg=feature=\\"dynamic-loading\\"");',
        ),
    )


def static_runtime():
    """A folder where the linker finds CUDA's static runtime for `-lcudart`, so that none is needed to start."""
    toolkit = pathlib.Path(shutil.which("nvcc")).resolve().parent.parent
    static = next(toolkit.glob("**/libcudart_static.a"), None)
    if static is None:
        sys.exit(f"no libcudart_static.a under {toolkit}")
    folder = WORK / "runtime"
    folder.mkdir(exist_ok=True)
    (folder / "libcudart.so").write_text(f"INPUT ( {static} -lpthread -ldl -lrt )\n")
    return folder


def cutlass():
    """CUTLASS's headers, from PyPI: candle-flash-attn would clone them from GitHub."""
    headers = WORK / CUTLASS
    if not headers.exists():
        with tempfile.TemporaryDirectory(dir=WORK) as folder:
            pip = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--target"]
            subprocess.run([*pip, f"{folder}/headers", CUTLASS], check=True)
            os.rename(f"{folder}/headers", headers)
    return next(headers.glob("**/source/include"))


def flash_attention(widths):
    """candle-flash-attn with the kernels of these widths."""
    include = cutlass()
    return changed("candle-flash-attn", f"{widths} {CUTLASS}", lambda copy: keep_kernels(copy, widths, include))


def keep_kernels(copy, widths, include):
    kernels = {"kernels/flash_api.cu"}
    missing = ['#include <cstdio>', '#include <cstdlib>', '#include "flash.h"', '#include "cutlass/numeric_types.h"']
    for file in sorted((copy / "kernels").glob("flash_fwd_*.cu")):
        name = re.match(r"flash_fwd_(splitkv_)?hdim(\d+)_(fp16|bf16)(_causal)?_sm80", file.stem)
        is_split, width, dtype, causal = name[1], int(name[2]), name[3], name[4]
        if not is_split and width in widths:
            kernels.add(f"kernels/{file.name}")
            continue
        function = "run_mha_fwd_splitkv_paged_" if is_split else "run_mha_fwd_"
        arguments = f"{TYPES[dtype]}, {width}, {'true' if causal else 'false'}"
        missing.append(
            f"template<> void {function}<{arguments}>(Flash_fwd_params &, cudaStream_t) {{\n"
            f'  std::fprintf(stderr, "no kernel {file.stem} in this build\\n");\n  std::abort();\n}}'
        )
    (copy / "kernels/missing.cu").write_text("\n".join(missing) + "\n")
    kernels.add("kernels/missing.cu")
    build = copy / "build.rs"
    text = build.read_text()
    listed = "".join(f'    "{kernel}",\n' for kernel in sorted(kernels))
    text = re.sub(
        r"const KERNEL_FILES: \[&str; \d+\] = \[.*?\];",
        f"const KERNEL_FILES: [&str; {len(kernels)}] = [\n{listed}];",
        text,
        flags=re.S,
    )
    build.write_text(text)
    # Decoders have no ALiBi, and scoring no dropout: without them a kernel takes a quarter of the time.
    options = ["USE_CUTLASS", "FLASHATTENTION_DISABLE_ALIBI", "FLASHATTENTION_DISABLE_DROPOUT"]
    options = "".join(f'.arg("-D{option}")' for option in options)
    replace(build, ".with_cutlass(Some(CUTLASS_COMMIT))", f'{options}.arg("-I{include}")')
    replace(build, 'const CUTLASS_COMMIT: &str = "', '#[allow(dead_code)]\nconst CUTLASS_COMMIT: &str = "')


def assemble(program):
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    shutil.copy(program, FOLDER / "gpu_check")
    subprocess.run(["strip", FOLDER / "gpu_check"], check=True)
    for script in ("gpu_with_transformers.py", "ways.py"):
        shutil.copy(ROOT / "bench" / script, FOLDER)
    shutil.copytree(ROOT / "tests/goldens/families", FOLDER / "goldens/families")
    packed = FOLDER.with_suffix(".tar.gz")
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(FOLDER, FOLDER.name)
    size = packed.stat().st_size
    print(f"{FOLDER}: {packed.name} has {size / 1e6:.1f} MB; on the machine with the card: ./gpu_check")
    if size > LARGEST:
        sys.exit(f"{packed.name} is larger than {LARGEST / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
