"""Ways to damage the files of a folder: `remove("train/train_img")(root)`."""

import shutil
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[Path], object]  # takes the folder that all paths are relative to


def remove(*paths: str) -> Damage:
    def apply(root: Path) -> None:
        for path in paths:
            target = root / path
            shutil.rmtree(target) if target.is_dir() else target.unlink()

    return apply


def write(path: str, content: bytes | str) -> Damage:
    """A file with this content, in the place of whatever there is."""
    data = content.encode() if isinstance(content, str) else content

    def apply(root: Path) -> None:
        target = root / path
        if target.is_dir():
            shutil.rmtree(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    return apply


def folder(path: str) -> Damage:
    """An empty folder, in the place of whatever there is."""

    def apply(root: Path) -> None:
        if (root / path).exists():
            remove(path)(root)
        (root / path).mkdir(parents=True)

    return apply


def copy(source: str, target: str) -> Damage:
    return lambda root: shutil.copy(root / source, root / target)


def move(source: str, target: str) -> Damage:
    return lambda root: (root / source).rename(root / target)


def edit(path: str, change: Callable[[bytes], bytes]) -> Damage:
    """Change a file's content."""
    return lambda root: (root / path).write_bytes(change((root / path).read_bytes()))


def cut(path: str, part: float) -> Damage:
    """Keep only this part of a file."""
    return edit(path, lambda data: data[: int(part * len(data))])


def every(*steps: Damage) -> Damage:
    return lambda root: [step(root) for step in steps]
