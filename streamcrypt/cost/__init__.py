"""Internal: what the calls to AWS KMS amount to, in numbers and money; pure."""
