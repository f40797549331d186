"""Apache Kafka's own image in a container, for machines where a Docker engine answers."""

from __future__ import annotations

import atexit
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.broker import KAFKA_VERSION, START_SECONDS, STOP_SECONDS, Broker, free_ports, properties_of, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping


class ContainerBroker(Broker):
    """Apache Kafka's own image in a container, for machines where a Docker engine answers.

    Args:
        auto_create: as for :class:`ProcessBroker`.
        config: further broker properties, which win over ours.
    """

    def __init__(self, *, auto_create: bool = False, config: Mapping[str, str] | None = None) -> None:
        from testcontainers.core.container import DockerContainer

        [port] = free_ports(1)
        super().__init__(f"127.0.0.1:{port}")
        properties = properties_of(9092, 9093, Path("/tmp/kraft"), auto_create, config) | {
            "listeners": "PLAINTEXT://0.0.0.0:9092,CONTROLLER://127.0.0.1:9093",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
        }
        container = DockerContainer(f"apache/kafka:{KAFKA_VERSION}")
        for name, value in properties.items():
            container.with_env("KAFKA_" + name.upper().replace(".", "_"), value)
        container.with_env("CLUSTER_ID", "c3RyZWFtY3J5cHQtdGVzdA")
        container.ports = {"9092/tcp": ("127.0.0.1", port)}
        self._container = container.start()
        atexit.register(self.close)
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def _wait(self) -> None:
        def answers() -> bool:
            with contextlib.suppress(KafkaException):
                probe = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
                return bool(probe.list_topics(timeout=2).brokers)
            return False

        wait_until(answers, f"an answer of the container at {self.bootstrap}", START_SECONDS)

    def start(self) -> None:
        """Starts the stopped container; its address and its data are the same as before."""
        self._container.get_wrapped_container().start()
        self._wait()

    def stop(self) -> None:
        """Stops the container and waits for its end."""
        self._container.get_wrapped_container().stop(timeout=int(STOP_SECONDS))

    def kill(self) -> None:
        """Kills the container's first process."""
        self._container.get_wrapped_container().kill()

    def close(self) -> None:
        """Removes the container with its data; may be called again."""
        atexit.unregister(self.close)
        container, self._container = self._container, None
        if container is not None:
            container.stop()
