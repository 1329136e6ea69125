"""Print a config with all that it inherits: python tools/print_config.py CONFIG"""

import argparse

from slab_det.cli import add_config_arguments, file_name, load_config, run, whole_file


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Print a config with everything that it inherits')
    add_config_arguments(parser)
    parser.add_argument(
        '--save-path',
        type=file_name('.py', '.json', '.yml', '.yaml'),
        metavar='FILE',
        help='also write it to this file (.py, .json or .yml)',
    )
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    cfg = load_config(args.config, args.cfg_options)
    print(cfg.pretty_text)
    if args.save_path is not None:
        with whole_file(args.save_path, '--save-path') as part:
            cfg.dump(part)


if __name__ == '__main__':
    run(main, parse_args())
