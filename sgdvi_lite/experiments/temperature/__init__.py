"""The experiment ``temperature``: how warm SGD is along each direction, beside the linear theory."""
