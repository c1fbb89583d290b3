"""The hub beside other webhook engines: the same work on one machine, each with its own broker and store."""
