"""What a bundle holds, told from its verified bytes: for people as tables, for programs as one document."""

from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.tree import Tree

from hffnet.runtime.bundle import Bundle
from hffnet.runtime.operations import Macs
from hffnet.runtime.taxonomy import Taxonomy

if TYPE_CHECKING:
    from hffnet.runtime.throughput import Throughput


def document_from_bundle(bundle: Bundle, throughput: "Throughput | None" = None) -> dict[str, Any]:
    """Manifest, identity and the facts read from each graph; with ``throughput`` also estimated times."""
    document: dict[str, Any] = {
        "command": "inspect",
        "bundle": str(bundle.path),
        "sha256": bundle.sha256,
        "manifest": bundle.manifest.model_dump(mode="json"),
        "graphs": {
            name: {
                "precision": facts.precision,
                "opset": facts.opset,
                "operators": dict(facts.operators),
                "parameters": dict(facts.parameters),
                "macs": dict(facts.macs.by_type),
                "quantized_share": facts.macs.quantized_share,
            }
            for name, facts in bundle.facts.items()
        },
    }
    if throughput is not None:
        for name, facts in bundle.facts.items():
            document["graphs"][name]["estimated_ms"] = _estimated_ms(facts.macs, throughput)
        document["throughput"] = {"macs_per_second": dict(throughput.by_type), "basis": throughput.basis}
    return document


def _estimated_ms(macs: Macs, throughput: "Throughput") -> float | None:
    return None if macs.num_unknown else throughput.milliseconds(macs.by_type)


def tables_from_bundle(bundle: Bundle, throughput: "Throughput | None" = None) -> list[Table]:
    """Four tables: the model, its graphs as their own types tell them, its scores, its class tree.

    With ``throughput`` the second tells estimated times too.
    """
    return [_model(bundle), _graphs(bundle, throughput), _scores(bundle), _classes(bundle.manifest.taxonomy)]


def _model(bundle: Bundle) -> Table:
    manifest, made = bundle.manifest, bundle.manifest.provenance
    table = Table(title=f"{manifest.name}  {bundle.path}", show_header=False, title_justify="left")
    network = manifest.network
    table.add_row("identity", bundle.sha256)
    table.add_row("network", f"{network.name}, recipe {network.recipe}, {network.num_parameters:,} parameters")
    spec = manifest.preprocess
    table.add_row("input", f"{spec.size} × {spec.size}, stretched between quantiles {spec.low} and {spec.high}")
    held_back = manifest.decode.min_confidence
    table.add_row(
        "decision",
        f"joint path, temperatures {', '.join(f'{t:.3g}' for t in manifest.decode.temperatures)},"
        f" {'never holds back' if held_back is None else f'holds back below {held_back:.3g}'}",
    )
    sizes = manifest.pixel_size_um
    table.add_row("pixel size", f"{sizes[0]:.4g} to {sizes[1]:.4g} µm" if sizes else "not known")
    novelty = manifest.novelty
    limit = f"energy above {novelty.max_energy:.3g} ({novelty.num_frames} held-out frames)" if novelty else "no limit"
    table.add_row("unlike trained", limit)
    table.add_row(
        "trained", f"on {made.num_train_frames} frames, data {made.data_sha256[:12]}…; exported {made.created_utc}"
    )
    table.add_row("tools", ", ".join(f"{name} {version}" for name, version in sorted(made.tools.items())))
    return table


def _graphs(bundle: Bundle, throughput: "Throughput | None") -> Table:
    table = Table(
        "graph",
        "precision",
        "MB",
        "weights by type",
        "work per frame (MAC)",
        "in int8",
        "Q/DQ",
        "tolerance",
        title="graphs",
        caption=None if throughput is None else f"estimated ms: work / speed of {throughput.basis}",
    )
    if throughput is not None:
        table.add_column("estimated ms")
    sizes = {member.name: member.size for member in bundle.manifest.members}
    for graph in bundle.manifest.graphs:
        facts = bundle.facts[graph.member]
        macs = facts.macs
        weights = {kind: n for kind, n in facts.parameters.most_common() if kind not in {"int64", "int32"}}
        table.add_row(
            graph.member,
            facts.precision,
            f"{sizes[graph.member] / 1e6:.1f}",
            ", ".join(f"{kind} {_large(n)}" for kind, n in weights.items()),
            ", ".join(f"{kind} {_large(n)}" for kind, n in macs.by_type.most_common()) or "not stated",
            "not stated" if macs.quantized_share is None else f"{macs.quantized_share:.1%}",
            f"{facts.operators['QuantizeLinear']} / {facts.operators['DequantizeLinear']}",
            f"{graph.tolerance:.2g}",
            *(() if throughput is None else (_estimate(macs, throughput),)),
        )
    return table


def _estimate(macs: Macs, throughput: "Throughput") -> str:
    if macs.num_unknown:
        return "not stated"
    found = _estimated_ms(macs, throughput)
    return "not on a CPU" if found is None else f"{found:.3g}"


def _large(count: int) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)


def _scores(bundle: Bundle) -> Table:
    levels = [level.name for level in bundle.manifest.taxonomy.levels]
    table = Table("precision", "frames", "HF1", "FPA", "TICE", *levels, title="scores on held-out frames")
    for precision, m in bundle.manifest.metrics.items():
        shares = (m.hf1, m.fpa, m.tice, *m.level_accuracy)
        table.add_row(precision, str(m.num_frames), *(f"{share:.4f}" for share in shares))
    return table


def _classes(taxonomy: Taxonomy) -> Table:
    tree = Tree(" › ".join(level.name for level in taxonomy.levels))
    branches: dict[tuple[str, ...], Tree] = {(): tree}
    for leaf in range(taxonomy.num_leaves):
        path = taxonomy.path_of_leaf(leaf)
        for depth in range(1, len(path) + 1):
            if path[:depth] not in branches:
                branches[path[:depth]] = branches[path[: depth - 1]].add(path[depth - 1])
    table = Table(title="classes", show_header=False)
    table.add_row(tree)
    return table
