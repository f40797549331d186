"""What a run of re-encryption does after an earlier one: go on, verify, begin anew, or refuse."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from streamcrypt.audit.plan import Plan, TopicFacts
from streamcrypt.audit.tally import Place as Counted
from streamcrypt.cli.reencrypt_request import ReencryptRequest, choose_way, job_pipeline, job_spec, read_rate
from streamcrypt.config import load
from streamcrypt.errors import ConfigError, StreamcryptError
from streamcrypt.sidecar.reencrypt import Run, Span
from streamcrypt.sidecar.reencrypt_plan import Job, Phase, decide
from streamcrypt.sidecar.verify import Verified

JOB = Job("a", "b", ("kek",))


def _plan(ends=(10, 0), lows=(0, 0), *, ids=("ida", "idb"), target_ends=(7, 0), target_lows=None) -> Plan:
    plan = Plan({"a": TopicFacts("a", ids[0], "delete"), "b": TopicFacts("b", ids[1], "delete")})
    for number, (low, end, target) in enumerate(zip(lows, ends, target_ends, strict=True)):
        plan.places["a", number] = Counted("a", number, low, end, end)
        # By default retention has taken what was there: a first run wants an empty target.
        start = target if target_lows is None else target_lows[number]
        plan.places["b", number] = Counted("b", number, start, target, target)
    return plan


def _decide(job=JOB, plan=None, notes=None, verified=None):
    return decide(job, plan or _plan(), notes or {}, verified or {}, threading.Event())


def _notes(run: Run, *offsets: int):
    return {place: (at, run.spans[place]) for place, at in zip(run.spans, offsets, strict=True)}


def _passed(run: Run):
    return {place: (span.end, Verified(span.run, 0, done=True)) for place, span in run.spans.items()}


def test_a_first_run_covers_what_the_source_holds_and_notes_where_the_target_ends():
    """Up to the ends of now, however long it takes."""
    run, phase = _decide(plan=_plan(lows=(3, 0)))
    assert phase is Phase.COPY
    assert [(s.start, s.end, s.target, s.ours) for s in run.spans.values()] == [(3, 10, 7, 0), (0, 0, 0, 0)]
    assert (run.total, run.done, run.is_complete) == (7, 0, False)
    assert len({span.run for span in run.spans.values()}) == 1


def test_an_interrupted_run_goes_on_to_the_ends_of_its_first_start():
    """However much has come since."""
    run, _ = _decide()
    again, phase = _decide(plan=_plan(ends=(99, 50)), notes=_notes(run, 4, 0))
    assert phase is Phase.COPY
    assert again.spans == run.spans
    assert (again.done, again.committed["a", 0]) == (4, 4)


def test_a_complete_run_is_verified_before_anything_else():
    """Until every partition has passed."""
    run, _ = _decide()
    notes = _notes(run, 10, 0)
    assert _decide(notes=notes)[1] is Phase.VERIFY
    half = {("a", 0): (10, Verified(run.spans["a", 0].run, 0, done=True))}
    assert _decide(notes=notes, verified=half)[1] is Phase.VERIFY
    stale = {place: (at, replace(note, run="another")) for place, (at, note) in _passed(run).items()}
    assert _decide(notes=notes, verified=stale)[1] is Phase.VERIFY


def test_after_a_verified_run_the_next_one_takes_what_has_come_since():
    """And where nothing has come there is nothing to do; new partitions are taken from their start."""
    run, _ = _decide()
    notes, verified = _notes(run, 10, 0), _passed(run)
    assert _decide(notes=notes, verified=verified)[1] is Phase.NOTHING
    more, phase = _decide(plan=_plan(ends=(15, 2), target_ends=(20, 0)), notes=notes, verified=verified)
    assert phase is Phase.COPY
    assert [(s.start, s.end, s.target) for s in more.spans.values()] == [(10, 15, 20), (0, 2, 0)]
    assert more.spans["a", 0].run != run.spans["a", 0].run


def test_after_a_run_with_nothing_to_do_the_next_one_copies_again():
    """That one was never verified: it is no unfinished one for that, and hides no record that came later."""
    run, _ = _decide()
    idle, phase = _decide(notes=_notes(run, 10, 0), verified=_passed(run))
    assert (phase, idle.total) == (Phase.NOTHING, 0)
    more, phase = _decide(plan=_plan(ends=(15, 0)), notes=_notes(idle, 10, 0), verified=_passed(run))
    assert (phase, more.total, more.spans["a", 0].start) == (Phase.COPY, 5, 10)


def test_a_partition_whose_note_is_lost_is_not_left_out():
    """As after kafka-consumer-groups --reset-offsets; a partition that is new has no offset at all."""
    run, _ = _decide()
    notes = _notes(run, 4, 0)
    with pytest.raises(StreamcryptError, match=r"a\[0\]: somebody else has set"):
        _decide(notes={**notes, ("a", 0): (7, None)})
    del notes["a", 1]
    assert _decide(notes=notes)[1] is Phase.COPY


@pytest.mark.parametrize("ids", [("new", "idb"), ("ida", "new")], ids=["source", "target"])
def test_a_topic_made_anew_is_another_topic(ids):
    """Offsets of the old one say nothing: the run begins at the start."""
    run, _ = _decide()
    again, phase = _decide(plan=_plan(ids=ids), notes=_notes(run, 10, 0), verified=_passed(run))
    assert (phase, again.committed["a", 0]) == (Phase.COPY, 0)


def test_a_first_run_refuses_a_target_that_holds_records():
    """They may be a copy whose notes the brokers have forgotten: everything would stand there twice."""
    with pytest.raises(StreamcryptError, match="holds records already"):
        _decide(plan=_plan(target_lows=(0, 0)))
    run, _ = _decide()
    assert _decide(plan=_plan(target_lows=(0, 0)), notes=_notes(run, 4, 0))[1] is Phase.COPY


def test_a_copy_stays_with_its_keks():
    """Half a topic under one KEK and half under another is nobody's wish, and "nothing has come" would be no answer."""
    run, _ = _decide()
    other = replace(JOB, keks=("another",))
    for offsets in ((4, 0), (10, 0)):
        with pytest.raises(ConfigError, match="other KEKs"):
            _decide(other, notes=_notes(run, *offsets))
    for plan in (_plan(), _plan(ends=(12, 0))):
        with pytest.raises(ConfigError, match="stay under them"):
            _decide(other, plan, _notes(run, 10, 0), _passed(run))


