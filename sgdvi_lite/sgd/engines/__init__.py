"""How the steps of a recorded run are computed: by autograd, or by hand for fully connected networks."""
