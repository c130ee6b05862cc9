"""The gate on int8: what it measures, restores and refuses."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from hffnet.calibration.fidelity import HeldOut, Scored, cost_between, logits_from_onnx, scored, scored_from_logits
from hffnet.calibration.gate import Budget, GateReport, placement_within_budget
from hffnet.calibration.int8 import Calibration, CalibrationOptions, calibration_from_frames
from hffnet.calibration.placement import Placement, ResidualPoint, placement_from_onnx
from hffnet.calibration.sensitivity import groups_from_placement, ranked_groups, reduction_from_placement
from hffnet.runtime.decode import DecodeSpec, decode
from hffnet.runtime.errors import ConfigError, GateError
from hffnet.runtime.graph import facts_from_onnx
from hffnet.runtime.taxonomy import Taxonomy
from tests.calibration.graphs import outlier_network, small_network, textured_frames

TREE = Taxonomy.from_paths([("a", "x"), ("a", "y"), ("b", "z")])
FRAMES = textured_frames(32)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gate") / "outliers.onnx"
    onnx.save(outlier_network(), path)
    return path


@pytest.fixture(scope="module")
def held_out(network: Path) -> HeldOut:
    """Frames labelled by the float network itself: its scores are 1, and every loss is int8's."""
    frames = textured_frames(64, seed=5)
    decisions = decode(logits_from_onnx(network, frames)[0], TREE, DecodeSpec.plain(TREE))
    truths = [decision.path for decision in decisions]
    assert len(set(truths)) == 3
    return HeldOut(frames=frames, truths=truths, taxonomy=TREE, decode=DecodeSpec.plain(TREE))


@pytest.fixture(scope="module")
def reference(network: Path, held_out: HeldOut) -> Scored:
    return scored(network, held_out)


def calibrated(network: Path, placement: Placement | None = None) -> Calibration:
    return calibration_from_frames(network, FRAMES, placement=placement, activations="uint8")


def with_transformer_sums(placement: Placement) -> Placement:
    """The published mistake: the residual sums of the transformer, outliers and all, in eight bits."""
    first = ResidualPoint(node="t_add1", output="x1", activation="x0", input_index=0)
    second = ResidualPoint(node="t_add2", output="x2", activation="x1", input_index=0)
    return replace(placement, residuals=(*placement.residuals, first, second))


def test_quantized_transformer_sums_are_caught_and_just_they_are_restored(
    network: Path, held_out: HeldOut, reference: Scored
) -> None:
    sound = placement_from_onnx(onnx.load(network))
    calibration = calibrated(network, with_transformer_sums(sound))
    passed = placement_within_budget(
        calibration.quantized, calibration.placement, reference, held_out, Budget(max_drop=1.0)
    )
    report = passed.report
    assert report.curve[0].cost.hf1_drop > 20
    assert set(report.restored) == {"t_add1 Add", "t_add2 Add"}
    assert {p.output for p in passed.placement.residuals} == {p.output for p in sound.residuals}
    assert len(passed.placement.weighted) == len(sound.weighted)
    assert report.accepted is not None
    assert report.accepted.cost.hf1_drop <= 1
    assert [cost.name for cost in report.sensitivity[:2]] == ["t_add1 Add", "t_add2 Add"]
    assert GateReport.model_validate_json(report.model_dump_json()) == report


def test_a_sound_placement_passes_whole(network: Path, held_out: HeldOut, reference: Scored) -> None:
    calibration = calibrated(network)
    passed = placement_within_budget(
        calibration.quantized, calibration.placement, reference, held_out, Budget(max_drop=1.0)
    )
    assert passed.placement == calibration.placement
    assert passed.report.restored == ()
    assert passed.report.sensitivity == ()
    assert passed.report.accepted is not None
    assert passed.report.accepted.quantized_share == pytest.approx(0.9282, abs=1e-3)


def test_the_curve_is_drawn_where_it_is_asked_for(network: Path, held_out: HeldOut, reference: Scored) -> None:
    calibration = calibrated(network)
    budget = Budget(max_drop=100, min_quantized_share=0.0, num_ranking_frames=8, always_rank=True)
    report = placement_within_budget(calibration.quantized, calibration.placement, reference, held_out, budget).report
    assert [point.num_restored for point in report.curve] == [0, 1, 2, 4, 8]
    shares = [point.quantized_share or 0 for point in report.curve]
    assert shares == sorted(shares, reverse=True)
    assert len(report.sensitivity) == len(groups_from_placement(calibration.placement))
    assert report.num_ranking_frames == 8


