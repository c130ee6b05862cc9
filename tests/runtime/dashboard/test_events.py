"""Live events: every row once, in order, whatever breaks in between."""

import asyncio
import os
import signal
from pathlib import Path

import httpx

from hffnet.runtime.dashboard.settings import ViewChoice
from hffnet.runtime.dashboard.stream import Broadcast, encoded
from hffnet.runtime.records_search import RecordSearch
from tests.runtime.dashboard.stand import PATIENCE_S, Stand, events, stream


def test_a_new_record_is_told_as_the_list_tells_it(stand: Stand) -> None:
    before = stand.store.last_seq()
    record = stand.show("live.tif", 60)
    told = events(stand.client, until=lambda e: e.seq == record.seq, params={"after": before})
    listed = stand.client.get("/v1/records", params={"limit": 1}).json()["records"][0]
    assert [event.data for event in told if event.name == "record"] == [listed]


def test_without_a_cursor_events_begin_with_what_comes_next(stand: Stand) -> None:
    with stream(stand.client) as coming:
        first = next(coming)
        assert first.name == "state"
        record = stand.show("next.tif", 61)
        assert next(event.seq for event in coming if event.seq is not None) == record.seq


def test_a_client_that_comes_back_gets_every_row_once(stand: Stand) -> None:
    for number in range(6):
        stand.show(f"back-{number}.tif", 70 + number)
    last = stand.store.last_seq()
    seen, cursor = list[int](), 0
    while cursor < last:
        headers = {"Last-Event-ID": str(cursor)} if cursor else {}
        part = events(
            stand.client,
            until=lambda e, c=cursor: e.seq is not None and (e.seq >= c + 3 or e.seq == last),
            headers=headers,
            params={"after": 0},
        )
        rows = [event.seq for event in part if event.seq is not None]
        assert len(rows) == len(set(rows))
        seen += rows
        cursor = seen[-1]
    assert seen == list(range(1, last + 1))


def test_a_view_that_is_killed_comes_back_and_nothing_is_missed(stand: Stand) -> None:
    before = stand.show("before.tif", 80).seq
    pid, url = stand.view.pid, stand.view.url
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    while_gone = stand.show("while-gone.tif", 81)
    client = httpx.Client(
        base_url=url, headers=stand.headers, timeout=PATIENCE_S, transport=httpx.HTTPTransport(retries=6)
    )
    told = events(client, until=lambda e: e.seq == while_gone.seq, headers={"Last-Event-ID": str(before)})
    assert [event.seq for event in told if event.seq is not None] == list(range(before + 1, while_gone.seq + 1))
    assert "reset" not in {event.name for event in told}
    assert stand.view.url == url
    assert stand.view.pid not in (None, pid)
    counts = events(client, until=lambda e: e.name == "state" and e.data["counts"])[-1].data["counts"]
    assert counts["classified"] >= 2
    client.close()


def test_a_cursor_of_another_file_is_reset(stand: Stand) -> None:
    told = events(stand.client, until=lambda e: e.name == "reset", headers={"Last-Event-ID": "999999999"})
    assert told[-1].data == {"last_seq": stand.store.last_seq()}


def test_what_the_command_line_decides_is_told_too(stand: Stand) -> None:
    from hffnet.runtime.overrides import draft_from_override

    record = stand.show("elsewhere.tif", 82)
    draft = draft_from_override(record, person="Bo", decision="accept", reason=None)
    row = stand.store.append(draft)  # nobody tells the view: it looks
    told = events(stand.client, until=lambda e: e.seq == row.seq, params={"after": record.seq})
    assert (told[-1].name, told[-1].data["operator"]) == ("review", "Bo")


def test_one_client_too_many_is_told_so(bundle_path: Path, tmp_path: Path) -> None:
    with Stand(tmp_path, bundle_path, ViewChoice(max_clients=2)) as stand:
        with stream(stand.client), stream(stand.client):
            answer = stand.client.get("/v1/events")
            assert answer.status_code == 503
            assert "2 clients" in answer.json()["error"]
        while stand.client.get("/v1/state").raise_for_status().json()["num_clients"]:
            pass  # who left makes room, as soon as the server has heard of it
        with stream(stand.client) as coming:
            assert next(coming).name == "state"


def test_rows_below_the_ring_come_from_the_file(stand: Stand) -> None:
    search = RecordSearch.open(stand.records_path)
    last = search.bounds()[1]

    async def follow() -> bytes:
        broadcast = Broadcast(1)
        broadcast.begin(search, last - 1)
        await broadcast.add(encoded(search.after(last - 1, 1), {}))
        found = b""
        async for chunk in broadcast.follow(0):
            found += chunk
            if f"id: {last}\n".encode() in found:
                break
        return found

    found = asyncio.run(follow())
    search.close()
    for seq in range(1, last + 1):
        assert found.count(f"id: {seq}\n".encode()) == 1
