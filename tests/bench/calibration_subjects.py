"""What int8 calibrators are compared on: float graph, frames and, where there are labels, the truths.

A folder holds ``float.onnx``, ``calibration.npy`` and ``held_out.npy`` (uint8 (N, size, size), ready for the graph),
the float graph's ``logits.npy`` for the held-out frames, and ``subject.json``.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from hffnet.calibration.fidelity import HeldOut, cost_between, divergence, logits_from_onnx, scored_from_logits
from hffnet.calibration.frames import choose_frames, load_frames
from hffnet.runtime.dataset import Dataset, LabelledFrame, open_dataset
from hffnet.runtime.decode import DecodeSpec
from hffnet.runtime.errors import ConfigError
from hffnet.runtime.preprocess import PreprocessSpec
from hffnet.runtime.split import split_dataset
from hffnet.runtime.taxonomy import ClassPath, Taxonomy

_IMAGENET = Taxonomy.from_paths([(f"class {number:04}",) for number in range(1000)])


def write_subject(options: argparse.Namespace, folder: Path) -> None:
    """Prepare ``options.model``; ``subject.json`` comes last, so a folder that has it is whole."""
    match options.model:
        case "xsdd":
            title, taxonomy, decode, truths = _trained(options, folder)
        case "resnet50":
            title, taxonomy, decode, truths = _resnet50(options, folder)
        case _:
            title, taxonomy, decode, truths = _paper(options, folder)
    logits_NC, _ = logits_from_onnx(folder / "float.onnx", np.load(folder / "held_out.npy"))
    np.save(folder / "logits.npy", logits_NC)
    subject = {
        "title": title,
        "float_mb": (folder / "float.onnx").stat().st_size / 1e6,
        "taxonomy": taxonomy.model_dump_json(),
        "decode": decode.model_dump_json(),
        "truths": truths,
        "sizes_only": options.model == "paper",
    }
    (folder / "subject.json").write_text(json.dumps(subject))


_Subject = tuple[str, Taxonomy, DecodeSpec, list[ClassPath] | None]


def _trained(options: argparse.Namespace, folder: Path) -> _Subject:
    from hffnet.export.deploy_form import deploy_form
    from hffnet.export.held_out import roles_from_checkpoint
    from hffnet.export.onnx import onnx_from_deploy_form
    from hffnet.train.checkpoint import model_from_checkpoint, open_checkpoint

    if options.checkpoint is None:
        raise ConfigError("--model xsdd needs --checkpoint, the folder that hffnet train wrote")
    checkpoint = open_checkpoint(options.checkpoint)
    config = checkpoint.config
    roles = roles_from_checkpoint(open_dataset(options.data, checkpoint.taxonomy), checkpoint)
    onnx_from_deploy_form(deploy_form(model_from_checkpoint(checkpoint)), folder / "float.onnx")
    held_out = _write_frames(options, folder, roles.calibration, roles.held_out, config.preprocess)
    title = f"{config.recipe.name}, trained, judged on {len(held_out.frames)} frames of {roles.evaluated_on}"
    return title, checkpoint.taxonomy, config.decode, [frame.classes for frame in held_out.frames]


def _resnet50(options: argparse.Namespace, folder: Path) -> _Subject:
    from tests.classifiers import resnet50, write_onnx

    if options.weights is None:
        raise ConfigError("--model resnet50 needs --weights, a safetensors file with torchvision's names")
    write_onnx(resnet50(options.weights), folder / "float.onnx", 224)
    held_out = _write_halves(options, folder, 224)
    title = f"plain ResNet50, ImageNet weights, {len(held_out.frames)} frames that show none of its classes"
    return title, _IMAGENET, DecodeSpec.plain(_IMAGENET), None


def _paper(options: argparse.Namespace, folder: Path) -> _Subject:
    import torch

    from hffnet.export.deploy_form import deploy_form
    from hffnet.export.onnx import onnx_from_deploy_form
    from hffnet.train.model import HFFNet2D, paper_config

    taxonomy = open_dataset(options.data).taxonomy
    config = paper_config(taxonomy.num_classes)
    torch.manual_seed(0)
    onnx_from_deploy_form(deploy_form(HFFNet2D(config).eval()), folder / "float.onnx")
    held_out = _write_halves(options, folder, config.img_size)
    title = f"paper, random weights: sizes and times only; {len(held_out.frames)} held-out frames"
    return title, taxonomy, DecodeSpec.plain(taxonomy), None


def _write_halves(options: argparse.Namespace, folder: Path, size: int) -> Dataset:
    data = split_dataset(open_dataset(options.data), 0, (0.7, 0.0, 0.3))
    return _write_frames(options, folder, data, replace(data, frames=data.frames_of("test")), PreprocessSpec(size=size))


def _write_frames(
    options: argparse.Namespace, folder: Path, calibration: Dataset, held_out: Dataset, spec: PreprocessSpec
) -> Dataset:
    chosen = choose_frames(calibration, options.num_frames)
    np.save(folder / "calibration.npy", load_frames(chosen, calibration, spec).pixels)
    held_out = replace(held_out, frames=_spread(held_out.frames, options.num_held_out))
    np.save(folder / "held_out.npy", load_frames(held_out.frames, held_out, spec).pixels)
    return held_out


def _spread(items: Sequence[LabelledFrame], wanted: int) -> tuple[LabelledFrame, ...]:
    """Evenly: frames come ordered by class."""
    places = np.linspace(0, len(items) - 1, min(len(items), wanted)).round().astype(int)
    return tuple(items[k] for k in np.unique(places))


def _logits(graph: Path, frames_NHW: np.ndarray) -> np.ndarray:
    """Of any graph that onnxruntime opens: peers' have operators that this project does not take."""
    session = ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    wanted = ["logits" if "logits" in outputs else outputs[0]]
    return np.concatenate([session.run(wanted, {"frames": frame[None]})[0] for frame in frames_NHW])


