"""The page of figures, made from a result."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from bench import report, terminal
from bench.clients import per_call
from bench.full import pieces, prefix
from bench.meter import Meter
from bench.result import Result
from bench.stage import sizes
from bench.targets import TARGETS
from bench.wording import quiet


def _result() -> Result:
    samples = {
        "loop/1024/plain topic/wire_bytes": [1040.0, 1040.0],
        "loop/1024/copy/records_per_s": [100_000.0, 110_000.0],
        "loop/1024/copy/wire_bytes": [1060.0, 1060.0],
        "loop/1024/encrypt/records_per_s": [90_000.0, 99_000.0],
        "loop/1024/encrypt/wire_bytes": [1068.0, 1068.0],
        "client/1024/AESGCM/us": [0.5, 0.5],
        "client/1024/produce plain/us": [1.0, 1.0],
        "client/1024/produce wrapper/us": [3.0, 3.0],
        "peer/streamcrypt/encrypt_us": [2.0],
        "peer/streamcrypt/decrypt_us": [2.0],
        "peer/streamcrypt/added_bytes": [360.0],
        "sidecar/start_s": [1.2],
        "sidecar/rss_steady_mb": [250.0],
        "latency/exactly once/ceiling_records_per_s": [50_000.0],
        "latency/exactly once/10/p50_ms": [60.0],
        "latency/exactly once/10/p99_ms": [110.0],
        "latency/exactly once/10/p999_ms": [130.0],
        "latency/exactly once/10/records_per_s": [5_000.0],
    }
    machine = {"processor": "a processor", "cores": 2, "python": "3.11", "librdkafka": "2.16", "kafka broker": "4.3"}
    absent = {"peer tink": "not installed: no wheel", "sidecar, two workers": "refused"}
    return Result("python -m bench", "2026-11-25T03:00:00Z", {"loops": 60.0}, 2, machine, samples, absent)


def test_the_page_shows_ratios_with_their_quartiles():
    assert "0.90 [0.90 to 0.90] | met" in report.render(_result())


def test_the_page_says_where_a_target_is_missed_and_where_nothing_was_measured():
    page = report.render(_result())
    assert "| steady memory of the sidecar, MB | ≤ 200 | 250 [250 to 250] | **MISSED** |" in page
    assert page.count("not measured |") >= 1


def test_each_target_stands_on_the_page_beside_its_command():
    lines = report.render(_result()).splitlines()
    for target in TARGETS:
        assert any(target.claim in line and f"`{target.command}`" in line for line in lines), target.claim


def test_each_table_names_the_command_that_makes_it():
    page = report.render(_result())
    for section in ("loops", "clients", "peers", "sidecar", "latency"):
        assert f"`python -m bench {section}`" in page


def test_an_absent_peer_is_named_with_its_reason():
    assert "- Absent: peer tink, not installed: no wheel." in report.render(_result())


def test_what_a_wrapper_adds_is_given_in_calls_of_the_cipher():
    row = next(line for line in report.render(_result()).splitlines() if line.startswith("| produce wrapper"))
    assert row.endswith("| 4.00 [4.00 to 4.00] |")


def test_all_rows_of_a_table_are_as_wide_as_its_heading():
    block: list[str] = []
    for line in [*report.render(_result()).splitlines(), ""]:
        if line.startswith("|"):
            block.append(line)
        elif block:
            assert len({row.count("|") for row in block}) == 1, block[0]
            block = []


def test_the_wide_matrix_stands_on_the_page_slice_by_slice():
    piece = pieces()[0]
    samples = {
        f"{prefix(piece)}/copy/records_per_s": [100.0],
        f"{prefix(piece)}/encrypt/records_per_s": [90.0],
        f"{prefix(piece)}/decrypt/records_per_s": [80.0],
        f"{prefix(piece)}/encrypt/wire_bytes": [140.0],
        f"{prefix(piece)}/plain topic/wire_bytes": [110.0],
    }
    full = Result("python -m bench.full", "2026-11-25T03:00:00Z", {}, 3, {"streamcrypt code": "abc"}, samples)
    page = report.render(_result(), full)
    assert "| 100 | 1 | at least once | lz4 | 100 | 90 | 0.90 | 80 | 0.80 | 30 |" in page


def test_a_result_comes_back_from_its_file(tmp_path):
    result = _result()
    result.save(tmp_path / "result.json")
    assert Result.load(tmp_path / "result.json") == result


def test_a_result_file_holds_its_verdicts(tmp_path):
    _result().save(tmp_path / "result.json")
    verdicts = json.loads((tmp_path / "result.json").read_text())["targets"]
    assert len(verdicts) == len(TARGETS)
    assert verdicts[0]["met"] is True


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="not a result"):
        Result.load(tmp_path / "other.json")


def test_the_screen_shows_what_was_measured_and_what_is_absent():
    console = Console(file=io.StringIO(), width=200)
    terminal.show(console, _result())
    text = console.file.getvalue()
    assert "encrypt loop" in text
    assert "MISSED" in text
    assert "no wheel" in text


@pytest.mark.skipif(not report.REFERENCE.exists(), reason="no reference result in this tree")
def test_the_page_in_the_tree_is_the_one_that_its_result_makes():
    assert report.PAGE.read_text() == report.render(Result.load(report.REFERENCE), report.load_full())


def test_partition_sizes_are_found_in_a_description_of_log_directories():
    def topic(name: str, *found: int) -> dict[str, object]:
        return {"name": name, "partitions": [{"partition_index": i, "partition_size": s} for i, s in enumerate(found)]}

    answer = [{"broker": 1, "log_dirs": [{"error_code": 0, "topics": [topic("t", 10, 20), topic("other", 7)]}]}]
    assert sizes(answer, "t") == [10, 20]


def test_what_else_ran_on_the_machine_is_said():
    samples = {"loop/1024/copy/others_cores": [0.1, 0.2, 0.6], "loop/1024/copy/stolen_cores": [0.0, 0.0, 0.1]}
    others = "other processes kept busy 0.20 cores (0.60 at most)"
    stolen = "the hypervisor kept back 0.00 cores (0.10 at most)"
    assert quiet(samples, "loop/1024/") == f"Meanwhile {others}, {stolen}."
    assert quiet({}, "loop/1024/") == ""


def test_a_meter_leaves_the_first_batch_out():
    meter = Meter()
    meter.batch(100)
    meter.batch(100)
    meter.commit()
    found = meter.read(200)
    assert found["records_per_s"] > 0
    assert found["rss_peak_mb"] >= found["rss_steady_mb"] * 0.5 > 0


def test_a_meter_refuses_to_speak_of_nothing():
    with pytest.raises(RuntimeError, match="passed nothing"):
        Meter().read(1)


def test_calls_are_timed_over_all_values():
    seen: list[int] = []
    found = per_call({"append": seen.append}, 3, lambda _: None, count=6, repeats=2)
    assert list(found) == ["append"]
    # Three to warm up, then two blocks of six.
    assert seen == [0, 1, 2, *[0, 1, 2, 0, 1, 2] * 2]
