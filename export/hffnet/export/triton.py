"""A bundle -> a model repository that NVIDIA's Triton Inference Server loads, one model for each graph.

The server runs the graph and nothing else; preprocess and decode stay with the client, in the code that ships with
hffnet, from what ``hffnet.json`` in each model's folder says. Layout and fields: Triton's model_repository.md,
model_configuration.md and model_config.proto.
"""

import json
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt

from hffnet.runtime.bundle import Bundle
from hffnet.runtime.durable import whole_folder
from hffnet.runtime.errors import ConfigError
from hffnet.runtime.manifest import Family, Graph, Precision
from hffnet.runtime.taxonomy import Taxonomy

_VERSION = "1"
_WARM_UP_FILE = "frame"


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonOptions:
    """How the server runs the models.

    Attributes:
        max_batch: most frames in one call; the warm-up runs one and so many.
        max_wait_us: how long a request may wait for others to fill a batch.
        instances: copies of each model that run side by side, on each GPU where there are any.
    """

    max_batch: int = 8
    max_wait_us: int = 2000
    instances: int = 1

    def __post_init__(self) -> None:
        if min(self.max_batch, self.instances) < 1 or self.max_wait_us < 0:
            raise ConfigError(f"{self} cannot be served; batches and instances are 1 or more, a wait 0 or more")


def triton_from_bundle(bundle: Bundle, repository: Path, options: TritonOptions | None = None) -> list[Path]:
    """Write one model folder per graph of the bundle.

    Args:
        bundle: a sound one.
        repository: created if absent; other models in it stay.
        options: see ``TritonOptions``.

    Returns:
        The folders, which the server knows by their names.

    Raises:
        ConfigError: a model of that name is there already, or the repository cannot be written.
    """
    options = options or TritonOptions()
    graphs = {repository / name_of(bundle, graph): graph for graph in bundle.manifest.graphs}
    for folder in graphs:
        _refuse_existing(folder)
    try:
        repository.mkdir(parents=True, exist_ok=True)
        for folder, graph in graphs.items():
            # Staged outside of the repository: a server that polls it must not see half a model.
            with whole_folder(folder, repository.absolute().parent) as temporary:
                _write_model(temporary, folder.name, bundle, graph, options)
    except OSError as error:
        raise ConfigError(f"{repository} cannot be written ({error.strerror}); name another --triton folder") from error
    return list(graphs)


def check_repository(repository: Path, name: str, precisions: Iterable[Precision]) -> None:
    """Refuse a repository before minutes of export are spent on what cannot be written.

    Args:
        repository: need not be there yet.
        name: of the model that is to be exported.
        precisions: of its graphs.

    Raises:
        ConfigError: a folder of such a graph is there already, or nothing can be written there.
    """
    whole = repository.absolute()
    try:  # the very steps that follow the export; asking for permission says little for root or on a read-only mount
        if whole.exists() and not whole.is_dir():
            raise ConfigError(f"{repository} is a file; name another --triton folder")
        with tempfile.TemporaryDirectory(dir=next(path for path in whole.parents if path.exists())) as staged:
            if whole.is_dir():
                model = Path(staged, "model")
                model.mkdir()
                model.rename(whole / f".{Path(staged).name}").rmdir()
    except OSError as error:
        raise ConfigError(f"{repository} cannot be written ({error.strerror}); name another --triton folder") from error
    for precision, family in product(precisions, get_args(Family)):
        _refuse_existing(repository / _model_name(name, precision, family))


def _refuse_existing(folder: Path) -> None:
    if folder.exists():
        raise ConfigError(f"{folder} exists and is not written over; remove it, or give another --triton folder")


def name_of(bundle: Bundle, graph: Graph) -> str:
    """What the server calls a graph of a bundle."""
    return _model_name(bundle.manifest.name, graph.precision, graph.family)


def _model_name(name: str, precision: Precision, family: Family) -> str:
    """Letters that any server and file system takes.

    >>> _model_name("X-SDD (small)", "int8", "cpu")
    'x_sdd_small_int8_cpu'
    """
    plain = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_").lower() or "hffnet"
    return f"{plain}_{precision}_{family}"


def config_from_bundle(bundle: Bundle, graph: Graph, options: TritonOptions) -> str:
    """``config.pbtxt`` of one graph."""
    manifest = bundle.manifest
    size, columns = manifest.preprocess.size, sum(manifest.taxonomy.num_classes)
    rows, cols = manifest.network.evidence_shape
    return f"""name: {_quoted(name_of(bundle, graph))}
backend: "onnxruntime"
max_batch_size: {options.max_batch}
input [
  {{ name: "frames" data_type: TYPE_UINT8 dims: [ {size}, {size} ] }}
]
output [
  {{ name: "logits" data_type: TYPE_FP32 dims: [ {columns} ] label_filename: "labels.txt" }},
  {{ name: "evidence" data_type: TYPE_FP32 dims: [ {columns}, {rows}, {cols} ] }}
]
version_policy {{ latest {{ num_versions: 1 }} }}
dynamic_batching {{ max_queue_delay_microseconds: {options.max_wait_us} }}
instance_group [
  {{ count: {options.instances} kind: {_kind(graph)} }}
]
model_warmup [
{_warm_up("one frame", 1, size)},
{_warm_up("full batch", options.max_batch, size)}
]
parameters {{ key: "hffnet.bundle_sha256" value {{ string_value: "{bundle.sha256}" }} }}
parameters {{ key: "hffnet.precision" value {{ string_value: "{graph.precision}" }} }}
"""


