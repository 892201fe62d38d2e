"""Learns an encoder and exports it as a model folder. Needs the ``train`` extra (torch, open_clip)."""
