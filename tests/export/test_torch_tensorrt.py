"""The way to torch-tensorrt: everything but the compiler itself, which needs a GPU and is not run here."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from hffnet.export.deploy_form import DeployForm, deploy_form
from hffnet.export.torch_tensorrt import (
    FloatPrecision,
    ProgramEngine,
    kept_program,
    open_torch_tensorrt,
    program_from_form,
)
from hffnet.runtime.bundle import open_bundle
from hffnet.runtime.engines.cache import EngineCache
from hffnet.runtime.errors import EngineError, MissingExtraError
from hffnet.train.model import build_model, nano_config


@pytest.fixture(scope="module")
def form() -> DeployForm:
    torch.manual_seed(0)
    config = nano_config((2, 3)).model_copy(update={"img_size": 64, "depth": 1})
    return deploy_form(build_model(config).eval())


def test_without_the_library_its_source_is_named(bundle_path: Path, tmp_path: Path) -> None:
    if find_spec("torch_tensorrt") is not None:
        pytest.skip("torch-tensorrt is installed")
    with pytest.raises(MissingExtraError, match=r"hffnet\[torch-tensorrt\].*--engine tensorrt"):
        open_torch_tensorrt(open_bundle(bundle_path), tmp_path)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 0.02)])
def test_a_program_is_kept_sealed_and_answers_as_the_form(
    form: DeployForm, tmp_path: Path, precision: FloatPrecision, tolerance: float, caplog: pytest.LogCaptureFixture
) -> None:
    cache, compilations = EngineCache(tmp_path / "cache"), list[str]()

    def compiled() -> bytes:
        compilations.append(precision)
        torch.export.save(program_from_form(form, precision, "cpu"), tmp_path / "program.pt2")
        return (tmp_path / "program.pt2").read_bytes()

    kept_program(cache, "program", compiled)
    engine = ProgramEngine(kept_program(cache, "program", compiled), "cpu", "CPU", precision, "none")
    assert compilations == [precision]
    frames_NHW = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)
    outputs = engine.infer(frames_NHW)
    with torch.inference_mode():
        logits, evidence = (part.numpy() for part in form(torch.from_numpy(frames_NHW)))
    scale = np.abs(logits).max()
    assert np.abs(outputs.logits - logits).max() <= tolerance * scale
    assert outputs.evidence.shape == evidence.shape
    engine.close()
    with pytest.raises(EngineError, match="was closed"):
        engine.infer(frames_NHW)
    (stored,) = (tmp_path / "cache").glob("*.sealed")
    stored.write_bytes(stored.read_bytes()[:-1] + b"x")
    kept_program(cache, "program", compiled)
    assert len(compilations) == 2
    assert "will be made anew" in caplog.text
