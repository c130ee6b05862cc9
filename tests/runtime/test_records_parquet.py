"""``hffnet records export --parquet``: every value comes back, typed; nothing is half-written."""

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from hffnet.runtime.classifier import Classifier
from hffnet.runtime.errors import RecordError
from hffnet.runtime.record import RECORD_FIELDS
from hffnet.runtime.records import RecordStore
from hffnet.runtime.records_command import records as records_app
from hffnet.runtime.result import draft_from_prediction
from tests.runtime.drafts import draft

pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed: pip install 'hffnet[parquet]'")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RecordStore]:
    with RecordStore.open(tmp_path / "records.sqlite") as opened:
        yield opened


def exported(store: RecordStore, path: Path) -> list[dict[str, object]]:
    from hffnet.runtime.records_parquet import write_parquet

    write_parquet(path, store.iterate())
    rows: list[dict[str, object]] = pq.read_table(path).to_pylist(maps_as_pydicts="strict")
    return rows


def known(value: object) -> object:
    """A key that is absent and one that is null say the same."""
    return {key: item for key, item in value.items() if item is not None} if isinstance(value, dict) else value


def test_every_field_of_a_record_comes_back(store: RecordStore, tmp_path: Path, bundle_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(20, 230, (96, 128), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    with Classifier.open(bundle_path, engine="onnxruntime", threads=1) as classifier:
        prediction = classifier.classify(tmp_path / "a.tif")
        taxonomy = classifier.bundle.manifest.taxonomy
    store.append(draft_from_prediction(prediction, taxonomy, details={"live": {"age_ms": 1.5}}))
    store.append(draft(2, kind="override", status=None, refers_to=1, person="=1+1", answer=("thermal",)))
    store.append(draft(3, status="failed", reason="two\nlines", class_path=(), answer=(), probabilities={}))
    rows = exported(store, tmp_path / "a.parquet")
    for row, record in zip(rows, store.iterate(), strict=True):
        assert set(row) == {*RECORD_FIELDS, "other"}
        assert row.pop("other") is None
        assert row.pop("created_utc") == datetime.fromisoformat(record.created_utc).astimezone(UTC)
        details = row.pop("details")
        assert (None if details is None else json.loads(str(details))) == record.details
        for name, value in row.items():
            assert known(value) == known(getattr(record, name)), name
    assert rows[1]["person"] == "=1+1", "text stands as recorded: nothing runs it"


def test_the_columns_hold_every_field_of_what_is_recorded() -> None:
    """A field that is added to these classes must get its place here as well."""
    from hffnet.runtime.engines import EngineIdentity, SelfTest
    from hffnet.runtime.frame import Acquisition, Crop
    from hffnet.runtime.gates import GateResult
    from hffnet.runtime.records_parquet import COLUMNS

    engine = COLUMNS["engine"].type
    places = {
        Crop: COLUMNS["crop"].type,
        Acquisition: COLUMNS["acquisition"].type,
        GateResult: COLUMNS["gates"].type.value_type,
        EngineIdentity: engine,
        SelfTest: engine.field("self_test").type,
    }
    for kind, struct in places.items():
        assert [field.name for field in struct] == [field.name for field in fields(kind)]


def test_what_has_no_place_is_kept_beside(store: RecordStore, tmp_path: Path) -> None:
    store.append(draft(1, engine={"name": "onnxruntime", "cores": 4}))
    (row,) = exported(store, tmp_path / "a.parquet")
    assert json.loads(str(row["other"])) == {"engine": {"cores": 4}}


def test_the_file_says_what_it_holds(store: RecordStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hffnet.runtime.records_parquet._ROWS_AT_ONCE", 2)
    for number in range(1, 6):
        store.append(draft(number))
    path = tmp_path / "a.parquet"
    result = CliRunner().invoke(records_app, ["export", str(store.path), "--parquet", str(path)])
    assert result.exit_code == 0, result.output
    file = pq.ParquetFile(path)
    said = {key.decode(): value.decode() for key, value in file.metadata.metadata.items()}
    assert said["hffnet.schema_version"] == "1"
    assert (said["hffnet.num_records"], said["hffnet.first_seq"], said["hffnet.last_seq"]) == ("5", "1", "5")
    assert said["hffnet.head"] == store.verify().head
    assert all(field.metadata[b"description"] for field in file.schema_arrow)
    assert file.num_row_groups == 3


def test_no_records_are_an_empty_table(store: RecordStore, tmp_path: Path) -> None:
    assert exported(store, tmp_path / "a.parquet") == []


def test_a_record_of_the_wrong_type_is_told_and_the_old_file_stays(store: RecordStore, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    store.append(draft(1))
    exported(store, path)
    before = path.read_bytes()
    with sqlite3.connect(store.path) as connection:
        connection.execute("UPDATE records SET confidence = '[\"high\"]'")
    connection.close()
    with pytest.raises(RecordError, match="a record after 0 holds a value that is not of its field's type"):
        exported(store, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.glob("*parquet*")] == ["a.parquet"]
