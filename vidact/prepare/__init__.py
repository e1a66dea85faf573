"""Sets of videos checked, re-encoded or packed."""
