"""Protection against hostile clients: budgets, fair reading, addresses, a log that cannot block, a steady clock."""
