"""The training room: network, losses, data, metrics, training and evaluation. `runtime` never imports it."""
