"""What every Lightning module shares: optimiser and schedules, means of losses, what stays in float32."""
