"""`modelfleet quantize`: writes a smaller checkpoint, and measures what was lost."""
