"""Every bundle that Python refuses is refused by C++, every one it takes is taken."""

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from hffnet.runtime.bundle import MANIFEST, open_bundle
from hffnet.runtime.errors import BundleError
from tests.parity.conftest import CppRuntime
from tests.tiny import tiny_graph

pytestmark = pytest.mark.timeout(900)  # the first test that runs builds the C++ runtime

GRAPH = "graphs/fp32-cpu.onnx"
Members = dict[str, bytes]


def refused_by_python(path: Path) -> bool:
    try:
        open_bundle(path).vectors()
    except BundleError:
        return True
    return False


def same_verdicts(cpp: CppRuntime, folder: Path, bundles: list[bytes], names: list[str]) -> None:
    paths = [folder / f"{number}.hffnet" for number in range(len(bundles))]
    for path, content in zip(paths, bundles, strict=True):
        path.write_bytes(content)
    answers = cpp.answers({"ask": "bundle", "path": str(path)} for path in paths)
    differing = [
        f"{name}: C++ {'takes it' if answer['ok'] else answer['sentence']}"
        for path, answer, name in zip(paths, answers, names, strict=True)
        if answer["ok"] == refused_by_python(path)
    ]
    assert not differing


def members_of(path: Path) -> Members:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(path: Path, members: Members, compression: int = zipfile.ZIP_STORED) -> bytes:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path.read_bytes()


def with_graph(members: Members, graph: bytes) -> Members:
    """The members with another graph whose hash and size stand in the manifest."""
    manifest = json.loads(members[MANIFEST])
    for member in manifest["members"]:
        if member["name"] == GRAPH:
            member |= {"size": len(graph), "sha256": hashlib.sha256(graph).hexdigest()}
    return {**members, MANIFEST: json.dumps(manifest).encode(), GRAPH: graph}


def test_a_sound_bundle_is_one_model_to_both(cpp: CppRuntime, bundle_path: Path) -> None:
    (answer,) = cpp.answers([{"ask": "bundle", "path": str(bundle_path)}])
    assert answer == {"ok": True, "sha256": open_bundle(bundle_path).sha256, "num_frames": 4}


def test_every_changed_byte_of_the_zip(cpp: CppRuntime, bundle_path: Path, tmp_path: Path) -> None:
    """All bytes of headers and directory, some of the content; version and flags, which nobody acts on, left out."""
    sound = bundle_path.read_bytes()
    with zipfile.ZipFile(bundle_path) as archive:
        places = set(range(0, len(sound), 151)) | set(range(archive.start_dir, len(sound)))
        entry = archive.start_dir
        for info in archive.infolist():
            places |= set(range(info.header_offset, info.header_offset + 30 + len(info.filename)))
            places -= set(range(info.header_offset + 4, info.header_offset + 8)) | set(range(entry + 4, entry + 10))
            entry += 46 + len(info.filename)
    spoilt, names = [], []
    for place in sorted(places):
        for value in {sound[place] ^ 1, sound[place] ^ 0x80, 0, 255} - {sound[place]}:
            spoilt.append(sound[:place] + bytes([value]) + sound[place + 1 :])
            names.append(f"byte {place} is {value}")
    for cut in range(0, len(sound), 97):
        spoilt += [sound[:cut], sound[:cut] + bytes(7) + sound[cut:]]
        names += [f"cut at {cut}", f"seven bytes at {cut}"]
    spoilt += [sound + b"x", sound + sound, b"PK\3\4" + sound, b""]
    names += ["byte behind", "twice", "magic twice", "empty"]
    same_verdicts(cpp, tmp_path, spoilt, names)


