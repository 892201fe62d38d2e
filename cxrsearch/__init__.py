"""cxrsearch: find the chest radiographs most like this one, and what happened to those patients."""

__version__ = "0.1.0"
