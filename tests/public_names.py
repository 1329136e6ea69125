"""The public names of version 0.1, which stay usable: (module, name), methods as CLASS.METHOD."""

from pathlib import Path

PUBLIC_NAMES = [
    tuple(line.split(':'))
    for line in (Path(__file__).parent / 'data/public_names.txt').read_text().splitlines()
    if ':' in line
]