def _warm_up(name: str, batch: int, size: int) -> str:
    """The server makes so many requests of one frame each, and runs them as one batch."""
    return f"""  {{
    name: "{name}"
    batch_size: {batch}
    inputs {{
      key: "frames"
      value {{ data_type: TYPE_UINT8 dims: [ {size}, {size} ] input_data_file: "{_WARM_UP_FILE}" }}
    }}
  }}"""


def _kind(graph: Graph) -> str:
    """Where it runs: quantized for CPUs, half precision for GPUs, float32 on a GPU where the server has one."""
    if graph.family == "tensorrt":
        return "KIND_GPU"
    return "KIND_AUTO" if graph.precision == "fp32" else "KIND_CPU"


def _write_model(folder: Path, name: str, bundle: Bundle, graph: Graph, options: TritonOptions) -> None:
    frames_NHW, logits_NC = bundle.vectors()
    manifest = bundle.manifest
    (folder / _VERSION).mkdir()
    (folder / _VERSION / "model.onnx").write_bytes(bundle.member(graph.member))
    (folder / "config.pbtxt").write_text(config_from_bundle(bundle, graph, options), encoding="utf-8")
    (folder / "warmup").mkdir()
    (folder / "warmup" / _WARM_UP_FILE).write_bytes(frames_NHW[0].tobytes())
    for file, labels in label_files(manifest.taxonomy).items():
        (folder / file).write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    keys = {"name", "taxonomy", "preprocess", "decode", "pixel_size_um", "novelty"}
    spec = manifest.model_dump(mode="json", include=keys)
    spec |= {"bundle_sha256": bundle.sha256, "precision": graph.precision, "tolerance": graph.tolerance}
    (folder / "hffnet.json").write_text(json.dumps(spec, indent=1) + "\n", encoding="utf-8")
    _write_vectors(folder / "vectors.npz", frames_NHW, logits_NC)
    (folder / "README.md").write_text(readme(name, graph, options), encoding="utf-8")


def label_files(taxonomy: Taxonomy) -> dict[str, list[str]]:
    """``labels.txt``, one line per column of the logits as ``level/class``, and the class names of each level."""
    files = {"labels.txt": [f"{level.name}/{name}" for level in taxonomy.levels for name in level.classes]}
    for number, level in enumerate(taxonomy.levels, start=1):
        files[f"labels_level{number}.txt"] = list(level.classes)
    return files


def _write_vectors(path: Path, frames_NHW: npt.NDArray[np.uint8], logits_NC: npt.NDArray[np.float32]) -> None:
    with path.open("wb") as file:
        np.savez(file, frames=frames_NHW, logits=logits_NC)


def _quoted(text: str) -> str:
    return json.dumps(text)


def readme(name: str, graph: Graph, options: TritonOptions) -> str:
    """What a client must do, as code that runs."""
    where = {"KIND_GPU": "on GPUs", "KIND_CPU": "on CPUs", "KIND_AUTO": "on a GPU where there is one"}[_kind(graph)]
    return f"""# {name}

Serves one graph of an hffnet bundle ({graph.precision}, {where}; batches up to {options.max_batch}). Input `frames`
(N, H, W) uint8, outputs `logits` (N, ΣC) and `evidence` (N, ΣC, h, w), whose mean over positions is the logits.
The server neither reads images nor decodes: `pip install hffnet` on the client does both, from `hffnet.json` here.

```python
import json
from pathlib import Path

from hffnet.runtime.decode import Decision, DecodeSpec, decode
from hffnet.runtime.preprocess import PreprocessSpec, preprocess
from hffnet.runtime.read import read_frame
from hffnet.runtime.taxonomy import Taxonomy

spec = json.loads((Path(FOLDER) / "hffnet.json").read_text())


def of(kind, key):
    return kind.model_validate_json(json.dumps(spec[key]))


def decision_from_frame(path, infer) -> Decision:
    picture = read_frame(Path(path)).picture  # the info bar is cropped
    logits = infer(preprocess(picture, of(PreprocessSpec, "preprocess"))[None])
    (decision,) = decode(logits, of(Taxonomy, "taxonomy"), of(DecodeSpec, "decode"))
    return decision  # .path, .answer, .confidence
```

`infer` asks the server (`pip install tritonclient[http]`):

```python
import tritonclient.http as triton

client = triton.InferenceServerClient("localhost:8000")


def infer(frames):
    asked = triton.InferInput("frames", frames.shape, "UINT8")
    asked.set_data_from_numpy(frames)
    return client.infer("{name}", [asked]).as_numpy("logits")
```

Triton's classification extension (`class_count`) ranks all columns together and knows no tree: it mixes levels and can
answer with a class under another parent. Decode as above. `vectors.npz` holds frames with the float network's logits:
what the server answers to them differs by at most {graph.tolerance:g} of the largest logit, or it must not be used.

Gates (incomplete, blank, unlike the training frames) and records are `hffnet run`'s and not the server's.
"""
