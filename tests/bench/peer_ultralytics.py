"""Ultralytics' classifier as a process of its own environment, asked over a pipe; see ``peers --ultralytics``.

Run by that environment's interpreter: ``python peer_ultralytics.py FORMAT SIZE THREADS``. Each line on stdin is a file;
the answer is a line of milliseconds: what Ultralytics calls inference, and the whole of ``predict``. The network is its
ResNet50 classifier with random weights: its speed does not depend on them, and it has no class tree.

Needs (AGPL-3.0, hence never beside hffnet): ``pip install torch==2.13.0 ultralytics onnx onnxruntime openvino``.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

CONFIG = "yolov8-cls-resnet50.yaml"


def main() -> None:
    """Export, say so, answer until stdin ends."""
    form, size, threads = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    os.environ |= {"OMP_NUM_THREADS": threads, "YOLO_OFFLINE": "true", "YOLO_VERBOSE": "false"}
    os.environ["YOLO_CONFIG_DIR"] = folder = tempfile.mkdtemp(prefix="hffnet-peer-")
    os.chdir(folder)
    answers, sys.stdout = sys.stdout, sys.stderr  # what Ultralytics prints is not an answer
    import torch

    # torchvision does not load its compiled operations beside a CPU build of torch; a classifier needs none of them.
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    import ultralytics

    torch.set_num_threads(int(threads))
    model = ultralytics.YOLO(CONFIG, task="classify")
    if form != "torch":
        exported = model.export(format=form, imgsz=size)
        model = ultralytics.YOLO(str(Path(exported)), task="classify")
    print(f"Ultralytics {ultralytics.__version__}", file=answers, flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        (result,) = model.predict(line.rstrip("\n"), imgsz=size, verbose=False, device="cpu")
        whole_ms = 1e3 * (time.perf_counter() - started)
        print(f"{result.speed['inference']} {whole_ms}", file=answers, flush=True)


if __name__ == "__main__":
    main()
