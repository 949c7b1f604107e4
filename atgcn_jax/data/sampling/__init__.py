"""Which clips make up the batch of a step."""
