"""A sealer in C as a prototype: what it would bring. Not shipped; docs/performance.md says why."""
