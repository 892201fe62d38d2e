"""What the neighbours of an image say of a clinical fact, and how far that can be believed."""
