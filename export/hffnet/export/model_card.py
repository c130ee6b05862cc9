"""The bundle's page for people: what the model answers, how well, on what, and what it must not be used for."""

from hffnet.runtime.manifest import Manifest


def card_from_manifest(manifest: Manifest) -> str:
    """Markdown with the same figures as the manifest."""
    tree = manifest.taxonomy
    levels = [level.name for level in tree.levels]
    rows = "\n".join(
        f"| {precision} | {m.num_frames} | {m.hf1:.4f} | {m.fpa:.4f} | {m.tice:.4f} | "
        + " | ".join(f"{share:.4f}" for share in m.level_accuracy)
        + " |"
        for precision, m in manifest.metrics.items()
    )
    classes = "\n".join(f"- {' / '.join(tree.path_of_leaf(leaf))}" for leaf in range(tree.num_leaves))
    sizes = manifest.pixel_size_um
    made = manifest.provenance
    seen = f"{sizes[0]:.4g} to {sizes[1]:.4g} µm" if sizes else "not known"
    return f"""# {manifest.name}

{manifest.network.name} (recipe {manifest.network.recipe}), {manifest.network.num_parameters:,} parameters.
Trained on {made.num_train_frames} frames; exported {made.created_utc}.

## Classes

{" › ".join(levels)}

{classes}

## Scores

Measured on {made.evaluated_on}.

| precision | frames | HF1 | FPA | TICE | {" | ".join(levels)} |
| --- | --- | --- | --- | --- | {" | ".join("---" for _ in levels)} |
{rows}

## Limits

- Pixel size of the training frames: {seen}. Outside it nothing was measured.
- Every frame gets a path of this tree, also one that shows none of these classes.
- The decision on conformity stays with a person; accept or override each record.
"""
