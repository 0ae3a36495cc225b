"""A CUDA device that computes nothing (tests/nullcuda/nullcuda.cpp), built and preloaded."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.scripts import REPOSITORY

SOURCE = REPOSITORY / "tests" / "nullcuda" / "nullcuda.cpp"
CUDA = 13  # the major version of PyTorch's CUDA that the library stands in for


def why_not() -> str | None:
    """Why the library cannot be built or used here; None where it can."""
    if sys.platform != "linux":
        return "not Linux"
    if shutil.which("g++") is None:
        return "no g++"
    import torch

    if (torch.version.cuda or "").split(".")[0] != str(CUDA):
        return f"PyTorch {torch.__version__} is not built for CUDA {CUDA}"
    return None if headers().is_dir() else f"no headers of CUDA in {headers()}"


def headers() -> Path:
    """Where PyTorch's wheels of CUDA have their headers."""
    found = importlib.util.find_spec("nvidia")
    places = list(found.submodule_search_locations or []) if found else []
    return next((p for p in map(Path, places) if p.is_dir()), Path("nvidia")) / f"cu{CUDA}/include"


def build(folder: Path) -> Path:
    """Compile the library into a folder; returns its path. CalledProcessError if g++ fails."""
    library = folder / "libnullcuda.so"
    includes = [f"-I{SOURCE.parent / 'inc'}", f"-I{headers()}"]
    flags = ["-O1", "-shared", "-fPIC", "-std=c++17", *includes]
    subprocess.run(["g++", *flags, str(SOURCE), "-o", str(library), "-ldl"], check=True)
    (folder / "libcuda.so.1").symlink_to(library.name)  # the driver, by the name it is looked for
    # The optimisers check a learning rate that is on the device, where no comparison is computed.
    (folder / "sitecustomize.py").write_text(
        "import torch\n"
        "real = torch.Tensor.__ge__\n"
        "torch.Tensor.__ge__ = lambda a, b: (\n"
        "    True if a.is_cuda and a.dim() == 0 and isinstance(b, float) else real(a, b)\n"
        ")\n"
    )
    return library


def environment(library: Path, **more: str) -> dict[str, str]:
    """For a process that is to see the device."""
    own = {"LD_PRELOAD": str(library), "LD_LIBRARY_PATH": str(library.parent)}
    own |= {"PYTHONPATH": str(library.parent), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **own, "NULLCUDA": str(library), **more}
