"""Clinical facts: what an image is known to be of, how it is asked for, and whose it is."""
