"""In-context utility: how much one example, shown before another, helps a model to answer it (DELIFT, 2411.04425).

    conversation    what a row looks like after an example: the same conversation goes on
    scoring         forward passes: how certain the model is of each answer, alone and after an example
    nomination      which pairs are worth a pass, where all are too many
    pairs           passes over all pairs into a store, shard by shard
"""
