"""All images that meet a filter: counted, compared, searched for copies."""
