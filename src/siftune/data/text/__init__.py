"""Rows as plain text: what sentence embeddings and the lexical baselines read."""
