"""A watch folder that tests drive look by look, with clocks of their own."""

from collections.abc import Callable
from pathlib import Path

from hffnet.runtime.sources import FileStamp, FolderOptions, Item
from hffnet.runtime.sources.watch_folder import WatchFolder


class Watched:
    """A watch folder and its clocks; ``look`` takes what is ready as the pipeline would.

    ``wall`` is the wall clock's seconds; at 0, every file seems to be of the future and none has waited.
    """

    def __init__(
        self,
        folder: Path,
        is_done: Callable[[Path, FileStamp], bool] | None = None,
        wall: float = 0.0,
        **options: object,
    ) -> None:
        self.now = 1000.0
        self.source = WatchFolder(
            folder,
            FolderOptions.model_validate(options),
            is_done=is_done,
            clock=lambda: self.now,
            wall_clock=lambda: wall,
        )

    def look(self, after_s: float = 0.1) -> list[Item]:
        """What the next look hands over."""
        self.now += after_s
        return [item for item in self.source.scan() if self.source._hand_over(item)]

    def names(self, after_s: float = 0.1) -> list[str]:
        """Of what the next look hands over."""
        return [item.name for item in self.look(after_s)]

    def until_quiet(self) -> list[str]:
        """Of what four looks hand over."""
        return [name for _ in range(4) for name in self.names()]


def write(path: Path, content: bytes = b"frame") -> Path:
    """A file of that name."""
    path.write_bytes(content)
    return path
