"""What the operating system and the board provide: facts, temperature, power, child processes, SHA-256."""
