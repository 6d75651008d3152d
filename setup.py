"""Put configs/ and tools/ into the wheel, as upernet_ext.configs and .tools.

Everything else is declared in setup.cfg; a package list that maps folders of
another place cannot be written there.
"""

from setuptools import find_namespace_packages, find_packages, setup

# Folder of the repository: package of the wheel.
MAPPED = {'configs': 'upernet_ext.configs', 'tools': 'upernet_ext.tools'}

packages = find_packages(include=['upernet_ext', 'upernet_ext.*'])
for folder, package in MAPPED.items():
    packages += [package] + [
        f'{package}.{inner}' for inner in find_namespace_packages(folder)
    ]

setup(
    packages=packages,
    package_dir={package: folder for folder, package in MAPPED.items()},
    package_data={'upernet_ext.tools': ['*.sh']},
)
