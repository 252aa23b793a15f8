"""The experiment ``spectrum``: D at several instants of a training."""