def test_a_large_network_is_ranked_by_stages_first(network: Path, held_out: HeldOut, reference: Scored) -> None:
    sound = placement_from_onnx(onnx.load(network))
    calibration = calibrated(network, with_transformer_sums(sound))
    stages = dict.fromkeys((p.output for p in sound.weighted), "trunk") | {"x1": "encoder", "x2": "encoder"}
    renamed = {p.node: f"{stages.get(p.output, 'trunk')}.{k}.{p.node}/Op" for k, p in enumerate(sound.weighted)}
    placement = replace(
        calibration.placement,
        weighted=tuple(replace(p, node=renamed[p.node]) for p in calibration.placement.weighted),
        residuals=tuple(
            replace(p, node=f"{stages.get(p.output, 'sums')}.0.{p.node}/Op") for p in calibration.placement.residuals
        ),
        cpu_sums=(),
    )
    progress = list[tuple[int, int]]()
    ranked = ranked_groups(
        reduction_from_placement(calibration.quantized, placement),
        reference,
        held_out,
        num_runs=6,
        progress=lambda done, of: progress.append((done, of)),
    )
    # Three stages, of which only the broken one is worth taking apart; it has a single group.
    assert ranked[0][0].name == "encoder.0 Add"
    assert {group.name for group, _ in ranked[1:]} == {"trunk all", "sums.0 Add"}
    assert progress == [(1, 6), (2, 6), (3, 6)]
    every = groups_from_placement(placement)
    assert {o for group, _ in ranked for o in group.outputs} == {o for group in every for o in group.outputs}


def test_ranges_that_clip_everything_are_refused(network: Path, held_out: HeldOut, reference: Scored) -> None:
    calibration = calibrated(network)
    broken = replace(calibration, ranges={name: limit / 100 for name, limit in calibration.ranges.items()})
    with pytest.raises(GateError, match=r"int8 costs .* points of HF1 .* no int8 graph was written.*worst groups are"):
        placement_within_budget(broken.quantized, broken.placement, reference, held_out, Budget(max_drop=1.0))


def test_impossible_budget_is_refused() -> None:
    with pytest.raises(ConfigError, match="the budget is -1 points"):
        Budget(max_drop=-1)


def test_smoothing_and_bias_correction_bring_int8_nearer(network: Path, held_out: HeldOut, reference: Scored) -> None:
    found = {}
    for smoothing, bias_correction in ((False, False), (True, True)):
        options = CalibrationOptions(smoothing=smoothing, bias_correction=bias_correction)
        calibration = calibration_from_frames(network, FRAMES, options=options)
        model = calibration.quantized().SerializeToString()
        found[smoothing] = cost_between(reference, scored(model, held_out), held_out).divergence
        report = calibration.report()
        assert [norm.tensor for norm in report.smoothed] == (["n1", "n2"] if smoothing else [])
        assert bool(report.num_corrected) == bias_correction
    assert found[True] < 0.7 * found[False]


def test_contradictions_between_levels_are_seen_though_paths_are_decoded(held_out: HeldOut) -> None:
    few = replace(held_out, frames=held_out.frames[:2], truths=[("a", "x"), ("b", "z")])
    agreeing = np.array([[4, 0, 3, 0, 0], [0, 4, 0, 0, 3]], np.float32)
    torn = np.array([[4, 0, 3, 0, 0], [4, 0, 0, 0, 3]], np.float32)
    good, bad = (scored_from_logits(logits, few) for logits in (agreeing, torn))
    cost = cost_between(good, bad, few)
    assert (good.tice, bad.tice, cost.tice_rise) == (0.0, 0.5, 50.0)
    assert cost.num_flips == 1
    assert cost.divergence > 0
    assert not Budget(max_drop=40).allows(cost)


@pytest.mark.parametrize(
    ("node", "group"),
    [
        ("trunk.layer1.0.conv1/Conv", ("trunk.layer1", "trunk.layer1.0")),
        ("trunk.layer1.0.downsample.0/Conv", ("trunk.layer1", "trunk.layer1.0")),
        ("transformer.3.attention.qkv/MatMul", ("transformer", "transformer.3.attention")),
        ("adapt/Conv", ("adapt", "adapt")),
        ("node_conv2d_7", ("layer2", "layer2.1")),
    ],
)
def test_groups_are_named_after_modules(node: str, group: tuple[str, str]) -> None:
    placement = placement_from_onnx(small_network())
    point = replace(placement.weighted[0], node=node, weight="layer2.1.conv2.weight")
    (found,) = groups_from_placement(replace(placement, weighted=(point,), residuals=(), cpu_sums=()))
    assert (found.stage, found.block) == group


def test_work_is_counted_by_arithmetic(network: Path) -> None:
    float_macs = facts_from_onnx(network.read_bytes()).macs
    assert float_macs.num_unknown == 0
    calibration = calibrated(network)
    quantized = facts_from_onnx(calibration.quantized().SerializeToString()).macs
    attention = 2 * 16 * 16 * 48
    picture = 16 * 16 * 16 * 3 * 3
    assert quantized.by_type["float32"] == attention + 16 * 48 * 5 + picture
    assert quantized.by_type.total() == float_macs.by_type.total() == float_macs.by_type["float32"]
