# Made by `streamcrypt policy`. Needs hashicorp/aws 6.0 or newer, which takes `region` on a resource.

variable "key_arn_of_alias_payments" {
  type        = string
  description = "key arn of alias/payments"
}

variable "arn_of_the_administrator" {
  type        = string
  description = "arn of the administrator"
}

variable "arn_of_the_decryptor" {
  type        = string
  description = "arn of the decryptor"
}

data "aws_iam_policy_document" "streamcrypt_decryptor" {
  statement {
    sid       = "DecryptorDecrypt"
    actions   = ["kms:Decrypt"]
    resources = [
      var.key_arn_of_alias_payments,
      "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
    ]
    condition {
      test     = "ForAllValues:StringEquals"
      variable = "kms:EncryptionContextKeys"
      values   = ["app", "streamcrypt:topic"]
    }
    condition {
      test     = "StringEquals"
      variable = "kms:EncryptionContext:streamcrypt:topic"
      values   = ["payments.encrypted"]
    }
    condition {
      test     = "StringEquals"
      variable = "kms:EncryptionContext:app"
      values   = ["billing"]
    }
  }

  statement {
    sid       = "DecryptorDescribeKey"
    actions   = ["kms:DescribeKey"]
    resources = [var.key_arn_of_alias_payments]
    condition {
      test     = "StringEquals"
      variable = "kms:RequestAlias"
      values   = ["alias/payments"]
    }
  }
}

resource "aws_iam_policy" "streamcrypt_decryptor" {
  name   = "streamcrypt-decryptor"
  policy = data.aws_iam_policy_document.streamcrypt_decryptor.json
}

data "aws_iam_policy_document" "streamcrypt_key_1" {
  statement {
    sid     = "Administrator"
    actions = [
      "kms:CancelKeyDeletion",
      "kms:CreateAlias",
      "kms:DeleteAlias",
      "kms:DescribeKey",
      "kms:DisableKey",
      "kms:DisableKeyRotation",
      "kms:EnableKey",
      "kms:EnableKeyRotation",
      "kms:GetKeyPolicy",
      "kms:GetKeyRotationStatus",
      "kms:ListGrants",
      "kms:ListKeyPolicies",
      "kms:ListKeyRotations",
      "kms:ListResourceTags",
      "kms:PutKeyPolicy",
      "kms:ReplicateKey",
      "kms:RevokeGrant",
      "kms:RotateKeyOnDemand",
      "kms:ScheduleKeyDeletion",
      "kms:TagResource",
      "kms:UntagResource",
      "kms:UpdateAlias",
      "kms:UpdateKeyDescription",
      "kms:UpdatePrimaryRegion",
    ]
    resources = [var.key_arn_of_alias_payments]
    principals {
      type        = "AWS"
      identifiers = [var.arn_of_the_administrator]
    }
  }

  statement {
    sid       = "DecryptorDecrypt"
    actions   = ["kms:Decrypt"]
    resources = [var.key_arn_of_alias_payments]
    principals {
      type        = "AWS"
      identifiers = [var.arn_of_the_decryptor]
    }
    condition {
      test     = "ForAllValues:StringEquals"
      variable = "kms:EncryptionContextKeys"
      values   = ["app", "streamcrypt:topic"]
    }
    condition {
      test     = "StringEquals"
      variable = "kms:EncryptionContext:streamcrypt:topic"
      values   = ["payments.encrypted"]
    }
    condition {
      test     = "StringEquals"
      variable = "kms:EncryptionContext:app"
      values   = ["billing"]
    }
  }

  statement {
    sid       = "DecryptorDescribeKey"
    actions   = ["kms:DescribeKey"]
    resources = [var.key_arn_of_alias_payments]
    principals {
      type        = "AWS"
      identifiers = [var.arn_of_the_decryptor]
    }
    condition {
      test     = "StringEquals"
      variable = "kms:RequestAlias"
      values   = ["alias/payments"]
    }
  }
}

resource "aws_kms_key_policy" "streamcrypt_key_1" {
  key_id = var.key_arn_of_alias_payments
  policy = data.aws_iam_policy_document.streamcrypt_key_1.json
}

data "aws_iam_policy_document" "streamcrypt_key_2" {
  statement {
    sid       = "DecryptorDecrypt"
    actions   = ["kms:Decrypt"]
    resources = ["arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"]
    principals {
      type        = "AWS"
      identifiers = [var.arn_of_the_decryptor]
    }
    condition {
      test     = "ForAllValues:StringEquals"
      variable = "kms:EncryptionContextKeys"
      values   = ["app", "streamcrypt:topic"]
    }
    condition {
      test     = "StringEquals"
      variable = "kms:EncryptionContext:streamcrypt:topic"
      values   = ["payments.encrypted"]
    }
    condition {
      test     = "StringEquals"
      variable = "kms:EncryptionContext:app"
      values   = ["billing"]
    }
  }
}

resource "aws_kms_key_policy" "streamcrypt_key_2" {
  region = "eu-west-1"
  key_id = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
  policy = data.aws_iam_policy_document.streamcrypt_key_2.json
}
