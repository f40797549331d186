"""The words of docs/performance.md; its figures come from a result."""

from __future__ import annotations

__all__ = [
    "CLIENTS",
    "FULL",
    "HEAD",
    "HOW",
    "LATENCY",
    "LOOPS",
    "NOT_MEASURED",
    "OTHERS",
    "PEERS",
    "SIDECAR",
    "TARGETS",
]

HEAD = """# Performance

<!-- Written by `python -m bench.report` from bench/results/reference.json: change bench/, not this page. -->

What sealing costs beside plain clients, beside a raw copy loop with the same settings, and beside other libraries.

```console
$ make bench                          # the core matrix: {minutes:.0f} minutes on the machine below
$ make bench-full                     # sizes, partitions, deliveries, compressions; goes on where it stopped
$ python -m bench.report FILE.json    # this page and its picture, from a result in bench/results
```

![Throughput, peers, latency and memory](images/performance.png)

All figures but those under a heading of their own command are of one run, {made}, by `{command}`. Each table names
the command that makes it alone. A figure is a median, with first and third quartile in brackets. Ratios are taken
round by round and then summarised: what slows a whole round down cancels out. `bench/results/reference.json` holds
each value of each round.

| machine | |
|---|---|
"""

TARGETS = """Values of 1 KB, 4 partitions and one worker where a row names nothing else. The median decides.
"""

LOOPS = """`python -m bench loops`. From topic to topic, 4 partitions, at least once but where it says otherwise.
"copy, sealed to uncompressed" is the raw copy of what the decrypt loop reads, with that loop's settings: it writes
without compression. "observed" has metrics, health, status and log listening, as `streamcrypt run` has.
"""

CLIENTS = """`python -m bench clients`. CPU time of the application's thread per record of 1 KB. "produce" is
`produce()` of a plain `Producer` and of `EncryptingProducer`; "consume" is `consume(1000)` and a look at key and
value of each record, plain and by `DecryptingConsumer`.
"""

PEERS = """`python -m bench peers`. One value of 1 KB on the application's thread, no broker, each library called as
its documentation says. Confluent's serializer is shown with and without its `ENCRYPT_PAYLOAD` rule; the difference is
what encryption adds, and is what the targets take. The AWS Encryption SDK runs with its caching materials manager
over the same KMS. Tink's envelope AEAD makes a data key for each record; the call to KMS that it makes for each is
left out. Bytes are before compression, which takes out most of what repeats, such as our header.
"""

SIDECAR = """`python -m bench sidecar`. `streamcrypt run` before a full topic, everything at its defaults, so exactly
once: from the start of the process to the first sealed record that a reader of committed records sees, then resident
memory (of all its processes) until the topic is through, and the cores that the broker kept busy meanwhile.
"""

LATENCY = """`python -m bench latency`. From the moment at which a record's turn to be produced came to the moment at
which a consumer had it, 1 KB, in ms. Producer and consumer are processes of their own on the same cores. 100 % are
{ceiling:,.0f} records/s: what came out of the sidecar, exactly once, while the producer did not wait and took the
cores that it could get. "exactly once" waits for a transaction to be committed, every 100 ms by default
(`commit_interval`); a reader of committed records sees nothing earlier.
"""

FULL = """`make bench-full`, {made}, code {code}. Medians of {rounds} rounds of records/s, and of the raw copy loop's
in the same round, which delivers at least once and has the same compression. "bytes" are those on the wire above the
plaintext topic's. Where the broker falls behind, librdkafka's thread polls while it waits, which doubles the time of
large values in every loop ([Scaling](scaling.md)): rounds of 10 KB and more differ by that much, and their ratios say
little.
"""

OTHERS = """## Other measurements

| command | what it compares |
|---|---|
| `python -m bench --proxy HOST:PORT` | a plain producer and consumer through any Kafka proxy against direct |
| `python -m bench.workers` | one worker process against two, with the broker's share of the cores |
| `python -m bench.rotation` | the time of a seal with and without rotation, KMS being slow |
| `python -m bench.misses` | opening a topic with many data keys against one with a single one, KMS being slow |
| `python -m bench.memory` | memory of a worker over a long run |
| `python -m bench.tracing` | what spans cost the loop, with every batch sampled and with one in a hundred |
| `python -m bench.audit` | `streamcrypt audit` of 1,000,000 records against a plain consume loop |
"""

HOW = """## How to read it

- **Alternating runs.** In each round each loop runs once, in a process of its own, over the same topics; another one
  begins each round. A round before the first is not counted: it warms the broker up. Broker, clients and loop share
  {cores} cores, so records/s fall when any of them works more.
- **The raw copy loop** polls a batch, calls `produce()` for each record with one header as large as ours, and commits
  every 100 ms: about what confluent-kafka can do in Python. It has the librdkafka settings that the sidecar ships,
  lz4 included.
- **Nothing is tuned for the benchmark.** Loops are composed as `streamcrypt run` composes them, from a configuration
  that names broker, key and topics.
- **CPU** is user and system time of the whole process, librdkafka's threads included; **main** is that of the thread
  that runs the loop, which is what limits it in Python; **broker** is the broker's process during that run, start and
  end included. All are per record.
- **A run is measured** from the end of its first batch to the commit after its last: joining a group is not part of a
  loop's speed. The sidecar's start has a row of its own.
- **Wire bytes** are what the broker's log grew by (KIP-113), per record: batches as they were sent, compressed.
  Values are random, so that nothing but headers and framing compresses, in plaintext too.
- **KMS** is a double over HTTP that answers at once. Its calls are counted; its latency is not part of any figure.
- **A bare `AESGCM` call** on a value of the same size, measured in the same process, is the unit where a cost is
  given "in AESGCM calls": it carries over to machines with another processor.
"""

NOT_MEASURED = """## What is not measured

- Disks: a broker that the benchmark starts itself keeps its log in memory, or a disk that writes back what earlier
  runs left would make later ones half as fast. Networks: everything talks over loopback. Brokers that replicate:
  there is one, and `acks=all` waits for nobody else.
- The latency of AWS KMS: a data key is fetched once for up to 1,000,000 records, and the next one before it is due.
- Plaintext that compresses. Sealed values do not, whatever seals them: a topic of JSON that lz4 makes three times
  smaller is that much larger once it is sealed. Where that matters, compress values before sealing.
- Kroxylicious and other proxies, unless you have one: `python -m bench --proxy HOST:PORT`.
- Other machines. Quartiles say how much this one wavered, and nothing about yours.
"""
