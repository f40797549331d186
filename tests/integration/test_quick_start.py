"""docs/quick-start.md, typed command by command, on a real broker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.broker import unique_name, wait_until
from tests.documents import DOCS, ROOT, blocks, commands

PAGE = DOCS / "quick-start.md"


class Reader:
    """A stranger with a terminal, in a folder of their own, whose topics have names of their own."""

    def __init__(self, folder: Path, bootstrap: str) -> None:
        self.folder, self.bootstrap, self.topic = folder, bootstrap, unique_name("payments")
        (folder / "examples").symlink_to(ROOT / "examples")
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = os.environ | {"PATH": path, "STREAMCRYPT__HTTP__PORT": "0", "PYTHONUTF8": "1"}

    def text(self, text: str) -> str:
        """Put in the broker and the topic of this reader."""
        return text.replace("localhost:9092", self.bootstrap).replace("payments", self.topic)

    def types(self, line: str) -> str:
        """Run a command to its end; its output, standard error last."""
        done = subprocess.run(
            ["/bin/sh", "-c", self.text(line)],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr


def test_the_quick_start_works_as_it_is_written(broker, tmp_path):
    """Steps 2 to 4: a key, topics, a configuration, a running sidecar, records seen sealed and opened."""
    reader = Reader(tmp_path, broker.bootstrap)
    configuration, _ = blocks(PAGE, "yaml")
    (tmp_path / "quick-start.yaml").write_text(reader.text(configuration.text))
    lines = [line for _, line in commands(PAGE)]
    first = next(n for n, line in enumerate(lines) if line.startswith("python -c"))
    running = lines.index("streamcrypt run quick-start.yaml")
    last = next(n for n, line in enumerate(lines) if line.startswith("streamcrypt audit"))
    for line in lines[first:running]:
        reader.types(line)
    log = tmp_path / "log"
    with log.open("wb") as output:
        sidecar = subprocess.Popen(
            reader.text(lines[running]).split(), cwd=tmp_path, env=reader.environment, stderr=output
        )
    try:
        wait_until(lambda: log.read_text().count("pipeline.ready") == 2, "both pipelines", 90)
        shown = {line: reader.types(line) for line in lines[running + 1 : last + 1]}
    finally:
        sidecar.send_signal(signal.SIGINT)
        assert sidecar.wait(60) == 0, log.read_text()
    sealed, opened = (text for line, text in shown.items() if line.startswith("streamcrypt cat"))
    assert "iban" not in sealed
    assert opened.count('"app": "quick-start"') == 2
    assert opened.count("iban") == 2
    (audited,) = (text for line, text in shown.items() if line.startswith("streamcrypt audit"))
    assert "20" in audited
