"""How near a network's answers come to labels: errors, their figures, and the report of them."""
