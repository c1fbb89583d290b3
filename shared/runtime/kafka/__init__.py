"""The Kafka seam: every safe default in one place, errors classified once.

`produce` puts events on topics and knows when the broker is away; `consume` takes them off in
batches, retries, dead-letters and commits; `admin` makes the topics.
"""
