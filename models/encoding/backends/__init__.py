"""What computes an encoder's forward pass, and how the fastest faithful one is chosen."""
