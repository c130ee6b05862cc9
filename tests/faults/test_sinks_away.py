"""Whoever gets results may be away, and the service killed meanwhile: classification goes on, nothing is lost."""

import signal
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from hffnet.runtime.records import RecordStore
from tests.faults.service import classified, rest_of, started, wait_for_log, write_frames
from tests.receivers import SECRET, Broker, Receiver, Watcher, free_port, need_broker


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    need_broker()
    running = Broker(tmp_path)
    running.start()
    yield running
    running.stop()


@pytest.mark.parametrize(
    ("away_s", "is_killed"),
    [
        pytest.param(0.5, False, id="short"),
        pytest.param(0.5, True, id="short-and-killed"),
        pytest.param(60.0, False, id="a-minute", marks=[pytest.mark.soak, pytest.mark.timeout(600)]),
        pytest.param(60.0, True, id="a-minute-and-killed", marks=[pytest.mark.soak, pytest.mark.timeout(600)]),
    ],
)
def test_a_broker_that_was_away_gets_the_backlog_and_a_dead_webhook_stops_nothing(
    tmp_path: Path, bundle_path: Path, broker: Broker, away_s: float, is_killed: bool
) -> None:
    folder, out, port = tmp_path / "in", tmp_path / "out", free_port()
    (tmp_path / "secret").write_bytes(SECRET)
    sinks = f"""[sinks.mqtt]\nhost = "127.0.0.1"\nport = {broker.port}\ntimeout_s = 1.0
[sinks.webhook]\nurl = "http://127.0.0.1:{port}/hook"\nsecret_file = "{tmp_path}/secret"\n"""
    watcher = Watcher(broker)
    names = write_frames(folder, 4)
    process = started(bundle_path, folder, out, sinks=sinks)
    assert classified(process, 4) == set(names)
    watcher.wait_for(set(names), 30.0)
    wait_for_log(out, f"sink webhook:http://127.0.0.1:{port}/hook failed")
    broker.stop()
    num = max(8, int(away_s))
    for n in range(num):
        names += write_frames(folder, 1, first=4 + n)
        classified(process, 1)  # while nobody takes results
        Event().wait(away_s / num)
    if is_killed:
        process.kill()
        rest_of(process)
    broker.start()
    receiver = Receiver(port)
    if is_killed:
        process = started(bundle_path, folder, out, sinks=sinks)
    names += write_frames(folder, 1, first=len(names))
    classified(process, 1)
    try:
        watcher.wait_for(set(names), 90.0)
        with RecordStore.open(out / "records.sqlite") as store:
            results = [row.seq for row in store.iterate() if row.kind == "result"]
            assert store.verify().is_sound
        receiver.wait_for(set(results), 90.0)
    finally:
        watcher.close()
        process.send_signal(signal.SIGTERM)
        rest_of(process)
        receiver.close()
    assert process.returncode == 0
    assert len(results) == len(names)
    # In order, and what is repeated is what was under way at a cut.
    assert list(dict.fromkeys(receiver.seqs())) == results
    assert list(dict.fromkeys(watcher.names)) == names
