"""Per-example gradients: batches with hooks, the Adam direction, and seeded projections.

* ``engine.py`` - per-example gradients of a batch, one module at a time, out of one backward pass.
* ``adam.py`` - what an Adam step would do with that gradient (LESS, section 3.1).
* ``projection.py`` - seeded, portable random projections to a few thousand dimensions.
* ``features.py`` - engine, preconditioner and projection put together: rows in, feature matrices out.
* ``batching.py`` - length-bucketed batches under a token budget.
"""
