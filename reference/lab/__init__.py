"""The laboratory: what measures, calibrates and trains. The decoder imports nothing of it."""
