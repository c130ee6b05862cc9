"""Sinks beyond files of lines: webhook, MQTT, metrics, annotated frames. Each gets everything, or says why not."""

import hmac
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile

from hffnet.runtime import annotate, read
from hffnet.runtime.annotate import at_most_for_eyes, bar_length_um, overlay, with_legend
from hffnet.runtime.errors import ConfigError
from hffnet.runtime.read import read_frame
from hffnet.runtime.record import plain
from hffnet.runtime.records import RecordStore
from hffnet.runtime.run_settings import MqttChoice
from hffnet.runtime.sinks import Sink, delivery
from hffnet.runtime.sinks.annotated_sink import AnnotatedSink
from hffnet.runtime.sinks.delivery import Delivery
from hffnet.runtime.sinks.metrics_sink import Metrics, MetricsSink
from hffnet.runtime.sinks.mqtt_sink import MqttSink
from hffnet.runtime.sinks.webhook_sink import WebhookSink, signature_of
from tests.receivers import SECRET, Broker, Receiver, free_port, need_broker, subscribed
from tests.runtime.drafts import draft


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RecordStore]:
    with RecordStore.open(tmp_path / "records.sqlite") as opened:
        yield opened


def deliver_new(sink: Sink, store: RecordStore, *numbers: int) -> int:
    """Start a sink, add rows, wait for them."""
    running = Delivery(sink, store)
    for number in numbers:
        running.notify(store.append(draft(number)).seq)
    return running.close(10.0)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    running = Receiver()
    yield running
    running.close()


def test_a_webhook_is_signed_and_in_order(store: RecordStore, receiver: Receiver) -> None:
    assert deliver_new(WebhookSink(receiver.url, SECRET), store, 1, 2, 3) == 0
    assert receiver.seqs() == [1, 2, 3]
    for timestamp, signature, body in receiver.got:
        assert hmac.compare_digest(signature, signature_of(SECRET, timestamp, body))
        assert signature != signature_of(b"another", timestamp, body)


