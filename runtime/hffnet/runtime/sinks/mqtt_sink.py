"""Results as MQTT messages with QoS 1, one JSON document each.

A message counts as delivered when the broker acknowledged it. paho keeps what it could not send in memory; it is
given nothing that is not waited for, because the records are the queue and outlive the process.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hffnet.runtime.errors import MissingExtraError
from hffnet.runtime.record import Record
from hffnet.runtime.run_settings import MqttChoice
from hffnet.runtime.sinks.jsonl_sink import json_line
from hffnet.runtime.sinks.webhook_sink import secret_from_file

if TYPE_CHECKING:
    from paho.mqtt.client import Client


class MqttSink:
    """Publishes to one topic; connects when there is something to say, and again after every loss."""

    def __init__(self, choice: MqttChoice) -> None:
        try:
            import paho.mqtt.client  # noqa: F401 - told now, not at the first result
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                "MQTT needs paho-mqtt, which is not installed: pip install 'hffnet[mqtt]'"
            ) from error
        self.name = f"mqtt:{choice.host}:{choice.port}/{choice.topic}"
        self._choice = choice
        self._password = secret_from_file(choice.password_file).decode() if choice.password_file else None
        self._client: Client | None = None

    def start(self, cursor: int | None, last_seq: int) -> int:
        """A broker that is new gets what comes from now on; one that is known gets what it missed."""
        return last_seq if cursor is None else cursor

    def deliver(self, records: Sequence[Record]) -> None:
        """Publish and wait for every acknowledgement; raises OSError where one does not come."""
        try:
            client = self._client or self._connected()
            sent = [client.publish(self._choice.topic, json_line(record).encode(), qos=1) for record in records]
            for message in sent:
                message.wait_for_publish(self._choice.timeout_s)
                if not message.is_published():
                    raise TimeoutError(f"{self.name} did not acknowledge within {self._choice.timeout_s} s")
        except (OSError, ValueError, RuntimeError) as error:
            self.close()
            raise OSError(f"{self.name}: {error}") from error

    def close(self) -> None:
        """Disconnect and forget what paho holds: the records will offer it again."""
        client, self._client = self._client, None
        if client is not None:
            client.disconnect()
            client.loop_stop()

    def _connected(self) -> "Client":
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        client = Client(CallbackAPIVersion.VERSION2, reconnect_on_failure=False)
        client.max_inflight_messages_set(0)  # no limit of its own: a batch is the limit
        client.connect_timeout = self._choice.timeout_s
        if self._choice.user is not None:
            client.username_pw_set(self._choice.user, self._password)
        if self._choice.tls:
            client.tls_set()
        client.connect(self._choice.host, self._choice.port)
        client.loop_start()
        self._client = client
        return client
