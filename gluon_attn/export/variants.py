"""Further forms of an export's graph beside the float32 one: int8, bf16, ONNX.

A variant is made from the files of an export alone, so it can be added while exporting or later.
Its files get names of their own in the sidecar's ``files``, with checksums, and what is to be known
about it (calibration, measured drop, opset, …) stands in the sidecar under the variant's name.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from gluon_attn.export import sidecar as sidecar_file

logger = logging.getLogger(__name__)


class Variant:
    """Contract of a variant.

    Attributes:
        name: Key of its entry in the sidecar, and prefix of its keys in ``files``.
    """

    name = None

    def write(self, directory, sidecar):
        """Write the variant's files into an export directory.

        Args:
            directory: Path that holds the float32 files; the sidecar is not written yet.
            sidecar: Its future contents, a dict; not to be changed.

        Returns:
            ``(files, entry)``: ``{key: file name}`` and the sidecar entry, plain JSON values.

        Raises:
            ExportError: It cannot be made, or it is not good enough; says by how much.
        """
        raise NotImplementedError


def write_variants(directory, sidecar, variants):
    """Let variants write their files, and enter them in ``sidecar``."""
    for variant in variants:
        logger.info("making %s", variant.name)
        files, entry = variant.write(Path(directory), sidecar)
        for key, file in files.items():
            sidecar["files"][key] = sidecar_file.describe_file(Path(directory) / file)
        sidecar[variant.name] = entry


def add_variants(directory, variants):
    """Add variants to an export that is there, or replace those of the same name.

    The directory is replaced by a finished copy, or stays as it is.

    Args:
        directory: An export directory.
        variants: Sequence of :class:`Variant`.

    Returns:
        ``directory`` as a Path.

    Raises:
        FileNotFoundError: The directory or one of its files is missing.
        ExportError: The export is damaged, or a variant cannot be made.
    """
    directory = Path(directory)
    sidecar = sidecar_file.read_sidecar(directory)
    old = {key for v in variants for key in sidecar["files"] if key.split("_")[0] == v.name}
    for variant in variants:
        sidecar.pop(variant.name, None)
    sidecar["files"] = {k: entry for k, entry in sidecar["files"].items() if k not in old}
    for entry in sidecar["files"].values():
        sidecar_file.read_verified(directory, entry)
    with sidecar_file.new_directory(directory, overwrite=True) as partial:
        for entry in sidecar["files"].values():
            shutil.copy2(directory / entry["file"], partial / entry["file"])
        write_variants(partial, sidecar, variants)
        sidecar_file.write_sidecar(partial, sidecar)
    return directory