def test_in_place_every_run_begins_at_the_start_of_what_stands_there():
    """With other KEKs, or after a verified one: the newest record of each key is among it in any case."""
    job, plan = Job("a", "a", ("kek",)), _plan()
    del plan.topics["b"], plan.places["b", 0], plan.places["b", 1]
    run, _ = _decide(job, plan)
    assert [(s.start, s.end, s.target, s.ours) for s in run.spans.values()] == [(0, 10, 10, 10), (0, 0, 0, 0)]
    plan.places["a", 0].end = plan.places["a", 0].high = 30
    for notes, verified, keks in (
        (_notes(run, 10, 0), _passed(run), ("kek",)),
        (_notes(run, 4, 0), {}, ("another",)),
    ):
        again, phase = _decide(replace(job, keks=keks), plan, notes, verified)
        assert (phase, again.spans["a", 0].start, again.spans["a", 0].end) == (Phase.COPY, 0, 30)
    again, phase = _decide(job, plan, _notes(run, 4, 0))
    assert (phase, again.spans) == (Phase.COPY, run.spans)


def test_a_note_is_read_back_and_anything_else_is_none():
    """Metadata of other programs, of other versions, or none."""
    span = Span("run", "x/y", 1, 2, 3, 4)
    assert Span.read(span.note()) == span
    assert len(span.note()) < 500
    others = (None, "", "text", "[]", '{"v":2}', span.note().replace('"v":1', '"v":2'), '{"v":1}')
    assert [Span.read(text) for text in others] == [None] * 7


def test_a_run_ends_itself_where_all_is_committed():
    """Not before."""
    run, _ = _decide()
    run.reached({("a", 0): 9})
    assert not run.stop.is_set()
    run.reached({("a", 0): 10})
    assert run.stop.is_set()


def test_exactly_one_way_is_chosen():
    """Neither is a default: they need other permissions, and leave other things behind."""
    assert choose_way(rewrap=True, reseal=False) == "rewrap"
    assert choose_way(rewrap=False, reseal=True) == "reseal"
    for both in (True, False):
        with pytest.raises(ConfigError, match="--rewrap or --reseal"):
            choose_way(rewrap=both, reseal=both)


def test_a_rate_is_a_number_of_records_a_second():
    """With or without the unit."""
    assert [read_rate(text) for text in (None, "5000/s", " 7 ")] == [None, 5000, 7]
    for text in ("", "fast", "0/s", "-1", "1.5/s", "5/m"):
        with pytest.raises(ConfigError, match="--rate"):
            read_rate(text)


def test_one_topic_needs_a_word_and_two_topics_take_none():
    """In place is a decision."""
    ReencryptRequest("a", "b", "rewrap").check()
    ReencryptRequest("a", "a", "rewrap", in_place=True).check()
    for target, in_place in (("a", False), ("b", True)):
        with pytest.raises(ConfigError, match=r"same topic|--in-place"):
            ReencryptRequest("a", target, "rewrap", in_place=in_place).check()


CONFIG = """
kafka: {bootstrap.servers: "localhost:9092"}
keys: {provider: aws-kms, key_id: alias/x, region: eu-west-1}
pipelines:
  - {name: seal, mode: encrypt, from: plain, to: sealed, bound: [key, 'header:a'], on_failure: dead_letter,
     dead_letter: d}
  - {name: open, mode: decrypt, from: other, to: opened, tombstones: authenticated, on_failure: skip}
"""


def test_a_job_reads_as_the_pipelines_of_its_topic_do(tmp_path):
    """What binds, frames and proves its records is what their writer or reader has configured."""
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG)
    settings = load(path)

    def job(source: str, **more):
        return job_pipeline(settings, ReencryptRequest(source, "copy", "reseal", **more))

    written = job("sealed", rate=5)
    assert (written.bound, written.on_failure, written.dead_letter, written.rate) == (
        ("header:a", "key"),
        "halt",
        None,
        5,
    )
    read = job("other")
    assert (read.bound, str(read.tombstones), read.on_failure) == (("key",), "authenticated", "skip")
    assert job("unknown").bound == ("key",)
    for pipeline in (written, read, job("unknown")):
        assert (pipeline.mode, pipeline.how, pipeline.delivery) == ("reencrypt", "reseal", "exactly_once")
        assert (pipeline.source, pipeline.to, pipeline.partition) == ((pipeline.source[0],), "copy", "keep")
    assert read.group == "streamcrypt-reencrypt-other-copy-reseal"
    assert read.member() == "streamcrypt-reencrypt-other-copy-reseal.job.0"
    spec = job_spec(read, ReencryptRequest("other", "copy", "reseal"))
    assert (spec.sources, spec.target, spec.in_place) == (("other",), "copy", False)
