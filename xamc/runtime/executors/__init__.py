"""What runs an artifact of each target; `xamc.runtime.executor` says what they have in common."""
