"""A method and a selector for siftune: a template."""
