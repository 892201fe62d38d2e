"""Results -> what a person or a program reads. All text from files and tables is untrusted here."""
