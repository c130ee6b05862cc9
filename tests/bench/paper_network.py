"""The paper-size network with random weights as files: training form in memory, fp32 and int8 graphs, a bundle."""

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from hffnet.calibration.int8 import CalibrationOptions, int8_from_onnx
from hffnet.export.bundle_writer import write_bundle
from hffnet.export.deploy_form import deploy_form
from hffnet.export.onnx import onnx_from_deploy_form
from hffnet.export.parity import logits_of_deploy_form
from hffnet.runtime.decode import DecodeSpec
from hffnet.runtime.manifest import Graph, Manifest, Network, Provenance
from hffnet.runtime.preprocess import PreprocessSpec, preprocess
from hffnet.train.model import HFFNet2D, build_model, paper_config
from hffnet.train.synthetic import draw_frame, six_class_taxonomy

_NUM_FRAMES = 8


def paper_model() -> HFFNet2D:
    """Random weights: speed and memory do not depend on their values."""
    torch.manual_seed(0)
    return build_model(paper_config(six_class_taxonomy().num_classes)).eval()


def drawn_frames() -> npt.NDArray[np.uint8]:
    """(8, 224, 224) uint8."""
    tree, rng = six_class_taxonomy(), np.random.default_rng(0)
    leaves = [tree.path_of_leaf(n % tree.num_leaves)[-1] for n in range(_NUM_FRAMES)]
    return np.stack([preprocess(draw_frame(leaf, rng), PreprocessSpec()) for leaf in leaves])


def write_paper_bundle(model: HFFNet2D, folder: Path) -> Path:
    """A bundle with fp32 and int8 graphs, calibrated with 8 frames: for speed, not for accuracy."""
    frames_NHW, form, tree = drawn_frames(), deploy_form(model), six_class_taxonomy()
    fp32, int8 = folder / "fp32-cpu.onnx", folder / "int8-cpu.onnx"
    onnx_from_deploy_form(form, fp32)
    quantized, _ = int8_from_onnx(fp32, frames_NHW, options=CalibrationOptions(observer="minmax"))
    int8.write_bytes(quantized.SerializeToString())
    manifest = Manifest(
        name="paper-random",
        taxonomy=tree,
        preprocess=PreprocessSpec(),
        decode=DecodeSpec.plain(tree),
        network=Network(name="HFFNet_2D", recipe="paper", num_parameters=1, evidence_shape=(7, 7)),
        graphs=(
            Graph(precision="fp32", family="cpu", member="graphs/fp32-cpu.onnx", tolerance=1e-3),
            Graph(precision="int8", family="cpu", member="graphs/int8-cpu.onnx", tolerance=0.5),
        ),
        metrics={},
        pixel_size_um=None,
        provenance=Provenance(
            created_utc="-",
            checkpoint_sha256="0" * 64,
            data_sha256="0" * 64,
            num_train_frames=0,
            evaluated_on="nothing: random weights",
            tools={},
        ),
        members=(),
    )
    path = folder / "paper.hffnet"
    members = {"graphs/fp32-cpu.onnx": fp32, "graphs/int8-cpu.onnx": int8}
    write_bundle(path, manifest, members, frames_NHW, logits_of_deploy_form(form, frames_NHW))
    return path


if __name__ == "__main__":
    print(write_paper_bundle(paper_model(), Path(sys.argv[1])))
