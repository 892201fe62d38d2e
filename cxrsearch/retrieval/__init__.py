"""One image -> its neighbours, why they are neighbours, and what has to be said about them."""
