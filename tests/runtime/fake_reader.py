"""A real reading process with a decoder that misbehaves: ``python fake_reader.py …`` does what a file's name says."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from hffnet.runtime.frame import Frame
from hffnet.runtime.read import read_frame
from hffnet.runtime.read_process import serve


def read(path: Path, **how: Any) -> Frame:
    match path.stem:
        case "hangs":
            time.sleep(3600)
        case "crashes":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "killed" if not path.with_suffix(".again").exists():
            path.with_suffix(".again").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        case "always":
            os.kill(os.getpid(), signal.SIGKILL)
        case "explodes":
            bytearray(2**30)
        case "defect":
            raise ZeroDivisionError("of no use")
    return read_frame(path, **how)


if __name__ == "__main__":
    serve(*(int(text) for text in sys.argv[1:5]), read_file=read)
