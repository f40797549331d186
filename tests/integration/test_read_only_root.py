"""What the image, compose and Kubernetes promise, without any of them: no root, nothing to write but /tmp.

A mount namespace of Linux stands for the container: every file system is mounted anew read-only, with a fresh tmpfs at
/tmp, and the process has the image's user and no capability, and can gain none.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.broker import wait_until
from tests.sidecar import Sidecar, config_of, keyring_at

ROOT = Path(__file__).resolve().parents[2]
USER = re.search(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
# `kept` folders stay in sight, read-only, where an empty file system `covers` what is around them.
_CONTAINER = r"""
set -eu
mount -t tmpfs tmpfs /mnt
mkdir /mnt/kept
number=0
for folder in %(kept)s; do
  mkdir "/mnt/kept/$number"
  mount --bind "$folder" "/mnt/kept/$number"
  number=$((number + 1))
done
for folder in %(covers)s; do mount -t tmpfs -o mode=0755 tmpfs "$folder"; done
chmod 1777 /tmp
number=0
for folder in %(kept)s; do
  mkdir -p "$folder"
  mount --bind "/mnt/kept/$number" "$folder"
  number=$((number + 1))
done
while read -r _ _ _ _ path _; do
  case $path in /proc|/proc/*|/tmp) ;; *) mount -o remount,bind,ro "$path" 2>/dev/null || true ;; esac
done < /proc/self/mountinfo
exec setpriv --reuid=%(user)s --regid=%(group)s --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all \
  env -u PYTHONPATH PYTHONDONTWRITEBYTECODE=1 HOME=/nonexistent "$@"
"""
_NEEDED = [Path(sys.base_prefix), Path(sys.prefix), ROOT]
_PLACES = ["/", "/etc", "/mnt", "/var/tmp", "/dev/shm", *map(str, _NEEDED)]


def _closed_to_others(path: Path) -> Path | None:
    """The outermost folder around a path that only its owner may enter, such as /root."""
    return next((folder for folder in reversed(path.parents) if not folder.stat().st_mode & stat.S_IXOTH), None)


def container(folder: Path) -> list[str]:
    """The command that runs another one in such a namespace, and becomes it; ``folder`` can be read in it."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, int(USER[1]), int(USER[2]))
    covers = [Path("/tmp"), *dict.fromkeys(filter(None, map(_closed_to_others, _NEEDED)))]
    kept = [path for path in (*_NEEDED, folder) if any(path.is_relative_to(cover) for cover in covers)]
    words = {name: shlex.join(map(str, paths)) for name, paths in (("kept", kept), ("covers", covers))}
    script = _CONTAINER % {"user": USER[1], "group": USER[2], **words}
    return ["unshare", "--mount", "--", "sh", "-c", script, "sh"]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder for the test; skips where no such namespace can be made."""
    if not (shutil.which("unshare") and shutil.which("setpriv")):
        pytest.skip("unshare and setpriv (util-linux) are not here")
    tried = subprocess.run(
        [*container(tmp_path), sys.executable, "-c", "import streamcrypt"] if os.geteuid() == 0 else ["false"],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode:
        pytest.skip(f"needs root and CAP_SYS_ADMIN: {tried.stderr.strip()[-200:]}")
    return tmp_path


def test_nothing_but_tmp_can_be_written_there(here):
    """Else the other test would show nothing."""
    tries = (
        "import json, os, tempfile\n"
        "def writes(place):\n"
        "    try:\n"
        "        tempfile.TemporaryFile(dir=place).close()\n"
        "    except OSError:\n"
        "        return False\n"
        "    return True\n"
        f"places = {[*_PLACES, str(here), '/tmp']!r}\n"
        "status = dict(line.split(':', 1) for line in open('/proc/self/status'))\n"
        "print(json.dumps([[p for p in places if writes(p)], os.getuid(), status['CapEff'], status['NoNewPrivs']]))\n"
    )
    done = subprocess.run([*container(here), sys.executable, "-c", tries], capture_output=True, text=True, check=True)
    written, user, capabilities, no_new = json.loads(done.stdout)
    assert written == ["/tmp"]
    assert user == int(USER[1])
    assert int(capabilities, 16) == 0
    assert no_new.strip() == "1"


def test_two_workers_seal_and_stop_in_order_without_root_and_with_a_read_only_root(broker, here):
    """Workers share their metrics in files, which is all that is written, and is written to /tmp."""
    source, target = (broker.create_topic(partitions=2) for _ in range(2))
    broker.produce(source, [{"value": b"%d" % n, "partition": n % 2} for n in range(50)])
    pipeline = {"mode": "encrypt", "from": source, "to": target}
    config = config_of(broker.bootstrap, keyring_at(here), pipeline, workers=2)
    with Sidecar(here, config, within=container(here)) as sidecar:
        sidecar.ready(2)
        sidecar.committed(50)
        wait_until(lambda: sidecar.get("/readyz")[0] == 200, "both workers to be ready")
        # A batch that the second worker's arrival cut short is counted each time that it is read.
        assert sidecar.metric("streamcrypt_records_total") >= 50
        assert Path(f"/proc/{sidecar.process.pid}").stat().st_uid == int(USER[1])
        assert sidecar.stop() == 0
    assert len(broker.read(target)) == 50
