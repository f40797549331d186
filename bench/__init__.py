"""Benchmarks: streamcrypt against a raw copy loop, plain clients and its peers, on a real broker.

Read in this order:

- ``stage``: what everything runs on: one broker, one KMS over HTTP, topics of random values.
- ``job``: one measurement in a process of its own; the kinds are named there.
- ``loops``, ``meter``: the loops between topics and what is read off them.
- ``clients``: the wrappers, and single calls, against their plain counterparts.
- ``peers``: Confluent's payload encryption, the AWS Encryption SDK, Tink.
- ``sidecar``, ``latency``, ``proxy``: whole processes, seen from outside.
- ``figures``, ``targets``: medians with quartiles, and what they have to reach.
- ``core`` and ``full``: which of all that ``make bench`` and ``make bench-full`` run; ``slices`` lets the latter go on.
- ``report``, ``plot``, ``terminal``: docs/performance.md, its picture, and the table on screen.

Questions of their own, each a command: ``audit``, ``memory``, ``misses``, ``native``, ``rotation``, ``workers``.
"""
