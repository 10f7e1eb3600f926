"""Performance is measured here, by hand and side by side, never in a timed test."""
