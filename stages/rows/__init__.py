"""The row store: content-addressed rows of encoded pictures and captions, in Lance tables.

Lance runs threads of its own and is not fork-safe: a worker process is spawned, never forked.
"""
