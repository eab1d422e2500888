"""The frozen backbone: loading weights, tokenising, the two encoders."""
