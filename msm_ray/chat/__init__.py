"""Alignment fine-tuning: conversations from a spec, opaque preferences, instruction data."""
