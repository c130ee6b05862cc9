"""A bundle is read whole or refused with a sentence."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from hffnet.runtime.bundle import MANIFEST, open_bundle
from hffnet.runtime.engines import open_engine
from hffnet.runtime.errors import BundleError, EngineError, MissingExtraError
from tests.tiny import tiny_graph, tiny_manifest, tiny_taxonomy, write_tiny_bundle

Members = dict[str, bytes]


def test_sound_bundle_opens(bundle_path: Path) -> None:
    bundle = open_bundle(bundle_path)
    assert bundle.manifest.taxonomy == tiny_taxonomy()
    assert bundle.facts["graphs/fp32-cpu.onnx"].precision == "fp32"
    assert bundle.facts["graphs/fp32-cpu.onnx"].opset == 20
    frames_NHW, logits_NC = bundle.vectors()
    assert frames_NHW.shape == (4, 32, 32)
    assert logits_NC.shape == (4, 5)


def test_same_content_gives_the_same_bytes(bundle_path: Path, tmp_path: Path) -> None:
    assert write_tiny_bundle(tmp_path / "again.hffnet").read_bytes() == bundle_path.read_bytes()


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_prove_themselves(bundle_path: Path, engine: str) -> None:
    bundle = open_bundle(bundle_path)
    try:
        opened = open_engine(bundle, engine=engine)
    except MissingExtraError as error:
        pytest.skip(str(error))
    with opened:
        outputs = opened.infer(bundle.vectors()[0])
        assert opened.identity.self_test.passed
        np.testing.assert_allclose(outputs.evidence.mean(axis=(2, 3)), outputs.logits, rtol=0.02, atol=0.02)
        with pytest.raises(EngineError, match="uint8"):
            opened.infer(np.zeros((1, 32, 31), dtype=np.uint8))


def test_an_engine_with_wrong_answers_is_refused(tmp_path: Path) -> None:
    other = tiny_graph(np.full((1, 5), 9.0))
    bundle = open_bundle(write_tiny_bundle(tmp_path / "other.hffnet", model=other))
    with pytest.raises(EngineError, match="test vectors with an error of"):
        open_engine(bundle)


def _flip(members: Members) -> None:
    name = "graphs/fp32-cpu.onnx"
    members[name] = bytes([*members[name][:-1], members[name][-1] ^ 1])


def _unknown_key(members: Members) -> None:
    members[MANIFEST] = json.dumps({**json.loads(members[MANIFEST]), "surprise": 1}).encode()


def _doubled_key(members: Members) -> None:
    members[MANIFEST] = members[MANIFEST].replace(b"{", b'{"name": "another",', 1)


def _not_finite(members: Members) -> None:
    members[MANIFEST] = json.dumps({**json.loads(members[MANIFEST]), "pixel_size_um": [0.1, float("inf")]}).encode()


def _newer_version(members: Members) -> None:
    members[MANIFEST] = json.dumps({**json.loads(members[MANIFEST]), "format_version": 2}).encode()


def _unlisted(members: Members) -> None:
    members["extra.txt"] = b"x"


def _missing(members: Members) -> None:
    del members["vectors/logits.npy"]


def _parent_path(members: Members) -> None:
    members["../outside.txt"] = b"x"


def _no_manifest(members: Members) -> None:
    del members[MANIFEST]


def _not_json(members: Members) -> None:
    members[MANIFEST] = b"\xff\x00"


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        pytest.param(_flip, "changed or damaged", id="flipped-byte"),
        pytest.param(_unknown_key, "refused at surprise", id="unknown-key"),
        pytest.param(_doubled_key, "one key twice", id="doubled-key"),
        pytest.param(_not_finite, "finite", id="not-finite"),
        pytest.param(_newer_version, "update hffnet", id="newer-format"),
        pytest.param(_unlisted, r"extra \['extra.txt'\]", id="unlisted-member"),
        pytest.param(_missing, r"missing \['vectors/logits.npy'\]", id="missing-member"),
        pytest.param(_parent_path, "not allowed", id="parent-path"),
        pytest.param(_no_manifest, "has no manifest.json", id="no-manifest"),
        pytest.param(_not_json, "refused at the document", id="manifest-not-json"),
    ],
)
def test_spoilt_bundles_are_refused(
    bundle_path: Path, tmp_path: Path, spoil: Callable[[Members], None], sentence: str
) -> None:
    with zipfile.ZipFile(bundle_path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    spoil(members)
    with zipfile.ZipFile(tmp_path / "spoilt.hffnet", "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(BundleError, match=sentence):
        open_bundle(tmp_path / "spoilt.hffnet")


@pytest.mark.parametrize(
    "keep", [0, 3, 100, 2000, -1], ids=["empty", "3-bytes", "100-bytes", "2000-bytes", "all-but-1"]
)
def test_truncated_bundles_are_refused(bundle_path: Path, tmp_path: Path, keep: int) -> None:
    (tmp_path / "cut.hffnet").write_bytes(bundle_path.read_bytes()[:keep])
    with pytest.raises(BundleError, match=r"cut\.hffnet"):
        open_bundle(tmp_path / "cut.hffnet")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        pytest.param(-60, b"\xff", id="directory-entry"),
        pytest.param(-10, b"\x01", id="number-of-members"),
        pytest.param(14, b"\0\0\0\0", id="local-checksum"),
        pytest.param(26, b"\0", id="local-name-length"),
    ],
)
def test_bundles_that_two_zip_readers_could_read_differently_are_refused(
    bundle_path: Path, tmp_path: Path, place: int, value: bytes
) -> None:
    spoilt = bytearray(bundle_path.read_bytes())
    at = place % len(spoilt)
    spoilt[at : at + len(value)] = value
    (tmp_path / "spoilt.hffnet").write_bytes(spoilt)
    with pytest.raises(BundleError, match="spoilt"):
        open_bundle(tmp_path / "spoilt.hffnet")


@pytest.mark.parametrize("twice", [False, True], ids=["bytes-behind", "two-bundles-in-one-file"])
def test_nothing_may_follow_a_bundle(bundle_path: Path, tmp_path: Path, twice: bool) -> None:
    sound = bundle_path.read_bytes()
    (tmp_path / "long.hffnet").write_bytes(sound + (sound if twice else b"\0"))
    with pytest.raises(BundleError, match=r"long\.hffnet"):
        open_bundle(tmp_path / "long.hffnet")


def test_compressed_members_are_refused(bundle_path: Path, tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(bundle_path) as sound,
        zipfile.ZipFile(tmp_path / "small.hffnet", "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name in sound.namelist():
            archive.writestr(name, sound.read(name))
    with pytest.raises(BundleError, match="compressed"):
        open_bundle(tmp_path / "small.hffnet")


def _external(model: onnx.ModelProto) -> None:
    weight = model.graph.initializer[3]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../../etc/passwd")


def _local_function(model: onnx.ModelProto) -> None:
    model.functions.add(name="f", domain="ai.onnx")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        pytest.param(_external, "external data", id="external-data"),
        pytest.param(_local_function, "local", id="function"),
    ],
)
def test_graphs_that_could_reach_outside_are_not_even_written(
    tmp_path: Path, spoil: Callable[[onnx.ModelProto], None], sentence: str
) -> None:
    model = tiny_graph(np.ones((1, 5)))
    spoil(model)
    with pytest.raises(BundleError, match=sentence):
        write_tiny_bundle(tmp_path / "bad.hffnet", model=model)
    assert not list(tmp_path.iterdir())


def test_foreign_operators_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"foreign domain 'com\.example'"):
        write_tiny_bundle(tmp_path / "bad.hffnet", model=tiny_graph(np.ones((1, 5)), domain="com.example"))


def test_precision_is_read_from_the_graph_not_believed(tmp_path: Path) -> None:
    manifest = tiny_manifest(tiny_taxonomy())
    claimed = manifest.model_copy(update={"graphs": (manifest.graphs[0].model_copy(update={"precision": "int8"}),)})
    with pytest.raises(BundleError, match="called int8 but its own types say fp32"):
        write_tiny_bundle(tmp_path / "bad.hffnet", manifest=claimed)
