"""Anyone's encoder -> a model folder."""
