"""The data set of --preset demo, made when it is first needed."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modules.datasets.synthetic import demo_matches, make_demo
from modules.runtime.errors import UserError


@contextmanager
def demo_data(root: Path, *, height: int, width: int, keep: bool) -> Iterator[Path]:
    """A folder with the demo's data set: `root`, where it is made if it is not there yet.

    keep: False makes it for the time of the block alone, elsewhere (for a dry run).

    Raises UserError if another data set is there.
    """
    if demo_matches(root, height=height, width=width):
        yield root
    elif root.exists():
        raise UserError(
            f"{root} is not the demo's data of {width} x {height} pixels: "
            "move it away, or name data with --DR"
        )
    elif keep:
        print(f"writing the demo's data set to {root}", flush=True)
        make_demo(root, height=height, width=width)
        yield root
    else:
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "demo_data"
            make_demo(made, height=height, width=width)
            yield made
