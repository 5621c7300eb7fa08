"""Topics: the broker, the outbox and its relay, consumers with their inbox."""
