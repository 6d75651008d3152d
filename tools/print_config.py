"""Show a config as it is after inheritance, overrides and checks."""

import argparse
import sys

from mmengine.config import DictAction

from upernet_ext.config import ConfigError, load_config


def main() -> None:
    """Print the resolved config, which is a config file itself."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='file, or name of an experiment')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='overrides, such as model.backbone.drop_path_rate=0.2',
    )
    args = parser.parse_args()
    try:
        cfg = load_config(args.config, overrides=args.cfg_options)
    except ConfigError as error:
        sys.exit(f'error: {error}')
    sys.stdout.write(cfg.pretty_text)


if __name__ == '__main__':
    main()
