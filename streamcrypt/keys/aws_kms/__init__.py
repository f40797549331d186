"""Data keys from AWS KMS: the provider, and behind it names, KEKs, calls with their budget, and what they answer."""

from streamcrypt.keys.aws_kms.provider import AWSKMSKeyProvider

__all__ = ["AWSKMSKeyProvider"]
