"""Prints a config with everything that it inherits: python tools/print_config.py CONFIG [--save-path FILE]"""

import argparse

from slab_det.cli import InputError, add_config_arguments, load_config, run


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Print the whole config')
    add_config_arguments(parser)
    parser.add_argument(
        '--save-path', metavar='FILE', help='also write it here (.py, .json or .yml)'
    )
    args = parser.parse_args()
    if args.save_path is not None and not args.save_path.endswith(
        ('.py', '.json', '.yml', '.yaml')
    ):
        parser.error(
            f'--save-path takes a name that ends in .py, .json, .yml or .yaml, got {args.save_path!r}'
        )
    return args


def main(args: argparse.Namespace) -> None:
    cfg = load_config(args.config, args.cfg_options)
    print(cfg.pretty_text)
    if args.save_path is not None:
        try:
            cfg.dump(args.save_path)
        except OSError as error:
            raise InputError(f'--save-path {args.save_path} cannot be written: {error}') from error


if __name__ == '__main__':
    run(main, parse_args())
