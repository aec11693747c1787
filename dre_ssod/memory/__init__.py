"""Memory of the machine: ``allocator`` keeps what is freed, ``machine`` says what is left."""
