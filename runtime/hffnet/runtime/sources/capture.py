"""The capture process: opens one device and puts frame after frame into shared memory, until it is killed.

``read()`` of a camera can hang for ever in the driver (opencv#22677); here that hurts nobody, because the pipeline
kills this process and starts another. It ends with the thread that started it.
"""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence

from hffnet.runtime.errors import HffnetError
from hffnet.runtime.sources.cameras import Camera, NoMoreFramesError, OpenCamera, open_camera
from hffnet.runtime.sources.capture_link import SKIP, Kind, Message, Slots, frame_message, send

_PR_SET_PDEATHSIG = 1  # prctl.h
_PAUSE_S = 0.02  # after a read that gave nothing, so that a dead device does not keep a core busy


def run_capture(arguments: Sequence[str], opener: OpenCamera = open_camera) -> None:
    """Capture until the device ends or fails.

    Args:
        arguments: descriptors of memory, messages and requests (-1: do not wait for requests), bytes per slot, URI.
        opener: opens the device.
    """
    memory, messages, requests, slot_bytes = (int(text) for text in arguments[:4])
    _die_with_parent()
    try:
        camera = opener(arguments[4])
        send(messages, Message(kind=Kind.OPENED))
        _capture(camera, Slots(memory, slot_bytes), messages, requests)
    except NoMoreFramesError as error:
        send(messages, Message(kind=Kind.ENDED, text=str(error)))
    except BrokenPipeError:
        return
    except HffnetError as error:
        send(messages, Message(kind=Kind.FAILED, text=str(error)))
    except Exception as error:  # noqa: BLE001 - whatever a driver raises is told to the one who can open it anew
        send(messages, Message(kind=Kind.FAILED, text=f"the device failed: {type(error).__name__}: {error}"))


def _capture(camera: Camera, slots: Slots, messages: int, requests: int) -> None:
    index = 0
    while requests < 0 or (asked := os.read(requests, 1)):
        if requests >= 0 and asked == SKIP:
            camera.skip()
            index += 1
            send(messages, Message(kind=Kind.SKIPPED))
            continue
        pixels = camera.read()
        if pixels is None:
            send(messages, Message(kind=Kind.NOTHING))
            time.sleep(_PAUSE_S)
            continue
        slot = slots.write(pixels, index)
        if slot is None:
            height, width = pixels.shape
            text = f"a frame of {width}x{height} ({pixels.nbytes} bytes) is too large to be handed over"
            send(messages, Message(kind=Kind.FAILED, text=text))
            return
        send(messages, frame_message(slot, index, pixels))
        index += 1


def _die_with_parent() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The terminal's Ctrl-C goes to the whole group; when to end is the pipeline's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    run_capture(sys.argv[1:])
