"""Scripts that make and check the committed assets."""
