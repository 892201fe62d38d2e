"""A file of anybody's -> a radiograph -> the canonical pixels that the encoder sees."""