@pytest.mark.parametrize("code", [500, 403, 302, 307])
def test_a_webhook_that_refuses_gets_it_again(
    store: RecordStore, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(delivery, "_FIRST_PAUSE_S", 0.001)
    receiver.codes = [code, code]
    running = Delivery(WebhookSink(receiver.url, SECRET), store)
    running.notify(store.append(draft(1)).seq)
    assert receiver.has_all.wait(10)
    assert running.close(10.0) == 0
    assert receiver.seqs() == [1]


def test_a_webhook_goes_on_in_the_next_run(store: RecordStore, receiver: Receiver) -> None:
    receiver.codes = [500] * 99
    assert deliver_new(WebhookSink(receiver.url, SECRET), store, 1, 2) == 2
    receiver.codes = []
    assert deliver_new(WebhookSink(receiver.url, SECRET), store, 3) == 0
    assert receiver.seqs() == [1, 2, 3]


def test_a_webhook_needs_a_secret_and_an_address() -> None:
    with pytest.raises(ConfigError, match="at least 16"):
        WebhookSink("https://a.example", b"short")
    with pytest.raises(ConfigError, match="no http"):
        WebhookSink("file:///etc/passwd", SECRET)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    need_broker()
    running = Broker(tmp_path)
    running.start()
    yield running
    running.stop()


def test_mqtt_delivers_and_a_broker_that_was_away_gets_the_backlog(
    store: RecordStore, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "_FIRST_PAUSE_S", 0.05)
    choice, got = MqttChoice(host="127.0.0.1", port=broker.port, timeout_s=2.0), list[int]()
    done, client = subscribed(broker, 1, got)
    running = Delivery(MqttSink(choice), store)
    running.notify(store.append(draft(1)).seq)
    assert done.wait(10)
    client.loop_stop()  # type: ignore[attr-defined]
    broker.stop()
    for number in (2, 3):
        running.notify(store.append(draft(number)).seq)
    broker.start()
    done, client = subscribed(broker, 3, got)
    assert done.wait(20)
    assert running.close(10.0) == 0
    assert sorted(set(got)) == [1, 2, 3]
    client.disconnect()  # type: ignore[attr-defined]
    client.loop_stop()  # type: ignore[attr-defined]


def test_a_broker_that_is_not_there_costs_nothing_but_the_backlog(store: RecordStore) -> None:
    pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not installed: pip install 'hffnet[mqtt]'")
    sink = MqttSink(MqttChoice(host="127.0.0.1", port=free_port(), timeout_s=0.5))
    assert deliver_new(sink, store, 1, 2) == 2


def test_metrics_are_a_document_that_prometheus_reads(store: RecordStore, tmp_path: Path) -> None:
    store.append(draft(1))
    metrics = Metrics()
    gate = {"name": "blank", "passed": False, "value": 0.0, "limit": 1.0, "reason": "no"}
    live = {"live": {"index": 7, "dropped": {"superseded": 3}}}
    store.append(draft(2, status="not_classified", class_path=(), answer=(), gates=[gate], details=live))
    store.append(draft(3, answer=()))
    for record in store.iterate():
        metrics.add(record)
    lines = metrics.text().splitlines()
    for line in (
        'hffnet_frames_total{status="classified"} 2',
        'hffnet_frames_total{status="not_classified"} 1',
        'hffnet_answers_total{answer="mechanical"} 1',
        'hffnet_answers_total{answer="unsure"} 1',
        'hffnet_gate_refusals_total{gate="blank"} 1',
        'hffnet_frames_dropped_total{reason="superseded"} 3',
        'hffnet_latency_seconds_bucket{le="0.05"} 0',
        'hffnet_latency_seconds_bucket{le="0.1"} 3',
        'hffnet_latency_seconds_bucket{le="+Inf"} 3',
        "hffnet_latency_seconds_count 3",
        "hffnet_last_record_seq 3",
    ):
        assert line in lines
    assert deliver_new(MetricsSink(tmp_path / "m" / "hffnet.prom"), store, 4) == 0
    assert "hffnet_last_record_seq 4" in (tmp_path / "m" / "hffnet.prom").read_text()


def classified_file(store: RecordStore, path: Path, **changes: object) -> int:
    tifffile.imwrite(path, np.random.default_rng(0).integers(20, 230, (120, 160), dtype=np.uint8))
    frame = read_frame(path)
    evidence = {"evidence": {"class": "mechanical", "map": [[3.0, -1.0], [-1.0, -1.0]]}}
    values: dict[str, object] = {
        "name": "odd ../name.tif",
        "input_path": str(path),
        "input_sha256": frame.sha256,
        "crop": plain(frame.crop),
        "details": evidence,
    }
    return store.append(draft(1, **{**values, **changes})).seq


def test_an_annotated_frame_shows_evidence_and_decision(store: RecordStore, tmp_path: Path) -> None:
    running = Delivery(AnnotatedSink(tmp_path / "shown"), store)
    running.notify(classified_file(store, tmp_path / "a.tif"))
    assert running.close(10.0) == 0
    (path,) = (tmp_path / "shown").iterdir()
    assert path.name == "000000001-name.tif.png"
    shown = cv2.imread(str(path))
    assert shown is not None
    assert shown.shape[1] == 160
    assert shown.shape[0] > 120
    colour = np.ptp(shown[:120].astype(int), axis=2)
    assert colour[:50, :60].mean() > 10 * max(colour[80:, 100:].mean(), 0.1)


def test_a_file_that_changed_gets_no_picture(
    store: RecordStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    running = Delivery(AnnotatedSink(tmp_path / "shown"), store)
    classified_file(store, tmp_path / "a.tif", input_sha256="0" * 64)
    running.notify(classified_file(store, tmp_path / "gone.tif", input_path=str(tmp_path / "absent.tif")))
    assert running.close(10.0) == 0
    assert list((tmp_path / "shown").iterdir()) == []
    assert "was changed since" in caplog.text
    assert "record 2 gets no picture" in caplog.text


def test_files_are_read_again_in_another_process(
    store: RecordStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a file that crashes or loops its decoder, put in the place of a classified one, costs no service."""
    running = Delivery(AnnotatedSink(tmp_path / "shown"), store)
    seq = classified_file(store, tmp_path / "a.tif")
    monkeypatch.setattr(read, "frame_from_bytes", lambda *_, **__: pytest.fail("decoded in the service"))
    running.notify(seq)
    assert running.close(10.0) == 0
    assert len(list((tmp_path / "shown").iterdir())) == 1


def test_a_record_that_cannot_be_drawn_does_not_hold_up_the_next(
    store: RecordStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = [MemoryError("no 2.4 GB")]

    def first_fails(*args: Any) -> Any:
        if failures:
            raise failures.pop()
        return overlay(*args)

    monkeypatch.setattr(annotate, "overlay", first_fails)
    sink = AnnotatedSink(tmp_path / "shown")
    running = Delivery(sink, store)
    classified_file(store, tmp_path / "a.tif")
    running.notify(classified_file(store, tmp_path / "b.tif", name="b.tif"))
    assert running.close(10.0) == 0
    assert [path.name for path in (tmp_path / "shown").iterdir()] == ["000000002-b.tif.png"]
    assert sink.num_skipped == 1
    assert "1 records of this run got no picture" in caplog.text
    assert store.cursor(sink.name) == 2


def test_a_very_large_frame_is_drawn_small_and_its_bar_says_so() -> None:
    small, um = at_most_for_eyes(np.zeros((100, 8192), np.uint16), 0.5)
    assert small.shape == (50, 4096)
    assert um == 1.0
    same, um = at_most_for_eyes(np.zeros((100, 200), np.uint8), None)
    assert same.shape == (100, 200)
    assert um is None


@pytest.mark.parametrize(
    ("width", "pixel_size_um", "length_um"), [(1024, 0.1, 20.0), (1000, 0.0013, 0.2), (3072, 2.0, 1000.0)]
)
def test_a_scale_bar_is_round_and_fits(width: int, pixel_size_um: float, length_um: float) -> None:
    assert bar_length_um(width, pixel_size_um) == pytest.approx(length_um)


def test_the_scale_bar_has_the_length_it_says() -> None:
    shown = with_legend(np.zeros((100, 1600, 3), np.uint8), ["a", "b"], 0.1)
    strip = shown[100:, :, 0]
    runs = [len(run) for row in strip for run in "".join("x" if v > 200 else " " for v in row).split()]
    assert max(runs) == 20.0 / 0.1


def test_evidence_against_a_class_adds_no_colour() -> None:
    picture = np.random.default_rng(0).integers(0, 65536, (60, 80)).astype(np.uint16)
    shown = overlay(picture, np.full((7, 7), -2.0))
    assert int(np.ptp(shown, axis=2).max()) == 0
