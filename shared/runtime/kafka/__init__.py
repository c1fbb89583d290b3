"""The only code that uses the Kafka drivers: safe defaults in one place, and one classification of errors.

`producer` publishes records and notices when the broker is away. `consumer` handles batches, retries,
dead-letters and commits. `reader` reads topics for operators. `admin` creates the topics.
"""
