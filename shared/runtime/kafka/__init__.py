"""The only code that uses the Kafka drivers: safe defaults in one place, and one classification of errors.

`producer` publishes records and notices when the broker is away. `consumer` polls and commits;
`fetch_pacing` says when it fetches, and `wake_ups` tells it of new records on the same machine. `batch` is
what a handler gets, `handling` calls it and classifies its errors, `watermark` says what may be committed.
`dead_letters` publishes what no retry can help. `traced_producer` and `consumption_spans` trace records.
`reader` reads topics for operators. `admin` creates them.
"""
