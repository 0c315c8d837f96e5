"""A cloud of TPU VMs on this machine, for tests of `tpu/`: the API, the machines, and the way to them."""
