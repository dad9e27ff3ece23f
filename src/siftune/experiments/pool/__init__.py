"""The pool of a study as its page shows it: a map of the rows, and the rows themselves."""
