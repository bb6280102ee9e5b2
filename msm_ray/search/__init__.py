"""Search over recipes: trials are paths through one graph of stages."""
