"""The experiment ``trajectory``: a long run of SGD beside its null models."""
