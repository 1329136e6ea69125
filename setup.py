"""Builds the distribution slab-det: the package slab_det as an extension of OpenMMLab's MIM.

MIM and mmengine look for ``tools``, ``configs`` and ``model-index.yml`` in ``PACKAGE/.mim``. A
wheel gets copies of them there. An editable install links them inside the source tree."""

import os
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

ROOT = Path(__file__).resolve().parent
MIM_PARTS = ('tools', 'configs', 'model-index.yml')
#: What checks or writes the documentation, which a wheel has not.
NOT_PACKAGED = ('__pycache__', 'docs', 'check_docs.py', 'render_model_zoo.py')


def read_version() -> str:
    namespace: dict = {}
    exec((ROOT / 'slab_det/version.py').read_text(encoding='utf-8'), namespace)
    return namespace['__version__']


def read_requirements(name: str) -> list:
    lines = (ROOT / 'requirements' / name).read_text(encoding='utf-8').splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith(('#', '-'))]


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.is_symlink() or path.exists():
        path.unlink()


def put_mim(folder: Path, link: bool) -> None:
    """Puts what MIM looks for into ``folder``, linked where the system allows links, else
    copied."""
    remove(folder)
    folder.mkdir(parents=True)
    for part in MIM_PARTS:
        source, target = ROOT / part, folder / part
        if link:
            try:
                target.symlink_to(
                    os.path.relpath(source, folder), target_is_directory=source.is_dir()
                )
                continue
            except OSError:  # no right to make links, as on most Windows machines
                pass
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns(*NOT_PACKAGED))
        else:
            shutil.copy2(source, target)


class BuildPyWithMim(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:
            put_mim(ROOT / 'slab_det/.mim', link=True)
        else:
            put_mim(Path(self.build_lib) / 'slab_det/.mim', link=False)


class WheelWithMim(bdist_wheel):
    """Puts what MIM looks for beside the metadata as well.

    The maintained fork of MIM takes the folder of the first file that an installation lists for the
    package. pip sorts the list, and our metadata comes before our package.
    """

    def egg2dist(self, egginfo_path: str, distinfo_path: str) -> None:
        super().egg2dist(egginfo_path, distinfo_path)
        put_mim(Path(distinfo_path) / '.mim', link=False)


class EditableWheelWithMim(editable_wheel):
    """Tells MIM and mmengine where an editable install lies.

    Both look for the package in ``join(folder of the metadata, first line of top_level.txt)``. A
    wheel cannot hold a link, so site-packages has no such folder after an editable install. With
    the absolute path of the source as that line, ``join`` gives the source itself, and new configs
    are seen at once."""

    def run(self) -> None:
        if self.dist_info_dir is None:  # the caller did not ask for the metadata first
            Path(self.dist_dir).mkdir(exist_ok=True)
            dist_info = self.reinitialize_command('dist_info')
            dist_info.output_dir = self.dist_dir
            dist_info.ensure_finalized()
            dist_info.run()
            self.dist_info_dir = dist_info.dist_info_dir
        top_level = Path(self.dist_info_dir) / 'top_level.txt'
        top_level.write_text(f'{ROOT / "slab_det"}\nslab_det\n', encoding='utf-8')
        super().run()


setup(
    name='slab-det',
    version=read_version(),
    description='SLAB vision transformers as MMDetection backbones',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    keywords=['object detection', 'instance segmentation', 'vision transformer', 'MMDetection'],
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    packages=find_packages(include=['slab_det', 'slab_det.*']),
    package_dir={
        '': '.'
    },  # an editable install then is a plain path entry, see EditableWheelWithMim
    python_requires='>=3.11,<3.14',
    # Not mmengine, mmcv and mmdet: two stacks bring them under different distribution names.
    # slab_det.compat checks the modules themselves.
    install_requires=read_requirements('runtime.txt'),
    extras_require={
        'mim': read_requirements('openmmlab/mim.txt'),
        'onedl-mim': read_requirements('onedl/mim.txt'),
        'tests': read_requirements('tests.txt'),
    },
    cmdclass={
        'bdist_wheel': WheelWithMim,
        'build_py': BuildPyWithMim,
        'editable_wheel': EditableWheelWithMim,
    },
    zip_safe=False,
)