def manifest_variants(manifest: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """The manifest with every value replaced by values of every kind, every key left out, every object grown."""
    odd: tuple[Any, ...] = (None, True, 0, -1, 1, 1.0, 0.5, 2**31, 2**63, 2**70, 1e300, "", "x", "x" * 201, [], {}, [1])
    text = json.dumps(manifest)

    def walk(node: Any, place: str) -> Iterator[tuple[str, bytes]]:
        keys = list(node) if isinstance(node, dict) else range(len(node))
        for key in keys:
            kept = node[key]
            for value in odd:
                node[key] = value
                yield f"{place}.{key} = {value!r}", json.dumps(manifest).encode()
            node[key] = kept
            if isinstance(kept, dict | list):
                yield from walk(kept, f"{place}.{key}")
        if isinstance(node, dict):
            for key in list(node):
                kept = node.pop(key)
                yield f"{place} without {key}", json.dumps(manifest).encode()
                node[key] = kept
            yield f"{place} grown", json.dumps({**manifest}).replace("{", '{"surprise": 1, ', 1).encode()

    yield from walk(manifest, "")
    for name, spoilt in {
        "byte order mark": "\ufeff" + text,
        "trailing comma": text[:-1] + ",}",
        "trailing text": text + " x",
        "doubled key": text.replace("{", '{"name": "y", ', 1),
        "doubled tool": text.replace('"tools": {', '"tools": {"a": "1", "a": "2"'),
        "not a number": text.replace('"pixel_size_um": null', '"pixel_size_um": [NaN, 1.0]'),
        "infinite": text.replace('"pixel_size_um": null', '"pixel_size_um": [1e999, 1.0]'),
        "half a surrogate": text.replace('"name": "tiny"', '"name": "\\ud800"', 1),
        "deep": "[" * 100_000,
        "deep version": text.replace('"format_version": 1', '"format_version": ' + "[" * 5000 + "]" * 5000),
    }.items():
        yield name, spoilt.encode()


def test_every_changed_value_of_the_manifest(cpp: CppRuntime, bundle_path: Path, tmp_path: Path) -> None:
    members = members_of(bundle_path)
    names, bundles = [], []
    for name, text in manifest_variants(json.loads(members[MANIFEST])):
        names.append(name)
        bundles.append(zipped(tmp_path / "spoilt.zip", {**members, MANIFEST: text}))
    assert len(names) > 500
    same_verdicts(cpp, tmp_path, bundles, names)


def test_every_changed_byte_of_a_graph(cpp: CppRuntime, bundle_path: Path, tmp_path: Path) -> None:
    members, names, bundles = members_of(bundle_path), [], []
    graph = members[GRAPH]
    for place in range(len(graph)):
        for value in {graph[place] ^ 1, graph[place] ^ 8, 255} - {graph[place]}:
            names.append(f"byte {place} is {value}")
            spoilt = graph[:place] + bytes([value]) + graph[place + 1 :]
            bundles.append(zipped(tmp_path / "spoilt.zip", with_graph(members, spoilt)))
    same_verdicts(cpp, tmp_path, bundles, names)


def _external(model: onnx.ModelProto) -> None:
    model.graph.initializer[3].data_location = onnx.TensorProto.EXTERNAL


def _function(model: onnx.ModelProto) -> None:
    model.functions.add(name="f", domain="ai.onnx")


def _foreign(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.example"


def _sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add()


def _half(model: onnx.ModelProto) -> None:
    model.graph.initializer[3].data_type = onnx.TensorProto.FLOAT16
    model.graph.initializer[4].data_type = onnx.TensorProto.FLOAT16


def _quantized(model: onnx.ModelProto) -> None:
    model.graph.node.add(op_type="DequantizeLinear")


@pytest.mark.parametrize("spoil", [_external, _function, _foreign, _sparse, _half, _quantized])
def test_graphs_that_no_bundle_may_hold(
    cpp: CppRuntime, bundle_path: Path, tmp_path: Path, spoil: Callable[[onnx.ModelProto], None]
) -> None:
    model = tiny_graph(np.ones((1, 5)))
    spoil(model)
    path = tmp_path / "spoilt.hffnet"
    zipped(path, with_graph(members_of(bundle_path), model.SerializeToString()))
    (answer,) = cpp.answers([{"ask": "bundle", "path": str(path)}])
    with pytest.raises(BundleError) as refusal:
        open_bundle(path)
    assert not answer["ok"]
    assert answer["sentence"] == str(refusal.value)


def test_compressed_members_links_and_paths(cpp: CppRuntime, bundle_path: Path, tmp_path: Path) -> None:
    members = members_of(bundle_path)
    bundles = {
        "compressed": zipped(tmp_path / "a", members, zipfile.ZIP_DEFLATED),
        "parent": zipped(tmp_path / "a", {**members, "../x": b""}),
        "root": zipped(tmp_path / "a", {**members, "/x": b""}),
        "folder": zipped(tmp_path / "a", {**members, "x/": b""}),
        "unlisted": zipped(tmp_path / "a", {**members, "x": b""}),
        "33 members": zipped(tmp_path / "a", {**members, **{f"x{i}": b"" for i in range(29)}}),
        "no manifest": zipped(tmp_path / "a", {GRAPH: members[GRAPH]}),
    }
    same_verdicts(cpp, tmp_path, list(bundles.values()), list(bundles))
