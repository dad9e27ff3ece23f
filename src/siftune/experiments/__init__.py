"""Experiments: train on subsets, score on rows that chose nothing, with zero-shot and random always in."""
