"""Guards the server against its clients: budgets, fair reading, addresses, a log that cannot block, a steady clock."""
