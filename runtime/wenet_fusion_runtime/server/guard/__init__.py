"""Protection against hostile clients: budgets, fair reading, addresses, a non-blocking log, a steady clock."""