def fidelity(graph: Path, folder: Path) -> dict[str, Any]:
    """How near a graph's answers on the held-out frames are to the float graph's."""
    subject = json.loads((folder / "subject.json").read_text())
    taxonomy = Taxonomy.model_validate_json(subject["taxonomy"])
    reference_NC, frames_NHW = np.load(folder / "logits.npy"), np.load(folder / "held_out.npy")
    spec = DecodeSpec.model_validate_json(subject["decode"])
    some = HeldOut(frames=frames_NHW, truths=[("",)] * len(frames_NHW), taxonomy=taxonomy, decode=spec)
    logits_NC = _logits(graph, frames_NHW)
    each = [divergence(reference_NC[k : k + 1], logits_NC[k : k + 1], some) for k in range(len(frames_NHW))]
    found: dict[str, Any] = {"kl": float(np.mean(each)), "kl_median": float(np.median(each))}
    # A network that is sure of its answers has a mean that is one frame between two classes: name its share.
    found["kl_largest"] = float(max(each) / max(sum(each), 1e-30))
    changed = [(reference_NC[:, s].argmax(1) != logits_NC[:, s].argmax(1)).sum() for s in taxonomy.slices()]
    found["flips"] = "/".join(map(str, changed))
    if subject["truths"]:
        held_out = replace(some, truths=[tuple(path) for path in subject["truths"]])
    else:
        held_out = replace(some, truths=[taxonomy.path_of_leaf(0)] * len(frames_NHW))
    score = scored_from_logits(logits_NC, held_out)
    cost = cost_between(scored_from_logits(reference_NC, held_out), score, held_out)
    found |= {"logit_db": float(-20 * np.log10(max(cost.logit_error, 1e-9))), "cosine": cost.cosine}
    if subject["truths"]:
        found["hf1"] = score.metrics.hf1
    return found
