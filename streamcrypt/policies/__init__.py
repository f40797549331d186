"""Internal: least-privilege policies of AWS IAM and AWS KMS, made from plain values; no call, no clock, no file."""
