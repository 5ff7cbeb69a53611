"""What a run reports: logs and validation."""
