"""Engines built ahead of time from a bundle, for GPUs that stand elsewhere; the building itself is the runtime's.

What is written is for the machine's owner to install on purpose: the runtime never loads an engine file it did not
build itself.
"""

from collections.abc import Callable
from pathlib import Path

from hffnet.runtime.bundle import Bundle
from hffnet.runtime.durable import whole_file
from hffnet.runtime.engines.builder import BuildOptions, BuildProgress, engine_from_onnx
from hffnet.runtime.engines.flavour import Flavour
from hffnet.runtime.engines.sidecar import Sidecar
from hffnet.runtime.errors import BundleError, ConfigError
from hffnet.runtime.manifest import Graph, Precision


def write_engine(
    bundle: Bundle,
    path: Path,
    flavour: Flavour,
    options: BuildOptions,
    *,
    precision: Precision,
    progress: Callable[[BuildProgress], None] | None = None,
) -> Sidecar:
    """Build one engine of a bundle and write it with its sidecar ``<path>.json``.

    Args:
        bundle: must hold a graph of ``precision`` for the ``tensorrt`` family; its fp32 graph serves where fp32 is
            asked for, since both families compute float32 alike.
        path: of the engine; engine and sidecar replace existing files only when the build succeeded.
        flavour: which library.
        options: architectures, batch, workspace.
        precision: of the graph.
        progress: called while the build goes on.

    Raises:
        BundleError: the bundle has no such graph.
        ConfigError: the path cannot be written.
        MissingExtraError, EngineError, GraphError: see ``engine_from_onnx``.
    """
    if not path.parent.is_dir() or path.is_dir():
        raise ConfigError(f"the engine cannot be written to {path}: name a file in an existing folder")
    graph = _graph_of(bundle, precision)
    built = engine_from_onnx(bundle.member(graph.member), flavour, options, precision=precision, progress=progress)
    document = built.sidecar.model_dump_json(indent=1).encode() + b"\n"
    # The sidecar first: an engine is never there without what is known of it.
    _write_whole(path.with_name(f"{path.name}.json"), document)
    _write_whole(path, built.engine)
    return built.sidecar


def _graph_of(bundle: Bundle, precision: Precision) -> Graph:
    kinds = {(graph.precision, graph.family): graph for graph in bundle.manifest.graphs}
    graph = kinds.get((precision, "tensorrt"))
    if graph is None and precision == "fp32":
        graph = kinds.get((precision, "cpu"))
    if graph is None:
        held = ", ".join(f"{one} ({family})" for one, family in kinds)
        raise BundleError(f"{bundle.path} has no {precision} graph for TensorRT, only {held}; export it with one")
    return graph


def _write_whole(path: Path, content: bytes) -> None:
    try:
        with whole_file(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from error
