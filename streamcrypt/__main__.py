"""``python -m streamcrypt``."""

from streamcrypt.cli import main

main()
