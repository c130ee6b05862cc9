"""From the deploy form to an ONNX file that every engine reads and that calibration can address.

Opset 20, standard domain only, no external data. Nodes and values are named after the module they come from and stay
the same from run to run: ``trunk.layer1.0.conv1/Conv``, ``trunk.layer1.0/Add`` (a residual sum of the trunk),
``transformer.3/Add`` and ``transformer.3/Add_1`` (the two residual sums of encoder layer 3),
``transformer.3.attention.qkv/MatMul`` and ``…/Add`` (its bias), ``head/MatMul``. A node's only output has the node's
name; the graph's own are ``frames``, ``logits`` and ``evidence``.
"""

import ast
import copy
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, LiftConstantsToInitializersPass
from torch import nn

from hffnet.export.deploy_form import DeployForm
from hffnet.export.tokens import TokenNorm
from hffnet.runtime.durable import whole_file
from hffnet.runtime.errors import GraphError

_LOG = logging.getLogger(__name__)

OPSET = 20
"""The newest that TensorRT 10.3 (JetPack 6.1) reads, and the oldest with Gelu."""

MAX_GRAPH_BYTES = 2**31 - 1
"""Protobuf's limit for one file."""

_SCOPES = "pkg.torch.onnx.name_scopes"


def onnx_from_deploy_form(
    form: DeployForm, path: Path, *, precision: Literal["fp32", "fp16"] = "fp32", dynamic_batch: bool = True
) -> None:
    """Write a deploy form as one self-contained ONNX file; checked before it takes its name.

    Args:
        form: from `deploy_form`, in float32; it is not changed.
        path: written under a temporary name beside it, then renamed.
        precision: types of weights and activations; outputs are float32 in both.
        dynamic_batch: any batch size; else 1.

    Raises:
        GraphError: the exporter's graph is not of the promised form, or over 2 GB.
    """
    typed = form if precision == "fp32" else _half(form)
    model = _exported(typed, dynamic_batch=dynamic_batch)
    _name_after_modules(model.graph)
    ClearMetadataAndDocStringPass()(model)  # stack traces with this machine's paths among them
    LiftConstantsToInitializersPass(lift_all_constants=True)(model)
    _check_form(model, typed)
    model.graph.name = form.config.name
    model.producer_name, model.producer_version = "hffnet", None
    model.metadata_props.update(
        hffnet_config=form.config.model_dump_json(), hffnet_precision=precision, exporter=f"torch {torch.__version__}"
    )
    _write(model, path)


def _half(form: DeployForm) -> DeployForm:
    # The memo stands in for the parameters, so that the float32 weights are never copied.
    halves: dict[int, object] = {id(p): nn.Parameter(p.detach().half(), requires_grad=False) for p in form.parameters()}
    return copy.deepcopy(form, halves)


def _exported(form: DeployForm, *, dynamic_batch: bool) -> ir.Model:
    size = form.config.img_size
    batch = 2 if dynamic_batch else 1  # 1 would be taken as a constant
    with _quiet_exporter(), torch.no_grad():
        program = torch.onnx.export(
            form,
            (torch.zeros(batch, size, size, dtype=torch.uint8),),
            dynamo=True,
            opset_version=OPSET,
            input_names=["frames"],
            output_names=["logits", "evidence"],
            dynamic_shapes=({0: torch.export.Dim("batch")},) if dynamic_batch else None,
            verbose=False,
        )
    assert program is not None
    return program.model


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Hide what the exporter says to its own developers: deprecations within torch, and that torchvision is absent."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        registration.setLevel(level)


def _name_after_modules(graph: ir.Graph) -> None:
    kept = {id(value) for value in (*graph.inputs, *graph.outputs)}
    num_used = Counter[str]()
    scopes = dict[int, str]()
    for node in graph:
        scope = scopes[id(node)] = _scope(node, scopes)
        name = f"{scope}/{node.op_type}".lstrip("/")
        node.name = f"{name}_{num_used[name]}" if num_used[name] else name
        num_used[name] += 1
        for k, value in enumerate(node.outputs):
            if id(value) not in kept:
                value.name = node.name if len(node.outputs) == 1 else f"{node.name}:{k}"
    # Small constants of the exporter (shapes, axes): weights already carry their module's name.
    constants = [value for value in graph.initializers.values() if value.name and value.name.startswith("val_")]
    for value in constants:
        node, k = next(iter(value.uses()))
        value.name = f"{node.name}.input{k}"


def _scope(node: ir.Node, scopes: dict[int, str]) -> str:
    """Dotted name of the module a node was made in; that of the node before it where the exporter does not say."""
    if stated := node.metadata_props.get(_SCOPES):
        modules: list[str] = ast.literal_eval(stated)  # ['', 'trunk', 'trunk.conv1', 'conv2d']: the last is no module
        return modules[-2]
    before = [value.producer() for value in node.inputs if value is not None]
    return next((scopes[id(producer)] for producer in before if producer is not None), "")


def _check_form(model: ir.Model, form: DeployForm) -> None:
    nodes = list(model.graph)
    found = Counter(node.op_type for node in nodes)
    num_norms = sum(isinstance(module, TokenNorm) for module in form.modules())
    num_gelu = sum(isinstance(module, nn.GELU) for module in form.modules())
    types = {value.name: value.dtype for value in (*model.graph.inputs, *model.graph.outputs)}
    facts = {
        f"{num_norms} LayerNormalization nodes, not {found['LayerNormalization']}": found["LayerNormalization"]
        == num_norms,
        f"{num_gelu} Gelu nodes, not {found['Gelu']}": found["Gelu"] == num_gelu,
        f"opset {OPSET} and no other domain, not {dict(model.opset_imports)}": dict(model.opset_imports) == {"": OPSET},
        f"frames uint8, logits and evidence float32, not {types}": types
        == {"frames": ir.DataType.UINT8, "logits": ir.DataType.FLOAT, "evidence": ir.DataType.FLOAT},
        "constant axes on every ReduceMean": all(
            len(node.inputs) > 1 and node.inputs[1] is not None and node.inputs[1].is_initializer()
            for node in nodes
            if node.op_type == "ReduceMean"
        ),
        "no local function": not model.functions,
    }
    if wrong := [fact for fact, holds in facts.items() if not holds]:
        raise GraphError(
            f"torch {torch.__version__} exported a graph of another form; expected {'; '.join(wrong)}."
            " Use the versions in constraints.txt"
        )


def _write(model: ir.Model, path: Path) -> None:
    with whole_file(path) as temporary:
        num_bytes = temporary.write_bytes(_serialised(model, path))
        _LOG.info("%s: %d nodes, %.1f MB", path, len(model.graph), num_bytes / 1e6)
        try:
            onnx.checker.check_model(temporary, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise GraphError(f"the exported graph of {path} is not valid ONNX: {error}") from error


def _serialised(model: ir.Model, path: Path) -> bytes:
    proto = ir.to_proto(model)
    if (size := proto.ByteSize()) > MAX_GRAPH_BYTES:
        raise GraphError(
            f"{path} would have {size} bytes; an ONNX file without external data holds {MAX_GRAPH_BYTES}:"
            " choose a smaller recipe or fp16"
        )
    content: bytes = proto.SerializeToString()
    return content
