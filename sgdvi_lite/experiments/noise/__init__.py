"""The experiment ``noise``: D beside the covariance of the gradients that SGD sees."""
