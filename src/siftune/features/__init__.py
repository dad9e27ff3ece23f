"""Representations: what is known about each pool row. Each published one is one file that reads like its paper."""
