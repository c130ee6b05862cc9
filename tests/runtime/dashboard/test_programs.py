"""HTTP for programs: classify as the command line does, and an OpenAPI document that tells the truth."""

import base64
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.core.result import Ok

from hffnet.runtime.dashboard.settings import ViewChoice
from hffnet.runtime.result import prediction_json
from tests.runtime.dashboard.stand import Stand

CHECKS = (
    schemathesis.checks.not_a_server_error,
    schemathesis.checks.status_code_conformance,
    schemathesis.checks.content_type_conformance,
    schemathesis.checks.response_schema_conformance,
)
SAME = {"class_path", "answer", "status", "probabilities", "crop", "input_sha256", "bundle_sha256", "gates"}


def test_classify_answers_what_the_command_line_answers(stand: Stand) -> None:
    record = stand.show("program.tif", 90)
    rows = stand.store.last_seq()
    path = stand.frames / "program.tif"
    answer = stand.client.post("/v1/classify", content=path.read_bytes(), params={"name": "mine.tif"})
    document = answer.raise_for_status().json()
    expected = prediction_json(
        stand.classifier.classify(path), stand.classifier.bundle.manifest.taxonomy, stand.classifier.bundle.sha256
    )
    assert {name: document[name] for name in SAME} == {name: expected[name] for name in SAME}
    assert (document["name"], document["input_sha256"]) == ("mine.tif", record.input_sha256)
    assert "evidence" not in document
    assert stand.store.last_seq() == rows, "nothing is recorded"


def test_classify_brings_the_evidence_where_it_is_asked_for(stand: Stand) -> None:
    record = stand.show("program-evidence.tif", 91)
    body = (stand.frames / "program-evidence.tif").read_bytes()
    evidence = (
        stand.client.post("/v1/classify", content=body, params={"evidence": 1}).raise_for_status().json()["evidence"]
    )
    layer = cv2.imdecode(np.frombuffer(base64.b64decode(evidence["png_base64"]), np.uint8), cv2.IMREAD_UNCHANGED)
    assert layer is not None
    assert layer.shape == (evidence["height"], evidence["width"], 4)
    params = {"class": evidence["class"], "width": evidence["width"]}
    shown = stand.client.get(f"/v1/frames/{record.seq}/evidence.png", params=params).content
    np.testing.assert_array_equal(layer, cv2.imdecode(np.frombuffer(shown, np.uint8), cv2.IMREAD_UNCHANGED))


def test_what_programs_may_have_classified_a_second_is_limited(bundle_path: Path, tmp_path: Path) -> None:
    with Stand(tmp_path, bundle_path, ViewChoice(max_classify_per_s=0.01)) as stand:
        codes = [stand.client.post("/v1/classify", content=b"junk").status_code for _ in range(3)]
        assert codes == [422, 422, 429]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_openapi_document_tells_the_truth(stand: Stand) -> None:
    """Every operation but the endless one, with generated inputs: answers have the status and shape they promise."""
    document = stand.client.get("/openapi.json").raise_for_status().json()
    del document["paths"]["/v1/events"]
    schema = schemathesis.openapi.from_dict(document)
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    assert {operation.method for operation in operations} == {"get", "post"}
    assert len(operations) >= 16
    for operation in operations:

        @given(case=operation.as_strategy())
        @settings(max_examples=12, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        def promised(case: schemathesis.Case[Any]) -> None:
            case.call_and_validate(base_url=stand.view.url.rstrip("/"), headers=stand.headers, checks=list(CHECKS))

        promised()
