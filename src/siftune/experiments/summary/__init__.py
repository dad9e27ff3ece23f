"""From scores to results: every subset and training as it is, then arms, paired tests, a ranking and analyses."""
