"""Faults on purpose: a hub of two processes of each service under load, and what it lost.

`python -m tests.chaos` (`make chaos`) starts the hub on Apache Kafka, sends signed webhooks from a process
outside of it, takes the deliveries in another, causes one fault after the other, and compares the journals of
both. It fails if a webhook that was acknowledged was not delivered.
"""
