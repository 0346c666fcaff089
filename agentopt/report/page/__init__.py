"""One page that shows a run: `report.html`, which opens without a network."""
